"""Nodes change their addresses, or swap them, while pods send: who does not move notices nothing, the rest is found."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Iterator
from itertools import permutations
from pathlib import Path

import pytest
from scapy.layers.l2 import ARP, Ether

from tests.support.cast import Member, cast, create_namespaces
from tests.support.events import node_now
from tests.support.flowwatch import watched
from tests.support.frames import send_frame
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node
from tests.support.tenants import KEYS
from tests.support.traffic import Stream, Traffic, conclusive

log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(400)

LAB_OPTIONS = ("--nodes", "4")
FOUND_WITHIN_S = 60.0
DOUBTED_WITHIN_S = 14.0
"""The kernel gives up after 5 s what is not acknowledged; left alone, a connection to etcd is silent for 10 s first."""
ROUTER = "192.0.2.1"
NEW_ADDRESSES = ("192.0.2.31", "192.0.2.32")
BROADCAST = "ff:ff:ff:ff:ff:ff"

UNMOVED = ("near one", "near two", "near three")
STRANGE = ("strange", "strange back")


@pytest.fixture(scope="module")
def people(lab: LabUnderTest) -> Iterator[dict[str, Member]]:
    create_namespaces(lab, "red", "blue", "green")
    where = {
        "node1": ["red/a", "red/b", "blue/s"],
        "node2": ["red/c", "red/d"],
        "node3": ["red/e", "red/f"],
        "node4": ["red/g", "blue/t", "green/one", "green/two"],
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
        send_frame(nodes[name].netns, device, announcement(nodes[name], device, address))
    for name, address in addresses.items():
        lab.run("kubectl", "annotate", "--overwrite", "node", name, f"k8s.ovs.com/node-address={address}")


def announcement(node: Node, device: str, address: str) -> bytes:
    """Gratuitous ARP, as whatever configures a host's network sends it."""
    mac = json.loads(node.execute("ip", "-json", "link", "show", device))[0]["address"]
    arp = ARP(op="is-at", hwsrc=mac, psrc=address, hwdst=BROADCAST, pdst=address)
    return bytes(Ether(src=mac, dst=BROADCAST) / arp)


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
    pairs = permutations(("red/a", "red/c", "red/e", "red/g"), 2)
    for one, other in pairs:
        eventually(
            lambda one=one, other=other: people[one].pod.reaches(people[other].address),  # type: ignore[misc]
            f"{one} reaches {other}",
            deadline_s=FOUND_WITHIN_S,
        )
    return time.monotonic() - began


def test_nodes_that_swap_addresses_and_one_with_a_new_one_are_found_and_nobody_elses_flow_is_removed(
    lab: LabUnderTest, people: dict[str, Member], streams: dict[str, Stream]
) -> None:
    """All at once, as it takes a node some 20 s to notice that etcd no longer reaches it where it was."""

    def measure() -> Traffic:
        addresses = {name: address for name, (address, _) in subnets(lab).items()}
        one, two, left = addresses["node1"], addresses["node2"], addresses["node3"]
        new = NEW_ADDRESSES[left == NEW_ADDRESSES[0]]
        bystander = node_now(lab, "node4")
        with watched(bystander) as events, Traffic(streams) as traffic:
            took = move(lab, people, {"node1": two, "node2": one, "node3": new})
        log.info("found after %.1f s", took)
        assert [event for event in events() if "event=DELETED" in event and left not in event] == []
        assert not any(f"{left}," in flow for flow in bystander.flows()), "nobody believes in the old address"
        assert traffic.crossed(STRANGE) == []
        return traffic

    assert conclusive(measure).lossy(UNMOVED) == []


def test_an_agent_leaves_a_connection_from_an_address_that_its_node_has_no_more(lab: LabUnderTest) -> None:
    log_file = Path(lab.status()["directory"], "logs", "agent-node3.log")
    said = len(log_file.read_text())
    (address,) = (address for name, (address, _) in subnets(lab).items() if name == "node3")
    began = time.monotonic()
    readdress(lab, {"node3": NEW_ADDRESSES[address == NEW_ADDRESSES[0]]})
    eventually(lambda: "etcd-watch-interrupted" in log_file.read_text()[said:], "it left", deadline_s=30)
    assert time.monotonic() - began < DOUBTED_WITHIN_S
    eventually(lambda: "event='ready'" in log_file.read_text()[said:], "it is who it is now", deadline_s=FOUND_WITHIN_S)
