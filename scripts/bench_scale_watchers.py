"""Thousands of watchers of etcd in one process, as cheap as can be: they take what they are sent, and forget it.

Each is a connection of its own with the three watches of an agent. HTTP/2 (RFC 9113) is spoken as far as etcd needs it:
windows are opened as wide as they go, settings and pings acknowledged, everything else thrown away.
`python -m scripts.bench_scale_watchers COUNT ADDRESS...` prints a line when all of them stand.
"""

from __future__ import annotations

import select
import socket
import struct
import sys
from dataclasses import dataclass

from k8sovs.etcd.messages import watch_request
from k8sovs.etcd.model import Range
from scripts.bench_scale_processes import many_files
from scripts.bench_scale_world import KEYS

DATA, HEADERS, SETTINGS, PING, WINDOW_UPDATE = 0, 1, 4, 6, 8
ACK, END_HEADERS = 1, 4
WINDOW = 2**31 - 1
USUAL_WINDOW = 2**16 - 1
HEAD = 9
WATCHED = (KEYS.config, KEYS.subnets, KEYS.vnids)


def frame(kind: int, flags: int, stream: int, payload: bytes) -> bytes:
    """A frame of HTTP/2."""
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def header(name: bytes, value: bytes) -> bytes:
    """A header field that no table remembers (RFC 7541, 6.2.2)."""
    return b"\0" + bytes([len(name)]) + name + bytes([len(value)]) + value


def opening(address: str) -> bytes:
    """All that a watcher ever has to say."""
    headers = header(b":method", b"POST") + header(b":scheme", b"http") + header(b":authority", address.encode())
    headers += header(b":path", b"/etcdserverpb.Watch/Watch")
    headers += header(b"content-type", b"application/grpc") + header(b"te", b"trailers")
    said = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + frame(SETTINGS, 0, 0, struct.pack("!HI", 4, WINDOW))
    said += frame(WINDOW_UPDATE, 0, 0, struct.pack("!I", WINDOW - USUAL_WINDOW))
    said += frame(HEADERS, END_HEADERS, 1, headers)
    for index, name in enumerate(WATCHED):
        request = watch_request(index, Range.of(name), 0).SerializeToString()
        said += frame(DATA, 0, 1, b"\0" + struct.pack("!I", len(request)) + request)
    return said


@dataclass
class Watcher:
    """One connection; `messages` counts what etcd sent."""

    connection: socket.socket
    rest: bytes = b""
    messages: int = 0

    def take(self) -> bool:
        """Read what is there; False at the end."""
        received = self.connection.recv(1 << 16)
        buffer, start = self.rest + received, 0
        while len(buffer) >= start + HEAD:
            size, kind, flags = int.from_bytes(buffer[start : start + 3], "big"), buffer[start + 3], buffer[start + 4]
            if len(buffer) < start + HEAD + size:
                break
            payload = buffer[start + HEAD : start + HEAD + size]
            start += HEAD + size
            self.messages += kind == DATA
            if kind in (SETTINGS, PING) and not flags & ACK:
                self.connection.sendall(frame(kind, ACK, 0, payload if kind == PING else b""))
        self.rest = buffer[start:]
        return bool(received)


def main() -> None:
    """Connect, one after another; then take in what comes until somebody ends it."""
    many_files()
    count, addresses = int(sys.argv[1]), sys.argv[2:]
    poll, watchers = select.epoll(), {}
    for number in range(count):
        host, _, port = addresses[number % len(addresses)].rpartition(":")
        connection = socket.create_connection((host, int(port)), 30)
        connection.sendall(opening(f"{host}:{port}"))
        watchers[connection.fileno()] = Watcher(connection)
        poll.register(connection, select.EPOLLIN)
    standing = False
    while True:
        for descriptor, _ in poll.poll():
            if not watchers[descriptor].take():
                raise SystemExit("etcd closed the connection of a watcher")
        if not standing and all(watcher.messages >= len(WATCHED) for watcher in watchers.values()):
            standing = True
            print("standing", flush=True)


if __name__ == "__main__":
    main()
