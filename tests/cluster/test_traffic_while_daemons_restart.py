"""Agent, switch and database restart, with and without the stores, and pods send all the while.

Independent judges: what arrives (`tests/support/traffic.py`), and the switch's own account of its flows.
"""

from __future__ import annotations

import logging
import os
import re
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.support.cast import Member, cast, create_namespaces
from tests.support.events import (
    RUN_TIMEOUT_S,
    frozen,
    kill_agent,
    kill_vswitchd,
    node_now,
    stay_away,
    wait_ready,
)
from tests.support.flowwatch import counters, watched
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node
from tests.support.traffic import Stream, Traffic, conclusive

log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(RUN_TIMEOUT_S)

LAB_OPTIONS = ("--nodes", "3", "--host-subnet-length", "4")
ROOM = 13
"""For so many pods a node has addresses."""

NOT_AVAILABLE = 50
BACK_WITHIN_S = 2.0
TCP_TRIES_AGAIN_S = 2.0
"""After an outage as long as these, tcp(7)."""

Act = Callable[[LabUnderTest, Node], None]


@pytest.fixture(scope="module")
def people(lab: LabUnderTest) -> Iterator[dict[str, Member]]:
    create_namespaces(lab, "red", "blue", "green")
    where = {
        "node1": ["red/a", "red/b", "red/c", "blue/spy", "green/one", "green/two"],
        "node2": ["red/there", "blue/spy2", "green/three"],
        "node3": ["green/four"],
    }
    with cast(lab, where) as members:
        yield members


@pytest.fixture
def node(lab: LabUnderTest) -> Node:
    return node_now(lab, "node1")


INSIDE = ("near", "out", "in", "tcp")
FORBIDDEN = ("spied near", "spied far", "spied in")


@pytest.fixture
def streams(people: dict[str, Member]) -> dict[str, Stream]:
    """What must arrive, and what must not."""
    return {
        "near": people["red/a"].to(people["red/b"]),
        "out": people["red/c"].to(people["red/there"]),
        "in": people["red/there"].to(people["red/a"]),
        "tcp": people["red/c"].to(people["red/there"], "tcp"),
        "spied near": people["red/a"].towards(people["blue/spy"]),
        "spied far": people["red/b"].towards(people["blue/spy2"]),
        "spied in": people["blue/spy2"].towards(people["red/a"]),
    }


@pytest.fixture
def judged(people: dict[str, Member], streams: dict[str, Stream]) -> dict[str, Stream]:
    """With controls that pass through the same switches."""
    one, two, three = people["green/one"], people["green/two"], people["green/three"]
    return streams | {"control": one.to(two), "control out": one.to(three), "control in": three.to(two)}


@pytest.fixture
def judged_elsewhere(people: dict[str, Member], streams: dict[str, Stream]) -> dict[str, Stream]:
    """With controls that do not touch node1."""
    three, four = people["green/three"], people["green/four"]
    return streams | {"control": three.to(four), "control back": four.to(three)}


def killed(lab: LabUnderTest, node: Node) -> None:
    kill_agent(node)


def upgraded(lab: LabUnderTest, node: Node) -> None:
    lab("stop", "agent", node.name)
    lab("start", "agent", node.name)


def away(lab: LabUnderTest, node: Node) -> None:
    lab("stop", "agent", node.name)
    stay_away()
    lab("start", "agent", node.name)


def started_without_stores(lab: LabUnderTest, node: Node) -> None:
    with frozen(*stores(lab)):
        kill_agent(node)
        wait_ready(node)


def stores(lab: LabUnderTest) -> list[int]:
    """The processes of etcd and of the API server."""
    status = lab.status()
    return [*status["etcd"]["pids"], status["apiserver"]["pid"]]


@pytest.mark.parametrize(
    "act",
    [killed, upgraded, pytest.param(away, marks=pytest.mark.outage), started_without_stores],
    ids=lambda act: str(act.__name__),
)
def test_an_agent_that_restarts_costs_no_packet_and_rewrites_no_flow(
    lab: LabUnderTest, judged: dict[str, Stream], act: Act
) -> None:
    def measure() -> Traffic:
        node = node_now(lab, "node1")
        before = counters(node)
        with watched(node) as events, Traffic(judged) as traffic:
            act(lab, node)
            wait_ready(node)
        after = counters(node)
        assert events() == []
        assert after.keys() == before.keys()
        assert [flow for flow, (age, packets) in before.items() if after[flow] <= (age, packets)] == []
        assert traffic.crossed(FORBIDDEN) == []
        return traffic

    traffic = conclusive(measure)
    assert traffic.lossy(INSIDE) == []


def test_of_the_flows_of_another_release_only_those_that_differ_are_touched(
    lab: LabUnderTest, node: Node, people: dict[str, Member]
) -> None:
    stale = "cookie=0x6b38736f00000000,table=60,priority=350,ip,nw_dst=203.0.113.0/24,actions=drop"
    before = counters(node)
    lab("stop", "agent", node.name)
    node.execute("ovs-ofctl", "-OOpenFlow15", "add-flow", "br0", stale)
    with watched(node) as events:
        lab("start", "agent", node.name)
        wait_ready(node)
        assert [event for event in events() if "event=DELETED" not in event or "203.0.113.0/24" not in event] == []
        assert len(events()) == 1
    assert counters(node).keys() == before.keys()


def test_a_switch_that_was_killed_forwards_within_two_seconds_and_never_to_strangers(
    lab: LabUnderTest, people: dict[str, Member], judged_elsewhere: dict[str, Stream]
) -> None:
    """Were there a moment with an ordinary learning switch, a frame with the right address would get through in it."""
    spy, here = people["blue/spy"], people["red/a"]
    here.pod.sandbox.run("ip", "route", "add", f"{spy.address}/32", "dev", "eth0")
    here.pod.sandbox.run("ip", "neighbour", "replace", spy.address, "lladdr", spy.mac, "dev", "eth0")
    back = 0.0

    def measure() -> Traffic:
        nonlocal back
        node = node_now(lab, "node1")
        before = node.flows()
        with Traffic(judged_elsewhere) as traffic:
            back = kill_vswitchd(node)
            wait_ready(node)
            eventually(lambda: node.flows() == before, "the flows are back")
            eventually(lambda: here.pod.reaches(people["red/there"].address), "the pods reach each other")
            time.sleep(TCP_TRIES_AGAIN_S)
        assert traffic.crossed(FORBIDDEN) == []
        return traffic

    traffic = conclusive(measure)
    late = {name: round(traffic[name].last_lost - back, 3) for name in INSIDE}
    log.info("forwarding again so many seconds after the switch was back: %s", late)
    assert max(late.values()) < BACK_WITHIN_S
    assert traffic.lossy(["tcp"]) == []


def test_a_database_that_restarts_costs_no_flow_and_the_agent_finds_it_again(
    lab: LabUnderTest, judged_elsewhere: dict[str, Stream]
) -> None:
    """On the userspace datapath ovs-vswitchd forwards nothing while it has no database (`bridge_run` returns early)."""
    back = 0.0

    def measure() -> Traffic:
        nonlocal back
        node = node_now(lab, "node1")
        before = counters(node)
        with watched(node) as events, Traffic(judged_elsewhere) as traffic:
            os.kill(node.ovsdb_pid, signal.SIGKILL)
            eventually(lambda: node.status() == NOT_AVAILABLE, "the runtime is told")
            wait_ready(node)
            back = time.monotonic()
            assert events() == []
            with node.attached("red", "later"):
                pass
            time.sleep(TCP_TRIES_AGAIN_S)
        assert counters(node).keys() == before.keys()
        assert traffic.crossed(FORBIDDEN) == []
        return traffic

    traffic = conclusive(measure)
    assert traffic.lossy(["tcp"]) == []
    if lab.status()["datapath"] == "system":
        assert traffic.lossy(INSIDE) == []
    else:
        assert max(traffic[name].last_lost for name in INSIDE) < back + BACK_WITHIN_S


def test_agent_and_switch_come_back_from_what_the_node_remembers_while_the_stores_are_away(
    lab: LabUnderTest, people: dict[str, Member], judged_elsewhere: dict[str, Stream]
) -> None:
    def measure() -> Traffic:
        node = node_now(lab, "node1")
        before = node.flows()
        with frozen(*stores(lab)), Traffic(judged_elsewhere) as traffic:
            lab("stop", "agent", node.name)
            kill_vswitchd(node)
            assert node.status() != 0, "nobody is there to attach a pod"
            lab("start", "agent", node.name)
            wait_ready(node)
            assert node.flows() == before
            for one, other in (("red/a", "red/there"), ("red/there", "red/b"), ("red/a", "red/b")):
                eventually(lambda a=one, b=other: people[a].pod.reaches(people[b].address), f"{one} reaches {other}")
            with node.attached("red", "new") as (pod, _):
                assert pod.reaches(people["red/there"].address)
        assert node.flows() == before
        assert traffic.crossed(FORBIDDEN) == []
        return traffic

    conclusive(measure)


def test_a_node_that_reboots_frees_what_died_with_it_and_nothing_else(
    lab: LabUnderTest, people: dict[str, Member]
) -> None:
    """A reboot takes the devices, the kernel's rules and all processes; the database is a file. etcd is away, too."""
    node = node_now(lab, "node1")
    dead = {member.address for member in people.values() if member.node == node.name}
    elsewhere = node_now(lab, "node2").flows()
    bridges = node.execute("ovs-vsctl", "list-br")
    with frozen(*lab.status()["etcd"]["pids"]):
        for process in ("agent", "vswitchd", "ovsdb"):
            lab("stop", process, node.name)
        for link in node.links():
            node.execute("ip", "link", "del", link)
        node.execute("ip", "tuntap", "del", "tun0", "mode", "tap")
        node.execute("nft", "flush", "ruleset")
        Path(node.ovs_rundir, "ovs-vswitchd.pid").unlink(missing_ok=True)
        for process in ("ovsdb", "vswitchd", "agent"):
            lab("start", process, node.name)
        node = node_now(lab, "node1")
        wait_ready(node)
        assert node.ports() == {"vxlan0", "tun0"}
        assert not any(re.search(rf"{address}\b(?!/)", flow) for address in dead for flow in node.flows())
        assert node.execute("ovs-vsctl", "list-br") == bridges
        with cast(lab, {"node1": [f"red/new{number}" for number in range(ROOM)]}) as pods:
            assert dead < {pod.address for pod in pods.values()}, "the addresses of the dead are free"
            assert all(pod.pod.reaches(people["red/there"].address) for pod in pods.values())
            assert not any(pod.pod.reaches(people["blue/spy2"].address, "-W0.2") for pod in pods.values())
    assert node_now(lab, "node2").flows() == elsewhere
