"""The OpenFlow codec by itself: what was encoded decodes to the same, and nonsense is called nonsense."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flows import fields
from flows.actions import Action, Group, Meter, Output, SetField, Unknown
from flows.fields import Field, register
from flows.flow import Flow, FlowKey, Source
from flows.match import Match
from flows.openflow import Decoder, FlowMod, OpenFlowError, Received, encode
from flows.openflow.actions import decode_instructions, encode_instructions
from flows.openflow.decode import decode_body
from flows.openflow.error_names import error_name
from flows.openflow.messages import (
    EchoRequest,
    Error,
    FlowCommand,
    FlowDescReply,
    GroupDescReply,
    Hello,
    InstalledFlow,
    PortStatus,
)
from flows.openflow.messages import Unknown as UnknownMessage
from flows.openflow.oxm import decode_match, encode_match
from flows.openflow.wire import HEADER, VERSION, MessageType
from tests.support import openflow

RECORDED = openflow.recorded()
FLOW = Flow(7, 100, Match.of({fields.IN_PORT: 256}), (Output(1),), 9, Source.ATTACHMENTS)


def message(kind: int, body: bytes, xid: int = 1, version: int = VERSION) -> bytes:
    return HEADER.pack(version, kind, HEADER.size + len(body), xid) + body


def installed() -> dict[int, InstalledFlow]:
    """The recorded flow dump, by table."""
    (received,) = Decoder().feed(RECORDED["flow-desc-reply"])
    assert isinstance(received.message, FlowDescReply)
    return {one.flow.table: one for one in received.message.items}


@given(openflow.flows())
def test_a_match_decodes_to_itself(flow: Flow) -> None:
    data = encode_match(flow.match)
    assert decode_match(data, 0, len(data)) == (flow.match, len(data))


@given(openflow.flows())
def test_actions_decode_to_themselves(flow: Flow) -> None:
    data = encode_instructions(flow.actions, flow.goto)
    assert decode_instructions(data, 0, len(data)) == (flow.actions, flow.goto)


@given(openflow.flows())
def test_a_flow_mod_is_a_multiple_of_eight_bytes_as_openflow_demands(flow: Flow) -> None:
    assert len(encode(FlowMod.add(flow), 1)) % 8 == 0


@pytest.mark.parametrize("action", [Group(7), Meter(3)])
def test_groups_and_meters_decode_to_themselves(action: Action) -> None:
    data = encode_instructions((action,), None)
    assert decode_instructions(data, 0, len(data)) == ((action,), None)


def test_a_mask_of_all_ones_reads_back_as_no_mask() -> None:
    data = encode_match(Match(((register(0), 10, 0xFFFFFFFF),)))
    assert decode_match(data, 0, len(data))[0] == Match.of({register(0): 10})


def test_a_match_whose_last_term_is_cut_off_is_an_error() -> None:
    data = b"\x00\x01\x00\x0a" + encode_match(Match.of({fields.IN_PORT: 256}))[4:]
    with pytest.raises(OpenFlowError, match="in_port is cut off"):
        decode_match(data, 0, len(data))


def test_a_match_that_names_a_field_twice_is_an_error() -> None:
    once = encode_match(Match.of({fields.IN_PORT: 256}))[4:12]
    data = b"\x00\x01\x00\x14" + once + once + bytes(4)
    with pytest.raises(OpenFlowError, match="twice"):
        decode_match(data, 0, len(data))


def test_a_pair_of_registers_reads_back_as_two_registers() -> None:
    pair = Field(0x8001, 1, "xreg1", 64)
    data = encode_match(Match(((pair, 0x0000000A_00000010, 0xFFFFFFFF_000000F0),)))
    expected = Match.masked({register(2): (10, 0xFFFFFFFF), register(3): (0x10, 0xF0)})
    assert decode_match(data, 0, len(data))[0] == expected


def test_half_a_pair_of_registers_reads_back_as_one_register() -> None:
    pair = Field(0x8001, 0, "xreg0", 64)
    data = encode_match(Match(((pair, 10 << 32, 0xFFFFFFFF_00000000),)))
    assert decode_match(data, 0, len(data))[0] == Match.of({register(0): 10})


@given(st.binary(max_size=200), st.data())
def test_messages_are_the_same_however_the_stream_is_cut(data: bytes, draw: st.DataObject) -> None:
    stream = b"".join(RECORDED.values()) + encode(EchoRequest(data), 99)
    cuts = sorted(draw.draw(st.lists(st.integers(0, len(stream)), max_size=20)))
    decoder = Decoder()
    received: list[Received] = []
    for begin, end in zip([0, *cuts], [*cuts, len(stream)], strict=True):
        received += decoder.feed(stream[begin:end])
    assert received == Decoder().feed(stream)
    assert received[-1] == Received(99, EchoRequest(data))


@given(st.binary())
def test_garbage_raises_nothing_but_an_openflow_error(data: bytes) -> None:
    with suppress(OpenFlowError):
        Decoder().feed(data)


@given(st.sampled_from(sorted(MessageType)), st.binary())
def test_a_garbage_body_raises_nothing_but_an_openflow_error(kind: MessageType, body: bytes) -> None:
    with suppress(OpenFlowError):
        decode_body(VERSION, kind, body)


@given(st.sampled_from(sorted(RECORDED)), st.data())
def test_a_damaged_message_raises_nothing_but_an_openflow_error(name: str, draw: st.DataObject) -> None:
    body = bytearray(RECORDED[name][HEADER.size :])
    for _ in range(draw.draw(st.integers(0, 4)) if body else 0):
        body[draw.draw(st.integers(0, len(body) - 1))] = draw.draw(st.sampled_from((0, 1, 4, 7, 8, 255)))
    body = body[: draw.draw(st.one_of(st.just(len(body)), st.integers(0, len(body))))]
    with suppress(OpenFlowError):
        decode_body(VERSION, RECORDED[name][1], bytes(body))


@pytest.mark.parametrize("name", ["flow-desc-reply", "group-desc-reply", "meter-desc-reply", "port-desc-reply"])
def test_a_cut_off_reply_is_an_openflow_error(name: str) -> None:
    with pytest.raises(OpenFlowError):
        decode_body(VERSION, RECORDED[name][1], RECORDED[name][HEADER.size : -4])


def test_a_flow_of_ours_reads_back_as_it_was_sent() -> None:
    words = {fields.IN_PORT: 256, fields.ETH_SRC: 0x0A58AC0B0002, fields.ETH_TYPE: 0x800, fields.IPV4_SRC: 0xAC0B0002}
    actions = (SetField(register(0), 10),)
    assert installed()[10].flow == Flow(10, 100, Match.of(words), actions, 20, Source.ATTACHMENTS)


def test_a_flow_with_somebody_elses_cookie_has_no_source() -> None:
    assert installed()[42].flow.source is None


def test_actions_that_we_do_not_know_show_as_unknown_ones() -> None:
    assert any(isinstance(action, Unknown) for action in installed()[40].flow.actions)


@pytest.mark.parametrize("table", [0, 10, 20, 30, 40, 41, 42, 43])
def test_the_key_of_any_recorded_flow_survives_the_way_back_to_the_switch(table: int) -> None:
    key = installed()[table].flow.key
    data = encode(FlowMod.delete(key), 1)
    assert decode_match(data, 48, len(data))[0] == key.match


def test_a_flow_that_may_expire_equals_no_flow_of_ours() -> None:
    reply = bytearray(RECORDED["flow-desc-reply"])
    begin = HEADER.size + 8  # the first flow, behind the multipart header
    reply[begin + 8 : begin + 10] = b"\x00\x3c"  # an idle timeout of 60 s
    (received,) = Decoder().feed(bytes(reply))
    assert isinstance(received.message, FlowDescReply)
    first = received.message.items[0].flow
    assert first.key == installed()[0].flow.key
    assert first.actions != installed()[0].flow.actions


def test_the_weights_of_a_group_read_back() -> None:
    (received,) = Decoder().feed(RECORDED["group-desc-reply"])
    assert isinstance(received.message, GroupDescReply)
    assert [bucket.weight for bucket in received.message.items[0].buckets] == [3, 1]


def test_a_port_status_names_its_port() -> None:
    (received,) = Decoder().feed(RECORDED["port-status"])
    assert isinstance(received.message, PortStatus)
    assert (received.message.port.name, received.message.port.number) == ("p2", 257)


def test_an_error_carries_the_xid_of_what_was_refused_and_names_itself() -> None:
    (received,) = Decoder().feed(RECORDED["bundle-error"])
    assert isinstance(received.message, Error)
    assert (received.xid, str(received.message)) == (6, "BUNDLE_FAILED BAD_ID")


def test_an_error_without_a_name_is_told_in_numbers() -> None:
    assert error_name(4, 99) == "BAD_MATCH code 99"
    assert error_name(99, 1) == "error type 99 code 1"


def test_a_message_that_we_do_not_speak_becomes_unknown() -> None:
    assert Decoder().feed(message(30, b"abcd")) == [Received(1, UnknownMessage(30, b"abcd"))]


def test_a_hello_without_a_list_of_versions_means_all_up_to_its_own() -> None:
    assert Decoder().feed(message(0, b"", version=4)) == [Received(1, Hello(frozenset({1, 2, 3, 4})))]


def test_another_version_after_the_hello_is_an_error() -> None:
    with pytest.raises(OpenFlowError, match="wire version 4"):
        Decoder().feed(message(21, b"", version=4))


def test_a_value_wider_than_its_field_is_an_error() -> None:
    wide = Flow(7, 1, Match(), (SetField(register(0), 1 << 32),), None, Source.NODE)
    with pytest.raises(OpenFlowError, match="cannot carry"):
        encode(FlowMod.add(wide), 1)


def test_a_message_longer_than_the_length_field_can_say_is_an_error() -> None:
    with pytest.raises(OpenFlowError, match="cannot carry"):
        encode(EchoRequest(bytes(70000)), 1)


def test_a_key_alone_cannot_be_added() -> None:
    with pytest.raises(OpenFlowError, match="needs a whole flow"):
        encode(FlowMod(FlowCommand.ADD, FlowKey(0, 0, Match())), 1)


def test_an_action_of_somebody_elses_cannot_be_added() -> None:
    foreign = Flow(7, 1, Match(), (Unknown(b"12345678"),), None, Source.NODE)
    with pytest.raises(OpenFlowError, match="somebody else"):
        encode(FlowMod.add(foreign), 1)


def test_prerequisites_come_before_the_fields_of_nicira() -> None:
    data = encode_match(Match.of({fields.ETH_TYPE: 0x800, register(0): 1}))
    assert data.index(b"\x80\x00") < data.index(b"\x00\x01\x00\x04")
