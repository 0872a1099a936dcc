"""Actions and instructions on the wire (OpenFlow 1.5.1, sections 7.2.5 and 7.2.6).

A flow of ours carries its actions in one apply-actions instruction, then goto-table. Whatever else a switch shows us
becomes `flows.actions.Unknown`, in the place where it stood.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from struct import Struct
from typing import assert_never

from flows.actions import Action, CopyField, Group, Learn, Meter, Output, Resubmit, SetField, Track, Unknown
from flows.openflow.nicira import decode_nicira, encode_learn, encode_resubmit, encode_track
from flows.openflow.oxm import decode_oxm, decode_oxm_header, encode_oxm, encode_oxm_header
from flows.openflow.wire import ActionType, InstructionType, OpenFlowError, padding

_TYPE_LENGTH = Struct("!HH")
_OUTPUT = Struct("!HHIH6x")  # type, length, port, max_len (for the controller only)
_IDENTIFIER = Struct("!HHI")  # type, length, group or meter
_COPY_FIELD = Struct("!HHHHH2x")  # type, length, bits, source offset, destination offset
_APPLY_ACTIONS = Struct("!HH4x")  # type, length
_GOTO_TABLE = Struct("!HHB3x")  # type, length, table


def encode_action(action: Action) -> bytes:
    """One action, padded."""
    match action:
        case Output(port):
            return _OUTPUT.pack(ActionType.OUTPUT, _OUTPUT.size, port, 0)
        case SetField(field, value, mask):
            return _padded(ActionType.SET_FIELD, encode_oxm(field, value, mask))
        case CopyField(source, destination, bits, source_offset, destination_offset):
            names = encode_oxm_header(source, False) + encode_oxm_header(destination, False)
            length = _COPY_FIELD.size + len(names)
            length += padding(length)
            head = _COPY_FIELD.pack(ActionType.COPY_FIELD, length, bits, source_offset, destination_offset)
            return (head + names).ljust(length, b"\0")
        case Group(identifier):
            return _IDENTIFIER.pack(ActionType.GROUP, _IDENTIFIER.size, identifier)
        case Meter(identifier):
            return _IDENTIFIER.pack(ActionType.METER, _IDENTIFIER.size, identifier)
        case Track():
            return encode_track(action)
        case Resubmit():
            return encode_resubmit(action)
        case Learn():
            return encode_learn(action)
        case Unknown():
            raise OpenFlowError("an action that somebody else gave to the switch cannot be sent as ours")
        case _:
            assert_never(action)


def encode_actions(actions: Sequence[Action]) -> bytes:
    """A list of actions, in order."""
    return b"".join([encode_action(action) for action in actions])


def encode_instructions(actions: Sequence[Action], goto: int | None) -> bytes:
    """Apply `actions`, then go to table `goto`; neither means drop."""
    instructions = b""
    if actions:
        body = encode_actions(actions)
        instructions = _APPLY_ACTIONS.pack(InstructionType.APPLY_ACTIONS, _APPLY_ACTIONS.size + len(body)) + body
    if goto is not None:
        instructions += _GOTO_TABLE.pack(InstructionType.GOTO_TABLE, _GOTO_TABLE.size, goto)
    return instructions


def decode_actions(data: bytes, offset: int, end: int) -> Iterator[Action]:
    """The actions between two offsets."""
    for kind, begin, after in _split(data, offset, end):
        yield _decode_action(kind, data[begin:after])


def decode_instructions(data: bytes, offset: int, end: int) -> tuple[tuple[Action, ...], int | None]:
    """The actions and the next table of the instructions between two offsets."""
    actions: list[Action] = []
    goto: int | None = None
    for kind, begin, after in _split(data, offset, end):
        if kind == InstructionType.APPLY_ACTIONS:
            actions += decode_actions(data, begin + _APPLY_ACTIONS.size, after)
        elif kind == InstructionType.GOTO_TABLE:
            goto = data[begin + 4]
        else:
            actions.append(Unknown(data[begin:after]))
    return tuple(actions), goto


def _padded(kind: ActionType, body: bytes) -> bytes:
    length = _TYPE_LENGTH.size + len(body)
    length += padding(length)
    return (_TYPE_LENGTH.pack(kind, length) + body).ljust(length, b"\0")


def _split(data: bytes, offset: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Type, begin and end of each of the type-length-value items, which are all multiples of eight bytes long."""
    while offset < end:
        if offset + 8 > end:
            raise OpenFlowError("an action or instruction is cut off")
        kind, length = _TYPE_LENGTH.unpack_from(data, offset)
        after = offset + length
        if length < 8 or length % 8 or after > end:
            raise OpenFlowError(f"an action or instruction of type {kind} has an impossible length of {length} bytes")
        yield kind, offset, after
        offset = after


def _decode_action(kind: int, data: bytes) -> Action:
    if kind == ActionType.OUTPUT and len(data) == _OUTPUT.size:
        return Output(_OUTPUT.unpack(data)[2])
    if kind == ActionType.SET_FIELD:
        field, value, mask, _ = decode_oxm(data, _TYPE_LENGTH.size, len(data))
        return SetField(field, value, mask)
    if kind == ActionType.COPY_FIELD and len(data) >= 24:
        _, _, bits, source_offset, destination_offset = _COPY_FIELD.unpack_from(data)
        source, _, size = decode_oxm_header(data, _COPY_FIELD.size)
        destination, _, _ = decode_oxm_header(data, _COPY_FIELD.size + size)
        return CopyField(source, destination, bits, source_offset, destination_offset)
    if kind == ActionType.GROUP and len(data) == _IDENTIFIER.size:
        return Group(_IDENTIFIER.unpack(data)[2])
    if kind == ActionType.METER and len(data) == _IDENTIFIER.size:
        return Meter(_IDENTIFIER.unpack(data)[2])
    if kind == ActionType.EXPERIMENTER and len(data) >= 16:
        return decode_nicira(data)
    return Unknown(data)
