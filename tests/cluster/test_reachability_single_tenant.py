"""Who reaches whom in single-tenant mode: everybody, and the three verbs change nothing."""

from __future__ import annotations

import json
from itertools import product

import pytest

from k8sovs.lab.reach import judge
from tests.support.iperf import goodput
from tests.support.lab import LabUnderTest, eventually

LAB_OPTIONS = ("--mode", "subnet", "--nodes", "2")
KEY = "/k8s.ovs.com/ovs/network/k8ssdn/netnamespaces/red"


@pytest.fixture(scope="module")
def tenants(lab: LabUnderTest) -> LabUnderTest:
    lab.add_pods(("red/one", "node1"), ("red/two", "node2"), ("blue/one", "node1"), ("blue/two", "node2"))
    return lab


def unreached(lab: LabUnderTest) -> list[str]:
    places = [*lab.pod_places(), *lab.node_places()]
    pairs = [pair for pair in product(places, [*places, lab.outside()]) if pair[0] != pair[1]]
    _, wrong = judge(pairs, lambda sender, target: True)
    return [f"{sender.name} to {target.name}" for sender, target in wrong]


@pytest.mark.kernel
def test_everybody_reaches_everybody(tenants: LabUnderTest) -> None:
    assert unreached(tenants) == []


@pytest.mark.parametrize(
    ("action", "target"), [pytest.param("join", "blue", marks=pytest.mark.kernel), ("isolate", ""), ("global", "")]
)
def test_an_action_is_refused_with_a_reason_and_changes_nothing(
    tenants: LabUnderTest, action: str, target: str
) -> None:
    record = json.loads(tenants.run("etcdctl", "get", "--print-value-only", KEY))
    record.pop("message", None)
    tenants.run("etcdctl", "put", KEY, json.dumps(record | {"Action": action, "Namespace": target}))

    def answered() -> bool:
        answer = json.loads(tenants.run("etcdctl", "get", "--print-value-only", KEY))
        return answer["Action"] == "" and bool(answer.get("message"))

    eventually(answered, f"{action} is refused in the record")
    assert unreached(tenants) == []


def test_a_pod_is_held_to_its_limit(tenants: LabUnderTest) -> None:
    (sender,) = (pod for pod in tenants.pods() if (pod["namespace"], pod["name"]) == ("red", "two"))
    limited = tenants.add_pod("blue/limited", "node1", "--annotation", "kubernetes.io/ingress-bandwidth=5M")
    try:
        assert 4.2 < goodput(sender, limited, "--time", "5") < 5.3
    finally:
        tenants("pod", "del", "blue/limited")
