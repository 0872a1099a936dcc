"""What a pod must not send: frames that lie, and a scene with everybody who could be deceived by them."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass

from scapy.layers.dhcp import BOOTP, DHCP
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.inet6 import ICMPv6ND_NA, ICMPv6ND_RA, IPv6
from scapy.layers.l2 import ARP, LLC, STP, Dot1AD, Dot1Q, Dot3, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from flows.tables import ARP as ARP_TABLE
from flows.tables import CLASSIFY, DELIVER, POD_IN, ROUTE, TO_NODE, Table
from tests.support.attackers import BROADCAST, PORT, VXLAN_PORT, Attacker, mac, stranger_on_underlay
from tests.support.frames import Lookout
from tests.support.lab import LabUnderTest
from tests.support.runtime import Node

RECORDS = "/k8s.ovs.com/ovs/network/k8ssdn"
MOMENT_S = 0.15
"""Enough for a frame that the switch has counted as dropped to turn up nevertheless."""


class Scene:
    """Pods of two namespaces on two nodes, a stranger beside them, and what all but the attacker see."""

    def __init__(self, lab: LabUnderTest, stack: ExitStack) -> None:
        for namespace in ("red", "blue"):
            lab.run("kubectl", "create", "namespace", namespace)
        status = lab.status()
        self.lab = lab
        self.has_tenants = status["mode"] == "multitenant"
        self.nodes = [Node(one) for one in status["nodes"]]
        here, there = self.nodes
        pod, answer = stack.enter_context(here.attached("red", "attacker"))
        self.attacker = Attacker(pod, answer)
        self.stranger = stack.enter_context(stranger_on_underlay(lab.name))
        self.address: dict[str, str] = {}
        places = {}
        for name, namespace, node in (
            ("neighbour", "red", here),
            ("near", "blue", here),
            ("comrade", "red", there),
            ("far", "blue", there),
        ):
            pod, answer = stack.enter_context(node.attached(namespace, name))
            self.address[name] = answer.address
            places[name] = (pod.sandbox.path, "eth0")
        self.pods = frozenset(places)
        places |= {node.name: (node.netns, "tun0") for node in self.nodes}
        self._lookout = stack.enter_context(Lookout(places))

    def vni(self, namespace: str) -> int:
        """The id that a namespace sends with, as the controller wrote it."""
        if not self.has_tenants:
            return 0
        send: int = json.loads(self.lab.run("etcdctl", "get", "--print-value-only", f"{RECORDS}/vnids/{namespace}"))[
            "Send"
        ]
        return send

    def arrivals(self, payload: bytes, within_s: float = MOMENT_S) -> set[str]:
        """Who sees `payload` within that time."""
        return self._lookout.seen(payload, within_s)


def drops(node: Node, table: Table) -> int:
    """How many packets the drops of a table have counted: the explicit one at its end, and its guards."""
    node.execute("ovs-appctl", "revalidator/purge")  # counters come with the datapath's flows, every half a second
    dump = node.execute("ovs-ofctl", "-OOpenFlow15", "--no-names", "dump-flows", "br0", f"table={table.number}")
    return sum(map(int, re.findall(r"n_packets=(\d+).* actions=drop", dump)))


def refusals(node: Node, chain: str) -> int:
    """How many packets the drops of a chain of the node's own filter have counted."""
    listed = node.execute("nft", f"list chain inet k8sovs {chain}")
    return sum(map(int, re.findall(r"counter packets (\d+) .* drop", listed)))


@dataclass(frozen=True, slots=True)
class Forgery:
    """What an attacker sends, and where it ends: in a table of the first node's, or the second's."""

    frames: Callable[[Scene, bytes], Sequence[Packet]]
    table: Table
    node: int = 0


def _arp(scene: Scene, payload: bytes, *, op: str, says: str, has: str, to: str, asks: str) -> list[Packet]:
    """An ARP packet of the attacker, from its own MAC: `says` is at `has`."""
    arp = ARP(op=op, psrc=says, hwsrc=has, pdst=asks, hwdst=to)
    return [Ether(src=scene.attacker.mac, dst=to) / arp / Raw(payload)]


def _poisonous_reply(scene: Scene, payload: bytes) -> list[Packet]:
    victim, own = scene.address["neighbour"], scene.attacker.mac
    return _arp(scene, payload, op="is-at", says=scene.attacker.gateway, has=own, to=mac(victim), asks=victim)


def _honest_reply(scene: Scene, payload: bytes) -> list[Packet]:
    victim, own = scene.address["neighbour"], scene.attacker.mac
    return _arp(scene, payload, op="is-at", says=scene.attacker.address, has=own, to=mac(victim), asks=victim)


def _gratuitous(op: str) -> Callable[[Scene, bytes], list[Packet]]:
    def frames(scene: Scene, payload: bytes) -> list[Packet]:
        claimed = [scene.attacker.gateway, scene.address["neighbour"], scene.address["far"]]
        own = scene.attacker.mac
        return [
            frame
            for address in claimed
            for frame in _arp(scene, payload, op=op, says=address, has=own, to=BROADCAST, asks=address)
        ]

    return frames


def _tagged(tag: Packet) -> Callable[[Scene, bytes], list[Packet]]:
    """A packet that would arrive but for the tag."""

    def frames(scene: Scene, payload: bytes) -> list[Packet]:
        honest = scene.attacker.frame(payload, scene.address["neighbour"])
        return [Ether(src=honest.src, dst=honest.dst) / tag / honest[IP]]

    return frames


def _ethernet(rest: Packet) -> Callable[[Scene, bytes], list[Packet]]:
    def frames(scene: Scene, payload: bytes) -> list[Packet]:
        ends = [mac(scene.address["neighbour"]), scene.attacker.host_mac, mac(scene.attacker.gateway), BROADCAST]
        return [Ether(src=scene.attacker.mac, dst=end) / rest / Raw(payload) for end in ends]

    return frames


def _to(target: str, rest: Packet, **forged: str) -> Callable[[Scene, bytes], list[Packet]]:
    """A packet to an address, or to the pod of that name."""

    def frames(scene: Scene, payload: bytes) -> list[Packet]:
        return [scene.attacker.packet(scene.address.get(target, target), **forged) / rest / Raw(payload)]

    return frames


def _for_switches(kind: int, destination: str) -> Callable[[Scene, bytes], list[Packet]]:
    def frames(scene: Scene, payload: bytes) -> list[Packet]:
        return [Ether(src=scene.attacker.mac, dst=destination, type=kind) / Raw(bytes(4) + payload)]

    return frames


def _spanning_tree(scene: Scene, payload: bytes) -> list[Packet]:
    return [Dot3(dst="01:80:c2:00:00:00", src=scene.attacker.mac) / LLC() / STP() / Raw(payload)]


def _forged_fragments(scene: Scene, payload: bytes) -> list[Packet]:
    return _cut("neighbour", src=scene.address["near"])(scene, payload)


def _by_its_mac(scene: Scene, payload: bytes) -> list[Packet]:
    target = scene.address["near"]
    return [scene.attacker.frame(payload, target, eth_dst=mac(target))]


def _cut(target: str, **forged: str) -> Callable[[Scene, bytes], list[Packet]]:
    """A datagram in fragments, each with the payload in it."""

    def frames(scene: Scene, payload: bytes) -> list[Packet]:
        whole = scene.attacker.packet(scene.address[target], **forged) / UDP(sport=PORT, dport=PORT)
        return list(fragment(whole / Raw(payload * 150), fragsize=800))

    return frames


def tunnel_of_a_pod(scene: Scene, payload: bytes, target: str, *, cut: bool = False) -> list[Packet]:
    """VXLAN from the attacker, with the id of another tenant, for a pod of that tenant."""
    source, victim = scene.address["near"], scene.address["far"]
    inner = Ether(src=mac(source), dst=mac(victim)) / IP(src=source, dst=victim) / UDP(dport=PORT)
    inner /= Raw(payload * 150 if cut else payload)
    outer = scene.attacker.packet(target) / UDP(sport=50000, dport=VXLAN_PORT)
    whole = outer / VXLAN(vni=scene.vni("blue")) / inner
    return list(fragment(whole, fragsize=800)) if cut else [whole]


def _vxlan(node: int, *, cut: bool = False) -> Callable[[Scene, bytes], list[Packet]]:
    return lambda scene, payload: tunnel_of_a_pod(scene, payload, scene.nodes[node].address, cut=cut)


_DISCOVER = BOOTP(op=1) / DHCP(options=[("message-type", "discover"), "end"])
_OFFER = BOOTP(op=2, yiaddr="172.11.0.99", siaddr="172.11.0.98") / DHCP(options=[("message-type", "offer"), "end"])
_TO_ALL = IPv6(src="fe80::1", dst="ff02::1")
_DATAGRAM_V6 = IPv6(src="fd00::1", dst="fd00::2") / UDP(dport=PORT)

OF_A_POD = {
    "arp-reply-for-the-gateway": Forgery(_poisonous_reply, POD_IN),
    "arp-reply-for-itself": Forgery(_honest_reply, ARP_TABLE),
    "gratuitous-arp-request": Forgery(_gratuitous("who-has"), POD_IN),
    "gratuitous-arp-reply": Forgery(_gratuitous("is-at"), POD_IN),
    "vlan-tag": Forgery(_tagged(Dot1Q(vlan=5)), CLASSIFY),
    "priority-tag": Forgery(_tagged(Dot1Q(vlan=0, prio=7)), CLASSIFY),
    "two-tags": Forgery(_tagged(Dot1AD(vlan=5) / Dot1Q(vlan=6)), CLASSIFY),
    "ipv6-router": Forgery(_ethernet(_TO_ALL / ICMPv6ND_RA()), CLASSIFY),
    "ipv6-neighbour": Forgery(_ethernet(_TO_ALL / ICMPv6ND_NA()), CLASSIFY),
    "ipv6-datagram": Forgery(_ethernet(_DATAGRAM_V6), CLASSIFY),
    "ipv6-dhcp": Forgery(_ethernet(_TO_ALL / UDP(sport=546, dport=547)), CLASSIFY),
    "spanning-tree": Forgery(_spanning_tree, CLASSIFY),
    "lldp": Forgery(_for_switches(0x88CC, "01:80:c2:00:00:0e"), CLASSIFY),
    "mpls": Forgery(_for_switches(0x8847, BROADCAST), CLASSIFY),
    "dhcp-client": Forgery(_to("255.255.255.255", UDP(sport=68, dport=67) / _DISCOVER, src="0.0.0.0"), POD_IN),
    "dhcp-server": Forgery(_to("255.255.255.255", UDP(sport=67, dport=68) / _OFFER, eth_dst=BROADCAST), ROUTE),
    "multicast": Forgery(_to("224.0.0.251", UDP(dport=5353), eth_dst="01:00:5e:00:00:fb"), ROUTE),
    "igmp": Forgery(_to("224.0.0.22", IP(proto=2)), ROUTE),
    "loopback": Forgery(_to("127.0.0.1", TCP(dport=22)), ROUTE),
    "link-local": Forgery(_to("169.254.77.1", ICMP()), ROUTE),
    "broadcast-of-the-subnet": Forgery(_to("172.11.3.255", ICMP()), DELIVER),
    "forged-fragments": Forgery(_forged_fragments, POD_IN),
    "vxlan-to-its-own-node": Forgery(_vxlan(0), TO_NODE),
    "vxlan-to-another-node": Forgery(_vxlan(1), TO_NODE),
    "vxlan-in-fragments": Forgery(_vxlan(1, cut=True), TO_NODE),
}
"""What no pod may send, in either mode."""

TO_ANOTHER_TENANT = {
    "near": Forgery(_to("near", UDP(dport=PORT)), DELIVER),
    "far": Forgery(_to("far", UDP(dport=PORT)), DELIVER, node=1),
    "near-fragments": Forgery(_cut("near"), DELIVER),
    "far-fragments": Forgery(_cut("far"), DELIVER, node=1),
    "near-ipv6-within": Forgery(_to("near", _DATAGRAM_V6), DELIVER),
    "near-by-its-mac": Forgery(_by_its_mac, DELIVER),
    "near-reset": Forgery(_to("near", TCP(flags="R", dport=PORT)), DELIVER),
    "far-error": Forgery(_to("far", ICMP(type=3, code=4)), DELIVER, node=1),
}
"""What is honest but for the receiver, who is of another namespace."""
