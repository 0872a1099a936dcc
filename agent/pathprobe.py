"""How large a packet gets to another host in one piece: ICMP echo requests that no router may fragment. Blocking.

The answer is as large as the question, so both directions are tried. It takes the right to open raw sockets.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import time
from ipaddress import IPv4Address
from itertools import count

from agent.facts import PathProbe

ANSWER_S = 0.5
"""How long an answer is waited for; so long as a node is away from its neighbour in no cluster."""
TRIES = 2
SMALLEST = 68
"""What every link carries (RFC 791)."""

_IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE = 10, 3
"""ip(7): set the don't-fragment bit, and do not go by what was learnt about the path before."""
_IP_HEADER = 20
_ECHO = struct.Struct("!BBHHH")
_ECHO_REQUEST, _ECHO_REPLY = 8, 0


def probe_path(source: IPv4Address, peer: IPv4Address, wanted: int) -> PathProbe:
    """The largest packet, up to `wanted` bytes with its IP header, that `peer` answers from `source`.

    Raises OSError where raw sockets are not allowed, or `source` is no address of this host.
    """
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as sock:
        sock.setsockopt(socket.IPPROTO_IP, _IP_MTU_DISCOVER, _IP_PMTUDISC_PROBE)
        sock.bind((str(source), 0))
        numbers = count(1)

        def passes(size: int) -> bool:
            return any(_answered(sock, peer, size, next(numbers)) for _ in range(TRIES))

        if passes(wanted):
            return PathProbe(peer, wanted, wanted)
        if not passes(SMALLEST):
            return PathProbe(peer, wanted, 0)
        passed, failed = SMALLEST, wanted
        while failed - passed > 1:
            middle = (passed + failed) // 2
            if passes(middle):
                passed = middle
            else:
                failed = middle
        return PathProbe(peer, wanted, passed)


def _answered(sock: socket.socket, peer: IPv4Address, size: int, number: int) -> bool:
    identifier = os.getpid() & 0xFFFF
    body = bytes(max(0, size - _IP_HEADER - _ECHO.size))
    header = _ECHO.pack(_ECHO_REQUEST, 0, 0, identifier, number)
    try:
        sock.sendto(_ECHO.pack(_ECHO_REQUEST, 0, _checksum(header + body), identifier, number) + body, (str(peer), 0))
    except OSError as error:
        if error.errno in (errno.EMSGSIZE, errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EPERM, errno.EACCES):
            return False
        raise
    end = time.monotonic() + ANSWER_S
    while (left := end - time.monotonic()) > 0:
        sock.settimeout(left)
        try:
            packet, (sender, _) = sock.recvfrom(1 << 16)
        except TimeoutError:
            return False
        answer = packet[(packet[0] & 0x0F) * 4 :]
        if sender != str(peer) or len(answer) < _ECHO.size:
            continue
        kind, _, _, whose, which = _ECHO.unpack_from(answer)
        if (kind, whose, which) == (_ECHO_REPLY, identifier, number):
            return True
    return False


def _checksum(data: bytes) -> int:
    """RFC 1071."""
    data += bytes(len(data) % 2)
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
