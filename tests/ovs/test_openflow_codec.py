"""What we encode, in the eyes of Open vSwitch: its own printer, and a switch that is asked what it understood."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.switch import Switch
from flows import fields
from flows.actions import IN_PORT, Action, CopyField, Group, Learn, Meter, Nat, Output, Resubmit, SetField, Track
from flows.fields import register
from flows.flow import Flow, Source
from flows.group import Bucket, GroupEntry, GroupType, Selection
from flows.match import Match
from flows.openflow import FlowMod, FlowPurge, FlushConnections, GroupCommand, GroupMod, encode
from flows.openflow.error_names import error_name
from flows.openflow.messages import (
    BarrierRequest,
    BundleAdd,
    BundleControl,
    BundleControlType,
    EchoReply,
    EchoRequest,
    FeaturesRequest,
    FlowDescRequest,
    GroupDescRequest,
    GroupStatsRequest,
    Hello,
    MeterCommand,
    MeterDescRequest,
    MeterEntry,
    MeterMod,
    PortDescRequest,
    Request,
    TableStatsRequest,
)
from flows.openflow.wire import HEADER, VERSION
from tests.support import openflow
from tests.support.openvswitch import OpenVswitch

DELIVER = Flow(
    40,
    100,
    Match.of({register(0): 10, fields.ETH_TYPE: 0x800, fields.IPV4_DST: IPv4Address("172.11.0.2")}),
    (SetField(fields.ETH_DST, 0x0A58AC0B0002), Output(256)),
    None,
    Source.ATTACHMENTS,
)
TUNNEL = Flow(
    50,
    90,
    Match.of({fields.ETH_TYPE: 0x800, fields.IPV4_DST: IPv4Network("172.11.4.0/22")}),
    (
        SetField(fields.TUN_IPV4_DST, int(IPv4Address("192.0.2.12"))),
        CopyField(register(0), fields.TUNNEL_ID, 24, 0, 8),
        SetField(register(3), 0x10, 0xF0),
        Meter(1),
        Group(7),
        Output(IN_PORT),
    ),
    60,
    Source.PEERS,
)
GROUP = GroupEntry(
    7,
    GroupType.SELECT,
    (Bucket(0, (Output(256),), 3), Bucket(1, (SetField(fields.ETH_DST, 5), Output(257)), 1)),
)
METER = MeterEntry(1, 100, 50)
BACKEND = Nat(IPv4Address("172.11.4.2"), 8080)
TRACKED = Flow(
    52,
    300,
    Match.masked(
        {
            fields.CT_STATE: (fields.CT_TRACKED, fields.CT_TRACKED | fields.CT_INVALID | fields.CT_DST_NAT),
            fields.ETH_TYPE: (0x800, 0xFFFF),
            fields.IP_PROTO: (6, 0xFF),
            fields.IPV4_DST: (int(IPv4Address("10.96.0.10")), 0xFFFFFFFF),
            fields.CT_NW_PROTO: (6, 0xFF),
            fields.CT_TP_DST: (80, 0xFFFF),
        }
    ),
    (Resubmit(54), Track(1, 53, nat=Nat()), Track(1, 53, commit=True, nat=BACKEND, mark=7), Track(2, commit=True)),
    60,
    Source.SERVICES,
)
LEARNING = Flow(
    52,
    301,
    Match.of({fields.ETH_TYPE: 0x800}),
    (
        Learn(
            *(54, 300, 10800, 0x6B38736F_000000FE),
            same=(fields.IPV4_SRC,),
            values=((register(5), 7),),
            writes=((register(3), 0x01020304), (register(4), 8080)),
        ),
        Track(2, 53, commit=True, nat=Nat(IPv4Address("169.254.77.3"), source=True)),
    ),
    None,
    Source.SERVICES,
)
CHOOSING = GroupEntry(8, GroupType.SELECT, (Bucket(5, (Track(1, 53, True, BACKEND),), 1),), Selection.DP_HASH)
HASHING = GroupEntry(
    *(9, GroupType.SELECT, (Bucket(6, (Track(1, 53, True, BACKEND),), 1),), Selection.HASH),
    frozenset({fields.ETH_TYPE, fields.IP_PROTO, fields.IPV4_SRC, fields.TCP_SRC}),
)

PRINTED: list[tuple[str, Request, str]] = [
    ("hello", Hello(), "OFPT_HELLO (OF1.5) (xid=0x5):\n version bitmap: 0x06"),
    ("echo", EchoRequest(b"hi"), "OFPT_ECHO_REQUEST (OF1.5) (xid=0x5): 2 bytes of payload 00000000 68 69 |hi |"),
    ("echo-reply", EchoReply(b"hi"), "OFPT_ECHO_REPLY (OF1.5) (xid=0x5): 2 bytes of payload 00000000 68 69 |hi |"),
    ("features", FeaturesRequest(), "OFPT_FEATURES_REQUEST (OF1.5) (xid=0x5):"),
    ("barrier", BarrierRequest(), "OFPT_BARRIER_REQUEST (OF1.5) (xid=0x5):"),
    (
        "add",
        FlowMod.add(DELIVER),
        "OFPT_FLOW_MOD (OF1.5) (xid=0x5): ADD table:40 priority=100,ip,reg0=0xa,nw_dst=172.11.0.2 "
        "cookie:0x6b38736f00000002 actions=set_field:0a:58:ac:0b:00:02->eth_dst,output:256",
    ),
    (
        "add-with-every-action",
        FlowMod.add(TUNNEL),
        "OFPT_FLOW_MOD (OF1.5) (xid=0x5): ADD table:50 priority=90,ip,nw_dst=172.11.4.0/22 cookie:0x6b38736f00000003 "
        "actions=set_field:192.0.2.12->tun_dst,move:NXM_NX_REG0[0..23]->NXM_NX_TUN_ID[8..31],"
        "set_field:0x10/0xf0->reg3,meter:1,group:7,IN_PORT,goto_table:60",
    ),
    (
        "modify",
        FlowMod.modify(DELIVER),
        "OFPT_FLOW_MOD (OF1.5) (xid=0x5): MOD_STRICT table:40 priority=100,ip,reg0=0xa,nw_dst=172.11.0.2 "
        "actions=set_field:0a:58:ac:0b:00:02->eth_dst,output:256",
    ),
    (
        "delete",
        FlowMod.delete(DELIVER.key),
        "OFPT_FLOW_MOD (OF1.5) (xid=0x5): DEL_STRICT table:40 priority=100,ip,reg0=0xa,nw_dst=172.11.0.2 actions=drop",
    ),
    (
        "purge",
        FlowPurge(0x6B38736F << 32, 0xFFFFFFFF << 32),
        "OFPT_FLOW_MOD (OF1.5) (xid=0x5): DEL table:255 priority=0 cookie:0x6b38736f00000000/0xffffffff00000000 "
        "actions=drop",
    ),
    (
        "group",
        GroupMod(GroupCommand.ADD, GROUP),
        "OFPT_GROUP_MOD (OF1.5) (xid=0x5):\n ADD group_id=7,type=select,bucket=bucket_id:0,weight:3,actions=output:256,"
        "bucket=bucket_id:1,actions=set_field:00:00:00:00:00:05->eth_dst,output:257",
    ),
    (
        "conntrack",
        FlowMod.add(TRACKED),
        "OFPT_FLOW_MOD (OF1.5) (xid=0x5): ADD table:52 priority=300,ct_state=-inv+trk-dnat,ct_nw_proto=6,ct_tp_dst=80,"
        "tcp,nw_dst=10.96.0.10 cookie:0x6b38736f00000004 actions=resubmit(,54),ct(table=53,zone=1,nat),"
        "ct(commit,table=53,zone=1,nat(dst=172.11.4.2:8080),exec(set_field:0x7->ct_mark)),ct(commit,zone=2),"
        "goto_table:60",
    ),
    (
        "learn",
        FlowMod.add(LEARNING),
        "OFPT_FLOW_MOD (OF1.5) (xid=0x5): ADD table:52 priority=301,ip cookie:0x6b38736f00000004 actions="
        "learn(table=54,idle_timeout=10800,priority=300,cookie=0x6b38736f000000fe,eth_type=0x800,NXM_OF_IP_SRC[],reg5=0x7,"
        "load:0x1020304->NXM_NX_REG3[],load:0x1f90->NXM_NX_REG4[]),"
        "ct(commit,table=53,zone=2,nat(src=169.254.77.3))",
    ),
    (
        "group-by-the-datapaths-hash",
        GroupMod(GroupCommand.ADD_OR_MODIFY, CHOOSING),
        "OFPT_GROUP_MOD (OF1.5) (xid=0x5):\n ADD_OR_MOD group_id=8,type=select,selection_method=dp_hash,"
        "bucket=bucket_id:5,actions=ct(commit,table=53,zone=1,nat(dst=172.11.4.2:8080))",
    ),
    (
        "flush",
        FlushConnections(1, 17, IPv4Address("172.11.4.2"), 8080),
        "NXT_CT_FLUSH (OF1.5) (xid=0x5): zone=1 'ct_nw_src=::,ct_nw_dst=::,ct_tp_src=0,ct_tp_dst=0,ct_nw_proto=17' "
        "'ct_nw_src=172.11.4.2,ct_nw_dst=::,ct_tp_src=8080,ct_tp_dst=0'",
    ),
    (
        "group-delete",
        GroupMod(GroupCommand.DELETE, GroupEntry(7, GroupType.ALL, ())),
        "OFPT_GROUP_MOD (OF1.5) (xid=0x5):\n DEL group_id=7,type=all",
    ),
    (
        "meter",
        MeterMod(MeterCommand.ADD, METER),
        "OFPT_METER_MOD (OF1.5) (xid=0x5): ADD meter=1 pktps burst stats bands=\ntype=drop rate=100 burst_size=50",
    ),
    (
        "bundle-open",
        BundleControl(3, BundleControlType.OPEN_REQUEST),
        "OFPT_BUNDLE_CONTROL (OF1.5) (xid=0x5):\n bundle_id=0x3 type=OPEN_REQUEST flags=atomic ordered",
    ),
    (
        "bundle-add",
        BundleAdd(3, FlowMod.delete(DELIVER.key)),
        "OFPT_BUNDLE_ADD_MESSAGE (OF1.5) (xid=0x5):\n bundle_id=0x3 flags=atomic ordered\n"
        "OFPT_FLOW_MOD (OF1.5) (xid=0x5): DEL_STRICT table:40 priority=100,ip,reg0=0xa,nw_dst=172.11.0.2 actions=drop",
    ),
    ("flows", FlowDescRequest(), "OFPST_FLOW request (OF1.5) (xid=0x5):"),
    ("groups", GroupDescRequest(), "OFPST_GROUP_DESC request (OF1.5) (xid=0x5): group_id=ALL"),
    ("group-stats", GroupStatsRequest(), "OFPST_GROUP request (OF1.5) (xid=0x5): group_id=ALL"),
    ("meters", MeterDescRequest(), "OFPST_METER_CONFIG request (OF1.5) (xid=0x5): meter=all"),
    ("ports", PortDescRequest(), "OFPST_PORT_DESC request (OF1.5) (xid=0x5): port=ANY"),
    ("tables", TableStatsRequest(), "OFPST_TABLE request (OF1.5) (xid=0x5):"),
]


@pytest.fixture(scope="module")
def switch() -> Iterator[OpenVswitch]:
    with OpenVswitch() as openvswitch:
        openvswitch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "fail_mode=secure")
        yield openvswitch


def said(text: str) -> str:
    """A text without the white space that only makes it pretty."""
    return " ".join(text.split())


@pytest.mark.parametrize(("request_", "expected"), [row[1:] for row in PRINTED], ids=[row[0] for row in PRINTED])
def test_open_vswitch_prints_what_was_meant(switch: OpenVswitch, request_: Request, expected: str) -> None:
    assert said(switch.ofctl("ofp-print", encode(request_, 5).hex())) == said(expected)


# Where Open vSwitch keeps a name of an older edition of the standard.
OLDER_NAMES = {
    (1, 2): "BAD_STAT",
    (1, 3): "BAD_VENDOR",
    (1, 4): "BAD_SUBTYPE",
    (1, 10): "IS_SECONDARY",
    (2, 2): "BAD_VENDOR",
    (2, 3): "BAD_VENDOR_TYPE",
}


@pytest.mark.parametrize("kind", [1, 2, 3, 4, 5, 6, 12, 17])
def test_open_vswitch_gives_errors_the_names_that_we_give_them(switch: OpenVswitch, kind: int) -> None:
    for code in range(18):
        name = error_name(kind, code).split(" ", 1)[1]
        if name.startswith("code "):
            break
        body = kind.to_bytes(2, "big") + code.to_bytes(2, "big")
        printed = switch.ofctl("ofp-print", (HEADER.pack(VERSION, 1, 12, 5) + body).hex())
        assert OLDER_NAMES.get((kind, code), name) in printed


@settings(max_examples=30, deadline=None)
@given(st.lists(openflow.flows(), max_size=30, unique_by=lambda flow: flow.key))
def test_a_switch_gives_back_the_flows_that_it_was_given(switch: OpenVswitch, flows: list[Flow]) -> None:
    async def there_and_back() -> set[Flow]:
        bridge = Switch(str(switch.mgmt("br0")))
        running = asyncio.create_task(bridge.run())
        await bridge.wait_connected()
        await bridge.commit([FlowPurge(), *map(FlowMod.add, flows)])
        dumped = await bridge.dump_flows()
        running.cancel()
        return {one.flow for one in dumped}

    assert asyncio.run(there_and_back()) == set(flows)


@pytest.mark.parametrize("action", [Group(7), Meter(1)])
def test_a_switch_gives_back_groups_and_meters_in_flows(switch: OpenVswitch, action: Action) -> None:
    async def there_and_back() -> None:
        bridge = Switch(str(switch.mgmt("br0")))
        running = asyncio.create_task(bridge.run())
        await bridge.wait_connected()
        await bridge.set_meter(METER)
        flow = Flow(1, 1, Match(), (action,), None, Source.NODE)
        await bridge.commit([FlowPurge(), GroupMod(GroupCommand.ADD_OR_MODIFY, GROUP), FlowMod.add(flow)])
        assert [one.flow for one in await bridge.dump_flows()] == [flow]
        running.cancel()

    asyncio.run(there_and_back())


@pytest.mark.parametrize("group", [GROUP, CHOOSING, HASHING], ids=["weights", "dp_hash", "hash"])
def test_a_switch_gives_back_groups_as_they_were_given(switch: OpenVswitch, group: GroupEntry) -> None:
    async def there_and_back() -> None:
        bridge = Switch(str(switch.mgmt("br0")))
        running = asyncio.create_task(bridge.run())
        await bridge.wait_connected()
        await bridge.commit([FlowPurge(), GroupMod(GroupCommand.ADD_OR_MODIFY, group)])
        assert group in [one.group for one in await bridge.dump_groups()]
        running.cancel()

    asyncio.run(there_and_back())


@pytest.mark.parametrize("flow", [TRACKED, LEARNING], ids=["ct", "learn"])
def test_a_switch_gives_back_its_own_actions_as_they_were_given(switch: OpenVswitch, flow: Flow) -> None:
    async def there_and_back() -> None:
        bridge = Switch(str(switch.mgmt("br0")))
        running = asyncio.create_task(bridge.run())
        await bridge.wait_connected()
        await bridge.commit([FlowPurge(), FlowMod.add(flow)])
        assert [one.flow for one in await bridge.dump_flows()] == [flow]
        running.cancel()

    asyncio.run(there_and_back())
