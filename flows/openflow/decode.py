"""Bytes to replies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from struct import Struct
from struct import error as StructError
from typing import TypeVar

from flows.actions import Action, Unknown
from flows.fields import Field
from flows.flow import Flow, Source
from flows.group import Bucket, GroupEntry, GroupType, Selection
from flows.openflow.actions import decode_actions, decode_instructions
from flows.openflow.messages import (
    BarrierReply,
    BundleControl,
    BundleControlType,
    BundleFlags,
    EchoReply,
    EchoRequest,
    Error,
    FeaturesReply,
    FlowDescReply,
    GroupCounters,
    GroupDescReply,
    GroupStatsReply,
    Hello,
    InstalledFlow,
    MeterDescReply,
    MeterEntry,
    Port,
    PortDescReply,
    PortReason,
    PortStatus,
    Reply,
    TableStats,
    TableStatsReply,
)
from flows.openflow.messages import Unknown as UnknownMessage
from flows.openflow.oxm import decode_match, decode_oxm
from flows.openflow.wire import (
    HEADER,
    MULTIPART,
    MULTIPART_MORE,
    NETRONOME,
    VERSION,
    MessageType,
    MultipartType,
    OpenFlowError,
    padding,
)

Item = TypeVar("Item")

_ERROR = Struct("!HH")
_HELLO_ELEMENT = Struct("!HH")
_HELLO_VERSIONS = 1
_FEATURES = Struct("!QIB")  # datapath id, buffers, tables
_BUNDLE_CONTROL = Struct("!IHH")
_PORT = Struct("!IH2x6s2x16sII")  # number, length, MAC, name, config, state
_PORT_LINK_DOWN = 1
_PORT_STATUS = Struct("!B7x")
_FLOW = Struct("!H2xBxHHHHHQ")  # length, table, priority, idle, hard timeout, flags, importance, cookie
_FLOW_PROPERTIES = slice(8, 16)  # idle timeout to importance
_OXS_HEADER = Struct("!2xH")  # length of all statistics with this header
_OXS = Struct("!HBB")  # class, field << 1, length
_OXS_BASIC = 0x8002
_OXS_PACKETS = 4
_OXS_BYTES = 5
_GROUP = Struct("!HBxIH6x")  # length, type, group, length of buckets
_GROUP_COUNTERS = Struct("!H2xII4xQQ")  # length, group, references, packets, bytes
_BUCKET = Struct("!HHI")  # length, length of actions, bucket
_PROPERTY = Struct("!HH")
_EXPERIMENTER = 0xFFFF
_SELECTION = Struct("!HHII4x16sQ")  # property, length, experimenter, its type, method, parameter; the fields follow
_SELECTIONS = {method.value for method in Selection}
_WEIGHT = Struct("!4xH")
_METER = Struct("!HHI")  # length, flags, meter
_METER_BAND = Struct("!HHII")  # type, length, rate, burst
_TABLE = Struct("!B3xIQQ")  # table, flows, lookups, matches


@dataclass(frozen=True, slots=True)
class Received:
    """A message and its transaction id."""

    xid: int
    message: Reply


class Decoder:
    """Cuts a stream of bytes into messages."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> list[Received]:
        """The messages that are complete with `data`.

        Raises OpenFlowError if the stream is not OpenFlow 1.5; it cannot be continued then.
        """
        self._buffer += data
        return list(self._messages())

    def _messages(self) -> Iterator[Received]:
        begin = 0
        try:
            while len(self._buffer) - begin >= HEADER.size:
                version, kind, length, xid = HEADER.unpack_from(self._buffer, begin)
                if length < HEADER.size:
                    raise OpenFlowError(f"a message of type {kind} claims to be {length} bytes long")
                if len(self._buffer) - begin < length:
                    return
                body = bytes(self._buffer[begin + HEADER.size : begin + length])
                begin += length
                yield Received(xid, decode_body(version, kind, body))
        finally:
            del self._buffer[:begin]


def decode_body(version: int, kind: int, body: bytes) -> Reply:
    """The message of type `kind` whose bytes after the header are `body`.

    Raises OpenFlowError if they do not make sense.
    """
    if version != VERSION and kind not in (MessageType.HELLO, MessageType.ERROR):
        raise OpenFlowError(f"the switch sent a message of wire version {version} instead of {VERSION}")
    decode = _MESSAGES.get(kind)
    if decode is None:
        return UnknownMessage(kind, body)
    try:
        return decode(version, body)
    except (StructError, ValueError, IndexError) as error:
        raise OpenFlowError(f"a malformed message of type {MessageType(kind).name}: {error}") from error


def _hello(version: int, body: bytes) -> Hello:
    offset = 0
    while offset + _HELLO_ELEMENT.size <= len(body):
        kind, length = _HELLO_ELEMENT.unpack_from(body, offset)
        if length < _HELLO_ELEMENT.size:
            raise OpenFlowError(f"a hello element claims to be {length} bytes long")
        if kind == _HELLO_VERSIONS:
            bitmap = int.from_bytes(body[offset + 4 : offset + 8], "big")
            return Hello(frozenset(number for number in range(32) if bitmap >> number & 1))
        offset += length + padding(length)
    return Hello(frozenset(range(1, version + 1)))


def _error(_version: int, body: bytes) -> Error:
    kind, code = _ERROR.unpack_from(body)
    return Error(kind, code, body[_ERROR.size :])


def _features(_version: int, body: bytes) -> FeaturesReply:
    datapath_id, _, tables = _FEATURES.unpack_from(body)
    return FeaturesReply(datapath_id, tables)


def _bundle_control(_version: int, body: bytes) -> BundleControl:
    bundle, kind, flags = _BUNDLE_CONTROL.unpack_from(body)
    return BundleControl(bundle, BundleControlType(kind), BundleFlags(flags))


def _port_status(_version: int, body: bytes) -> PortStatus:
    (reason,) = _PORT_STATUS.unpack_from(body)
    return PortStatus(PortReason(reason), _port(body, _PORT_STATUS.size, len(body)))


def _multipart(_version: int, body: bytes) -> Reply:
    kind, flags = MULTIPART.unpack_from(body)
    data, more = body[MULTIPART.size :], bool(flags & MULTIPART_MORE)
    match kind:
        case MultipartType.FLOW_DESC:
            return FlowDescReply(_items(data, _flow), more)
        case MultipartType.GROUP_DESC:
            return GroupDescReply(_items(data, _group), more)
        case MultipartType.GROUP_STATS:
            return GroupStatsReply(_items(data, _group_counters), more)
        case MultipartType.METER_DESC:
            return MeterDescReply(_items(data, _meter), more)
        case MultipartType.PORT_DESC:
            return PortDescReply(_items(data, _port, length_at=4), more)
        case MultipartType.TABLE_STATS:
            return TableStatsReply(tuple(TableStats(*numbers) for numbers in _TABLE.iter_unpack(data)), more)
        case _:
            return UnknownMessage(MessageType.MULTIPART_REPLY, body)


def _items(data: bytes, decode: Callable[[bytes, int, int], Item], length_at: int = 0) -> tuple[Item, ...]:
    """Items that carry their own length in the two bytes at `length_at`."""
    items: list[Item] = []
    offset = 0
    while offset < len(data):
        end = offset + int.from_bytes(data[offset + length_at : offset + length_at + 2], "big")
        if not offset < end <= len(data):
            raise OpenFlowError(f"an item of a multipart reply claims to be {end - offset} bytes long")
        items.append(decode(data, offset, end))
        offset = end
    return tuple(items)


def _port(data: bytes, offset: int, _end: int) -> Port:
    number, _, mac, name, _, state = _PORT.unpack_from(data, offset)
    text = name.partition(b"\0")[0].decode(errors="replace")
    return Port(number, text, int.from_bytes(mac, "big"), not state & _PORT_LINK_DOWN)


def _flow(data: bytes, offset: int, end: int) -> InstalledFlow:
    _, table, priority, idle, hard, flags, importance, cookie = _FLOW.unpack_from(data, offset)
    properties = offset + _FLOW_PROPERTIES.start, offset + _FLOW_PROPERTIES.stop
    match, offset = decode_match(data, offset + _FLOW.size, end)
    packets, octets, offset = _counters(data, offset, end)
    actions, goto = decode_instructions(data, offset, end)
    if idle or hard or flags or importance:
        actions = (*actions, Unknown(data[slice(*properties)]))
    flow = Flow(table, priority, match, actions, goto, Source.of_cookie(cookie))
    return InstalledFlow(flow, cookie, packets, octets)


def _counters(data: bytes, offset: int, end: int) -> tuple[int, int, int]:
    """Packets and bytes out of the extensible statistics (7.2.4) at `offset`, and the offset behind their padding."""
    (length,) = _OXS_HEADER.unpack_from(data, offset)
    after = offset + length + padding(length)
    if length < _OXS_HEADER.size or after > end:
        raise OpenFlowError(f"the statistics of a flow claim to be {length} bytes long")
    counters = dict.fromkeys((_OXS_PACKETS, _OXS_BYTES), 0)
    position = offset + _OXS_HEADER.size
    while position < offset + length:
        oxs_class, field, size = _OXS.unpack_from(data, position)
        position += _OXS.size + size
        if oxs_class == _OXS_BASIC and field >> 1 in counters:
            counters[field >> 1] = int.from_bytes(data[position - size : position], "big")
    return counters[_OXS_PACKETS], counters[_OXS_BYTES], after


def _group(data: bytes, offset: int, end: int) -> GroupEntry:
    _, kind, identifier, length = _GROUP.unpack_from(data, offset)
    begin = offset + _GROUP.size
    if begin + length > end:
        raise OpenFlowError(f"group {identifier} claims {length} bytes of buckets")
    buckets = _items(data[begin : begin + length], _bucket)
    return GroupEntry(identifier, GroupType(kind), buckets, *_selection(data, begin + length, end))


def _selection(data: bytes, offset: int, end: int) -> tuple[Selection | None, frozenset[Field]]:
    """How a group chooses, out of its properties; None if it does not say, or in words that we do not use."""
    while offset + _SELECTION.size <= end:
        kind, length, experimenter, _, method, _ = _SELECTION.unpack_from(data, offset)
        after = offset + length
        if length < _PROPERTY.size or after > end:
            raise OpenFlowError(f"a property of a group claims to be {length} bytes long")
        name = method.partition(b"\0")[0].decode(errors="replace")
        if (kind, experimenter) == (_EXPERIMENTER, NETRONOME) and name in _SELECTIONS:
            return Selection(name), frozenset(_fields(data, offset + _SELECTION.size, after))
        offset = after + padding(length)
    return None, frozenset()


def _fields(data: bytes, offset: int, end: int) -> Iterator[Field]:
    while offset < end:
        field, _, _, offset = decode_oxm(data, offset, end)
        yield field


def _bucket(data: bytes, offset: int, end: int) -> Bucket:
    _, length, identifier = _BUCKET.unpack_from(data, offset)
    begin = offset + _BUCKET.size
    if begin + length > end:
        raise OpenFlowError(f"bucket {identifier} claims {length} bytes of actions")
    actions: tuple[Action, ...] = tuple(decode_actions(data, begin, begin + length))
    return Bucket(identifier, actions, _weight(data, begin + length, end))


def _weight(data: bytes, offset: int, end: int) -> int:
    while offset < end:
        kind, length = _PROPERTY.unpack_from(data, offset)
        if length < _PROPERTY.size:
            raise OpenFlowError(f"a property of a bucket claims to be {length} bytes long")
        if kind == 0:
            weight: int = _WEIGHT.unpack_from(data, offset)[0]
            return weight
        offset += length + padding(length)
    return 0


def _group_counters(data: bytes, offset: int, _end: int) -> GroupCounters:
    _, identifier, _, packets, octets = _GROUP_COUNTERS.unpack_from(data, offset)
    return GroupCounters(identifier, packets, octets)


def _meter(data: bytes, offset: int, end: int) -> MeterEntry:
    _, _, identifier = _METER.unpack_from(data, offset)
    if offset + _METER.size == end:
        return MeterEntry(identifier, 0, 0)
    _, _, rate, burst = _METER_BAND.unpack_from(data, offset + _METER.size)
    return MeterEntry(identifier, rate, burst)


_MESSAGES: dict[int, Callable[[int, bytes], Reply]] = {
    MessageType.HELLO: _hello,
    MessageType.ERROR: _error,
    MessageType.ECHO_REQUEST: lambda _, body: EchoRequest(body),
    MessageType.ECHO_REPLY: lambda _, body: EchoReply(body),
    MessageType.FEATURES_REPLY: _features,
    MessageType.PORT_STATUS: _port_status,
    MessageType.MULTIPART_REPLY: _multipart,
    MessageType.BARRIER_REPLY: lambda _, _body: BarrierReply(),
    MessageType.BUNDLE_CONTROL: _bundle_control,
}
