"""Frames and datagrams inside other network namespaces: sent as they are, and looked out for. Takes root."""

from __future__ import annotations

import select
import socket
import threading
import time
from collections.abc import Mapping
from types import TracebackType

from agent import netns


def socket_in(path: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket of the network namespace at `path`."""
    opened: list[socket.socket] = []

    def enter_and_open() -> None:
        with netns.opened(path) as namespace, netns.entered(namespace, path):
            opened.append(socket.socket(family, kind, protocol))

    thread = threading.Thread(target=enter_and_open)
    thread.start()
    thread.join()
    (found,) = opened
    return found


def send_frame(path: str, ifname: str, frame: bytes) -> None:
    """Send `frame` by the device `ifname` of the network namespace at `path`, whatever it says."""
    with socket_in(path, socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((ifname, 0))
        raw.send(frame)


class Sniffer:
    """Everything that arrives at, or leaves by, the device `ifname` of the network namespace at `path`."""

    def __init__(self, path: str, ifname: str) -> None:
        self._socket = socket_in(path, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
        self._socket.bind((ifname, 0x0003))

    def __enter__(self) -> Sniffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def sees(self, payload: bytes, within_s: float) -> bool:
        """Whether a frame with `payload` in it comes by within that time."""
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            if select.select([self._socket], [], [], left)[0] and payload in self._socket.recv(1 << 16):
                return True
        return False


class Lookout:
    """Watches several devices at once: `places` are names for the paths of network namespaces and devices in them."""

    def __init__(self, places: Mapping[str, tuple[str, str]]) -> None:
        self._places = places
        self._sockets: dict[socket.socket, str] = {}

    def __enter__(self) -> Lookout:
        for name, (path, ifname) in self._places.items():
            sniffing = socket_in(path, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(0x0003))
            self._sockets[sniffing] = name
            sniffing.bind((ifname, 0x0003))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for sniffing in self._sockets:
            sniffing.close()

    def seen(self, payload: bytes, within_s: float) -> set[str]:
        """Where a frame with `payload` in it comes by within that time."""
        found: set[str] = set()
        end = time.monotonic() + within_s
        while (left := end - time.monotonic()) > 0:
            ready, _, _ = select.select(list(self._sockets), [], [], left)
            found |= {self._sockets[one] for one in ready if payload in one.recv(1 << 16)}
        return found
