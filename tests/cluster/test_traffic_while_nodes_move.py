"""Nodes change their addresses, or swap them, while pods send: who does not move notices nothing, the rest is found."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator

import pytest

from tests.support.cast import Member, cast, create_namespaces
from tests.support.events import node_now
from tests.support.flowwatch import watched
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node
from tests.support.tenants import KEYS
from tests.support.traffic import Stream, Traffic, conclusive

log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(200)

FOUND_WITHIN_S = 20.0
ROUTER = "192.0.2.1"

UNMOVED = ("near one", "near two", "near three")
STRANGE = ("strange", "strange back")


@pytest.fixture(scope="module")
def people(lab: LabUnderTest) -> Iterator[dict[str, Member]]:
    create_namespaces(lab, "red", "blue", "green")
    where = {
        "node1": ["red/a", "red/b", "blue/s"],
        "node2": ["red/c", "red/d"],
        "node3": ["red/e", "red/f", "blue/t", "green/one", "green/two"],
    }
    with cast(lab, where) as members:
        yield members


@pytest.fixture
def streams(people: dict[str, Member]) -> dict[str, Stream]:
    return {
        "near one": people["red/a"].to(people["red/b"]),
        "near two": people["red/c"].to(people["red/d"]),
        "near three": people["red/e"].to(people["red/f"]),
        "one to three": people["red/b"].towards(people["red/e"]),
        "three to two": people["red/e"].towards(people["red/c"]),
        "strange": people["red/a"].towards(people["blue/t"]),
        "strange back": people["blue/t"].towards(people["red/a"]),
        "control": people["green/one"].to(people["green/two"]),
    }


def readdress(lab: LabUnderTest, addresses: dict[str, str]) -> None:
    """Give nodes other addresses, as their administrators do, and have Kubernetes know."""
    userspace = lab.status()["datapath"] == "netdev"
    device = "br-phy" if userspace else "eth0"
    nodes = {name: node_now(lab, name) for name in addresses}
    for node in nodes.values():
        node.execute("ip", "address", "flush", "dev", device)
    for name, address in addresses.items():
        nodes[name].execute("ip", "address", "add", f"{address}/24", "dev", device)
        nodes[name].execute("ip", "route", "add", "default", "via", ROUTER)
        nodes[name].execute("arping", "-q", "-U", "-c1", "-I", device, address)
    for name, address in addresses.items():
        lab.run("kubectl", "annotate", "--overwrite", "node", name, f"k8s.ovs.com/node-address={address}")


def subnets(lab: LabUnderTest) -> dict[str, tuple[str, str]]:
    """Address and subnet of each node, as etcd has them."""
    lines = lab.run("etcdctl", "get", "--prefix", KEYS.subnets, "--print-value-only").splitlines()
    return {entry["Host"]: (entry["HostIP"], entry["Subnet"]) for entry in map(json.loads, filter(None, lines))}


def move(lab: LabUnderTest, people: dict[str, Member], addresses: dict[str, str]) -> float:
    """Do it, and wait until all pods of `red` reach each other; the seconds that took."""
    before = subnets(lab)
    began = time.monotonic()
    readdress(lab, addresses)
    expected = {name: (addresses.get(name, address), subnet) for name, (address, subnet) in before.items()}
    eventually(lambda: subnets(lab) == expected, "the records have followed, with the same subnets")
    pairs = [("red/a", "red/c"), ("red/c", "red/e"), ("red/e", "red/a"), ("red/e", "red/c"), ("red/a", "red/e")]
    for one, other in pairs:
        eventually(
            lambda one=one, other=other: people[one].pod.reaches(people[other].address),  # type: ignore[misc]
            f"{one} reaches {other}",
            deadline_s=FOUND_WITHIN_S,
        )
    return time.monotonic() - began


def test_a_node_with_a_new_address_is_found_there_with_its_pods(
    lab: LabUnderTest, people: dict[str, Member], streams: dict[str, Stream]
) -> None:
    def measure() -> Traffic:
        there, _ = subnets(lab)["node1"]
        with Traffic(streams) as traffic:
            took = move(lab, people, {"node1": "192.0.2.31" if there != "192.0.2.31" else "192.0.2.32"})
        log.info("found after %.1f s", took)
        assert traffic.crossed(STRANGE) == []
        assert not any(f"{there}," in flow for flow in node_now(lab, "node3").flows()), "nobody believes the old one"
        return traffic

    assert conclusive(measure).lossy(UNMOVED) == []


def test_nodes_that_swap_addresses_are_found_and_no_flow_of_the_other_is_removed(
    lab: LabUnderTest, people: dict[str, Member], streams: dict[str, Stream]
) -> None:
    def measure() -> Traffic:
        (one, _), (two, _) = subnets(lab)["node1"], subnets(lab)["node2"]
        bystander: Node = node_now(lab, "node3")
        with watched(bystander) as events, Traffic(streams) as traffic:
            took = move(lab, people, {"node1": two, "node2": one})
        log.info("found after %.1f s", took)
        assert [event for event in events() if "event=DELETED" in event] == []
        assert traffic.crossed(STRANGE) == []
        return traffic

    assert conclusive(measure).lossy(UNMOVED) == []
