"""The persistent connection to a real bridge: what it reads, what it commits, and how it survives the switch."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress

import pytest

from agent.switch import BundleRejected, Change, InstalledGroup, Switch, SwitchDisconnected
from flows import fields
from flows.actions import LOCAL, Group, Output, SetField
from flows.diff import AddFlow, DeleteFlow
from flows.fields import register
from flows.flow import Flow, Source
from flows.group import Bucket, GroupEntry, GroupType
from flows.match import Match
from flows.openflow import FlowMod, FlowPurge, GroupCommand, GroupMod
from flows.openflow.messages import BundleAdd, BundleControl, BundleControlType, MeterEntry
from tests.support.openvswitch import OpenVswitch

MANY = 10_000


def flow(number: int, *, port: int = 1) -> Flow:
    words = Match.of({fields.ETH_TYPE: 0x800, fields.IPV4_DST: 0x0A000000 + number})
    return Flow(40, 100, words, (SetField(register(0), 7), Output(port)), None, Source.ATTACHMENTS)


# The switch cannot even read the first: no eth_type. It reads the second, and refuses it: no such group.
UNREADABLE = Flow(41, 1, Match.of({fields.IPV4_DST: 1}), (), None, Source.NODE)
UNACCEPTABLE = Flow(41, 1, Match(), (Group(99),), None, Source.NODE)


@pytest.fixture
def bridge(openvswitch: OpenVswitch) -> OpenVswitch:
    openvswitch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "fail_mode=secure")
    return openvswitch


@asynccontextmanager
async def connected(bridge: OpenVswitch, silence_s: float = 10.0) -> AsyncIterator[Switch]:
    """A connected switch, which is the bridge `br0`."""
    switch = Switch(str(bridge.mgmt("br0")), silence_s=silence_s)
    running = asyncio.create_task(switch.run())
    try:
        await switch.wait_connected()
        yield switch
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


@pytest.fixture
async def switch(bridge: OpenVswitch) -> AsyncIterator[Switch]:
    async with connected(bridge) as switch:
        yield switch


async def flows_of(switch: Switch) -> set[Flow]:
    return {one.flow for one in await switch.dump_flows()}


def dump(bridge: OpenVswitch) -> list[str]:
    """The flows as `ovs-ofctl` shows them."""
    return bridge.ofctl("--no-stats", "--no-names", "dump-flows", "br0").split("\n")[:-1]


async def test_a_committed_flow_is_in_the_switch(bridge: OpenVswitch, switch: Switch) -> None:
    await switch.commit([AddFlow(flow(2, port=256))])
    expected = "cookie=0x6b38736f00000002, table=40, priority=100,ip,nw_dst=10.0.0.2 "
    assert dump(bridge) == [f" {expected}actions=set_field:0x7->reg0,output:256"]


async def test_a_deleted_flow_is_gone_and_its_neighbour_stays(switch: Switch) -> None:
    await switch.commit([AddFlow(flow(1)), AddFlow(flow(2))])
    await switch.commit([DeleteFlow(flow(1).key)])
    assert await flows_of(switch) == {flow(2)}


async def test_deleting_a_flow_that_is_not_there_does_nothing(switch: Switch) -> None:
    await switch.commit([DeleteFlow(flow(1).key)])
    assert await flows_of(switch) == set()


async def test_adding_a_flow_again_replaces_its_actions(switch: Switch) -> None:
    await switch.commit([AddFlow(flow(1, port=1))])
    await switch.commit([AddFlow(flow(1, port=2))])
    assert await flows_of(switch) == {flow(1, port=2)}


async def test_replaying_a_commit_changes_nothing(switch: Switch) -> None:
    changes: list[Change] = [AddFlow(flow(1)), DeleteFlow(flow(2).key), AddFlow(flow(3))]
    await switch.commit(changes)
    await switch.commit(changes)
    assert await flows_of(switch) == {flow(1), flow(3)}


async def test_the_changes_of_a_commit_are_made_in_their_order(switch: Switch) -> None:
    await switch.commit([AddFlow(flow(1)), FlowPurge(), AddFlow(flow(2))])
    assert await flows_of(switch) == {flow(2)}


async def test_a_commit_of_nothing_is_no_request(switch: Switch) -> None:
    await switch.commit([])
    assert await flows_of(switch) == set()


async def test_a_purge_takes_only_the_flows_with_its_cookie(switch: Switch) -> None:
    peer = Flow(40, 5, Match(), (), None, Source.PEERS)
    await switch.commit([AddFlow(flow(1)), AddFlow(peer)])
    await switch.commit([FlowPurge(Source.PEERS.cookie, 2**64 - 1)])
    assert await flows_of(switch) == {flow(1)}


@pytest.mark.parametrize("bad", [UNREADABLE, UNACCEPTABLE], ids=["unreadable", "unacceptable"])
async def test_a_commit_with_a_bad_change_changes_nothing_and_names_it(switch: Switch, bad: Flow) -> None:
    await switch.commit([AddFlow(flow(1))])
    with pytest.raises(BundleRejected) as rejected:
        await switch.commit([DeleteFlow(flow(1).key), AddFlow(flow(2)), AddFlow(bad), AddFlow(flow(3))])
    assert rejected.value.change == AddFlow(bad)
    assert await flows_of(switch) == {flow(1)}


async def test_a_rejection_says_which_flow_and_why(switch: Switch) -> None:
    with pytest.raises(BundleRejected, match=r"table=41,priority=1,nw_dst=0\.0\.0\.1 .*: BAD_MATCH BAD_PREREQ"):
        await switch.commit([AddFlow(UNREADABLE)])


async def test_the_switch_works_on_after_a_rejection(switch: Switch) -> None:
    with pytest.raises(BundleRejected):
        await switch.commit([AddFlow(UNREADABLE)])
    await switch.commit([AddFlow(flow(1))])
    assert await flows_of(switch) == {flow(1)}


async def test_ten_thousand_flows_are_one_commit(switch: Switch) -> None:
    expected = [flow(number) for number in range(MANY)]
    await switch.commit([AddFlow(one) for one in expected])
    assert await flows_of(switch) == set(expected)


async def test_the_last_of_ten_thousand_changes_can_be_blamed(switch: Switch) -> None:
    changes: list[Change] = [AddFlow(flow(number)) for number in range(MANY)]
    with pytest.raises(BundleRejected) as rejected:
        await switch.commit([*changes, AddFlow(UNACCEPTABLE)])
    assert rejected.value.change == AddFlow(UNACCEPTABLE)
    assert await flows_of(switch) == set()


async def test_ten_thousand_error_replies_do_not_block_the_commit_that_causes_them(switch: Switch) -> None:
    with pytest.raises(BundleRejected):
        await switch.commit([AddFlow(UNREADABLE)] * MANY)


async def test_a_cancelled_commit_is_made_as_a_whole_or_not_at_all(switch: Switch) -> None:
    for turns in (1, 3, 10, 30, 60):
        await switch.commit([FlowPurge()])
        committing = asyncio.create_task(switch.commit([AddFlow(flow(number)) for number in range(2000)]))
        for _ in range(turns):
            await asyncio.sleep(0)
        committing.cancel()
        with suppress(asyncio.CancelledError):
            await committing
        assert len(await switch.dump_flows()) in (0, 2000)


async def test_commits_side_by_side_do_not_mix(switch: Switch) -> None:
    bad: Sequence[Change] = [AddFlow(flow(1)), AddFlow(UNREADABLE)]
    good: Sequence[Change] = [AddFlow(flow(2)), AddFlow(flow(3))]
    outcomes = await asyncio.gather(*map(switch.commit, (bad, good, bad, good)), return_exceptions=True)
    assert [type(outcome) for outcome in outcomes] == [BundleRejected, type(None), BundleRejected, type(None)]
    assert await flows_of(switch) == {flow(2), flow(3)}


async def test_open_vswitch_commits_the_rest_of_a_bundle_with_an_unreadable_change(switch: Switch) -> None:
    # Why `commit` asks before it commits: here is what happens to those who do not.
    connection = switch._live()
    opened = BundleControl(77, BundleControlType.OPEN_REQUEST)
    await connection.send([opened], connection.reserve(1))
    await connection.send((BundleAdd(77, FlowMod.add(one)) for one in (UNREADABLE, flow(1))), connection.reserve(2))
    await connection.request(BundleControl(77, BundleControlType.COMMIT_REQUEST), BundleControl)
    assert await flows_of(switch) == {flow(1)}


FOREIGN = (
    "table=1,idle_timeout=60,priority=7,in_port=5,actions=output:6",
    "table=2,tcp,tcp_dst=80,ct_state=+trk+new,actions=learn(table=9,NXM_OF_ETH_DST[]=NXM_OF_ETH_SRC[],output:NXM_OF_IN_PORT[])",
    "table=3,eth_type=0x894f,nsh_spi=0x123456,actions=write_actions(output:2)",
    "table=4,conj_id=5,ipv6,ipv6_dst=fe80::/10,actions=resubmit(,43)",
    "table=5,vlan_tci=0x1000/0x1000,actions=pop_vlan,controller",
    "table=6,reg0=1,reg1=2/6,reg4=1/1,xxreg2=0xf/0xf,metadata=3,ip_frag=later,ip,actions=clear_actions,goto_table:8",
    "table=7,tun_src=192.0.2.1,tun_metadata1,pkt_mark=4,icmp,icmp_type=8,actions=write_metadata:1,goto_table:8",
)


@pytest.mark.parametrize("text", FOREIGN)
async def test_a_flow_of_somebody_else_can_be_deleted_by_its_key(
    bridge: OpenVswitch, switch: Switch, text: str
) -> None:
    bridge.ofctl("add-tlv-map", "br0", "{class=0xffff,type=1,len=4}->tun_metadata1")
    bridge.ofctl("add-flow", "br0", text)
    (foreign,) = await switch.dump_flows()
    assert foreign.flow.source is None
    await switch.commit([DeleteFlow(foreign.flow.key)])
    assert dump(bridge) == []


async def test_a_flow_made_to_expire_with_a_cookie_of_ours_is_not_taken_for_ours(
    bridge: OpenVswitch, switch: Switch
) -> None:
    bridge.ofctl(
        "add-flow",
        "br0",
        f"cookie={Source.ATTACHMENTS.cookie},table=40,priority=100,ip,nw_dst=10.0.0.1,idle_timeout=60,"
        "actions=set_field:7->reg0,output:1",
    )
    assert await flows_of(switch) != {flow(1)}
    await switch.commit([AddFlow(flow(1))])
    assert await flows_of(switch) == {flow(1)}


async def test_counters_go_on_over_a_change_of_actions(bridge: OpenVswitch, switch: Switch) -> None:
    bridge.vsctl("add-port", "br0", "p1", "--", "set", "Interface", "p1", "ofport_request=1")
    first = Flow(0, 1, Match(), (), None, Source.PIPELINE)
    await switch.commit([AddFlow(first)])
    bridge.appctl(
        "netdev-dummy/receive", "p1", "in_port(1),eth(src=02:00:00:00:00:01,dst=02:00:00:00:00:02),eth_type(0x1234)"
    )
    bridge.appctl("revalidator/wait")
    await switch.commit([FlowMod.modify(Flow(0, 1, Match(), (Output(1),), None, Source.PIPELINE))])
    (installed,) = await switch.dump_flows()
    assert (installed.packets, installed.flow.actions) == (1, (Output(1),))


async def test_groups_are_dumped_as_they_were_committed(bridge: OpenVswitch, switch: Switch) -> None:
    group = GroupEntry(
        7, GroupType.SELECT, (Bucket(0, (Output(256),), 3), Bucket(1, (SetField(fields.ETH_DST, 5), Output(257)), 1))
    )
    await switch.commit(
        [GroupMod(GroupCommand.ADD, group), AddFlow(Flow(1, 1, Match(), (Group(7),), None, Source.NODE))]
    )
    assert await switch.dump_groups() == [InstalledGroup(group, 0, 0)]
    assert "weight:3" in bridge.ofctl("dump-groups", "br0")


async def test_setting_a_meter_twice_leaves_the_second(bridge: OpenVswitch, switch: Switch) -> None:
    await switch.set_meter(MeterEntry(1, 100, 50))
    await switch.set_meter(MeterEntry(1, 200, 70))
    assert await switch.dump_meters() == [MeterEntry(1, 200, 70)]
    assert "rate=200 burst_size=70" in bridge.ofctl("dump-meters", "br0")


async def test_ports_are_numbered_as_they_were_requested(bridge: OpenVswitch, switch: Switch) -> None:
    bridge.vsctl("add-port", "br0", "p1", "--", "set", "Interface", "p1", "ofport_request=300")
    assert await switch.port_numbers() == {"br0": LOCAL, "p1": 300}


async def test_tables_tell_how_many_flows_they_hold(switch: Switch) -> None:
    await switch.commit([AddFlow(flow(1)), AddFlow(flow(2))])
    assert (await switch.table_stats())[40].flows == 2


async def test_a_killed_switch_comes_back_as_a_new_session(bridge: OpenVswitch, switch: Switch) -> None:
    await switch.commit([AddFlow(flow(1))])
    bridge.kill_vswitchd()
    async with asyncio.timeout(5):
        await switch.wait_disconnected(1)
    bridge.start_vswitchd()
    async with asyncio.timeout(5):
        assert await switch.wait_connected() == 2
    assert await flows_of(switch) == set()


async def test_without_a_switch_every_request_fails_at_once(bridge: OpenVswitch, switch: Switch) -> None:
    bridge.kill_vswitchd()
    await switch.wait_disconnected(1)
    with pytest.raises(SwitchDisconnected):
        await switch.dump_flows()
    with pytest.raises(SwitchDisconnected):
        await switch.commit([AddFlow(flow(1))])
    assert switch.session is None


async def test_a_request_that_the_switch_died_over_fails(bridge: OpenVswitch, switch: Switch) -> None:
    os.kill(bridge.vswitchd_pid, signal.SIGSTOP)
    asking = asyncio.create_task(switch.dump_flows())
    await asyncio.sleep(0)
    bridge.kill_vswitchd()
    with pytest.raises(SwitchDisconnected):
        await asking


async def test_a_switch_that_hangs_is_given_up(bridge: OpenVswitch) -> None:
    async with connected(bridge, silence_s=0.1) as switch, asyncio.timeout(5):
        os.kill(bridge.vswitchd_pid, signal.SIGSTOP)
        await switch.wait_disconnected(1)
        os.kill(bridge.vswitchd_pid, signal.SIGCONT)
        assert await switch.wait_connected() == 2


async def test_an_idle_connection_is_kept_by_probes(bridge: OpenVswitch) -> None:
    async with connected(bridge, silence_s=0.2) as switch:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.8):  # without an answer to a probe it would be given up after 0.4 s
                await switch.wait_disconnected(1)


async def test_a_bridge_that_appears_later_is_found(openvswitch: OpenVswitch) -> None:
    async with asyncio.timeout(5), asyncio.TaskGroup() as tasks:
        connecting = tasks.create_task(_first_session(openvswitch))
        await asyncio.sleep(0)
        openvswitch.vsctl("add-br", "br0")
        assert await connecting == 1


async def _first_session(bridge: OpenVswitch) -> int | None:
    async with connected(bridge) as switch:
        return switch.session


async def test_a_stopped_connection_leaves_no_descriptor_and_no_task(bridge: OpenVswitch) -> None:
    before = set(os.listdir("/proc/self/fd"))
    async with connected(bridge) as switch:
        pass
    await asyncio.sleep(0)  # the transport closes its socket in the next turn of the loop
    assert set(os.listdir("/proc/self/fd")) == before
    assert asyncio.all_tasks() == {asyncio.current_task()}
    assert switch.session is None
