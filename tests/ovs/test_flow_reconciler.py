"""The one writer of the switch's flows: what it makes of a demand, on a real bridge that may go and come back."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest
import structlog

from agent.flow_reconciler import AUDIT_S, Demand, FlowReconciler
from agent.switch import Switch
from flows.desired import desired_flows
from flows.flow import PASSING_COOKIE, Flow, FlowKey, Source
from flows.service import Protocol, Service, ServicePort, ServiceProxy
from flows.snapshot import Attachment, Mode, Node, Peer, Snapshot, Tenancy
from flows.text import flow_text
from tests.support.cutting import Relay
from tests.support.openvswitch import OpenVswitch
from tests.support.services import endpoint, service, vip

DEADLINE_S = 20.0
ALL = frozenset(Source)
EMPTY = Snapshot(
    mode=Mode.MULTITENANT,
    cluster_network=IPv4Network("172.11.0.0/16"),
    service_network=IPv4Network("10.96.0.0/12"),
    node=Node(IPv4Address("192.0.2.11"), IPv4Network("172.11.0.0/22"), IPv4Address("172.11.0.1")),
)
POD = Attachment(256, IPv4Address("172.11.0.2"), Tenancy(10, frozenset({10})))
OTHER_POD = Attachment(257, IPv4Address("172.11.0.3"), Tenancy(11, frozenset({11})))
PEER = Peer(IPv4Address("192.0.2.12"), IPv4Network("172.11.4.0/22"))
BUSY = replace(EMPTY, attachments=frozenset({POD}), peers=frozenset({PEER}))


class Wishes:
    """What the flows are to be computed from; a test changes it."""

    def __init__(self, snapshot: Snapshot) -> None:
        self.snapshot = snapshot
        self.synced = ALL

    def __call__(self) -> Demand:
        return Demand(self.snapshot, self.synced)


@pytest.fixture
def bridge(openvswitch: OpenVswitch) -> OpenVswitch:
    openvswitch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "fail_mode=secure")
    return openvswitch


@asynccontextmanager
async def reconciling(
    bridge: OpenVswitch, wishes: Wishes, audit_s: float = AUDIT_S, path: Path | None = None
) -> AsyncIterator[FlowReconciler]:
    switch = Switch(str(path or bridge.mgmt("br0")))
    reconciler = FlowReconciler(switch, wishes, audit_s)
    running = [asyncio.create_task(switch.run()), asyncio.create_task(reconciler.run())]
    try:
        async with asyncio.timeout(DEADLINE_S):
            yield reconciler
    finally:
        for task in running:
            task.cancel()
        await asyncio.wait(running)


@asynccontextmanager
async def reconciled(bridge: OpenVswitch, wishes: Wishes, audit_s: float = AUDIT_S) -> AsyncIterator[FlowReconciler]:
    async with reconciling(bridge, wishes, audit_s) as reconciler:
        await reconciler.reconcile()
        yield reconciler


def installed(bridge: OpenVswitch) -> set[str]:
    return normal(bridge.ofctl("--no-stats", "--no-names", "dump-flows", "br0").splitlines())


def expected(bridge: OpenVswitch, snapshot: Snapshot) -> set[str]:
    """What a second bridge shows that was given the flows as text."""
    bridge.vsctl("--may-exist", "add-br", "br1", "--", "set", "Bridge", "br1", "fail_mode=secure")
    bridge.ofctl("del-flows", "br1")
    bridge.ofctl("del-meters", "br1")
    bridge.ofctl("add-meter", "br1", "meter=1 pktps burst bands=type=drop rate=1000 burst_size=1000")
    bridge.ofctl("add-flows", "br1", "-", stdin="\n".join(map(flow_text, desired_flows(snapshot).values())))
    return normal(bridge.ofctl("--no-stats", "--no-names", "dump-flows", "br1").splitlines())


def normal(lines: list[str]) -> set[str]:
    return {line.strip() for line in lines if "table=" in line}


def ages(bridge: OpenVswitch) -> dict[str, float]:
    """Each flow and how many seconds ago it was added."""
    lines = bridge.ofctl("--no-names", "dump-flows", "br0").splitlines()
    found = (re.fullmatch(r" (.*?)duration=([\d.]+)s, (.*)", line) for line in lines)
    return {re.sub(r"n_\w+=\d+, |(idle|hard)_age=\d+, ", "", one[1] + one[3]): float(one[2]) for one in found if one}


async def held(bridge: OpenVswitch) -> dict[FlowKey, Flow]:
    """What the switch has, but for what goes by itself."""
    switch = Switch(str(bridge.mgmt("br0")))
    running = asyncio.create_task(switch.run())
    try:
        await switch.wait_connected()
        return {entry.flow.key: entry.flow for entry in await switch.dump_flows() if entry.cookie != PASSING_COOKIE}
    finally:
        running.cancel()
        await asyncio.wait({running})


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110 - it is the switch, not this process, that the condition is about
        await asyncio.sleep(0.02)


async def test_the_switch_has_what_is_demanded_when_reconcile_returns(bridge: OpenVswitch) -> None:
    wishes = Wishes(BUSY)
    async with reconciled(bridge, wishes) as reconciler:
        assert installed(bridge) == expected(bridge, BUSY)
        wishes.snapshot = replace(BUSY, attachments=frozenset({OTHER_POD}))
        await reconciler.reconcile()
        assert installed(bridge) == expected(bridge, wishes.snapshot)
        assert reconciler.current


async def test_each_of_many_changes_leaves_exactly_what_is_demanded_then(bridge: OpenVswitch) -> None:
    moved = replace(POD, tenancy=Tenancy(11, frozenset({10, 11})))
    successor = replace(PEER, address=IPv4Address("192.0.2.13"))
    wishes = Wishes(EMPTY)
    async with reconciled(bridge, wishes) as reconciler:
        for pods, peers in (({POD}, {PEER}), ({moved, OTHER_POD}, {PEER}), ({moved}, {successor}), (set(), {PEER})):
            wishes.snapshot = replace(EMPTY, attachments=frozenset(pods), peers=frozenset(peers))
            await reconciler.reconcile()
            assert installed(bridge) == expected(bridge, wishes.snapshot)


async def test_a_pod_waits_for_no_more_than_a_part_of_many_services(bridge: OpenVswitch) -> None:
    found = {one.key: one for one in (service(f"a/s{n}", n, endpoint(f"172.11.4.{n % 250}")) for n in range(1, 1500))}
    wishes = Wishes(replace(EMPTY, service_proxy=ServiceProxy.OVS, services=found))
    async with reconciled(bridge, wishes) as reconciler:
        assert not reconciler.complete
        wishes.snapshot = replace(wishes.snapshot, attachments=frozenset({POD}))
        await reconciler.reconcile()
        assert not reconciler.complete
        assert "nw_src=172.11.0.2" in bridge.ofctl("dump-flows", "br0", "table=30")
        while not reconciler.complete:
            await reconciler.reconcile()
        assert await held(bridge) == desired_flows(wishes.snapshot)


async def test_services_that_are_taken_in_parts_leave_nothing_of_those_before(bridge: OpenVswitch) -> None:
    before = {one.key: one for one in (service(f"a/s{n}", n, endpoint(f"172.11.4.{n % 250}")) for n in range(1, 900))}
    after = {one.key: one for one in (service(f"b/s{n}", n, endpoint(f"172.11.5.{n % 250}")) for n in range(1, 900))}
    first, second = (replace(EMPTY, service_proxy=ServiceProxy.OVS, services=found) for found in (before, after))
    wishes = Wishes(first)
    async with reconciled(bridge, wishes) as reconciler:
        while not reconciler.complete:
            await reconciler.reconcile()
        wishes.snapshot = second
        await reconciler.reconcile()
        while not reconciler.complete:
            await reconciler.reconcile()
        assert await held(bridge) == desired_flows(second)


async def test_flows_that_stay_are_not_touched(bridge: OpenVswitch) -> None:
    async with reconciled(bridge, Wishes(BUSY)):
        before = ages(bridge)
    assert before
    await asyncio.sleep(0.01)  # any time at all
    more = Wishes(replace(BUSY, attachments=frozenset({POD, OTHER_POD})))
    async with reconciled(bridge, more):  # as after a restart of the agent
        after = ages(bridge)
    assert [flow for flow, age in before.items() if after.get(flow, 0) <= age] == []


async def test_what_somebody_else_left_behind_is_removed(bridge: OpenVswitch) -> None:
    bridge.ofctl("add-flow", "br0", "table=0,priority=7,ip,actions=NORMAL")
    async with reconciled(bridge, Wishes(BUSY)):
        assert installed(bridge) == expected(bridge, BUSY)


async def test_a_flow_that_somebody_exchanged_for_another_is_put_back(bridge: OpenVswitch) -> None:
    """Their number stays the same."""
    async with reconciled(bridge, Wishes(BUSY), audit_s=0.01):
        right = installed(bridge)
        bridge.ofctl("mod-flows", "--strict", "br0", "table=60,priority=300,ip,nw_dst=172.11.0.0/22,actions=drop")
        assert installed(bridge) != right
        await until(lambda: installed(bridge) == right)
        bridge.ofctl("del-flows", "--strict", "br0", "table=80,priority=300,ip,nw_dst=172.11.4.0/22")
        bridge.ofctl("add-flow", "br0", "table=80,priority=299,ip,nw_dst=172.11.4.0/22,actions=drop")
        await until(lambda: installed(bridge) == right)


async def test_audits_of_changing_flows_find_nothing_and_touch_nothing(bridge: OpenVswitch) -> None:
    wishes = Wishes(BUSY)
    async with reconciled(bridge, wishes, audit_s=0.001) as reconciler:
        before = ages(bridge)
        with structlog.testing.capture_logs() as said:
            for number in range(200):
                more = {OTHER_POD} if number % 2 else set()
                wishes.snapshot = replace(BUSY, attachments=frozenset({POD} | more))
                await reconciler.reconcile()
        wishes.snapshot = BUSY
        await reconciler.reconcile()
        assert ages(bridge).keys() == before.keys()
        assert [entry for entry in said if entry["log_level"] == "warning"] == []


async def test_a_source_that_has_not_been_heard_adds_and_removes_nothing(bridge: OpenVswitch) -> None:
    async with reconciled(bridge, Wishes(BUSY)):
        everything = installed(bridge)
    wishes = Wishes(replace(EMPTY, attachments=frozenset({POD, OTHER_POD})))
    wishes.synced = ALL - {Source.PEERS}
    async with reconciled(bridge, wishes) as reconciler:
        assert installed(bridge) > everything
        wishes.synced = ALL
        await reconciler.reconcile()
        assert installed(bridge) == expected(bridge, wishes.snapshot)


async def test_a_switch_that_restarted_gets_its_flows_and_its_meter_back(bridge: OpenVswitch) -> None:
    async with reconciled(bridge, Wishes(BUSY)) as reconciler:
        bridge.kill_vswitchd()
        await until(lambda: not reconciler.current)
        await asyncio.to_thread(bridge.start_vswitchd)
        await until(lambda: reconciler.current)
        assert installed(bridge) == expected(bridge, BUSY)
        assert "rate=1000" in bridge.ofctl("dump-meters", "br0")


async def test_what_is_demanded_while_the_switch_is_away_is_there_when_it_is_back(bridge: OpenVswitch) -> None:
    wishes = Wishes(EMPTY)
    async with reconciled(bridge, wishes) as reconciler:
        bridge.kill_vswitchd()
        wishes.snapshot = BUSY
        waiting = asyncio.create_task(reconciler.reconcile())
        await until(lambda: not reconciler.current)
        assert not waiting.done(), "nobody can have committed it"
        await asyncio.to_thread(bridge.start_vswitchd)
        await waiting
        assert installed(bridge) == expected(bridge, BUSY)


async def test_a_demand_that_changes_nothing_is_not_met_by_a_switch_that_is_away(bridge: OpenVswitch) -> None:
    async with reconciled(bridge, Wishes(BUSY)) as reconciler:
        bridge.kill_vswitchd()
        await until(lambda: not reconciler.current)
        waiting = asyncio.create_task(reconciler.reconcile())
        await asyncio.sleep(0.05)  # long enough for an answer, were there one
        assert not waiting.done()
        await asyncio.to_thread(bridge.start_vswitchd)
        await waiting


async def test_a_flow_that_the_switch_refuses_holds_up_no_other(bridge: OpenVswitch) -> None:
    # No switch takes an output to a port of this number (OFPP_MAX, OpenFlow 1.5.1, section 7.2.1).
    impossible = replace(OTHER_POD, ofport=0xFFFFFF05)
    async with reconciled(bridge, Wishes(replace(BUSY, attachments=frozenset({POD, impossible})))):
        shown = installed(bridge)
    assert shown >= expected(bridge, BUSY)
    assert not [flow for flow in shown if "table=70" in flow and "nw_dst=172.11.0.3" in flow]


def commits(message: bytes) -> bool:
    """A bundle control message with a commit in it (OpenFlow 1.5.1, section 7.3.9)."""
    return message[1] == 33 and message[12:14] == b"\0\4"


def flushes(message: bytes) -> bool:
    """Nicira's extension number 32 (openflow/nicira-ext.h)."""
    return message[1] == 4 and message[8:16] == bytes.fromhex("00002320 00000020")


@pytest.mark.parametrize(("cut", "delivered"), [(flushes, False), (commits, True)], ids=["after-it", "in-the-commit"])
async def test_connections_are_forgotten_although_the_switch_was_lost_when_their_endpoint_went(
    bridge: OpenVswitch, tmp_path: Path, cut: Callable[[bytes], bool], delivered: bool
) -> None:
    port = ServicePort(Protocol.UDP, 53, None, (endpoint("172.11.4.2", 5353),))
    served = replace(BUSY, service_proxy=ServiceProxy.OVS, services={"a/dns": Service("a/dns", (vip(1),), (port,))})
    wishes = Wishes(served)
    relay = Relay(tmp_path / "relay", bridge.mgmt("br0"), lambda message: leaving and cut(message), delivered=delivered)
    leaving = False
    async with relay.running(), reconciling(bridge, wishes, path=tmp_path / "relay") as reconciler:
        await reconciler.reconcile()
        wishes.snapshot, leaving = replace(served, services={}), True
        await reconciler.reconcile()
        assert relay.done
        await until(lambda: any(map(flushes, relay.passed)))
