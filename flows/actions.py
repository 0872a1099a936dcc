"""What a flow does with a packet: OpenFlow actions, each a small frozen value.

A flow without actions and without a next table drops.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address

from flows.fields import Field

IN_PORT = 0xFFFFFFF8  # OFPP_IN_PORT: back out of the port it came in by, which a plain output refuses
LOCAL = 0xFFFFFFFE  # OFPP_LOCAL: the bridge's own internal port


@dataclass(frozen=True, slots=True)
class Output:
    """Send a copy of the packet to `port`, an ofport or one of the reserved numbers above."""

    port: int


@dataclass(frozen=True, slots=True)
class SetField:
    """Write `value` into `field`; with a mask only those bits (OpenFlow 1.5.1, 7.2.6.7)."""

    field: Field
    value: int
    mask: int | None = None


@dataclass(frozen=True, slots=True)
class CopyField:
    """Copy `bits` bits from one field to another (OpenFlow 1.5.1, 7.2.6.8; shown as `move` by Open vSwitch)."""

    source: Field
    destination: Field
    bits: int
    source_offset: int = 0
    destination_offset: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """Hand the packet to group `identifier`."""

    identifier: int


@dataclass(frozen=True, slots=True)
class Meter:
    """Pass the packet through meter `identifier`, which may drop it."""

    identifier: int


@dataclass(frozen=True, slots=True)
class Nat:
    """Address translation within `Track` (`nat` in ovs-actions(7)).

    Without an address: as the connection was told when it was committed. With one: the connection's destination (or
    with `source` its source) becomes `address`, and `port` if there is one.
    """

    address: IPv4Address | None = None
    port: int | None = None
    source: bool = False


@dataclass(frozen=True, slots=True)
class Track:
    """Pass the packet through connection tracking in `zone` (`ct` in ovs-actions(7)).

    With a `table` the packet goes on there with its connection's state in `fields.CT_STATE`; what follows this action
    sees it without. `commit` remembers the connection, and `mark` is written on it.
    """

    zone: int
    table: int | None = None
    commit: bool = False
    nat: Nat | None = None
    mark: int | None = None


@dataclass(frozen=True, slots=True)
class Resubmit:
    """Apply what `table` says of the packet as well, then go on (`resubmit` in ovs-actions(7))."""

    table: int


@dataclass(frozen=True, slots=True)
class Learn:
    """Install a flow in `table`, or renew it (`learn` in ovs-actions(7)); it goes when unused for `idle_s` seconds.

    It matches IPv4 packets with this packet's value of each field in `same`, and `values`; it writes `writes`.
    """

    table: int
    priority: int
    idle_s: int
    cookie: int
    same: tuple[Field, ...]
    values: tuple[tuple[Field, int], ...]
    writes: tuple[tuple[Field, int], ...]


@dataclass(frozen=True, slots=True)
class Unknown:
    """An action or instruction of somebody else's flow, as the switch shows it; it equals nothing of ours."""

    data: bytes


Action = Output | SetField | CopyField | Group | Meter | Track | Resubmit | Learn | Unknown
