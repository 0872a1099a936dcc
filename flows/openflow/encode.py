"""Requests to bytes."""

from __future__ import annotations

from struct import Struct
from struct import error as StructError
from typing import assert_never

from flows.flow import PASSING_COOKIE, Flow
from flows.group import Bucket, GroupEntry, GroupType
from flows.match import Match
from flows.openflow.actions import encode_actions, encode_instructions
from flows.openflow.messages import (
    BarrierRequest,
    BundleAdd,
    BundleControl,
    EchoReply,
    EchoRequest,
    FeaturesRequest,
    FlowCommand,
    FlowDescRequest,
    FlowMod,
    FlowPurge,
    FlushConnections,
    GroupCommand,
    GroupDescRequest,
    GroupMod,
    GroupStatsRequest,
    Hello,
    MeterCommand,
    MeterDescRequest,
    MeterMod,
    MultipartRequest,
    PortDescRequest,
    Request,
    TableStatsRequest,
)
from flows.openflow.oxm import encode_match, encode_oxm
from flows.openflow.wire import (
    ALL_BUCKETS,
    ALL_GROUPS,
    ALL_METERS,
    ANY,
    HEADER,
    MULTIPART,
    NETRONOME,
    NICIRA,
    NO_BUFFER,
    VERSION,
    MessageType,
    MultipartType,
    OpenFlowError,
    padding,
)

_HELLO_VERSIONS = Struct("!HHI")  # element type 1, length, bitmap of versions
# cookie, its mask, table, command, idle timeout, hard timeout, priority, buffer, out port, out group, flags, importance
_FLOW_MOD = Struct("!QQBBHHHIIIHH")
_GROUP_MOD = Struct("!HBxIH2xI")  # command, type, group, length of buckets, command bucket
_BUCKET = Struct("!HHI")  # length, length of actions, bucket
_BUCKET_WEIGHT = Struct("!HHHxx")  # property type 0, length, weight
_EXPERIMENTER = 0xFFFF
_SELECTION = Struct("!HHII4x16sQ")  # property, length, experimenter, its type, method, parameter; the fields follow
_SELECTION_METHOD = 1
_FLUSH = Struct("!IIB7x")  # experimenter, type, protocol
_CT_FLUSH = 32
_FLUSH_TUPLE = Struct("!HH4x")  # property, length
_FLUSH_ANSWERS, _FLUSH_ZONE = 1, 2
_FLUSH_SOURCE, _FLUSH_SOURCE_PORT = 0, 2  # within a tuple
_FLUSH_ADDRESS = Struct("!HH10x6s4x")  # property, length without the padding, an IPv4 address as IPv6 writes it
_FLUSH_NUMBER = Struct("!HHHxx")  # property, length, number
_METER_MOD = Struct("!HHI")  # command, flags, meter
_METER_FLAGS = 0b1110  # packets per second, with a burst, count
_METER_DROP_BAND = Struct("!HHII4x")  # band type 1, length, rate, burst
_BUNDLE_CONTROL = Struct("!IHH")  # bundle, type, flags
_BUNDLE_ADD = Struct("!I2xH")  # bundle, flags
_FLOW_DESC_REQUEST = Struct("!B3xII4xQQ")  # table, out port, out group, cookie, cookie mask; the match follows
_ONE_NUMBER = Struct("!I4x")
_MATCH_ALL = encode_match(Match())


def encode(message: Request, xid: int) -> bytes:
    """The bytes of `message` with transaction id `xid`.

    Raises OpenFlowError if a value does not fit where it has to go.
    """
    try:
        kind, body = _body(message, xid)
        return HEADER.pack(VERSION, kind, HEADER.size + len(body), xid) + body
    except (StructError, OverflowError) as error:
        raise OpenFlowError(f"OpenFlow cannot carry {message}: {error}") from error


def _body(message: Request, xid: int) -> tuple[MessageType, bytes]:
    match message:
        case BundleAdd(bundle, change, flags):
            return MessageType.BUNDLE_ADD_MESSAGE, _BUNDLE_ADD.pack(bundle, flags) + encode(change, xid)
        case FlowMod():
            return MessageType.FLOW_MOD, _flow_mod(message)
        case FlowPurge():
            return MessageType.FLOW_MOD, _flow_purge(message)
        case GroupMod():
            return MessageType.GROUP_MOD, _group_mod(message)
        case FlushConnections():
            return MessageType.EXPERIMENTER, _flush(message)
        case MeterMod():
            return MessageType.METER_MOD, _meter_mod(message)
        case BundleControl(bundle, kind, flags):
            return MessageType.BUNDLE_CONTROL, _BUNDLE_CONTROL.pack(bundle, kind, flags)
        case Hello() | EchoRequest() | EchoReply() | FeaturesRequest() | BarrierRequest():
            return _courtesy(message)
        case _:
            return MessageType.MULTIPART_REQUEST, _multipart(message)


def _courtesy(
    message: Hello | EchoRequest | EchoReply | FeaturesRequest | BarrierRequest,
) -> tuple[MessageType, bytes]:
    """What changes nothing in the switch."""
    match message:
        case Hello(versions):
            bitmap = sum(1 << version for version in versions)
            return MessageType.HELLO, _HELLO_VERSIONS.pack(1, _HELLO_VERSIONS.size, bitmap)
        case EchoRequest(data):
            return MessageType.ECHO_REQUEST, data
        case EchoReply(data):
            return MessageType.ECHO_REPLY, data
        case FeaturesRequest():
            return MessageType.FEATURES_REQUEST, b""
        case BarrierRequest():
            return MessageType.BARRIER_REQUEST, b""


def _flow_mod(message: FlowMod) -> bytes:
    target = message.target
    cookie, instructions = 0, b""
    if isinstance(target, Flow):
        cookie = PASSING_COOKIE if message.idle_s else target.cookie
        instructions = encode_instructions(target.actions, target.goto)
    elif message.command is not FlowCommand.DELETE_STRICT:
        raise OpenFlowError(f"{message.command.name} needs a whole flow, not only the key {target}")
    # Cookie mask 0: the cookie is what the flow gets, not a condition.
    head = _FLOW_MOD.pack(
        *(cookie, 0, target.table, message.command, message.idle_s, 0, target.priority),
        *(NO_BUFFER, ANY, ANY, 0, 0),
    )  # fmt: skip
    return head + encode_match(target.match) + instructions


def _flow_purge(message: FlowPurge) -> bytes:
    head = _FLOW_MOD.pack(
        message.cookie, message.cookie_mask, message.table, FlowCommand.DELETE, 0, 0, 0, NO_BUFFER, ANY, ANY, 0, 0
    )
    return head + _MATCH_ALL


def _group_mod(message: GroupMod) -> bytes:
    group = message.group
    buckets = b""
    if message.command is not GroupCommand.DELETE:
        buckets = b"".join(_bucket(bucket, group.type) for bucket in group.buckets)
    head = _GROUP_MOD.pack(message.command, group.type, group.identifier, len(buckets), ALL_BUCKETS)
    selects = group.selection is not None and message.command is not GroupCommand.DELETE
    return head + buckets + (_selection(group) if selects else b"")


def _selection(group: GroupEntry) -> bytes:
    method = group.selection.value.encode() if group.selection else b""
    # Which bits of a field count: all.
    chosen = b"".join(encode_oxm(field, field.all_ones, None) for field in sorted(group.hash_fields))
    length = _SELECTION.size + len(chosen)
    head = _SELECTION.pack(_EXPERIMENTER, length, NETRONOME, _SELECTION_METHOD, method, 0)
    return (head + chosen).ljust(length + padding(length), b"\0")


def _flush(message: FlushConnections) -> bytes:
    address = _FLUSH_ADDRESS.pack(_FLUSH_SOURCE, _FLUSH_ADDRESS.size - 4, b"\xff\xff" + message.address.packed)
    port = _FLUSH_NUMBER.pack(_FLUSH_SOURCE_PORT, _FLUSH_NUMBER.size, message.port)
    answers = _FLUSH_TUPLE.pack(_FLUSH_ANSWERS, _FLUSH_TUPLE.size + len(address) + len(port)) + address + port
    zone = _FLUSH_NUMBER.pack(_FLUSH_ZONE, _FLUSH_NUMBER.size, message.zone)
    return _FLUSH.pack(NICIRA, _CT_FLUSH, message.protocol) + answers + zone


def _bucket(bucket: Bucket, group: GroupType) -> bytes:
    actions = encode_actions(bucket.actions)
    properties = _BUCKET_WEIGHT.pack(0, _BUCKET_WEIGHT.size, bucket.weight) if group is GroupType.SELECT else b""
    length = _BUCKET.size + len(actions) + len(properties)
    return _BUCKET.pack(length, len(actions), bucket.identifier) + actions + properties


def _meter_mod(message: MeterMod) -> bytes:
    meter = message.meter
    band = b""
    if message.command is not MeterCommand.DELETE:
        band = _METER_DROP_BAND.pack(1, _METER_DROP_BAND.size, meter.rate, meter.burst)
    return _METER_MOD.pack(message.command, _METER_FLAGS, meter.identifier) + band


def _multipart(request: MultipartRequest) -> bytes:
    kind, body = _question(request)
    return MULTIPART.pack(kind, 0) + body


def _question(request: MultipartRequest) -> tuple[MultipartType, bytes]:
    match request:
        case FlowDescRequest(table, cookie, cookie_mask):
            body = _FLOW_DESC_REQUEST.pack(table, ANY, ANY, cookie, cookie_mask) + _MATCH_ALL
            return MultipartType.FLOW_DESC, body
        case GroupDescRequest():
            return MultipartType.GROUP_DESC, _ONE_NUMBER.pack(ALL_GROUPS)
        case GroupStatsRequest():
            return MultipartType.GROUP_STATS, _ONE_NUMBER.pack(ALL_GROUPS)
        case MeterDescRequest():
            return MultipartType.METER_DESC, _ONE_NUMBER.pack(ALL_METERS)
        case PortDescRequest():
            return MultipartType.PORT_DESC, _ONE_NUMBER.pack(ANY)
        case TableStatsRequest():
            return MultipartType.TABLE_STATS, b""
        case _:
            assert_never(request)
