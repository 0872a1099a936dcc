"""What the tests of the OpenFlow codec share: generated flows, and messages that a real switch sent."""

from __future__ import annotations

from pathlib import Path

from hypothesis import strategies as st

from flows import fields
from flows.actions import IN_PORT, Action, CopyField, Output, SetField
from flows.fields import Field, register
from flows.flow import Flow, Source
from flows.match import Match

RECORDED = Path(__file__).parent.parent / "recorded" / "openflow" / "ovs-3.1.hex"

ETH_TYPE_IPV4 = 0x0800
ETH_TYPE_ARP = 0x0806
IP_PROTO_UDP = 17

# Fields that may be matched and set, under the words that Open vSwitch demands before them.
_ANYWHERE = (register(0), register(1), register(7), register(15), fields.TUNNEL_ID, fields.ETH_SRC, fields.ETH_DST)
_UNDER: tuple[tuple[dict[Field, int], tuple[Field, ...]], ...] = (
    ({}, (fields.TUN_IPV4_SRC, fields.TUN_IPV4_DST)),
    ({fields.ETH_TYPE: ETH_TYPE_IPV4}, (fields.IPV4_SRC, fields.IPV4_DST)),
    ({fields.ETH_TYPE: ETH_TYPE_ARP}, (fields.ARP_SPA, fields.ARP_TPA, fields.ARP_SHA, fields.ARP_THA)),
    ({fields.ETH_TYPE: ETH_TYPE_IPV4, fields.IP_PROTO: IP_PROTO_UDP}, (fields.UDP_SRC, fields.UDP_DST)),
)


def recorded() -> dict[str, bytes]:
    """The messages that Open vSwitch sent, by name."""
    lines = (line.split() for line in RECORDED.read_text().splitlines() if not line.startswith("#"))
    return {name: bytes.fromhex(text) for name, text in lines}


def numbers(field: Field) -> st.SearchStrategy[int]:
    """Values of `field`."""
    return st.integers(0, field.all_ones)


def terms(field: Field) -> st.SearchStrategy[tuple[Field, tuple[int, int]]]:
    """`field` with a value and a mask, which is often exact."""
    masks = st.one_of(st.just(field.all_ones), numbers(field))
    return st.tuples(st.just(field), st.tuples(numbers(field), masks))


@st.composite
def worlds(draw: st.DrawFn) -> tuple[Match, tuple[Field, ...]]:
    """A match that Open vSwitch accepts, and the fields that a flow with it may set."""
    required, allowed = draw(st.sampled_from(_UNDER))
    choice = draw(st.lists(st.sampled_from((*_ANYWHERE, *allowed)), unique=True, max_size=6))
    words = dict(draw(st.tuples(*(terms(field) for field in choice))))
    exact = {field: (value, field.all_ones) for field, value in required.items()}
    return Match.masked(words | exact), (*_ANYWHERE, *allowed)


def set_fields(settable: tuple[Field, ...]) -> st.SearchStrategy[SetField]:
    """Writes of a value, or of some bits of it."""

    def write(field: Field, value: int, mask: int | None) -> SetField:
        return SetField(field, value if mask is None else value & mask, mask)

    def of(field: Field) -> st.SearchStrategy[SetField]:
        masks = st.one_of(st.none(), st.integers(1, field.all_ones - 1))
        return st.builds(write, st.just(field), numbers(field), masks)

    return st.sampled_from(settable).flatmap(of)


@st.composite
def copy_fields(draw: st.DrawFn, settable: tuple[Field, ...]) -> CopyField:
    """Copies of bits that lie within both fields."""
    source, destination = draw(st.sampled_from(settable)), draw(st.sampled_from(settable))
    bits = draw(st.integers(1, min(source.bits, destination.bits)))
    return CopyField(
        source,
        destination,
        bits,
        draw(st.integers(0, source.bits - bits)),
        draw(st.integers(0, destination.bits - bits)),
    )


def actions(settable: tuple[Field, ...]) -> st.SearchStrategy[Action]:
    """Actions that Open vSwitch accepts without groups or meters being there."""
    outputs = st.builds(Output, st.one_of(st.integers(1, 0xFEFF), st.just(IN_PORT)))
    return st.one_of(outputs, set_fields(settable), copy_fields(settable))


@st.composite
def flows(draw: st.DrawFn) -> Flow:
    """Flows of ours that Open vSwitch accepts."""
    match, settable = draw(worlds())
    table = draw(st.integers(0, 200))
    return Flow(
        table,
        draw(st.integers(0, 0xFFFF)),
        match,
        tuple(draw(st.lists(actions(settable), max_size=5))),
        draw(st.one_of(st.none(), st.integers(table + 1, 253))),
        draw(st.sampled_from(Source)),
    )
