"""What pods notice when the agent, the switch, its database or etcd goes away and comes back: as little as can be."""

from __future__ import annotations

import os
import re
import signal
import subprocess
from collections.abc import Iterator

import pytest

from agent.links import host_link_name
from tests.support.events import frozen, wait_ready
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Answer, Node, Pod

LAB_OPTIONS = ("--nodes", "2")

SWITCH_AWAY = 51


@pytest.fixture(scope="module")
def namespaces(lab: LabUnderTest) -> None:
    for namespace in ("red", "blue"):
        lab.run("kubectl", "create", "namespace", namespace)


@pytest.fixture
def nodes(lab: LabUnderTest, namespaces: None) -> tuple[Node, Node]:
    """Both nodes, with the process ids that they have now."""
    first, second = lab.status()["nodes"]
    return Node(first), Node(second)


@pytest.fixture
def node(nodes: tuple[Node, Node]) -> Node:
    return nodes[0]


@pytest.fixture
def near(node: Node) -> Iterator[tuple[Pod, Answer]]:
    with node.attached("red", "near") as attached:
        yield attached


@pytest.fixture
def far(nodes: tuple[Node, Node]) -> Iterator[tuple[Pod, Answer]]:
    with nodes[1].attached("red", "far") as attached:
        yield attached


def restart_agent(lab: LabUnderTest, node: Node) -> None:
    lab("stop", "agent", node.name)
    lab("start", "agent", node.name)
    wait_ready(node)


def start_add(node: Node, pod: Pod) -> subprocess.Popen[bytes]:
    """An ADD under way, whose port is in the switch's database already."""
    adding = node.start("ADD", pod)
    eventually(lambda: host_link_name(pod.container_id, "eth0") in node.ports(), "the port is in the database")
    return adding


def test_pods_come_and_go_as_before_after_the_agent_was_killed(node: Node, far: tuple[Pod, Answer]) -> None:
    with node.attached("red", "before") as (before, first):
        os.kill(node.agent_pid, signal.SIGKILL)
        eventually(lambda: node.status() != 0, "nobody answers the runtime")
        wait_ready(node)
        assert before.reaches(far[1].address)
        assert node.call("ADD", before).code != 0, "it is attached still"
        with node.attached("red", "after") as (after, second):
            assert first.address != second.address
            assert after.reaches(first.address)
        node.delete(before)
        assert not any(first.address in flow for flow in node.flows())


def test_a_pod_that_was_deleted_while_no_agent_ran_is_gone_when_one_does(lab: LabUnderTest, node: Node) -> None:
    before = (node.ports(), node.flows())
    with node.attached("red") as (pod, _):
        lab("stop", "agent", node.name)
        node.delete(pod)
        lab("start", "agent", node.name)
        wait_ready(node)
        eventually(lambda: (node.ports(), node.flows()) == before, "the spooled DEL was carried out")


def test_a_del_whose_agent_dies_after_the_flows_and_before_the_port_is_carried_out_by_the_next(node: Node) -> None:
    before = (node.ports(), node.flows())
    with node.attached("red") as (pod, answer):
        os.kill(node.ovsdb_pid, signal.SIGSTOP)
        try:
            deleting = node.start("DEL", pod)
            eventually(lambda: not any(answer.address in flow for flow in node.flows()), "the flows are gone")
            os.kill(node.agent_pid, signal.SIGKILL)
        finally:
            os.kill(node.ovsdb_pid, signal.SIGCONT)
        assert deleting.wait(20) == 0, "it is in the spool"
        wait_ready(node)
        eventually(lambda: (node.ports(), node.flows()) == before, "port and flows are gone")


def test_a_pod_works_although_another_port_wants_its_number(node: Node, far: tuple[Pod, Answer]) -> None:
    with node.pod("red") as pod:
        name = host_link_name(pod.container_id, "eth0")
        os.kill(node.vswitchd_pid, signal.SIGSTOP)
        try:
            adding = start_add(node, pod)
            number = node.execute("ovs-vsctl", "get", "interface", name, "ofport_request").strip()
            squatter = ("add-port", "br0", "squatter", "--", "set", "interface", "squatter", "type=internal")
            node.execute("ovs-vsctl", "--no-wait", *squatter, f"ofport_request={number}")
        finally:
            os.kill(node.vswitchd_pid, signal.SIGCONT)
        try:
            assert adding.wait(20) == 0
            assert pod.reaches(far[1].address)
        finally:
            node.execute("ovs-vsctl", "--no-wait", "del-port", "squatter")


def test_a_starting_agent_clears_away_what_a_dead_one_left(lab: LabUnderTest, node: Node) -> None:
    before = node.ports()
    with node.attached("red") as (pod, _):
        lab("stop", "agent", node.name)
        node.execute("ip", "link", "del", host_link_name(pod.container_id, "eth0"))
        node.execute("ip", "link", "add", "k8o00000000000", "type", "veth", "peer", "name", "agt-orphan")
        lab("start", "agent", node.name)
        wait_ready(node)
        eventually(lambda: (node.ports(), node.links()) == (before, set()), "no port without device, nor the reverse")


def test_a_killed_switch_gets_everything_back(node: Node, near: tuple[Pod, Answer], far: tuple[Pod, Answer]) -> None:
    sender, address = near[0], far[1].address
    before = (node.flows(), node.execute("ip", "route"), gateway(node))
    os.kill(node.vswitchd_pid, signal.SIGKILL)
    eventually(lambda: node.status() == SWITCH_AWAY, "the runtime is told that there is no switch")
    wait_ready(node)
    eventually(lambda: sender.reaches(address), "the pods reach each other again")
    assert (node.flows(), node.execute("ip", "route"), gateway(node)) == before
    assert "rate=1000" in node.execute("ovs-ofctl", "-OOpenFlow15", "dump-meters", "br0")


def gateway(node: Node) -> str:
    """All that the kernel says of `tun0`, but for its counters and its state, which a tap without carrier has not."""
    shown = node.execute("ip", "-brief", "address", "show", "tun0") + node.execute("ip", "link", "show", "tun0")
    return re.sub(r"(UP|UNKNOWN) +|state \w+", "", shown)


def test_a_restarted_switch_knows_its_peers_before_a_pod_needs_them(
    nodes: tuple[Node, Node], near: tuple[Pod, Answer], far: tuple[Pod, Answer]
) -> None:
    node, peer = nodes
    os.kill(node.vswitchd_pid, signal.SIGKILL)
    eventually(lambda: node.status() == SWITCH_AWAY, "the switch is gone")
    wait_ready(node)
    eventually(lambda: peer.address in node.execute("ovs-appctl", "tnl/neigh/show"), "the peer's MAC is known")
    assert near[0].reaches(far[1].address, "-W0.2")


def test_an_add_outlives_its_switch(node: Node, far: tuple[Pod, Answer]) -> None:
    with node.pod("red") as pod:
        os.kill(node.vswitchd_pid, signal.SIGSTOP)
        adding = start_add(node, pod)
        os.kill(node.vswitchd_pid, signal.SIGKILL)
        assert adding.wait(20) == 0
        eventually(lambda: pod.reaches(far[1].address), "the pod reaches the other node")


def test_an_add_outlives_the_switchs_database(node: Node, far: tuple[Pod, Answer]) -> None:
    with node.pod("red") as pod:
        os.kill(node.ovsdb_pid, signal.SIGSTOP)
        adding = node.start("ADD", pod)
        eventually(lambda: pod.has_interface, "the agent is about to add the port")
        os.kill(node.ovsdb_pid, signal.SIGKILL)
        assert adding.wait(20) == 0
        assert pod.reaches(far[1].address)


def test_a_del_needs_no_switch(node: Node) -> None:
    with node.attached("red") as (pod, answer):
        os.kill(node.vswitchd_pid, signal.SIGKILL)
        node.delete(pod)
        wait_ready(node)
        assert host_link_name(pod.container_id, "eth0") not in node.ports()
        assert not any(answer.address in flow for flow in node.flows())


def test_an_add_whose_runtime_was_killed_leaves_nothing_behind_its_del(
    lab: LabUnderTest, node: Node, far: tuple[Pod, Answer]
) -> None:
    """The ADD goes on. The runtime, started again, knows of no result: it sends a DEL, and an ADD for a new sandbox."""
    before = (node.ports(), node.links(), node.flows())
    with node.pod("red") as pod:
        with frozen(node.vswitchd_pid):
            adding = start_add(node, pod)
            adding.kill()
            adding.wait()
            deleting = node.start("DEL", pod)
        assert deleting.wait(20) == 0
        with node.attached("red") as (again, _):
            assert again.reaches(far[1].address)
        eventually(lambda: (node.ports(), node.links(), node.flows()) == before, "nothing is left")


def test_an_agent_that_is_told_to_stop_undoes_the_add_that_it_cannot_finish(lab: LabUnderTest, node: Node) -> None:
    with node.pod("red") as pod:
        name = host_link_name(pod.container_id, "eth0")
        with frozen(node.vswitchd_pid):
            adding = start_add(node, pod)
            os.kill(node.agent_pid, signal.SIGTERM)
            eventually(lambda: name not in node.ports(), "the port is gone")
        assert adding.wait(20) != 0
        eventually(lambda: lab.status()["nodes"][0]["agent_pid"] not in (node.agent_pid, None), "another agent runs")
        wait_ready(node)
        eventually(lambda: name not in node.links(), "the link is gone")


def test_an_agent_starts_and_serves_without_etcd(
    lab: LabUnderTest, node: Node, near: tuple[Pod, Answer], far: tuple[Pod, Answer]
) -> None:
    before = node.flows()
    (etcd,) = lab.status()["etcd"]["pids"]
    with frozen(etcd):
        os.kill(node.agent_pid, signal.SIGKILL)
        eventually(lambda: node.status() != 0, "nobody answers the runtime")
        wait_ready(node)
        assert node.flows() == before
        assert near[0].reaches(far[1].address)
        with node.attached("red", "new") as (pod, _):
            assert pod.reaches(far[1].address)


def test_somebody_elses_hand_on_the_bridge_and_on_the_gateway_is_undone(
    node: Node, near: tuple[Pod, Answer], far: tuple[Pod, Answer]
) -> None:
    before = (node.flows(), node.ports(), node.execute("ip", "route"), gateway(node))
    node.execute("ip", "address", "flush", "dev", "tun0")
    node.execute("ip", "link", "set", "tun0", "mtu", "1500")
    node.execute("ovs-vsctl", "--no-wait", "del-port", "br0", "vxlan0")
    eventually(
        lambda: (node.flows(), node.ports(), node.execute("ip", "route"), gateway(node)) == before,
        "bridge and gateway are as they were",
    )
    eventually(lambda: near[0].reaches(far[1].address), "the pods reach each other again")


def test_a_host_that_forwards_nothing_forwards_pods(lab: LabUnderTest, node: Node, near: tuple[Pod, Answer]) -> None:
    """As Docker leaves a host: iptables-nft's FORWARD chain with the policy DROP."""
    outside = lab.outside().address
    assert near[0].reaches(outside)
    node.execute(
        "nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
    )
    try:
        assert not near[0].reaches(outside, "-W0.3"), "the chain drops what nobody accepts"
        restart_agent(lab, node)
        assert near[0].reaches(outside)
        once = node.execute("nft", "list", "chain", "ip", "filter", "FORWARD")
        restart_agent(lab, node)
        again = node.execute("nft", "list", "chain", "ip", "filter", "FORWARD")
        assert re.sub(r"packets \d+ bytes \d+", "", again) == re.sub(r"packets \d+ bytes \d+", "", once)
    finally:
        node.execute("nft", "delete", "table", "ip", "filter")
