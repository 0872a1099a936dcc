"""The messages of OpenFlow 1.5 that we send or understand, as frozen values.

A request for a multipart reply is answered by one or more replies of its kind; the last one has `more` unset.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from ipaddress import IPv4Address
from typing import Generic, TypeVar

from flows.flow import Flow, FlowKey
from flows.group import GroupEntry
from flows.openflow.error_names import error_name
from flows.openflow.wire import ALL_TABLES, VERSION

Item = TypeVar("Item")


@dataclass(frozen=True, slots=True)
class Hello:
    """The first message of either side (7.5.1): the wire versions it speaks."""

    versions: frozenset[int] = frozenset({VERSION})


@dataclass(frozen=True, slots=True)
class Error:
    """What the switch refused (7.5.4); its xid is that of the refused message. `str()` gives the standard's name."""

    type: int
    code: int
    data: bytes

    def __str__(self) -> str:
        return error_name(self.type, self.code)


@dataclass(frozen=True, slots=True)
class EchoRequest:
    """Are you there? (7.5.2)."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class EchoReply:
    """Yes, with the data of the question (7.5.3)."""

    data: bytes = b""


@dataclass(frozen=True, slots=True)
class FeaturesRequest:
    """Asks what the switch is (7.3.1)."""


@dataclass(frozen=True, slots=True)
class FeaturesReply:
    """The switch's datapath id and the number of its tables (7.3.1)."""

    datapath_id: int
    tables: int


@dataclass(frozen=True, slots=True)
class BarrierRequest:
    """Asks for a reply once everything sent before is done (7.3.7)."""


@dataclass(frozen=True, slots=True)
class BarrierReply:
    """Everything before the request is done."""


class FlowCommand(IntEnum):
    """Section 7.3.4.2, `ofp_flow_mod_command`."""

    ADD = 0
    MODIFY_STRICT = 2
    DELETE = 3
    DELETE_STRICT = 4


@dataclass(frozen=True, slots=True)
class FlowMod:
    """One change of one flow (7.3.4.2). It never resets the counters of a flow that it changes."""

    command: FlowCommand
    target: Flow | FlowKey
    idle_s: int = 0
    """the flow goes when it has not been used for so many seconds, and has `PASSING_COOKIE`; 0: it stays"""

    @classmethod
    def add(cls, flow: Flow, idle_s: int = 0) -> FlowMod:
        """Install `flow`, in place of one with the same key."""
        return cls(FlowCommand.ADD, flow, idle_s)

    @classmethod
    def modify(cls, flow: Flow) -> FlowMod:
        """Give the actions of `flow` to the flow with its key; nothing happens if there is none. Its cookie stays."""
        return cls(FlowCommand.MODIFY_STRICT, flow)

    @classmethod
    def delete(cls, key: FlowKey) -> FlowMod:
        """Remove the flow with exactly this key; nothing happens if there is none."""
        return cls(FlowCommand.DELETE_STRICT, key)


@dataclass(frozen=True, slots=True)
class FlowPurge:
    """Remove all flows whose cookie has `cookie` in the bits of `cookie_mask`; with mask 0 all flows (7.3.4.2)."""

    cookie: int = 0
    cookie_mask: int = 0
    table: int = ALL_TABLES


class GroupCommand(IntEnum):
    """Section 7.3.4.3, `ofp_group_mod_command`; the third is Open vSwitch's own, from its version 2.6 on."""

    ADD = 0
    MODIFY = 1
    DELETE = 2
    ADD_OR_MODIFY = 0x8000


@dataclass(frozen=True, slots=True)
class GroupMod:
    """One change of one group (7.3.4.3)."""

    command: GroupCommand
    group: GroupEntry


@dataclass(frozen=True, slots=True)
class FlushConnections:
    """Forget the tracked connections of `zone` whose answers come from `address` and `port` (`NXT_CT_FLUSH`).

    Open vSwitch has this from 3.1 on.
    """

    zone: int
    protocol: int
    address: IPv4Address
    port: int


class MeterCommand(IntEnum):
    """Section 7.3.4.5, `ofp_meter_mod_command`."""

    ADD = 0
    MODIFY = 1
    DELETE = 2


@dataclass(frozen=True, slots=True)
class MeterEntry:
    """A meter that drops what exceeds `rate` packets per second, after a burst of `burst` packets."""

    identifier: int
    rate: int
    burst: int


@dataclass(frozen=True, slots=True)
class MeterMod:
    """One change of one meter (7.3.4.5)."""

    command: MeterCommand
    meter: MeterEntry


class BundleControlType(IntEnum):
    """Section 7.3.9.2, `ofp_bundle_ctrl_type`."""

    OPEN_REQUEST = 0
    OPEN_REPLY = 1
    CLOSE_REQUEST = 2
    CLOSE_REPLY = 3
    COMMIT_REQUEST = 4
    COMMIT_REPLY = 5
    DISCARD_REQUEST = 6
    DISCARD_REPLY = 7


class BundleFlags(IntFlag):
    """Section 7.3.9.3, `ofp_bundle_flags`."""

    ATOMIC = 1
    ORDERED = 2


BUNDLE_FLAGS = BundleFlags.ATOMIC | BundleFlags.ORDERED


@dataclass(frozen=True, slots=True)
class BundleControl:
    """Opens, closes, commits or discards a bundle, or answers that (7.3.9.1)."""

    bundle: int
    type: BundleControlType
    flags: BundleFlags = BUNDLE_FLAGS


@dataclass(frozen=True, slots=True)
class BundleAdd:
    """Puts a change into an open bundle (7.3.9.6); inner and outer message have the same xid."""

    bundle: int
    change: FlowMod | FlowPurge | GroupMod
    flags: BundleFlags = BUNDLE_FLAGS


@dataclass(frozen=True, slots=True)
class InstalledFlow:
    """A flow as the switch has it.

    `flow.source` is None if the cookie is not one of ours. Properties that no flow of ours has, such as a timeout, show
    as a `flows.actions.Unknown` among the actions, so that such a flow equals none of ours; its key deletes it all the
    same. `packets` and `bytes` count since it was added.
    """

    flow: Flow
    cookie: int
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class GroupCounters:
    """What group `identifier` has handled."""

    identifier: int
    packets: int
    bytes: int


@dataclass(frozen=True, slots=True)
class Port:
    """A port of the bridge."""

    number: int
    name: str
    mac: int
    link_up: bool


@dataclass(frozen=True, slots=True)
class TableStats:
    """A table of the pipeline: flows in it, packets looked up in it, packets that matched a flow of it."""

    table: int
    flows: int
    lookups: int
    matches: int


@dataclass(frozen=True, slots=True)
class FlowDescRequest:
    """Asks for the flows of `table` whose cookie has `cookie` in the bits of `cookie_mask` (7.3.5.2)."""

    table: int = ALL_TABLES
    cookie: int = 0
    cookie_mask: int = 0


@dataclass(frozen=True, slots=True)
class GroupDescRequest:
    """Asks for all groups (7.3.5.8)."""


@dataclass(frozen=True, slots=True)
class GroupStatsRequest:
    """Asks for the counters of all groups (7.3.5.7)."""


@dataclass(frozen=True, slots=True)
class MeterDescRequest:
    """Asks for all meters (7.3.5.14)."""


@dataclass(frozen=True, slots=True)
class PortDescRequest:
    """Asks for all ports (7.3.5.6)."""


@dataclass(frozen=True, slots=True)
class TableStatsRequest:
    """Asks for the counters of all tables (7.3.5.3)."""


@dataclass(frozen=True, slots=True)
class MultipartReply(Generic[Item]):
    """A part of the answer to one of the requests above; another part follows if `more`."""

    items: tuple[Item, ...]
    more: bool


@dataclass(frozen=True, slots=True)
class FlowDescReply(MultipartReply[InstalledFlow]):
    """Flows."""


@dataclass(frozen=True, slots=True)
class GroupDescReply(MultipartReply[GroupEntry]):
    """Groups."""


@dataclass(frozen=True, slots=True)
class GroupStatsReply(MultipartReply[GroupCounters]):
    """Counters of groups."""


@dataclass(frozen=True, slots=True)
class MeterDescReply(MultipartReply[MeterEntry]):
    """Meters."""


@dataclass(frozen=True, slots=True)
class PortDescReply(MultipartReply[Port]):
    """Ports."""


@dataclass(frozen=True, slots=True)
class TableStatsReply(MultipartReply[TableStats]):
    """Counters of tables."""


class PortReason(IntEnum):
    """Section 7.4.3, `ofp_port_reason`."""

    ADD = 0
    DELETE = 1
    MODIFY = 2


@dataclass(frozen=True, slots=True)
class PortStatus:
    """The switch says that a port came, went or changed (7.4.3)."""

    reason: PortReason
    port: Port


@dataclass(frozen=True, slots=True)
class Unknown:
    """A message that we do not speak: its type and what follows its header."""

    type: int
    body: bytes


MultipartRequest = (
    FlowDescRequest | GroupDescRequest | GroupStatsRequest | MeterDescRequest | PortDescRequest | TableStatsRequest
)
Request = (
    Hello
    | EchoRequest
    | EchoReply
    | FeaturesRequest
    | BarrierRequest
    | FlowMod
    | FlowPurge
    | GroupMod
    | MeterMod
    | BundleControl
    | BundleAdd
    | FlushConnections
    | MultipartRequest
)
Reply = (
    Hello
    | Error
    | EchoRequest
    | EchoReply
    | FeaturesReply
    | BarrierReply
    | BundleControl
    | FlowDescReply
    | GroupDescReply
    | GroupStatsReply
    | MeterDescReply
    | PortDescReply
    | TableStatsReply
    | PortStatus
    | Unknown
)
