"""ADD and DEL through the installed executable, with what a runtime sends, and some things that it should not send."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from agent.links import host_link_name
from tests.support.cni import Recorded, recorded_calls
from tests.support.lab import LabUnderTest, eventually
from tests.support.namespaces import Sandbox
from tests.support.runtime import Node, Pod

LAB_OPTIONS = ("--nodes", "2")

ALREADY_ATTACHED, INTERFACE_EXISTS, UNKNOWN_CONTAINER, TRY_AGAIN_LATER = 100, 102, 3, 11


@pytest.fixture(scope="module")
def nodes(lab: LabUnderTest) -> tuple[Node, Node]:
    for namespace in ("red", "blue", "tenant1", "tenant2"):
        lab.run("kubectl", "create", "namespace", namespace)
    first, second = lab.status()["nodes"]
    return Node(first), Node(second)


@pytest.fixture
def node(nodes: tuple[Node, Node]) -> Iterator[Node]:
    """The first node; whatever a test does to it, nothing may stay."""
    node = nodes[0]
    before = (node.ports(), node.links(), node.flows())
    yield node
    eventually(lambda: (node.ports(), node.links(), node.flows()) == before, "nothing is left of the test's pods")


@pytest.fixture(scope="module")
def far(nodes: tuple[Node, Node]) -> Iterator[str]:
    """The address of a pod of `red` on the second node."""
    with nodes[1].attached("red", "far") as (_, answer):
        yield answer.address


def attached(node: Node, pod: Pod) -> bool:
    return host_link_name(pod.container_id, "eth0") in node.ports()


def test_an_attached_pod_has_what_the_answer_says(node: Node, far: str) -> None:
    with node.attached("red") as (pod, answer):
        (device,) = json.loads(pod.sandbox.run("ip", "-json", "address", "show", "eth0"))
        _, inside = answer.said["interfaces"]
        assert (inside["name"], inside["mac"], inside["sandbox"]) == ("eth0", device["address"], pod.sandbox.path)
        held = [f"{entry['local']}/{entry['prefixlen']}" for entry in device["addr_info"] if entry["family"] == "inet"]
        assert held == [answer.said["ips"][0]["address"]]
        assert pod.reaches(answer.said["ips"][0]["gateway"])
        assert pod.reaches(far)


def test_every_one_of_110_pods_can_send_to_another_node_when_its_add_is_answered(node: Node, far: str) -> None:
    with ExitStack() as pods:
        settled, _ = pods.enter_context(node.attached("red", "settled"))

        def sends_at_once(name: str) -> bool:
            """Whether a new pod's first ping comes back in time. If a settled pod's does not either, look again."""
            for attempt in range(3):
                pod, _ = pods.enter_context(node.attached("red", f"{name}-{attempt}"))
                control = settled.start_ping(far, "-W0.2")
                reached = pod.reaches(far, "-W0.2")
                if control.wait() == 0 or reached:
                    return reached
            raise AssertionError("the machine is too slow for this test: settled pods are not answered in time")

        assert settled.reaches(far)
        assert [sends_at_once(f"web{i}") for i in range(110)].count(True) == 110


def test_a_burst_of_pods_can_send_to_another_node_when_each_add_is_answered(node: Node, far: str) -> None:
    """A switch that is kept waiting for a processor loses packets; a settled pod's pings tell of it."""
    with ExitStack() as sandboxes, ThreadPoolExecutor(8) as burst:
        settled, _ = sandboxes.enter_context(node.attached("red", "settled"))

        def attach(pod: Pod) -> bool:
            return node.call("ADD", pod).status == 0 and pod.reaches(far)

        for attempt in range(3):
            pods = [sandboxes.enter_context(node.pod("red", f"web{i}-{attempt}")) for i in range(40)]
            with settled.pinging(far) as control:
                attached = list(burst.map(attach, pods)).count(True)
            if attached == 40:
                return
            assert control.lost, f"{40 - attached} new pods could not send, while a settled pod's pings all came back"
        pytest.fail("the machine is too slow for this test: settled pods are not always answered")


def test_a_pod_has_the_mtu_of_the_underlay_less_the_tunnels_header(node: Node, far: str) -> None:
    with node.attached("red") as (pod, _):
        assert "mtu 1450 " in pod.sandbox.run("ip", "link", "show", "eth0")
        headers = 28  # IPv4 and ICMP
        assert pod.reaches(far, "-Mdo", f"-s{1450 - headers}")
        assert not pod.reaches(far, "-Mdo", f"-s{1451 - headers}")


def test_a_second_add_is_an_error_and_the_first_attachment_stays(node: Node, far: str) -> None:
    with node.attached("red") as (pod, _):
        assert node.call("ADD", pod).code == ALREADY_ATTACHED
        assert attached(node, pod)
        assert pod.reaches(far)


def test_an_add_without_a_pod_uid_succeeds(node: Node, far: str) -> None:
    with node.pod("red") as pod:
        arguments = f"IgnoreUnknown=1;K8S_POD_NAMESPACE={pod.namespace};K8S_POD_NAME={pod.name}"
        assert node.call("ADD", pod, CNI_ARGS=arguments).status == 0
        assert pod.reaches(far)


def test_an_add_of_a_pod_that_the_api_does_not_know_succeeds(node: Node, lab: LabUnderTest, far: str) -> None:
    with node.attached("red", "static-pod-of-this-node") as (pod, _):
        assert "static-pod-of-this-node" not in lab.run("kubectl", "get", "pods", "--all-namespaces")
        assert pod.reaches(far)


def test_a_new_sandbox_of_a_pod_leaves_the_old_one_until_its_own_del(node: Node, far: str) -> None:
    with node.attached("red", "web-0") as (old, _), node.attached("red", "web-0") as (new, _):
        assert old.reaches(far)
        assert new.reaches(far)
        node.delete(old)
        node.delete(old)  # late, and again
        assert not attached(node, old)
        assert new.reaches(far)


def test_a_pod_that_was_deleted_is_gone_when_del_is_answered(node: Node) -> None:
    before = node.flows()
    with node.attached("red") as (pod, answer):
        assert any(answer.address in flow for flow in node.flows())
        node.delete(pod)
        assert not attached(node, pod)
        assert node.flows() == before


def test_a_sandbox_can_be_attached_again_right_after_its_del(node: Node, far: str) -> None:
    with node.attached("red") as (pod, _):
        node.delete(pod)
        assert node.call("ADD", pod).status == 0
        assert pod.reaches(far)


def test_a_del_needs_no_network_namespace(node: Node) -> None:
    with node.attached("red") as (pod, _):
        assert node.call("DEL", pod, CNI_NETNS="").status == 0
        assert not attached(node, pod)


def test_a_del_succeeds_after_the_network_namespace_is_gone(node: Node) -> None:
    with Sandbox() as sandbox:
        pod = Pod("red", "web", sandbox)
        assert node.call("ADD", pod).status == 0
    eventually(lambda: host_link_name(pod.container_id, "eth0") not in node.links(), "the kernel removed the link")
    assert node.call("DEL", pod, CNI_NETNS="").status == 0


def test_an_add_without_a_network_namespace_fails_and_leaves_nothing(node: Node) -> None:
    with node.pod("red") as pod:
        assert node.call("ADD", pod, CNI_NETNS="/var/run/netns/agt-none").code == UNKNOWN_CONTAINER


def test_an_add_to_a_sandbox_that_has_the_interface_fails_and_leaves_it(node: Node, far: str) -> None:
    with node.attached("red") as (pod, _):
        intruder = Pod("blue", "intruder", pod.sandbox)
        assert node.call("ADD", intruder).code == INTERFACE_EXISTS
        assert pod.reaches(far)


def test_an_add_that_fails_after_its_link_was_made_leaves_nothing(node: Node) -> None:
    with node.pod("red") as pod:
        taken = host_link_name(pod.container_id, "eth0")
        # The database wants names of interfaces to be unique, so this is where the agent cannot go on.
        node.execute("ovs-vsctl", "--no-wait", "add-port", "br-phy", taken)
        try:
            assert node.call("ADD", pod).code == TRY_AGAIN_LATER
            eventually(lambda: not pod.has_interface, "the link is gone")
        finally:
            node.execute("ovs-vsctl", "--no-wait", "del-port", "br-phy", taken)


def test_adds_that_fail_use_up_no_addresses(node: Node) -> None:
    addresses_of_a_node = 1021
    with node.pod("red") as pod, ThreadPoolExecutor(8) as many:

        def fail(number: int) -> int:
            failing = Pod("red", "web", pod.sandbox, f"{number:064x}")
            return node.call("ADD", failing, CNI_NETNS="/var/run/netns/agt-none").code

        assert set(many.map(fail, range(addresses_of_a_node + 1))) == {UNKNOWN_CONTAINER}
        assert node.call("ADD", pod).status == 0


def test_what_containerd_really_sends_is_understood(node: Node) -> None:
    """Two pods with limits and one with a port mapping; DELs of pods that are long gone, without a namespace, twice."""
    with ExitStack() as stack:
        sandboxes: dict[str, Sandbox] = {}
        for call in recorded_calls():
            container = call.environment["CNI_CONTAINERID"]
            if call.environment["CNI_COMMAND"] == "ADD":
                sandboxes[container] = stack.enter_context(Sandbox())
            assert replay(node, call, sandboxes.get(container)) == 0, call.name


def replay(node: Node, call: Recorded, sandbox: Sandbox | None) -> int:
    """The exit status of a recorded call, made of our plugin."""
    recorded = json.loads(call.stdin)
    conf = {key: value for key, value in recorded.items() if key in ("cniVersion", "runtimeConfig", "prevResult")}
    variables = dict(call.environment)
    if variables["CNI_NETNS"]:
        assert sandbox is not None, f"{call.name} names a namespace, so an ADD came before"
        variables["CNI_NETNS"] = sandbox.path
    return node.run(variables, conf).status


def test_the_recorded_calls_have_all_the_oddities() -> None:
    calls = recorded_calls()
    deletions = [call for call in calls if call.environment["CNI_COMMAND"] == "DEL"]
    orders = {tuple(word.split("=")[0] for word in call.environment["CNI_ARGS"].split(";")) for call in calls}
    assert any(not call.environment["CNI_NETNS"] for call in deletions)
    assert len({call.environment["CNI_CONTAINERID"] for call in deletions}) < len(deletions)
    assert len(orders) > 1
    assert any("bandwidth" in json.loads(call.stdin).get("runtimeConfig", {}) for call in calls)


def test_namespaces_are_apart_on_one_node_and_across_nodes(node: Node, far: str) -> None:
    with node.attached("blue") as (blue, _), node.attached("red") as (_, red):
        assert not blue.reaches(far, "-W0.3")
        assert not blue.reaches(red.address, "-W0.3")
