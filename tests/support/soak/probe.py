"""Real packets between all pods: each sends a datagram to each, and it is seen which arrive."""

from __future__ import annotations

import select
import socket
import time
from collections.abc import Set

from tests.support.frames import socket_in

PORT = 9100
STRAGGLERS_S = 0.05
"""How long after the last expected datagram one that must not arrive may turn up."""

Pair = tuple[str, str]


class Leak(Exception):
    """A datagram arrived that must not; the text says whose."""


class Probe:
    """A socket in every pod, from `open` to `close`."""

    def __init__(self) -> None:
        self._sockets: dict[str, socket.socket] = {}
        self._addresses: dict[str, str] = {}
        self._allowed: dict[int, Set[Pair]] = {}
        self._round = 0
        self.sent = 0
        self.received = 0

    def open(self, pod: str, netns: str, address: str) -> None:
        """A pod that has come."""
        opened = socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM)
        opened.setblocking(False)
        opened.bind(("", PORT))
        self._sockets[pod], self._addresses[pod] = opened, address

    def close(self, pod: str) -> None:
        """A pod that is to go: an open socket would keep its network namespace."""
        self._sockets.pop(pod).close()
        del self._addresses[pod]

    def address(self, pod: str) -> str:
        """Of a pod that is open."""
        return self._addresses[pod]

    def close_all(self) -> None:
        """All that are left."""
        for pod in list(self._sockets):
            self.close(pod)

    def arrivals(self, expected: Set[Pair], allowed: Set[Pair], within_s: float) -> set[Pair]:
        """Who was reached by whom; returns early when all `expected` pairs are there. Raises Leak."""
        self._round += 1
        self._allowed[self._round] = allowed
        for sender, through in self._sockets.items():
            for receiver, address in self._addresses.items():
                if sender != receiver:
                    self._send(through, address, f"{self._round} {sender} {receiver}")
        arrived: set[Pair] = set()
        end = time.monotonic() + within_s
        complete = False
        while (left := end - time.monotonic()) > 0:
            arrived |= self._take(left)
            if not complete and arrived >= expected:
                complete, end = True, time.monotonic() + STRAGGLERS_S
        return arrived

    def _send(self, through: socket.socket, address: str, text: str) -> None:
        try:
            through.sendto(text.encode(), (address, PORT))
            self.sent += 1
        except OSError:
            return  # no route while its interface comes or goes: it has not arrived

    def _take(self, within_s: float) -> set[Pair]:
        """Pairs of this round that arrive; those of an earlier one are judged by what held then."""
        pods = {through: pod for pod, through in self._sockets.items()}
        taken = set()
        for through in select.select(list(pods), [], [], within_s)[0]:
            try:
                text = through.recv(1024).decode()
            except OSError:
                continue
            number, sender, meant = text.split()
            pair = (sender, pods[through])
            self.received += 1
            if meant != pods[through] or pair not in self._allowed[int(number)]:
                raise Leak(f"{pods[through]} got a datagram of {sender} for {meant}")
            if int(number) == self._round:
                taken.add(pair)
        return taken
