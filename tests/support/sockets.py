"""Servers and clients in the network namespaces of a lab: one Python process each, real sockets, JSON on its output.

`python -m tests.support.sockets serve NAME PORT` answers TCP and UDP on PORT: a TCP connection, and each datagram, with
NAME and the peer's address. Then a TCP connection echoes.
"""

from __future__ import annotations

import json
import socket
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType

ROOT = Path(__file__).parents[2]
UDP_SIZE = 65507


def serve(name: str, port: int) -> None:
    """Answer for ever."""
    listener = socket.create_server(("", port), backlog=200)
    datagrams = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    datagrams.bind(("", port))
    threading.Thread(target=_answer_datagrams, args=(name, datagrams), daemon=True).start()
    _tell("ready")
    while True:
        connection, peer = listener.accept()
        threading.Thread(target=_answer, args=(name, connection, peer[0]), daemon=True).start()


def _answer_datagrams(name: str, datagrams: socket.socket) -> None:
    while True:
        data, peer = datagrams.recvfrom(UDP_SIZE)
        datagrams.sendto(f"{name} {peer[0]} ".encode() + data, peer)


def _answer(name: str, connection: socket.socket, peer: str) -> None:
    with connection:
        try:
            connection.sendall(f"{name} {peer}\n".encode())
            while data := connection.recv(65536):
                connection.sendall(data)
        except OSError:
            return


def ask(host: str, port: int, times: int, timeout_s: float) -> list[str]:
    """What each of `times` TCP connections, one after the other, was answered; or the name of the error."""
    return [_ask_once(host, port, timeout_s) for _ in range(times)]


def _ask_once(host: str, port: int, timeout_s: float) -> str:
    try:
        with socket.create_connection((host, port), timeout_s) as connection:
            return connection.makefile().readline().strip()
    except OSError as error:
        return type(error).__name__


def ask_udp(host: str, port: int, sizes: list[int], timeout_s: float) -> list[str]:
    """What datagrams of `sizes` bytes from one socket were answered, without the echo; or the name of the error."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as asking:
        asking.settimeout(timeout_s)
        asking.connect((host, port))
        said = []
        for size in sizes:
            try:
                asking.send(b"x" * size)
                name, peer, echo = asking.recv(UDP_SIZE).decode().split(" ", 2)
                said.append(f"{name} {peer}" if len(echo) == size else f"short: {len(echo)}")
            except OSError as error:
                said.append(type(error).__name__)
        return said


def talk(host: str, port: int) -> None:
    """One TCP connection: says who answered, then sends each line of standard input through it and says what came."""
    with socket.create_connection((host, port), 5.0) as connection, connection.makefile() as answers:
        _tell(answers.readline().strip())
        connection.settimeout(1.5)
        for line in sys.stdin:
            try:
                connection.sendall(line.encode())
                _tell("same" if answers.readline() == line else "other")
            except OSError as error:
                _tell(type(error).__name__)
                return


def ask_both(first: str, second: str, kind: str) -> list[str]:
    """Ask two addresses (ADDRESS:PORT) from one source port, by sockets that are open at once; then both once more."""
    said = []
    with ExitStack() as stack:
        sockets: list[socket.socket] = []
        for place in (first, second):
            host, _, port = place.rpartition(":")
            asking = stack.enter_context(
                socket.socket(socket.AF_INET, socket.SOCK_STREAM if kind == "tcp" else socket.SOCK_DGRAM)
            )
            asking.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            asking.settimeout(2.0)
            asking.bind(("", sockets[0].getsockname()[1] if sockets else 0))
            sockets.append(asking)
            said.append(_said(lambda asking=asking, to=(host, int(port)): asking.connect(to), asking, kind))  # type: ignore[misc]
        said += [_said(lambda: None, asking, "udp") for asking in sockets]
    return said


def _said(before: Callable[[], None], asking: socket.socket, kind: str) -> str:
    """The first word of what comes after `before`; a server of TCP speaks first."""
    try:
        before()
        if kind == "udp":
            asking.send(b"hello\n")
        return asking.recv(UDP_SIZE).decode().split()[0]
    except OSError as error:
        return type(error).__name__


class Inside:
    """Runs these in network namespaces; ends what it started when left."""

    def __init__(self) -> None:
        self._started: list[subprocess.Popen[str]] = []

    def __enter__(self) -> Inside:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self._started:
            process.kill()
            process.communicate()

    def serve(self, netns: str, name: str, port: int) -> subprocess.Popen[str]:
        """A server, once it listens."""
        process = self.start(netns, "serve", name, str(port))
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        return process

    def ask(self, netns: str, host: str, port: int, times: int = 1, *, timeout_s: float = 5.0) -> Counter[str]:
        """How often each answer was given to TCP connections from `netns`."""
        return Counter(_run(netns, "ask", host, str(port), str(times), str(timeout_s)))

    def ask_udp(self, netns: str, host: str, port: int, *sizes: int, timeout_s: float = 5.0) -> list[str]:
        """The answers to datagrams from `netns`."""
        return _run(netns, "ask_udp", host, str(port), json.dumps(sizes), str(timeout_s))

    def ask_both(self, netns: str, first: str, second: str, kind: str) -> list[str]:
        """What two addresses said to one source port of `netns`, one after the other, twice."""
        return _run(netns, "ask_both", first, second, kind)

    def start(self, netns: str, *argv: str) -> subprocess.Popen[str]:
        """A process that goes on; talk to it by its pipes."""
        process = subprocess.Popen(
            _command(netns, *argv), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )
        self._started.append(process)
        return process


def say(talker: subprocess.Popen[str]) -> str:
    """Send a line through a `talk`; what came of it."""
    assert talker.stdin is not None
    assert talker.stdout is not None
    talker.stdin.write("hello\n")
    talker.stdin.flush()
    return talker.stdout.readline().strip()


def _command(netns: str, *argv: str) -> list[str]:
    return ["nsenter", f"--net={netns}", "--", sys.executable, "-m", "tests.support.sockets", *argv]


def _run(netns: str, *argv: str) -> list[str]:
    done = subprocess.run(_command(netns, *argv), capture_output=True, text=True, timeout=120, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    said: list[str] = json.loads(done.stdout)
    return said


def _tell(line: str) -> None:
    sys.stdout.write(f"{line}\n")
    sys.stdout.flush()


def main() -> None:
    """Do what the command line says."""
    match sys.argv[1:]:
        case ["serve", name, port]:
            serve(name, int(port))
        case ["ask", host, port, times, timeout_s]:
            _tell(json.dumps(ask(host, int(port), int(times), float(timeout_s))))
        case ["ask_udp", host, port, sizes, timeout_s]:
            _tell(json.dumps(ask_udp(host, int(port), json.loads(sizes), float(timeout_s))))
        case ["ask_both", first, second, kind]:
            _tell(json.dumps(ask_both(first, second, kind)))
        case ["talk", host, port]:
            talk(host, int(port))


if __name__ == "__main__":
    main()
