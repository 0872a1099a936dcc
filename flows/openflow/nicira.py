"""Open vSwitch's own actions on the wire: `ct`, `nat`, `resubmit`, `learn` (ovs-actions(7)).

Each begins like every experimenter's action: type 0xffff, length, experimenter, subtype.
"""

from __future__ import annotations

from ipaddress import IPv4Address
from struct import Struct

from flows import fields
from flows.actions import Action, Learn, Nat, Resubmit, Track, Unknown
from flows.fields import Field
from flows.openflow.oxm import decode_oxm, decode_oxm_header, encode_oxm, encode_oxm_header
from flows.openflow.wire import NICIRA, ActionType, NiciraAction, padding

_HEAD = Struct("!HHIH")  # type, length, experimenter, subtype
_CT = Struct("!HIHB3xH")  # flags, field of the zone (0: immediate), zone, table, application helper
_COMMIT = 1
_NO_TABLE = 0xFF
_NAT = Struct("!2xHH")  # flags, which bounds of the range follow
_NAT_SOURCE, _NAT_DESTINATION = 1, 2
_ADDRESS, _PORT = 1, 16  # lower bounds alone: a range of one
_RESUBMIT = Struct("!HB3x")  # port, table
_SAME_PORT = 0xFFF8
_LEARN = Struct("!HHHQHBxHH")  # idle, hard timeout, priority, cookie, flags, table, two more timeouts
_SPEC = Struct("!H")  # source << 13 | destination << 11 | bits
_SPEC_FIELD = Struct("!H")  # offset within the field
_IMMEDIATE, _LOAD = 1 << 13, 1 << 11
_BITS = 0x7FF
_SET_FIELD = Struct("!HH")
_IPV4 = 0x0800
_OLD_NAMES = {(fields.NICIRA_0, 3): fields.ETH_TYPE, (fields.NICIRA_0, 7): fields.IPV4_SRC}
"""How Open vSwitch shows fields in `learn`, whatever they were called when it was told."""


def encode_track(action: Track) -> bytes:
    """`ct`, with its nested actions."""
    nested = b"" if action.nat is None else _nat(action.nat)
    if action.mark is not None:
        body = encode_oxm(fields.CT_MARK, action.mark, None)
        length = _SET_FIELD.size + len(body)
        length += padding(length)
        nested += (_SET_FIELD.pack(ActionType.SET_FIELD, length) + body).ljust(length, b"\0")
    table = _NO_TABLE if action.table is None else action.table
    return _action(NiciraAction.CT, _CT.pack(_COMMIT if action.commit else 0, 0, action.zone, table, 0), nested)


def encode_resubmit(action: Resubmit) -> bytes:
    """`resubmit`, by the port that the packet came in by."""
    return _action(NiciraAction.RESUBMIT_TABLE, _RESUBMIT.pack(_SAME_PORT, action.table))


def encode_learn(action: Learn) -> bytes:
    """`learn`, with its specifications."""
    head = _LEARN.pack(action.idle_s, 0, action.priority, action.cookie, 0, action.table, 0, 0)
    specs = _immediate(fields.ETH_TYPE, _IPV4, 0)
    for field in action.same:
        where = encode_oxm_header(field, False) + _SPEC_FIELD.pack(0)
        specs += _SPEC.pack(field.bits) + where + where
    specs += b"".join(_immediate(field, value, 0) for field, value in action.values)
    specs += b"".join(_immediate(field, value, _LOAD) for field, value in action.writes)
    return _action(NiciraAction.LEARN, head, specs)


def decode_nicira(data: bytes) -> Action:
    """One of these actions; Unknown if it is another, or says what ours never say."""
    _, _, experimenter, subtype = _HEAD.unpack_from(data)
    body = data[_HEAD.size :]
    action: Action | None = None
    if experimenter == NICIRA and subtype == NiciraAction.CT:
        action = _decode_track(body)
    elif experimenter == NICIRA and subtype == NiciraAction.RESUBMIT_TABLE:
        port, table = _RESUBMIT.unpack_from(body)
        action = Resubmit(table) if port == _SAME_PORT else None
    elif experimenter == NICIRA and subtype == NiciraAction.LEARN:
        action = _decode_learn(body)
    return Unknown(data) if action is None else action


def _action(subtype: NiciraAction, head: bytes, rest: bytes = b"") -> bytes:
    length = _HEAD.size + len(head) + len(rest)
    length += padding(length)
    return (_HEAD.pack(ActionType.EXPERIMENTER, length, NICIRA, subtype) + head + rest).ljust(length, b"\0")


def _nat(nat: Nat) -> bytes:
    if nat.address is None:
        return _action(NiciraAction.NAT, _NAT.pack(0, 0))
    present, bounds = _ADDRESS, nat.address.packed
    if nat.port is not None:
        present, bounds = _ADDRESS | _PORT, bounds + nat.port.to_bytes(2, "big")
    return _action(NiciraAction.NAT, _NAT.pack(_NAT_SOURCE if nat.source else _NAT_DESTINATION, present), bounds)


def _immediate(field: Field, value: int, destination: int) -> bytes:
    width = -(-field.size // 2) * 2
    head = _SPEC.pack(_IMMEDIATE | destination | field.bits)
    return head + value.to_bytes(width, "big") + encode_oxm_header(field, False) + _SPEC_FIELD.pack(0)


def _decode_track(body: bytes) -> Track | None:
    flags, zone_field, zone, table, helper = _CT.unpack_from(body)
    if flags & ~_COMMIT or zone_field or helper:
        return None
    nat: Nat | None = None
    mark: int | None = None
    rest = body[_CT.size :]
    while rest:
        kind, length = _SET_FIELD.unpack_from(rest)
        if length < _SET_FIELD.size:
            return None
        one, rest = rest[:length], rest[length:]
        if kind == ActionType.SET_FIELD:
            field, value, mask, _ = decode_oxm(one, _SET_FIELD.size, len(one))
            if field != fields.CT_MARK or mask is not None:
                return None
            mark = value
        else:
            nat = _decode_nat(one)
            if nat is None:
                return None
    return Track(zone, None if table == _NO_TABLE else table, bool(flags & _COMMIT), nat, mark)


def _decode_nat(data: bytes) -> Nat | None:
    kind, _, experimenter, subtype = _HEAD.unpack_from(data)
    if (kind, experimenter, subtype) != (ActionType.EXPERIMENTER, NICIRA, NiciraAction.NAT):
        return None
    flags, present = _NAT.unpack_from(data, _HEAD.size)
    bounds = data[_HEAD.size + _NAT.size :]
    if (flags, present) == (0, 0):
        return Nat()
    if flags not in (_NAT_SOURCE, _NAT_DESTINATION) or present not in (_ADDRESS, _ADDRESS | _PORT):
        return None
    port = int.from_bytes(bounds[4:6], "big") if present & _PORT else None
    return Nat(IPv4Address(bounds[:4]), port, flags == _NAT_SOURCE)


def _decode_learn(body: bytes) -> Learn | None:
    idle_s, hard_s, priority, cookie, flags, table, *more = _LEARN.unpack_from(body)
    same: list[Field] = []
    values: list[tuple[Field, int]] = []
    writes: list[tuple[Field, int]] = []
    offset = _LEARN.size
    while offset + 2 <= len(body) and (head := _SPEC.unpack_from(body, offset)[0]):
        offset += _SPEC.size
        if head & ~(_IMMEDIATE | _LOAD | _BITS):
            return None
        width = -(-(head & _BITS) // 16) * 2
        if head & _IMMEDIATE:
            value = int.from_bytes(body[offset : offset + width], "big")
            offset += width
        else:
            offset += decode_oxm_header(body, offset)[2] + _SPEC_FIELD.size
        shown, _, size = decode_oxm_header(body, offset)
        field = _OLD_NAMES.get((shown.oxm_class, shown.number), shown)
        offset += size + _SPEC_FIELD.size
        if not head & _IMMEDIATE:
            same.append(field)
        elif head & _LOAD:
            writes.append((field, value))
        else:
            values.append((field, value))
    if hard_s or flags or any(more) or values[:1] != [(fields.ETH_TYPE, _IPV4)]:
        return None
    return Learn(table, priority, idle_s, cookie, tuple(same), tuple(values[1:]), tuple(writes))
