"""Bandwidth limits on pods of a lab: judged by `tc` and by what iperf3 gets through."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import pytest

from tests.support.iperf import goodput, inside, streaming
from tests.support.lab import LabUnderTest, eventually, k8sovs
from tests.support.runtime import Node

LAB_OPTIONS = ("--nodes", "1")
INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"
CHECK_FAILED = 103
FOR_A_WHILE = ("--time", "5")
NEIGHBOUR_MBIT = 20
"""What the neighbour asks for: less than any machine's switch forwards, so that only the limited pod can take of it."""
METRICS = "http://127.0.0.1:9441/metrics"
REPAIRED_WITHIN_S = 6.0
"""A limit inside a pod's namespace is looked at every 5 s; all others are repaired at once."""


class ShapingNode:
    """The lab's one node, and what `tc` says there."""

    def __init__(self, lab: LabUnderTest) -> None:
        self.lab = lab
        status = lab.status()
        self.on_kernel = status["datapath"] == "system"
        self.runtime = Node(status["nodes"][0])
        self.run = self.runtime.execute

    @contextmanager
    def pod(self, name: str, **annotations: str) -> Iterator[dict[str, Any]]:
        """A pod of namespace red; ingress= and egress= are its annotations."""
        names = {"ingress": INGRESS, "egress": EGRESS}
        options = [part for key, value in annotations.items() for part in ("--annotation", f"{names[key]}={value}")]
        added = self.lab.add_pod(f"red/{name}", "node1", *options)
        try:
            yield added
        finally:
            self.lab("pod", "del", f"red/{name}")

    def annotate(self, pod: str, *changes: str) -> None:
        self.lab.run("kubectl", "-n", "red", "annotate", "--overwrite", "pod", pod, *changes)

    def host_link(self, pod: Mapping[str, Any]) -> str:
        columns = self.run("ovs-vsctl", "--format=json", "--columns=name,external_ids", "list", "Interface")
        return next(
            name
            for name, (_, ids) in json.loads(columns)["data"]
            if dict(ids).get("k8sovs-container-id") == pod["container_id"]
        )

    def limits(self, pod: Mapping[str, Any]) -> tuple[str | None, str | None]:
        """The rates into the pod and out of it, as tc prints them."""
        link = self.host_link(pod)
        return rate_of(self.run("tc", "qdisc"), link), self._egress(pod, link)

    def _egress(self, pod: Mapping[str, Any], link: str) -> str | None:
        if not self.on_kernel:
            return rate_of(inside(pod, "tc", "qdisc"), "eth0")
        ifb = link.replace("k8o", "k8i")
        redirected = self.run("tc", "filter", "show", "dev", link, "parent", "ffff:")
        if f"Egress Redirect to device {ifb}" not in redirected:
            return None
        # Of all devices: by now this one may be gone.
        return rate_of(self.run("tc", "qdisc"), ifb)

    def remains(self) -> list[str]:
        """Everything of ours that limits something, on the node."""
        words = self.run("tc", "qdisc").splitlines() + self.run("ip", "-brief", "link").splitlines()
        return [line for line in words if "tbf" in line or "ingress" in line or line.startswith("k8i")]

    def flows(self) -> dict[str, float]:
        """How many seconds each flow of the switch has been there."""
        dump = self.run("ovs-ofctl", "-OOpenFlow15", "--no-names", "dump-flows", "br0")
        return {
            re.sub(r" (duration|n_packets|n_bytes|idle_age)=[^,]*,", "", line): float(found[1])
            for line in dump.splitlines()
            if (found := re.search(r" duration=([\d.]+)s", line))
        }


def rate_of(qdiscs: str, device: str) -> str | None:
    found = re.search(rf"^qdisc tbf \S+ dev {device} root .*?\brate (\S+)", qdiscs, re.MULTILINE)
    return found[1] if found else None


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> ShapingNode:
    return ShapingNode(lab)


@pytest.mark.kernel
def test_a_pod_that_starts_with_both_limits_is_held_to_them(node: ShapingNode) -> None:
    with node.pod("limited", ingress="10M", egress="5M") as limited, node.pod("free") as free:
        assert node.limits(limited) == ("10Mbit", "5Mbit")
        # Bounds for any machine: how near a stream comes is what `make bench-shaping` says.
        assert 8.5 < goodput(free, limited, *FOR_A_WHILE) < 10.5
        assert 4.2 < goodput(limited, free, *FOR_A_WHILE) < 5.3


@pytest.mark.parametrize(("direction", "rates"), [("ingress", ("2Mbit", None)), ("egress", (None, "2Mbit"))])
def test_one_direction_alone_is_limited(
    node: ShapingNode, direction: str, rates: tuple[str | None, str | None]
) -> None:
    with node.pod("one-way", **{direction: "2M"}) as pod:
        assert node.limits(pod) == rates


def test_limits_come_change_and_go_on_a_live_pod_without_touching_its_flows(node: ShapingNode) -> None:
    with node.pod("live") as pod:
        flows = node.flows()
        for changes, rates in (
            ((f"{INGRESS}=1500k", f"{EGRESS}=0.5G"), ("1500Kbit", "500Mbit")),
            ((f"{INGRESS}=1e7", f"{EGRESS}-"), ("10Mbit", None)),
            ((f"{INGRESS}-",), (None, None)),
        ):
            node.annotate("live", *changes)
            eventually(lambda rates=rates: node.limits(pod) == rates, f"{changes}", deadline_s=3)
        now = node.flows()
        assert now.keys() == flows.keys()
        assert [flow for flow, age in now.items() if age < flows[flow]] == [], "these were replaced"


@pytest.mark.kernel
def test_a_limit_that_somebody_removes_comes_back(node: ShapingNode) -> None:
    with node.pod("robbed", ingress="10M", egress="5M") as pod:
        node.run("tc", "qdisc", "del", "dev", node.host_link(pod), "root")
        if node.on_kernel:
            node.run("tc", "qdisc", "del", "dev", node.host_link(pod), "ingress")
        else:
            inside(pod, "tc", "qdisc", "del", "dev", "eth0", "root")
        eventually(
            lambda: node.limits(pod) == ("10Mbit", "5Mbit"), "both limits are back", deadline_s=REPAIRED_WITHIN_S
        )


def test_check_fails_while_a_limit_cannot_be_put_back(node: ShapingNode) -> None:
    granted = {"runtimeConfig": {"bandwidth": {"egressRate": 10_000_000}}}
    with node.runtime.pod("default", "checked") as pod:
        result = node.runtime.call("ADD", pod, granted).said
        assert node.runtime.check(pod, result).status == 0
        # Another queue with the handle of ours: the kernel does not change the kind of one that is there.
        pod.sandbox.run("tc", "qdisc", "del", "dev", "eth0", "root")
        pod.sandbox.run("tc", "qdisc", "add", "dev", "eth0", "root", "handle", "6b38:", "pfifo")
        answer = node.runtime.check(pod, result)
        assert answer.code == CHECK_FAILED
        assert "limit to 10000000 bit/s" in answer.said["msg"]
        pod.sandbox.run("tc", "qdisc", "del", "dev", "eth0", "root")
        eventually(lambda: node.runtime.check(pod, result).status == 0, "the limit is back")


def test_a_join_waits_for_no_limit_that_cannot_be_put_back(node: ShapingNode) -> None:
    for name in ("joiner", "alone"):
        node.lab.run("kubectl", "create", "namespace", name)
    granted = {"runtimeConfig": {"bandwidth": {"egressRate": 10_000_000}}}
    with node.runtime.pod("joiner", "broken") as pod:
        assert node.runtime.call("ADD", pod, granted).status == 0
        pod.sandbox.run("tc", "qdisc", "del", "dev", "eth0", "root")
        pod.sandbox.run("tc", "qdisc", "add", "dev", "eth0", "root", "handle", "6b38:", "pfifo")
        with node.runtime.attached("alone") as (_, answer):
            assert not pod.reaches(answer.address)
            done = k8sovs("net", "join", "joiner", "alone", "--wait", env=node.lab.env)
            assert (done.returncode, done.stderr) == (0, "")
            assert pod.reaches(answer.address)


@pytest.mark.kernel
def test_limits_stand_again_after_the_switch_has_restarted(node: ShapingNode) -> None:
    with node.pod("patient", ingress="10M", egress="5M") as pod:
        node.lab("stop", "vswitchd", "node1")
        node.lab("start", "vswitchd", "node1")
        eventually(lambda: node.limits(pod) == ("10Mbit", "5Mbit"), "both limits stand")


def test_a_change_while_the_agent_is_away_is_made_up_for(node: ShapingNode) -> None:
    with node.pod("changed", ingress="10M", egress="5M") as changed, node.pod("same", ingress="3M") as same:
        node.lab("stop", "agent", "node1")
        try:
            node.annotate("changed", f"{INGRESS}=20M", f"{EGRESS}-")
            node.run("tc", "qdisc", "del", "dev", node.host_link(same), "root")
        finally:
            node.lab("start", "agent", "node1")
        eventually(lambda: node.limits(changed) == ("20Mbit", None), "the new limits stand")
        eventually(lambda: node.limits(same) == ("3Mbit", None), "a limit that went meanwhile is back")


@pytest.mark.kernel
def test_a_pod_without_limit_keeps_its_rate_beside_one_that_is_held_to_its_own(node: ShapingNode) -> None:
    with (
        node.pod("limited", ingress="2M") as limited,
        node.pod("flooder") as flooder,
        node.pod("neighbour") as neighbour,
        node.pod("peer") as peer,
    ):
        with streaming(flooder, limited):
            beside = goodput(neighbour, peer, *FOR_A_WHILE, "--bitrate", f"{NEIGHBOUR_MBIT}M")
        assert beside >= 0.9 * NEIGHBOUR_MBIT


@pytest.mark.parametrize("value", ["fast", "999", "1.1P"], ids=["no quantity", "too low", "too high"])
def test_a_pod_with_a_nonsensical_limit_starts_without_it_and_people_are_told(node: ShapingNode, value: str) -> None:
    def refused() -> float:
        metrics = node.run("curl", "--silent", METRICS)
        found = re.search(r'k8sovs_bandwidth_refused_total\{cause="value"\} (\S+)', metrics)
        return float(found[1]) if found else 0.0

    def messages() -> list[str]:
        events = json.loads(node.lab.run("kubectl", "-n", "red", "get", "events", "-o", "json"))["items"]
        return [event["message"] for event in events if event["involvedObject"]["name"] == "odd"]

    before = refused()
    with node.pod("odd", ingress=value, egress="5M") as pod:
        eventually(lambda: node.limits(pod) == (None, "5Mbit"), "the other limit stands")
        eventually(lambda: any(f"'{value}'" in message for message in messages()), "an Event tells of it")
        assert refused() > before


@pytest.mark.kernel
def test_nothing_remains_of_the_limits_of_pods_that_are_gone(node: ShapingNode) -> None:
    for _ in range(3):
        with node.pod("brief", ingress="10M", egress="5M"):
            pass
    eventually(lambda: node.remains() == [], "no qdisc and no ifb is left")
