"""One end of many streams at once, as a process: `traffic_process.py send|receive`, told by JSON on standard input.

The first line of standard input lists the streams: [kind, network namespace, address, port, every], kind "udp" or
"tcp", a record every so many milliseconds. A socket stays in the namespace that it was made in, so one process serves
them all, on one clock. It prints "ready", goes on until another line comes, and prints for each stream, as base64 of
doubles: the sender at which second of CLOCK_MONOTONIC it sent each number; the receiver pairs of number and second. Of
a TCP stream the receiver tells seconds alone, one for each record of 8 bytes.
"""

from __future__ import annotations

import base64
import ctypes
import json
import os
import select
import socket
import struct
import sys
import time
from array import array

SPACING_S = 0.001
SO_RCVBUFFORCE = 33  # socket(7): past net.core.rmem_max, which would cut it to 0.2 MiB
RECEIVE_BUFFER = 4 << 20
SETTLED_S = 0.3
CLONE_NEWNET = 0x40000000
NUMBER = struct.Struct("!Q")
KINDS = {"udp": socket.SOCK_DGRAM, "tcp": socket.SOCK_STREAM}

Told = tuple[str, str, str, int, int]

_libc = ctypes.CDLL(None, use_errno=True)


def socket_in(netns: str, kind: str) -> socket.socket:
    """A socket of the network namespace at that path."""
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(descriptor, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), netns)
    finally:
        os.close(descriptor)
    return socket.socket(socket.AF_INET, KINDS[kind])


def say(line: str) -> None:
    """To whoever started this process."""
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def told(timeout_s: float) -> bool:
    """Whether somebody said something within that time, or went away."""
    return bool(select.select([sys.stdin], [], [], max(0.0, timeout_s))[0])


def tell(streams: list[array[float]]) -> None:
    """The result."""
    say(json.dumps([base64.b64encode(stream.tobytes()).decode() for stream in streams]))


def send(streams: list[Told]) -> None:
    """A record each so many milliseconds. After a delay none is made up for: a burst is another load."""
    sockets = []
    for kind, netns, address, port, _ in streams:
        sock = socket_in(netns, kind)
        if kind == "tcp":
            sock.settimeout(10)
        sock.connect((address, port))
        sock.setblocking(False)
        if kind == "tcp":
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        sockets.append(sock)
    sent: list[array[float]] = [array("d") for _ in sockets]
    ends = [(sock, times, every) for sock, times, (*_, every) in zip(sockets, sent, streams, strict=True)]
    say("ready")
    due, tick = time.monotonic(), 0
    while not told(due - time.monotonic()):
        now = time.monotonic()
        for sock, times, every in ends:
            if tick % every:
                continue
            try:
                sock.send(NUMBER.pack(len(times)))
            except OSError:  # a full buffer, a connection that broke: not sent
                continue
            times.append(now)
        due, tick = max(due + SPACING_S, now), tick + 1
    tell(sent)
    told(60)  # closing a TCP connection is for the receiver to see, after its last record


def receive(streams: list[Told]) -> None:
    """Whatever arrives until told to stop, and for a moment more."""
    arrived: list[array[float]] = [array("d") for _ in streams]
    poll = select.epoll()
    poll.register(sys.stdin, select.EPOLLIN)
    places: dict[int, tuple[str, socket.socket, array[float]]] = {}
    parts: dict[int, int] = {}
    for (kind, netns, _, port, _), times in zip(streams, arrived, strict=True):
        sock = socket_in(netns, kind)
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, RECEIVE_BUFFER)
        sock.setblocking(False)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # the connection of a run before may linger
        sock.bind(("", port))
        if kind == "tcp":
            sock.listen()
        places[sock.fileno()] = (f"{kind} listener" if kind == "tcp" else kind, sock, times)
        poll.register(sock, select.EPOLLIN)
    say("ready")
    end = float("inf")
    while time.monotonic() < end:
        for descriptor, _ in poll.poll(SETTLED_S):
            if descriptor == sys.stdin.fileno():
                poll.unregister(sys.stdin)
                end = time.monotonic() + SETTLED_S
                continue
            kind, sock, times = places[descriptor]
            now = time.monotonic()
            if kind == "tcp listener":
                connection, _ = sock.accept()
                connection.setblocking(False)
                places[connection.fileno()] = ("tcp", connection, times)
                poll.register(connection, select.EPOLLIN)
                continue
            try:
                while data := sock.recv(65536):
                    if kind == "udp":
                        times.extend((NUMBER.unpack(data)[0], now))
                    else:
                        records, parts[descriptor] = divmod(parts.get(descriptor, 0) + len(data), NUMBER.size)
                        times.extend([now] * records)
                poll.unregister(sock)  # the other end has closed it
            except BlockingIOError:
                continue
            except OSError:
                poll.unregister(sock)
    tell(arrived)


if __name__ == "__main__":
    os.nice(-10)  # what is measured is the network, not how busy the machine is
    {"send": send, "receive": receive}[sys.argv[1]](json.loads(sys.stdin.readline()))
