"""ICMP echo without a process: a raw socket inside a sandbox, opened before the pod has a network."""

import select
import socket
import struct
import time

from scripts.bench_plugins import inside
from tests.support.namespaces import Sandbox

_ECHO_REQUEST, _ECHO_REPLY = 8, 0
_IDENTIFIER = 0x6B38


class Probe:
    """Sends echo requests from `sandbox` and counts the answers."""

    def __init__(self, sandbox: Sandbox) -> None:
        with inside(sandbox.path):
            self._socket = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
        self._sequence = 0

    def close(self) -> None:
        self._socket.close()

    def answered(self, address: str, wait_s: float = 1.0) -> bool:
        """Whether one request, sent now, is answered within `wait_s`."""
        self.send(address)
        end = time.monotonic() + wait_s
        while (left := end - time.monotonic()) > 0:
            if self.receive(left) == self._sequence:
                return True
        return False

    def send(self, address: str) -> None:
        """One request; a pod without a way there loses it."""
        self._sequence += 1
        try:
            self._socket.sendto(_request(self._sequence), (address, 0))
        except OSError:
            return

    def receive(self, wait_s: float) -> int | None:
        """The number of an answered request, or None after `wait_s` or something else that came."""
        if not select.select([self._socket], [], [], wait_s)[0]:
            return None
        packet = self._socket.recv(2048)
        kind, _, _, identifier, sequence = struct.unpack_from("!BBHHH", packet, (packet[0] & 0xF) * 4)
        return sequence if (kind, identifier) == (_ECHO_REPLY, _IDENTIFIER) else None


def _request(sequence: int) -> bytes:
    words = (_ECHO_REQUEST << 8, _IDENTIFIER, sequence)
    total = sum(words)
    checksum = ~((total & 0xFFFF) + (total >> 16)) & 0xFFFF
    return struct.pack("!HHHH", words[0], checksum, *words[1:])
