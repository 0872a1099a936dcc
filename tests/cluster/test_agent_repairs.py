"""What others do to a node behind the agent's back, and how soon it is as it was."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node, Pod

LAB_OPTIONS = ("--nodes", "1")
OUTSIDE = "198.51.100.10"


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Node:
    lab.run("kubectl", "create", "namespace", "red")
    return Node(lab.status()["nodes"][0])


@pytest.fixture(scope="module")
def pods(node: Node) -> Iterator[tuple[Pod, str]]:
    """A pod, and the address of another."""
    with node.attached("red", "near") as (near, _), node.attached("red", "other") as (_, answer):
        yield near, answer.said["ips"][0]["address"].partition("/")[0]


def filters(node: Node) -> list[str]:
    """Our tables; none where they are missing."""
    tables = [line for line in node.execute("nft", "list", "tables").splitlines() if line.endswith(" k8sovs")]
    return [node.execute("nft", "--stateless", "list", *table.split()) for table in sorted(tables)]


def test_flows_that_somebody_deleted_come_back(node: Node, pods: tuple[Pod, str]) -> None:
    pod, other = pods
    before = node.flows()
    node.execute("ovs-ofctl", "-OOpenFlow15", "del-flows", "br0")
    assert not pod.reaches(other)
    eventually(lambda: node.flows() == before, "all flows are back", deadline_s=30)
    assert pod.reaches(other)


def test_flows_that_somebody_added_go(node: Node, pods: tuple[Pod, str]) -> None:
    before = node.flows()
    node.execute("ovs-ofctl", "-OOpenFlow15", "add-flow", "br0", "priority=500,actions=drop")
    eventually(lambda: node.flows() == before, "the flow is gone", deadline_s=30)


def test_flushed_filters_come_back(node: Node, pods: tuple[Pod, str]) -> None:
    pod, _ = pods
    assert pod.reaches(OUTSIDE)
    before = filters(node)
    node.execute("nft", "flush", "ruleset")
    eventually(lambda: filters(node) == before, "the filters are back")
    assert pod.reaches(OUTSIDE)


def test_a_firewall_that_comes_later_is_opened(node: Node, pods: tuple[Pod, str]) -> None:
    pod, _ = pods
    node.execute("iptables-nft", "-P", "FORWARD", "DROP")
    try:
        eventually(lambda: "k8sovs" in node.execute("iptables-nft", "-S", "FORWARD"), "our accepts are there")
        assert pod.reaches(OUTSIDE)
    finally:
        node.execute("iptables-nft", "-P", "FORWARD", "ACCEPT")


def test_a_lost_executable_and_a_lost_configuration_are_put_back(lab: LabUnderTest, node: Node) -> None:
    status = lab.status()["nodes"][0]
    executable, conf = Path(status["cni_bin"]), Path(status["cni_conf"])
    before = json.loads(conf.read_text())
    shutil.rmtree(executable.parent)
    conf.unlink()
    eventually(lambda: executable.exists() and conf.exists(), "both are back")
    assert json.loads(conf.read_text()) == before
    assert node.status() == 0
