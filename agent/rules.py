"""Rules of policy routing: which table the packets of one source address are looked up in. ip-rule(8), rtnetlink(7).

A container that has two interfaces of this network has one default route; without a rule, what it answers from the
second address would leave by the first interface, where the switch takes it for forged. Packed here
(linux/fib_rules.h), sent and answered like any other message by `agent.netlink`.
"""

from __future__ import annotations

import errno
import socket
import struct
from ipaddress import IPv4Address

from agent.netlink import NLM_F_ACK, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REQUEST, Request

RTM_NEWRULE, RTM_DELRULE = 32, 33
FIRST_TABLE = 0x6B380000
"""Our tables begin at this number ("k8"), which is none that people write down."""
PRIORITY = 0x6B38
"""Before the main table's 32766, behind whatever a person is likely to have put first."""

_HEADER = struct.Struct("=IHHII")
_RULE = struct.Struct("=BBBBBBBBI")
_FRA_SRC, _FRA_PRIORITY, _FRA_TABLE = 2, 6, 15
_FR_ACT_TO_TBL = 1


def table_of(index: int) -> int:
    """The table of the interface with this index, in its namespace."""
    return FIRST_TABLE + index


def add_rule(source: IPv4Address, table: int) -> Request:
    """Look up what comes from `source` in `table`; a rule that exists is no error."""
    message = _rule(RTM_NEWRULE, NLM_F_CREATE | NLM_F_EXCL, source, _attribute(_FRA_TABLE, struct.pack("=I", table)))
    return Request(f"rule from {source}", message, frozenset((errno.EEXIST,)))


def delete_rule(source: IPv4Address) -> Request:
    """Remove our rule for `source`, whatever its table; none is no error."""
    return Request(f"delete rule from {source}", _rule(RTM_DELRULE, 0, source, b""), frozenset((errno.ENOENT,)))


def _rule(kind: int, flags: int, source: IPv4Address, table: bytes) -> bytes:
    body = _RULE.pack(socket.AF_INET, 0, 32, 0, 0, 0, 0, _FR_ACT_TO_TBL, 0)
    body += _attribute(_FRA_SRC, source.packed) + _attribute(_FRA_PRIORITY, struct.pack("=I", PRIORITY)) + table
    return _HEADER.pack(_HEADER.size + len(body), kind, NLM_F_REQUEST | NLM_F_ACK | flags, 0, 0) + body


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value
