"""Frames and datagrams inside other network namespaces: sent as they are, and looked out for. Takes root."""

from __future__ import annotations

import select
import socket
import threading
import time
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
