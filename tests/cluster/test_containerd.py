"""Pods made and removed by a real container runtime, containerd, through its CRI; `portmap` comes behind our plugin."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest

from agent.links import host_link_name
from tests.support.cni import recorded_calls
from tests.support.containerd import PAGE, PORT, Containerd
from tests.support.cri import Cri, CriError
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node
from tests.support.traces import traces

LAB_OPTIONS = ("--nodes", "2")

HOST_PORT = 18080
AT_ONCE = 50
PORTMAP = {"type": "portmap", "capabilities": {"portMappings": True}}

pytestmark = pytest.mark.timeout(180)


@pytest.fixture(scope="module")
def nodes(lab: LabUnderTest) -> tuple[Node, Node]:
    for namespace in ("red", "blue"):
        lab.run("kubectl", "create", "namespace", namespace)
    first, second = lab.status()["nodes"]
    return Node(first), Node(second)


@pytest.fixture(scope="module")
def node(nodes: tuple[Node, Node]) -> Node:
    return nodes[0]


@pytest.fixture(scope="module")
def containerd(node: Node) -> Iterator[Containerd]:
    conflist = node.conflist()
    with Containerd(node, {**conflist, "plugins": [*conflist["plugins"], PORTMAP]}) as containerd:
        with containerd.cri() as cri, sandbox(containerd, cri, "warm-up", host_port=HOST_PORT):
            pass  # what portmap makes once and never removes
        yield containerd


@pytest.fixture
def cri(containerd: Containerd, node: Node) -> Iterator[Cri]:
    """A client; whatever a test does with it, nothing of its pods may stay."""
    before = traces(node)
    with containerd.cri() as cri:
        yield cri
        assert cri.sandboxes() == {}
    eventually(lambda: traces(node) == before, "nothing is left of the pods on the node")


@contextmanager
def sandbox(containerd: Containerd, cri: Cri, name: str, host_port: int | None = None) -> Iterator[str]:
    made = cri.run_sandbox("red", name, cgroup=containerd.cgroup, host_port=host_port, port=PORT)
    try:
        wait_serving(containerd.node, cri.address(made))
        yield made
    finally:
        cri.remove(made)


def answers(command: list[str], address: str, port: int = PORT) -> bool:
    """Whether the pod's web server is reached from where `command` runs something."""
    fetch = [*command, "curl", "--silent", "--max-time", "2", f"http://{address}:{port}/"]
    return subprocess.run(fetch, capture_output=True, timeout=20, check=False).stdout == PAGE


def wait_serving(node: Node, address: str) -> None:
    """Wait until the pod's web server has come up: the runtime waits for the process alone."""
    eventually(lambda: answers(node.command(), address), f"the pod at {address} serves")


def test_a_real_pod_is_reached_by_its_own_tenant_alone_from_its_node_and_another(
    containerd: Containerd, cri: Cri, nodes: tuple[Node, Node]
) -> None:
    with sandbox(containerd, cri, "web") as web:
        for node in nodes:
            with node.attached("red", "friend") as (friend, _), node.attached("blue", "stranger") as (stranger, _):
                assert answers(friend.sandbox.command(), cri.address(web))
                assert not answers(stranger.sandbox.command(), cri.address(web))
            assert answers(node.command(), cri.address(web))


def test_a_host_port_leads_to_the_pod_until_it_is_removed(
    lab: LabUnderTest, containerd: Containerd, cri: Cri, nodes: tuple[Node, Node]
) -> None:
    node, other = nodes
    outside = ["nsenter", f"--net={lab.outside().netns}", "--"]
    with sandbox(containerd, cri, "web", HOST_PORT):
        assert answers(outside, node.address, HOST_PORT)
        assert answers(other.command(), node.address, HOST_PORT)
        assert answers(node.command(), node.address, HOST_PORT)
        with node.attached("red", "friend") as (friend, _):
            assert answers(friend.sandbox.command(), node.address, HOST_PORT)
    assert not answers(outside, node.address, HOST_PORT)


def test_a_host_port_is_open_to_every_tenant_as_it_is_to_the_outside(
    containerd: Containerd, cri: Cri, nodes: tuple[Node, Node]
) -> None:
    with sandbox(containerd, cri, "web", HOST_PORT) as web:
        for node in nodes:
            with node.attached("blue", "stranger") as (stranger, _):
                assert answers(stranger.sandbox.command(), nodes[0].address, HOST_PORT)
                assert not answers(stranger.sandbox.command(), cri.address(web))


def test_limits_by_annotation_are_in_force(containerd: Containerd, cri: Cri, node: Node) -> None:
    limits = {"kubernetes.io/ingress-bandwidth": "10M"}
    web = cri.run_sandbox("red", "web", cgroup=containerd.cgroup, annotations=limits)
    try:
        qdiscs = json.loads(node.execute("tc", "-json", "qdisc", "show", "dev", host_link_name(web, "eth0")))
        assert [qdisc["options"]["rate"] * 8 for qdisc in qdiscs if qdisc["kind"] == "tbf"] == [10_000_000]
    finally:
        cri.remove(web)


def test_fifty_pods_at_once_are_all_reached_and_leave_nothing(containerd: Containerd, cri: Cri, node: Node) -> None:
    with ThreadPoolExecutor(AT_ONCE) as kubelet:
        made = list(kubelet.map(lambda n: cri.run_sandbox("red", f"w{n}", cgroup=containerd.cgroup), range(AT_ONCE)))
        try:
            addresses = [cri.address(one) for one in made]
            assert len(set(addresses)) == AT_ONCE
            for address in addresses:
                wait_serving(node, address)
        finally:
            list(kubelet.map(cri.remove, made))
    eventually(lambda: containerd.leftovers() == [], "the runtime has left nothing either")


def test_pods_go_on_while_containerd_is_dead_and_are_removed_by_the_next_one(
    containerd: Containerd, cri: Cri, node: Node
) -> None:
    stays, goes = (cri.run_sandbox("red", name, cgroup=containerd.cgroup) for name in ("stays", "goes"))
    address = cri.address(stays)
    wait_serving(node, address)
    containerd.kill()
    try:
        assert answers(node.command(), address)
    finally:
        containerd.start()
    assert cri.sandboxes() == {stays: True, goes: True}
    cri.remove(goes)
    assert answers(node.command(), address)
    cri.remove(stays)
    eventually(lambda: containerd.leftovers() == [], "the runtime has left nothing either")


def test_a_containerd_that_is_killed_while_it_makes_pods_leaves_nothing_that_the_next_one_does_not_remove(
    containerd: Containerd, cri: Cri, node: Node
) -> None:
    before = node.ports()

    def make(number: int) -> bool:
        try:
            cri.run_sandbox("red", f"w{number}", cgroup=containerd.cgroup)
        except CriError:
            return False
        return True

    with ThreadPoolExecutor(10) as kubelet:
        making = [kubelet.submit(make, number) for number in range(10)]
        eventually(lambda: len(node.ports() - before) >= 3, "pods are being made")
        containerd.kill()
        assert not all(one.result() for one in making), "it was killed too late to show anything"
    containerd.start()
    for one in cri.sandboxes():
        cri.remove(one)
    # What containerd had begun and not noted when it died, the next one does not know: that is not of our making.
    containerd.end_shims()


def test_what_containerd_says_to_our_plugin_has_the_form_of_the_recorded_calls(
    containerd: Containerd, cri: Cri
) -> None:
    with sandbox(containerd, cri, "web", HOST_PORT) as web:
        pass
    recorded = {form(call.environment, json.loads(call.stdin)) for call in recorded_calls()}
    seen = {form(call.environment, call.conf) for call in containerd.calls(web)}
    assert {command for command, *_ in seen} == {"ADD", "DEL"}
    assert seen <= recorded


def form(variables: Mapping[str, str], conf: Mapping[str, object]) -> tuple[object, ...]:
    arguments = sorted(word.partition("=")[0] for word in variables["CNI_ARGS"].split(";"))
    common = {"cniVersion", "name", "type", "capabilities", "prevResult"}
    return variables["CNI_COMMAND"], tuple(sorted(variables)), tuple(arguments), tuple(sorted(conf.keys() & common))
