"""Matches as type-length-value terms (OpenFlow 1.5.1, section 7.2.3: OXM).

A field that `flows.fields` does not name keeps its numbers and its width, so a match of somebody else's goes back to
the switch exactly as it came. Two details of Open vSwitch are undone here, so that a match reads back as it was sent:

- in OpenFlow 1.5 it reports registers in pairs (`xreg0` is `reg0` and `reg1`);
- it wants a field's prerequisites before the field, so our terms of Nicira's class go last.

For an experimenter's field (class 0xffff) `Field.number` is the experimenter's id shifted left by seven, plus the
field's own number.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from itertools import pairwise
from struct import Struct

from flows import fields
from flows.fields import OPENFLOW_BASIC, Field
from flows.match import Match
from flows.openflow.wire import OpenFlowError, padding

EXPERIMENTER = 0xFFFF
PACKET_REGISTERS = 0x8001  # the registers in pairs, 64 bits each
PAIRS_OF_REGISTERS = 8
MATCH_TYPE_OXM = 1

_HEADER = Struct("!HBB")  # class, field number << 1 | has mask, payload length
_EXPERIMENTER_HEADER = Struct("!HBBI")
_MATCH_HEADER = Struct("!HH")  # type, length without padding
_PADS = tuple(bytes(count) for count in range(8))

_REGISTERS = tuple(fields.register(number) for number in range(2 * PAIRS_OF_REGISTERS))
_KNOWN = {
    (field.oxm_class, field.number): field
    for field in (*_REGISTERS, *(value for value in vars(fields).values() if isinstance(value, Field)))
}


@lru_cache(maxsize=1024)
def encode_oxm_header(field: Field, masked: bool) -> bytes:
    """The header that announces a value of `field`, with or without a mask."""
    length = field.size * 2 if masked else field.size
    number = (field.number & 0x7F) << 1 | masked
    if field.oxm_class == EXPERIMENTER:
        return _EXPERIMENTER_HEADER.pack(EXPERIMENTER, number, length + 4, field.number >> 7)
    return _HEADER.pack(field.oxm_class, number, length)


def encode_oxm(field: Field, value: int, mask: int | None) -> bytes:
    """One term: header, value, mask if there is one."""
    if mask is None:
        return encode_oxm_header(field, False) + value.to_bytes(field.size, "big")
    size = field.size
    return encode_oxm_header(field, True) + value.to_bytes(size, "big") + mask.to_bytes(size, "big")


def encode_match(match: Match) -> bytes:
    """An `ofp_match`, padded."""
    basic = other = b""
    for field, value, mask in match.terms:
        if field.oxm_class == OPENFLOW_BASIC:
            basic += encode_oxm(field, value, mask)
        else:
            other += encode_oxm(field, value, mask)
    length = 4 + len(basic) + len(other)
    return _MATCH_HEADER.pack(MATCH_TYPE_OXM, length) + basic + other + _PADS[-length % 8]


def decode_oxm_header(data: bytes, offset: int) -> tuple[Field, bool, int]:
    """The field announced at `offset`, whether it has a mask, and the length of the header.

    A header that stands alone, as in a copy-field action, tells its field's width as well.
    """
    header = data[offset : offset + 4]
    if header[:2] == b"\xff\xff":
        header = data[offset : offset + 8]
    field, masked = _field(header)
    return field, masked, len(header)


@lru_cache(maxsize=1024)
def _field(header: bytes) -> tuple[Field, bool]:
    if len(header) not in (4, 8):
        raise OpenFlowError("a match term is cut off in its header")
    oxm_class, number, length = _HEADER.unpack_from(header)
    masked = bool(number & 1)
    number >>= 1
    if oxm_class == EXPERIMENTER:
        if length < 4 or len(header) < 8:
            raise OpenFlowError("an experimenter's match term has no experimenter")
        length -= 4
        number |= int.from_bytes(header[4:], "big") << 7
    size, odd = divmod(length, 2) if masked else (length, 0)
    known = _KNOWN.get((oxm_class, number))
    if odd or (known is not None and known.size != size):
        raise OpenFlowError(f"match term {oxm_class:#x}:{number} has an impossible length of {length} bytes")
    return known or Field(oxm_class, number, f"{oxm_class:#x}:{number}", size * 8), masked


def decode_oxm(data: bytes, offset: int, end: int) -> tuple[Field, int, int | None, int]:
    """The term at `offset`: field, value, mask, and the offset behind it. A mask of all ones is no mask."""
    field, masked, header = decode_oxm_header(data, offset)
    size = field.size
    begin = offset + header
    after = begin + (size * 2 if masked else size)
    if after > end:
        raise OpenFlowError(f"match term {field.name} is cut off")
    value = int.from_bytes(data[begin : begin + size], "big")
    if not masked:
        return field, value, None, after
    mask = int.from_bytes(data[begin + size : after], "big")
    return field, value, None if mask == field.all_ones else mask, after


def decode_match(data: bytes, offset: int, end: int) -> tuple[Match, int]:
    """The `ofp_match` at `offset` and the offset behind its padding."""
    if offset + 4 > end:
        raise OpenFlowError("a match is cut off in its header")
    kind, length = _MATCH_HEADER.unpack_from(data, offset)
    after = offset + length + padding(length)
    if kind != MATCH_TYPE_OXM or length < 4 or after > end:
        raise OpenFlowError(f"a match of type {kind} and length {length} is none of OpenFlow 1.5")
    terms = sorted(_terms(data, offset + 4, offset + length), key=_class_and_number)
    if any(one[0] == other[0] for one, other in pairwise(terms)):
        raise OpenFlowError("a match names a field twice")
    return Match(tuple(terms)), after


def _class_and_number(term: tuple[Field, int, int | None]) -> tuple[int, int]:
    return term[0].oxm_class, term[0].number


def _terms(data: bytes, offset: int, end: int) -> Iterator[tuple[Field, int, int | None]]:
    while offset < end:
        field, value, mask, offset = decode_oxm(data, offset, end)
        if field.oxm_class == PACKET_REGISTERS and field.number < PAIRS_OF_REGISTERS:
            yield from _registers(field, value, mask)
        else:
            yield field, value, mask


def _registers(pair: Field, value: int, mask: int | None) -> Iterator[tuple[Field, int, int | None]]:
    if mask is None:
        mask = pair.all_ones
    for register, shift in ((_REGISTERS[2 * pair.number], 32), (_REGISTERS[2 * pair.number + 1], 0)):
        part = mask >> shift & register.all_ones
        if part:
            yield register, value >> shift & part, None if part == register.all_ones else part
