"""Numbers and fixed layouts of OpenFlow 1.5.1 (ONF TS-025), wire version 6, as far as we speak it."""

from __future__ import annotations

from enum import IntEnum
from struct import Struct

VERSION = 6
HEADER = Struct("!BBHI")  # version, type, length, xid
MULTIPART = Struct("!HH4x")  # multipart type, flags; after the header
MULTIPART_MORE = 1  # OFPMPF_REPLY_MORE
NO_BUFFER = 0xFFFFFFFF  # OFP_NO_BUFFER
ANY = 0xFFFFFFFF  # OFPP_ANY, OFPG_ANY
ALL_GROUPS = 0xFFFFFFFC  # OFPG_ALL
ALL_METERS = 0xFFFFFFFF  # OFPM_ALL
ALL_BUCKETS = 0xFFFFFFFF  # OFPG_BUCKET_ALL
ALL_TABLES = 0xFF  # OFPTT_ALL


class OpenFlowError(Exception):
    """Bytes that are not OpenFlow 1.5, or a value that OpenFlow 1.5 cannot carry."""


class MessageType(IntEnum):
    """Section 7.1.1, `ofp_type`."""

    HELLO = 0
    ERROR = 1
    ECHO_REQUEST = 2
    ECHO_REPLY = 3
    EXPERIMENTER = 4
    FEATURES_REQUEST = 5
    FEATURES_REPLY = 6
    PORT_STATUS = 12
    FLOW_MOD = 14
    GROUP_MOD = 15
    MULTIPART_REQUEST = 18
    MULTIPART_REPLY = 19
    BARRIER_REQUEST = 20
    BARRIER_REPLY = 21
    METER_MOD = 29
    BUNDLE_CONTROL = 33
    BUNDLE_ADD_MESSAGE = 34


class MultipartType(IntEnum):
    """Section 7.3.5, `ofp_multipart_type`."""

    FLOW_DESC = 1
    TABLE_STATS = 3
    GROUP_STATS = 6
    GROUP_DESC = 7
    METER_DESC = 10
    PORT_DESC = 13


class ActionType(IntEnum):
    """Section 7.2.6, `ofp_action_type`."""

    OUTPUT = 0
    GROUP = 22
    SET_FIELD = 25
    COPY_FIELD = 28
    METER = 29
    EXPERIMENTER = 0xFFFF


NICIRA = 0x2320
"""The experimenter whose extensions Open vSwitch speaks (`NX_VENDOR_ID`)."""

NETRONOME = 0x154D
"""The experimenter of the selection methods of groups (`NTR_VENDOR_ID`)."""


class NiciraAction(IntEnum):
    """Open vSwitch's own actions (ovs-actions(7))."""

    RESUBMIT_TABLE = 14
    LEARN = 16
    CT = 35
    NAT = 36


class InstructionType(IntEnum):
    """Section 7.2.5, `ofp_instruction_type`."""

    GOTO_TABLE = 1
    APPLY_ACTIONS = 4


def padding(length: int) -> int:
    """How many bytes bring `length` to a multiple of eight, which OpenFlow asks for almost everywhere."""
    return -length % 8
