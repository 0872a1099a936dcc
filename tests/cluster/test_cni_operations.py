"""CHECK, GC and STATUS through the installed executable, against what is really there."""

from __future__ import annotations

import copy
import json
import subprocess
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from typing import Any

import pytest

from agent.links import host_link_name
from tests.support.cni import environment
from tests.support.lab import LabUnderTest, eventually
from tests.support.processes import hanging
from tests.support.runtime import Answer, Node, Pod

LAB_OPTIONS = ("--nodes", "1")

NOT_AVAILABLE, NOT_AVAILABLE_LIMITED, CHECK_FAILED = 50, 51, 103
PORT_MAPPING = {"hostPort": 18081, "containerPort": 80, "protocol": "tcp"}


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Node:
    lab.run("kubectl", "create", "namespace", "red")
    return Node(lab.status()["nodes"][0])


@pytest.fixture
def attached(node: Node) -> Iterator[tuple[Pod, Answer]]:
    with node.attached("red") as pod_and_answer:
        yield pod_and_answer


def test_check_succeeds_right_after_an_add_for_every_pod_of_a_burst(node: Node) -> None:
    with ExitStack() as pods:
        for number in range(10):
            pod, answer = pods.enter_context(node.attached("red", f"web{number}"))
            assert node.check(pod, answer.said).status == 0


def test_check_of_what_was_never_attached_fails(node: Node, attached: tuple[Pod, Answer]) -> None:
    with node.pod("red", "other") as pod:
        assert node.check(pod, attached[1].said).code == CHECK_FAILED


def test_check_after_a_del_fails(node: Node, attached: tuple[Pod, Answer]) -> None:
    pod, answer = attached
    node.delete(pod)
    assert node.check(pod, answer.said).code == CHECK_FAILED


Damage = Callable[[Node, Pod, Answer], object]

INSIDE: dict[str, tuple[Damage, str]] = {
    "interface gone": (lambda _, pod, __: pod.sandbox.run("ip", "link", "set", "eth0", "name", "eth7"), "no interface"),
    "interface down": (lambda _, pod, __: pod.sandbox.run("ip", "link", "set", "eth0", "down"), "eth0 is down"),
    "other MAC": (
        lambda _, pod, __: pod.sandbox.run("ip", "link", "set", "eth0", "address", "02:00:00:00:00:01"),
        "02:00:00:00:00:01",
    ),
    "larger MTU": (
        lambda node, pod, _: (
            node.execute("ip", "link", "set", host_link_name(pod.container_id, "eth0"), "mtu", "1500"),
            pod.sandbox.run("ip", "link", "set", "eth0", "mtu", "1500"),
        ),
        "MTU of 1500",
    ),
    "address gone": (lambda _, pod, __: pod.sandbox.run("ip", "address", "flush", "dev", "eth0"), "lost its address"),
    "default route gone": (lambda _, pod, __: pod.sandbox.run("ip", "route", "del", "default"), "0.0.0.0/0"),
    "default route elsewhere": (
        lambda _, pod, __: pod.sandbox.run("ip", "route", "replace", "blackhole", "default"),
        "0.0.0.0/0",
    ),
    "node's end down": (
        lambda node, pod, _: node.execute("ip", "link", "set", host_link_name(pod.container_id, "eth0"), "down"),
        "is down",
    ),
}


@pytest.mark.parametrize("name", INSIDE)
def test_check_tells_what_is_wrong_with_the_link(node: Node, name: str) -> None:
    damage, says = INSIDE[name]
    with node.pod("red") as pod:
        answer = node.call("ADD", pod, {"cniVersion": "1.1.0"})
        damage(node, pod, answer)
        found = node.check(pod, answer.said)
        assert found.code == CHECK_FAILED
        assert says in found.said["msg"] + found.said.get("details", "")


def test_check_fails_when_the_network_namespace_is_gone(node: Node, attached: tuple[Pod, Answer]) -> None:
    pod, answer = attached
    assert node.check(pod, answer.said, CNI_NETNS="/run/netns/cni-none").code == CHECK_FAILED


def test_check_allows_a_later_plugin_to_have_changed_the_routes(node: Node, attached: tuple[Pod, Answer]) -> None:
    pod, answer = attached
    pod.sandbox.run("ip", "route", "del", "default")
    pod.sandbox.run("ip", "route", "add", "192.0.2.0/24", "via", answer.said["ips"][0]["gateway"])
    said: dict[str, Any] = copy.deepcopy(dict(answer.said))
    said["routes"] = [*(one for one in said["routes"] if one["dst"] != "0.0.0.0/0"), {"dst": "192.0.2.0/24"}]
    assert node.check(pod, said).status == 0


@pytest.mark.parametrize(
    "chained",
    [
        {"type": "tuning", "mtu": 1300, "sysctl": {"net.ipv4.tcp_keepalive_time": "60"}},
        {
            "type": "portmap",
            "runtimeConfig": {"portMappings": [{"hostPort": 1, "containerPort": 2, "protocol": "tcp"}]},
        },
    ],
    ids=lambda conf: conf["type"],
)
def test_a_reference_plugin_behind_ours_takes_its_result_and_check_still_succeeds(
    node: Node, attached: tuple[Pod, Answer], chained: dict[str, object]
) -> None:
    pod, answer = attached
    result = chain(node, "ADD", pod, chained, answer.said)
    assert node.check(pod, result).status == 0
    chain(node, "DEL", pod, chained, result)


def chain(
    node: Node, command: str, pod: Pod, plugin: Mapping[str, object], previous: Mapping[str, object]
) -> dict[str, Any]:
    """What a reference plugin answers that comes behind ours in the list."""
    variables = environment(command, pod.container_id, CNI_NETNS=pod.sandbox.path, CNI_PATH="/usr/lib/cni")
    conf = {"cniVersion": "1.0.0", "name": "k8s-ovs", "prevResult": previous, **plugin}
    set_variables = [f"{name}={value}" for name, value in variables.items()]
    done = subprocess.run(
        node.command("env", *set_variables, f"/usr/lib/cni/{plugin['type']}"),
        input=json.dumps(conf).encode(),
        capture_output=True,
        timeout=20,
        check=False,
    )
    assert done.returncode == 0, done.stdout
    result: dict[str, Any] = json.loads(done.stdout or b"{}")
    return result


def test_check_consults_the_previous_result_for_address_and_interface(node: Node, attached: tuple[Pod, Answer]) -> None:
    pod, answer = attached
    assert node.check(pod, {}).code == CHECK_FAILED
    assert node.check(pod, {**answer.said, "ips": [{"address": "172.11.0.99/22"}]}).code == CHECK_FAILED
    assert node.check(pod, {**answer.said, "interfaces": answer.said["interfaces"][:1]}).code == CHECK_FAILED


def test_flows_that_somebody_removed_are_back_when_check_succeeds(node: Node, attached: tuple[Pod, Answer]) -> None:
    pod, answer = attached
    before = node.flows()
    node.execute("ovs-ofctl", "-OOpenFlow15", "del-flows", "br0", f"ip,nw_src={answer.address}")
    assert node.check(pod, answer.said).status == 0
    assert node.flows() == before


def test_check_fails_for_a_port_that_somebody_removed(node: Node, attached: tuple[Pod, Answer]) -> None:
    pod, answer = attached
    node.execute("ovs-vsctl", "del-port", "br0", host_link_name(pod.container_id, "eth0"))
    assert node.check(pod, answer.said).code == CHECK_FAILED


def test_check_and_status_tell_of_a_switch_that_is_away_and_converge_when_it_is_back(
    lab: LabUnderTest, node: Node, attached: tuple[Pod, Answer]
) -> None:
    pod, answer = attached
    lab("stop", "vswitchd", node.name)
    try:
        eventually(lambda: node.status() == NOT_AVAILABLE_LIMITED, "the agent notices")
        found = node.check(pod, answer.said)
        assert found.code == CHECK_FAILED
        assert "ovs-vswitchd" in found.said["msg"]
    finally:
        lab("start", "vswitchd", node.name)
    assert node.check(pod, answer.said).status == 0
    eventually(lambda: node.status() == 0, "an ADD would be served")


def test_status_tells_of_a_database_that_is_away_while_pods_go_on(lab: LabUnderTest, node: Node) -> None:
    lab("stop", "ovsdb", node.name)
    try:
        eventually(lambda: node.status() == NOT_AVAILABLE, "the agent notices")
    finally:
        lab("start", "ovsdb", node.name)
    eventually(lambda: node.status() == 0, "an ADD would be served")


def test_gc_detaches_all_but_the_valid_attachments(node: Node) -> None:
    with ExitStack() as pods:
        keep, *stale = [pods.enter_context(node.attached("red", f"web{number}"))[0] for number in range(4)]
        assert node.collect([keep]).status == 0
        left = {host_link_name(pod.container_id, "eth0") for pod in (keep, *stale)} & node.ports()
        assert left == {host_link_name(keep.container_id, "eth0")}
        assert keep.reaches(node.address)
        eventually(lambda: not any(pod.has_interface for pod in stale), "the links are gone")


def test_gc_collects_an_interface_of_a_container_whose_other_interface_is_valid(node: Node) -> None:
    with node.attached("red") as (pod, _):
        assert node.call("ADD", pod, CNI_IFNAME="net1").status == 0
        assert node.collect([pod]).status == 0
        assert host_link_name(pod.container_id, "net1") not in node.ports()
        assert pod.reaches(node.address)


def test_gc_of_one_network_leaves_the_attachments_of_another(node: Node) -> None:
    with node.pod("red") as ours, node.pod("red") as other:
        assert node.call("ADD", ours).status == 0
        assert node.call("ADD", other, {"name": "second"}).status == 0
        try:
            assert node.collect([], name="second").status == 0
            assert ours.reaches(node.address)
            assert host_link_name(other.container_id, "eth0") not in node.ports()
        finally:
            node.delete(other)


def test_gc_leaves_an_add_that_is_under_way_alone(lab: LabUnderTest, node: Node) -> None:
    with node.pod("red") as pod, ThreadPoolExecutor() as calls:
        with hanging(lab.status()["nodes"][0]["vswitchd_pid"]):  # the ADD cannot end, but has its port in the database
            adding = calls.submit(node.call, "ADD", pod)
            eventually(lambda: host_link_name(pod.container_id, "eth0") in node.ports(), "its port is there")
            assert node.collect([]).status == 0
        assert adding.result().status == 0
        assert pod.reaches(node.address)


def routes(pod: Pod) -> set[str]:
    """Where the main table of the pod leads, and by which interface."""
    return {f"{one['dst']} {one['dev']}" for one in json.loads(pod.sandbox.run("ip", "-json", "route"))}


def test_two_interfaces_of_a_container_can_both_be_reached_and_each_can_go(node: Node) -> None:
    with node.attached("red") as (pod, first), node.attached("red", "peer") as (peer, _):
        before = routes(pod)
        second = node.call("ADD", pod, CNI_IFNAME="net1")
        assert second.status == 0
        assert routes(pod) == before
        assert "routes" not in second.said
        assert peer.reaches(first.address)
        assert peer.reaches(second.address)
        assert pod.reaches(node.address, "-I", second.address)
        assert node.check(pod, first.said).status == 0
        assert node.check(pod, second.said, CNI_IFNAME="net1").status == 0
        assert node.call("DEL", pod, CNI_IFNAME="net1").status == 0
        assert routes(pod) == before
        assert peer.reaches(first.address)


def test_an_interface_beside_that_of_another_plugin_leaves_its_default_route(node: Node) -> None:
    with node.pod("red") as pod, node.attached("red", "peer") as (peer, _):
        pod.sandbox.connect(f"x{pod.container_id[:8]}", "eth0", "198.51.100.2/24")
        pod.sandbox.run("ip", "route", "add", "default", "via", "198.51.100.1")
        answer = node.call("ADD", pod, CNI_IFNAME="net1")
        assert [route["dst"] for route in answer.said["routes"]] == ["10.96.0.0/12", "172.11.0.0/16"]
        assert "default eth0" in routes(pod)
        assert peer.reaches(answer.address)
        assert pod.reaches(node.address, "-I", answer.address)
        assert node.call("DEL", pod, CNI_IFNAME="net1").status == 0


def test_an_interface_may_have_any_name_that_the_kernel_takes(node: Node) -> None:
    for name in ("a", "eth0.100", "net-1_x", "x" * 15, "été0"):
        with node.pod("red") as pod:
            answer = node.call("ADD", pod, CNI_IFNAME=name)
            assert answer.status == 0, name
            assert name in pod.sandbox.run("ip", "link")
            assert node.check(pod, answer.said, CNI_IFNAME=name).status == 0
            assert node.call("DEL", pod, CNI_IFNAME=name).status == 0


def test_the_result_of_the_plugin_before_is_passed_on_with_ours_behind_it(node: Node) -> None:
    before = {
        "cniVersion": "1.0.0",
        "interfaces": [{"name": "eth9", "sandbox": "/run/netns/x"}],
        "ips": [{"address": "198.51.100.2/24", "interface": 0}],
        "routes": [{"dst": "198.51.100.0/24"}],
        "dns": {"nameservers": ["198.51.100.53"]},
    }
    with node.pod("red") as pod:
        said = node.call("ADD", pod, {"prevResult": before}).said
        assert (said["interfaces"][0], said["ips"][0], said["routes"][0]) == tuple(
            before[field][0]
            for field in ("interfaces", "ips", "routes")  # type: ignore[index]
        )
        assert said["dns"] == before["dns"]
        ours = said["ips"][1]
        assert said["interfaces"][ours["interface"]]["name"] == "eth0"
        assert node.check(pod, said).status == 0
