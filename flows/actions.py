"""What a flow does with a packet: OpenFlow actions, each a small frozen value.

A flow without actions and without a next table drops.
"""

from __future__ import annotations

from dataclasses import dataclass

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
class Unknown:
    """An action or instruction of somebody else's flow, as the switch shows it; it equals nothing of ours."""

    data: bytes


Action = Output | SetField | CopyField | Group | Meter | Unknown
