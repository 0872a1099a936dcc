"""Who reaches whom in a multitenant cluster, measured with pings, before and after each of the three verbs."""

from __future__ import annotations

import json
from itertools import product

import pytest

from k8sovs.lab.reach import Place, judge, table
from tests.support.lab import LabUnderTest, eventually

FOLDER = "/k8s.ovs.com/ovs/network/k8ssdn"

# Every pair of tenants has pods on one node and on two, and so has a tenant with itself.
PODS = {"red": ("node1", "node1", "node2"), "blue": ("node2", "node3"), "green": ("node3", "node1")}


@pytest.fixture(scope="module")
def tenants(lab: LabUnderTest) -> LabUnderTest:
    lab.add_pods(*((f"{name}/pod{number}", node) for name, nodes in PODS.items() for number, node in enumerate(nodes)))
    return lab


def act(lab: LabUnderTest, namespace: str, action: str, target: str = "") -> None:
    """Write the action as an operator does, and wait for its last phase."""
    key = f"{FOLDER}/netnamespaces/{namespace}"
    record = json.loads(lab.run("etcdctl", "get", "--print-value-only", key))
    lab.run("etcdctl", "put", key, json.dumps(record | {"Action": action, "Namespace": target}))

    def settled() -> bool:
        acted = json.loads(lab.run("etcdctl", "get", "--print-value-only", key))["Action"] == ""
        vnid = json.loads(lab.run("etcdctl", "get", "--print-value-only", f"{FOLDER}/vnids/{namespace}"))
        return acted and vnid["Accept"] == [vnid["Send"]]

    eventually(settled, f"{namespace}: {action} {target}")


def assert_reached(lab: LabUnderTest, *allowed: tuple[str, str]) -> None:
    """Of all pods, exactly those reach each other whose namespaces are the same, or are allowed (both ways)."""
    pods = lab.pod_places()
    pairs = [(sender, target) for sender, target in product(pods, pods) if sender != target]

    both_ways = {*allowed, *((target, sender) for sender, target in allowed)}
    reach, wrong = judge(pairs, lambda sender, target: _may(sender, target, both_ways))
    if wrong:
        pytest.fail("\n".join(["cells with a '!' are wrong", *table(reach, wrong)]))


def _may(sender: Place, target: Place, allowed: set[tuple[str, str]]) -> bool:
    assert sender.namespace is not None
    assert target.namespace is not None
    return sender.namespace == target.namespace or (sender.namespace, target.namespace) in allowed


@pytest.mark.kernel
def test_namespaces_are_apart_until_somebody_joins_them(tenants: LabUnderTest) -> None:
    assert_reached(tenants)


@pytest.mark.kernel
def test_nodes_and_pods_reach_each_other_whatever_the_tenant(tenants: LabUnderTest) -> None:
    pods, nodes = tenants.pod_places(), tenants.node_places()
    _, wrong = judge([*product(pods, nodes), *product(nodes, pods)], lambda sender, target: True)
    assert [f"{sender.name} to {target.name}" for sender, target in wrong] == []


@pytest.mark.kernel
def test_every_pod_reaches_the_outside(tenants: LabUnderTest) -> None:
    _, wrong = judge(product(tenants.pod_places(), [tenants.outside()]), lambda sender, target: True)
    assert [sender.name for sender, _ in wrong] == []


@pytest.mark.kernel
def test_join_lets_two_namespaces_reach_each_other_and_isolate_ends_it(tenants: LabUnderTest) -> None:
    act(tenants, "red", "join", "blue")
    assert_reached(tenants, ("red", "blue"))
    act(tenants, "red", "isolate")
    assert_reached(tenants)


@pytest.mark.kernel
def test_a_global_namespace_reaches_and_is_reached_by_all_until_it_is_isolated(tenants: LabUnderTest) -> None:
    act(tenants, "green", "global")
    assert_reached(tenants, ("green", "red"), ("green", "blue"))
    act(tenants, "green", "isolate")
    assert_reached(tenants)


def test_default_is_global_from_its_birth(tenants: LabUnderTest) -> None:
    tenants.add_pod("default/shared", "node2")
    try:
        assert_reached(tenants, ("default", "red"), ("default", "blue"), ("default", "green"))
    finally:
        tenants("pod", "del", "default/shared")
