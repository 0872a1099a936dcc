"""A codec for the part of OpenFlow 1.5 that we speak: values to bytes and back, without any input or output.

`encode` turns a request into bytes; a `Decoder` is fed with bytes and returns what the switch said. It raises nothing
but `OpenFlowError`, whatever it is fed with, and what it does not know becomes `messages.Unknown`. Open vSwitch is the
only switch in mind. Why a codec of our own: docs/decisions/0001-our-own-openflow-codec.md.
"""

from __future__ import annotations

from flows.openflow.decode import Decoder, Received
from flows.openflow.encode import encode
from flows.openflow.messages import (
    Error,
    FlowMod,
    FlowPurge,
    FlushConnections,
    GroupCommand,
    GroupMod,
    InstalledFlow,
    MeterEntry,
    TableStats,
)
from flows.openflow.wire import OpenFlowError

__all__ = [
    "Decoder",
    "Error",
    "FlowMod",
    "FlowPurge",
    "FlushConnections",
    "GroupCommand",
    "GroupMod",
    "InstalledFlow",
    "MeterEntry",
    "OpenFlowError",
    "Received",
    "TableStats",
    "encode",
]
