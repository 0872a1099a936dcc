"""Those who forge frames: a pod, and a host on the underlay that is no node."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from ipaddress import IPv4Address

from scapy.layers.inet import IP, UDP
from scapy.layers.l2 import ARP, Ether
from scapy.layers.vxlan import VXLAN
from scapy.packet import Packet, Raw

from agent.podlink import mac_text
from flows.snapshot import mac_of
from tests.support.frames import Sniffer, send_frame
from tests.support.namespaces import Json, Sandbox, run, run_json
from tests.support.runtime import Answer, Node, Pod

PORT = 7777
VXLAN_PORT = 4789
BROADCAST = "ff:ff:ff:ff:ff:ff"
ENOUGH_S = 0.4
"""What gets through is there within a few milliseconds."""
ARP_REPLY = b"\x08\x06\x00\x01\x08\x00\x06\x04\x00\x02"
"""How one begins: ethertype ARP, Ethernet and IPv4, is-at (RFC 826)."""


def mac(address: str) -> str:
    """The MAC address of a pod or gateway."""
    return mac_text(mac_of(IPv4Address(address)))


class Attacker:
    """A pod that sends whatever frames it likes."""

    def __init__(self, pod: Pod, answer: Answer) -> None:
        self.address = answer.address
        self.mac = mac(answer.address)
        self.gateway: str = answer.said["ips"][0]["gateway"]
        self.host_mac = answer.host_mac
        self.netns = pod.sandbox.path

    def send(self, frame: Packet) -> None:
        """Send a frame by `eth0`."""
        send_frame(self.netns, "eth0", bytes(frame))

    def frame(self, payload: bytes, target: str, **forged: str) -> Packet:
        """A datagram to `target`; what it says of itself is true unless it is `forged`."""
        return self.packet(target, **forged) / UDP(sport=PORT, dport=PORT) / Raw(payload)

    def packet(self, target: str, **forged: str) -> Packet:
        """Headers of Ethernet and IP, likewise."""
        said = {"src": self.address, "eth_src": self.mac, "eth_dst": mac(self.gateway), **forged}
        return Ether(src=said["eth_src"], dst=said["eth_dst"]) / IP(src=said["src"], dst=target)

    def question(self, target: str, **forged: str) -> Packet:
        """An ARP request for `target`; what it says of itself is true unless it is `forged`."""
        said = {"psrc": self.address, "hwsrc": self.mac, "eth_src": self.mac, **forged}
        ether = Ether(src=said["eth_src"], dst=BROADCAST)
        return ether / ARP(op="who-has", psrc=said["psrc"], hwsrc=said["hwsrc"], pdst=target)

    def is_answered(self, question: Packet) -> bool:
        """Whether anybody answers an ARP request within a moment."""
        with Sniffer(self.netns, "eth0") as sniffer:
            self.send(question)
            return sniffer.sees(ARP_REPLY, ENOUGH_S)


class Stranger:
    """A host on the underlay of a lab that is no node."""

    address = "192.0.2.66"
    mac = "02:00:00:00:00:66"

    def __init__(self, sandbox: Sandbox) -> None:
        self._netns = sandbox.path

    def send(self, frame: Packet) -> None:
        """Send a frame to the underlay."""
        send_frame(self._netns, "eth0", bytes(frame))

    def packet(self, node: Node, target: str, source: str = address) -> Packet:
        """Headers of a packet that `node` gets, and that says it is from `source`."""
        return Ether(src=self.mac, dst=underlay_mac(node)) / IP(src=source, dst=target)

    def tunnelled(self, node: Node, vni: int, inner: Packet, source: str = address) -> Packet:
        """`inner` in VXLAN with any id, to `node`, from itself or from an address that is not its own."""
        # The port tells a tunnel's ends nothing, as long as it is none of a service.
        return self.packet(node, node.address, source) / UDP(sport=50000, dport=VXLAN_PORT) / VXLAN(vni=vni) / inner


@contextmanager
def stranger_on_underlay(lab_name: str) -> Iterator[Stranger]:
    """Plugged into the underlay's bridge while the block runs."""
    with Sandbox() as sandbox:
        fabric = f"{lab_name}-fabric"
        peer = ("peer", "name", "eth0", "netns", sandbox.path)
        run("ip", "-netns", fabric, "link", "add", "stranger", "type", "veth", *peer)
        run("ip", "-netns", fabric, "link", "set", "stranger", "master", "underlay", "up")
        sandbox.run("ip", "link", "set", "eth0", "address", Stranger.mac, "up")
        sandbox.run("ip", "address", "add", f"{Stranger.address}/24", "dev", "eth0")
        try:
            yield Stranger(sandbox)
        finally:
            run("ip", "-netns", fabric, "link", "del", "stranger")


def underlay_mac(node: Node) -> str:
    """The MAC address behind a node's address on the underlay."""
    found: str = _underlay_link(node)["address"]
    return found


def underlay_device(node: Node) -> str:
    """The device that has a node's address on the underlay."""
    found: str = _underlay_link(node)["ifname"]
    return found


def _underlay_link(node: Node) -> Json:
    for link in run_json(*node.command("ip", "-json", "address")):
        if any(held.get("local") == node.address for held in link["addr_info"]):
            return link
    raise AssertionError(f"no device of {node.name} has {node.address}")
