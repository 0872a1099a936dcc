"""Frames that lie, from a pod and from a host that is no node: each is dropped, is counted, and arrives nowhere.

`test_agent_security` has forged sources and ARP requests one by one, and frames that try to get past the switch. Here
is the rest, on two nodes and in both modes, with everybody looking out: pods of the same and of another namespace,
near and far, and both nodes.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Callable, Iterator, Set
from contextlib import ExitStack

import pytest
from scapy.layers.inet import IP, UDP
from scapy.layers.inet6 import IPv6
from scapy.layers.l2 import ARP, Dot1Q, Ether
from scapy.packet import Packet, Raw

from flows.tables import CLASSIFY, DELIVER, TUNNEL_IN, Table
from tests.support.attackers import ENOUGH_S, PORT, Stranger, mac, underlay_device
from tests.support.forgeries import (
    OF_A_POD,
    RECORDS,
    TO_ANOTHER_TENANT,
    Forgery,
    Scene,
    drops,
    refusals,
    tunnel_of_a_pod,
)
from tests.support.frames import Lookout
from tests.support.lab import LabUnderTest, eventually, holds_within

OUTSIDE = "198.51.100.10"
NOBODY = "172.11.0.200"
"""An address of the first node's that no pod has, or it would be told of ports where nobody listens."""


@pytest.fixture(scope="module", params=["multitenant", "subnet"])
def scene(request: pytest.FixtureRequest) -> Iterator[Scene]:
    lab = LabUnderTest(f"test-{os.getpid()}")
    try:
        lab("up", "--nodes", "2", "--mode", request.param)
        with ExitStack() as stack:
            yield Scene(lab, stack)
    finally:
        lab("down")


in_multitenant_mode = pytest.mark.parametrize("scene", ["multitenant"], indirect=True)


def assert_dropped(scene: Scene, send: Callable[[Packet], None], forgery: Forgery) -> None:
    payload = secrets.token_bytes(16)
    node, frames = scene.nodes[forgery.node], forgery.frames(scene, payload)
    before = drops(node, forgery.table)

    def counted() -> bool:
        # A busy machine loses a frame now and then; then all are sent again.
        for frame in frames:
            send(frame)
        return holds_within(1, lambda: drops(node, forgery.table) >= before + len(frames))

    eventually(counted, f"{node.name} has counted {len(frames)} drops in {forgery.table.name}")
    assert scene.arrivals(payload) == set()


def assert_reached(scene: Scene, send: Callable[[bytes], None], expected: Set[str]) -> None:
    reached: set[str] = set()

    def again() -> bool:
        payload = secrets.token_bytes(16)
        send(payload)
        reached.update(scene.arrivals(payload, ENOUGH_S))
        return reached >= expected

    eventually(again, f"{expected} are reached")
    assert reached == expected


def test_honest_frames_reach_whom_they_may(scene: Scene) -> None:
    def send(payload: bytes) -> None:
        for address in scene.address.values():
            scene.attacker.send(scene.attacker.frame(payload, address))

    assert_reached(scene, send, {"neighbour", "comrade"} if scene.has_tenants else scene.pods)


@pytest.mark.parametrize("forgery", OF_A_POD.values(), ids=OF_A_POD)
def test_what_a_pod_must_not_send_is_counted_and_arrives_nowhere(scene: Scene, forgery: Forgery) -> None:
    assert_dropped(scene, scene.attacker.send, forgery)


@in_multitenant_mode
@pytest.mark.parametrize("forgery", TO_ANOTHER_TENANT.values(), ids=TO_ANOTHER_TENANT)
def test_what_a_pod_sends_to_another_tenant_is_counted_and_arrives_nowhere(scene: Scene, forgery: Forgery) -> None:
    assert_dropped(scene, scene.attacker.send, forgery)


@pytest.mark.parametrize("whose", [0, 1], ids=["its-own-node", "another-node"])
def test_a_pods_tunnel_to_the_gateway_of_a_node_reaches_no_pod(scene: Scene, whose: int) -> None:
    node, gateway = scene.nodes[whose], f"172.11.{4 * whose}.1"
    payload = secrets.token_bytes(16)
    before = refusals(node, "input")

    def counted() -> bool:
        # Whole, the userspace switch may take it for one of its own, find nobody who has it, and drop it uncounted.
        for cut in (False, True):
            for frame in tunnel_of_a_pod(scene, payload, gateway, cut=cut):
                scene.attacker.send(frame)
        return holds_within(1, lambda: refusals(node, "input") > before)

    eventually(counted, f"{node.name} has put the fragments together and counted the refusal")
    assert not scene.arrivals(payload) & scene.pods


def test_a_pods_tunnel_to_an_address_of_a_node_that_is_not_its_nodes_address_reaches_no_pod(scene: Scene) -> None:
    """It leaves under the address of the pod's node, which the other one knows."""
    node, second = scene.nodes[1], "192.0.2.112"
    node.execute("ip", "address", "add", f"{second}/24", "dev", underlay_device(node))
    payload = secrets.token_bytes(16)
    with Lookout({"node": (node.netns, "eth0")}) as gate:

        def came() -> bool:
            for frame in tunnel_of_a_pod(scene, payload, second):
                scene.attacker.send(frame)
            return bool(gate.seen(payload, 1.0))

        eventually(came, "the tunnel comes to the node")
    assert not scene.arrivals(payload, ENOUGH_S) & scene.pods


def test_the_nodes_ends_of_pods_links_have_no_ipv6_address_to_be_asked_for(scene: Scene) -> None:
    node = scene.nodes[0]
    assert node.links()
    for link in node.links():
        assert node.execute("ip", "-6", "address", "show", "dev", link) == ""


@in_multitenant_mode
def test_an_id_of_another_tenant_that_an_operator_types_lets_nothing_through(scene: Scene) -> None:
    key = f"{RECORDS}/netnamespaces/red"
    before = json.loads(scene.lab.run("etcdctl", "get", "--print-value-only", key))
    payload = secrets.token_bytes(16)

    def try_again() -> bool:
        for target in ("near", "far"):
            scene.attacker.send(scene.attacker.frame(payload, scene.address[target]))
        return bool(json.loads(scene.lab.run("etcdctl", "get", "--print-value-only", key)) == before)

    for typed in (scene.vni("blue"), 0):
        scene.lab.run("etcdctl", "put", key, json.dumps(before | {"NetID": typed}))
        eventually(try_again, "the typed id is put right")
        try_again()
        assert scene.arrivals(payload) == set()


def _inner(scene: Scene, payload: bytes, rest: Packet | None = None) -> Packet:
    source, target = NOBODY, scene.address["far"]
    ether = Ether(src=mac(source), dst=mac(target))
    return ether / (rest or IP(src=source, dst=target) / UDP(dport=PORT)) / Raw(payload)


def test_a_stranger_who_forges_a_nodes_address_gets_in_which_is_why_the_underlay_must_not_allow_it(
    scene: Scene,
) -> None:
    """VXLAN knows no more of a sender than this address. It also shows that the frames of the tests below are right."""
    here, there = scene.nodes
    vni = scene.vni("blue")

    def send(payload: bytes) -> None:
        scene.stranger.send(scene.stranger.tunnelled(there, vni, _inner(scene, payload), source=here.address))

    assert_reached(scene, send, {"far"})


@pytest.mark.parametrize("whose", ["blue", "nobody"])
def test_a_tunnel_of_a_stranger_is_counted_and_leads_nowhere(scene: Scene, whose: str) -> None:
    vni = 0 if whose == "nobody" else scene.vni(whose)
    frames = lambda scene, payload: [  # noqa: E731
        scene.stranger.tunnelled(scene.nodes[1], vni, _inner(scene, payload))
    ]
    assert_dropped(scene, scene.stranger.send, Forgery(frames, TUNNEL_IN, node=1))


IN_A_TUNNEL = {
    "arp": (lambda scene: ARP(op=2, psrc=scene.attacker.gateway, hwsrc=Stranger.mac), TUNNEL_IN),
    "ipv6": (lambda scene: IPv6(src="fd00::1", dst="fd00::2") / UDP(dport=PORT), TUNNEL_IN),
    "vlan-tag": (lambda scene: Dot1Q(vlan=5) / IP(src="172.11.0.9", dst=scene.address["far"]) / UDP(), CLASSIFY),
    "outside": (lambda scene: IP(src="172.11.0.9", dst=OUTSIDE) / UDP(dport=PORT), DELIVER),
    "another-nodes-pod": (lambda scene: IP(src="172.11.4.9", dst=scene.address["near"]) / UDP(), DELIVER),
    "multicast": (lambda scene: IP(src="172.11.0.9", dst="224.0.0.251") / UDP(), DELIVER),
}


@pytest.mark.parametrize(("inner", "table"), IN_A_TUNNEL.values(), ids=IN_A_TUNNEL)
def test_even_from_a_nodes_address_a_tunnel_carries_nothing_but_packets_for_pods(
    scene: Scene, inner: Callable[[Scene], Packet], table: Table
) -> None:
    def frames(scene: Scene, payload: bytes) -> list[Packet]:
        wrapped = _inner(scene, payload, inner(scene))
        return [scene.stranger.tunnelled(scene.nodes[1], 0, wrapped, source=scene.nodes[0].address)]

    assert_dropped(scene, scene.stranger.send, Forgery(frames, table, node=1))


@pytest.mark.parametrize("source", [Stranger.address, OUTSIDE, "172.11.4.9", "192.0.2.12"])
def test_a_stranger_who_routes_by_a_node_is_counted_and_reaches_no_pod(scene: Scene, source: str) -> None:
    node = scene.nodes[0]
    payload = secrets.token_bytes(16)
    before = refusals(node, "inbound")

    def counted() -> bool:
        for target in ("neighbour", "near", "far"):
            packet = scene.stranger.packet(node, scene.address[target], source)
            scene.stranger.send(packet / UDP(dport=PORT) / Raw(payload))
        return holds_within(1, lambda: refusals(node, "inbound") >= before + 3)

    eventually(counted, "the node has counted three refusals")
    assert scene.arrivals(payload) == set()
