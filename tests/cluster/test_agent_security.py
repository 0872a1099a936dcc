"""What a pod cannot do, however it forges its frames: pass for another, or get round the switch."""

from __future__ import annotations

import re
import secrets
import socket
from collections.abc import Callable, Iterator
from contextlib import closing

import pytest

from flows.tables import POD_IN
from tests.support.attackers import BROADCAST, ENOUGH_S, PORT, Attacker, mac
from tests.support.frames import Sniffer, socket_in
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Answer, Node, Pod

LAB_OPTIONS = ("--nodes", "1")

OUTSIDE = "198.51.100.10"


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Node:
    for namespace in ("red", "blue"):
        lab.run("kubectl", "create", "namespace", namespace)
    return Node(lab.status()["nodes"][0])


@pytest.fixture(scope="module")
def attacker(node: Node) -> Iterator[Attacker]:
    with node.attached("red", "attacker") as (pod, answer):
        yield Attacker(pod, answer)


class Target:
    """A pod that looks out for what it is sent."""

    def __init__(self, pod: Pod, answer: Answer) -> None:
        self.address = answer.address
        self.mac = mac(answer.address)
        self._netns = pod.sandbox.path

    def gets(self, send: Callable[[bytes], None]) -> bool:
        """Whether what `send` is given to send arrives."""
        payload = secrets.token_bytes(16)
        with Sniffer(self._netns, "eth0") as sniffer:
            send(payload)
            return sniffer.sees(payload, ENOUGH_S)


@pytest.fixture(scope="module")
def neighbour(node: Node) -> Iterator[Target]:
    """A pod of the attacker's own namespace, on the same node."""
    with node.attached("red", "neighbour") as (pod, answer):
        yield Target(pod, answer)


@pytest.fixture(scope="module")
def victim(node: Node) -> Iterator[Target]:
    """A pod of another namespace, on the same node."""
    with node.attached("blue", "victim") as (pod, answer):
        yield Target(pod, answer)


def node_gets(node: Node, send: Callable[[bytes], None]) -> bool:
    """Whether a process on the node gets what `send` is given to send."""
    payload = secrets.token_bytes(16)
    with closing(socket_in(node.netns, socket.AF_INET, socket.SOCK_DGRAM)) as listener:
        listener.bind((node.address, PORT))
        listener.settimeout(ENOUGH_S)
        send(payload)
        try:
            return listener.recv(1 << 16) == payload
        except TimeoutError:
            return False


def forgeries(node: Node) -> int:
    """How many packets the switch has counted at the explicit drop of the table that knows forgers."""
    dump = node.execute("ovs-ofctl", "-OOpenFlow15", "--no-names", "dump-flows", "br0", f"table={POD_IN.number}")
    found = re.search(r"n_packets=(\d+).* priority=0 actions=drop", dump)
    assert found is not None, dump
    return int(found[1])


def test_an_honest_frame_arrives(attacker: Attacker, neighbour: Target) -> None:
    assert neighbour.gets(lambda payload: attacker.send(attacker.frame(payload, neighbour.address)))


@pytest.mark.parametrize("lie", ["ip", "outside-ip", "gateway-ip", "mac", "mac-and-ip"])
def test_a_forged_source_is_dropped_and_counted(node: Node, attacker: Attacker, neighbour: Target, lie: str) -> None:
    forged = {
        "ip": {"src": neighbour.address},
        "outside-ip": {"src": OUTSIDE},
        "gateway-ip": {"src": attacker.gateway},
        "mac": {"eth_src": neighbour.mac},
        "mac-and-ip": {"src": neighbour.address, "eth_src": neighbour.mac},
    }[lie]
    before = forgeries(node)
    assert not neighbour.gets(lambda payload: attacker.send(attacker.frame(payload, neighbour.address, **forged)))
    eventually(lambda: forgeries(node) > before, "the switch has counted the forgery")


def test_an_honest_arp_request_is_answered(attacker: Attacker) -> None:
    assert attacker.is_answered(attacker.question(attacker.gateway))


@pytest.mark.parametrize("lie", ["psrc", "hwsrc", "eth_src"])
def test_a_forged_arp_request_is_dropped_and_counted(
    node: Node, attacker: Attacker, neighbour: Target, lie: str
) -> None:
    before = forgeries(node)
    forged = attacker.question(attacker.gateway, **{lie: neighbour.address if lie == "psrc" else neighbour.mac})
    assert not attacker.is_answered(forged)
    eventually(lambda: forgeries(node) > before, "the switch has counted the forgery")


def test_the_nodes_kernel_answers_no_arp_request_of_a_pod(node: Node, attacker: Attacker) -> None:
    assert not attacker.is_answered(attacker.question(node.address))


@pytest.mark.parametrize("towards", ["host side", BROADCAST])
def test_a_frame_past_the_switch_reaches_no_process_of_the_node(node: Node, attacker: Attacker, towards: str) -> None:
    eth_dst = attacker.host_mac if towards == "host side" else towards

    def attack(payload: bytes) -> None:
        attacker.send(attacker.frame(payload, node.address, src=OUTSIDE, eth_dst=eth_dst))

    assert not node_gets(node, attack)


def test_a_frame_past_the_switch_reaches_no_pod(
    lab: LabUnderTest, node: Node, attacker: Attacker, neighbour: Target, victim: Target
) -> None:
    def attack(target: Target) -> Callable[[bytes], None]:
        """Addressed to the node's kernel, which would route it into the switch as the node's own."""
        return lambda payload: attacker.send(
            attacker.frame(payload, target.address, src=OUTSIDE, eth_dst=attacker.host_mac)
        )

    assert not neighbour.gets(attack(neighbour))
    assert not victim.gets(attack(victim))
    lab("stop", "agent", "node1")
    try:
        node.execute("nft", "delete table inet k8sovs; delete table arp k8sovs")
        assert victim.gets(attack(victim)), "the attack is no attack, so nothing has been tested"
    finally:
        lab("start", "agent", "node1")
    eventually(lambda: node.status() == 0, "the agent is back")
    assert not victim.gets(attack(victim))
