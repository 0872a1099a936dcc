"""The pipeline with real frames: made and read by scapy, sent through the simulated devices of a private switch."""

from __future__ import annotations

import time
from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from scapy.error import Scapy_Exception
from scapy.layers.inet import ICMP, IP, TCP, UDP, fragment
from scapy.layers.l2 import ARP, Ether
from scapy.packet import Packet, Raw
from scapy.utils import PcapReader

from flows.snapshot import Mode, mac_of
from flows.tables import HOST_NEXT_HOP, TUN_PORT
from tests.support.openvswitch import OpenVswitch
from tests.support.pipeline_switch import PipelineSwitch
from tests.support.worlds import OUTSIDE, Pod, World, gateway_of, node_address, subnet_of, tenant

FRONT = Pod(0, 0, tenant(10))
BACK = Pod(0, 1, tenant(10))
STRANGER = Pod(0, 2, tenant(11))
DEADLINE_S = 10.0
EVERYBODY = "ff:ff:ff:ff:ff:ff"


@pytest.fixture
def switch() -> Iterator[PipelineSwitch]:
    with OpenVswitch() as openvswitch:
        switch = PipelineSwitch(openvswitch)
        switch.install(World(Mode.MULTITENANT, 2, (FRONT, BACK, STRANGER)))
        yield switch


def mac(address: IPv4Address) -> str:
    return mac_of(address).to_bytes(6, "big").hex(":")


def who_has(asked: IPv4Address, asker: IPv4Address, asker_mac: str | None = None) -> Packet:
    own = asker_mac or mac(asker)
    return Ether(src=own, dst=EVERYBODY) / ARP(op=1, hwsrc=own, psrc=str(asker), pdst=str(asked))


def ip(sender: Pod, destination: IPv4Address) -> Packet:
    source, gateway = mac(sender.address), mac(gateway_of(sender.node))
    return Ether(src=source, dst=gateway) / IP(src=str(sender.address), dst=str(destination))


def from_host(destination: IPv4Address) -> Packet:
    ether = Ether(src=mac(gateway_of(0)), dst=mac(HOST_NEXT_HOP))
    return ether / IP(src=str(gateway_of(0)), dst=str(destination))


def frames(switch: PipelineSwitch, ofport: int, count: int) -> list[Packet]:
    """The first `count` frames or more that left by a port of node 0."""
    deadline = time.monotonic() + DEADLINE_S
    while True:
        with PcapReader(str(switch.sent(0, ofport))) as reader:
            try:
                seen = list(reader)
            except (EOFError, Scapy_Exception):  # a frame that is still being written
                seen = []
        if len(seen) >= count:
            return seen
        assert time.monotonic() < deadline, f"{len(seen)} of {count} frames after {DEADLINE_S} s: {seen}"
        time.sleep(0.005)


@pytest.mark.parametrize(
    "asked",
    [gateway_of(0), subnet_of(0)[77], subnet_of(1)[2], IPv4Address("10.96.0.10")],
    ids=["gateway", "local address", "remote address", "service"],
)
def test_a_pod_that_asks_for_an_address_is_told_the_mac_that_follows_from_it(
    switch: PipelineSwitch, asked: IPv4Address
) -> None:
    switch.receive(0, FRONT.ofport, bytes(who_has(asked, FRONT.address)))
    (answer,) = frames(switch, FRONT.ofport, 1)
    assert (answer[Ether].src, answer[Ether].dst) == (mac(asked), mac(FRONT.address))
    said = answer[ARP]
    assert (said.op, said.hwsrc, said.psrc) == (2, mac(asked), str(asked))
    assert (said.hwdst, said.pdst) == (mac(FRONT.address), str(FRONT.address))


def test_the_host_that_asks_for_its_next_hop_is_told_a_mac(switch: PipelineSwitch) -> None:
    switch.receive(0, TUN_PORT, bytes(who_has(HOST_NEXT_HOP, gateway_of(0), "02:00:00:00:00:07")))
    (answer,) = frames(switch, TUN_PORT, 1)
    assert (answer[ARP].hwsrc, answer[ARP].psrc) == ("0a:58:a9:fe:4d:01", str(HOST_NEXT_HOP))
    assert (answer[Ether].dst, answer[ARP].pdst) == ("02:00:00:00:00:07", str(gateway_of(0)))


@pytest.mark.parametrize("asked", [OUTSIDE, node_address(1), HOST_NEXT_HOP], ids=["outside", "node", "next hop"])
def test_a_pod_that_asks_for_other_addresses_gets_no_answer(switch: PipelineSwitch, asked: IPv4Address) -> None:
    switch.receive(0, FRONT.ofport, bytes(who_has(asked, FRONT.address)))
    switch.receive(0, FRONT.ofport, bytes(who_has(gateway_of(0), FRONT.address)))
    (answer,) = frames(switch, FRONT.ofport, 1)
    assert answer[ARP].psrc == str(gateway_of(0))


def test_a_packet_reaches_its_own_tenant_unchanged_but_for_the_mac_and_no_other_tenant(switch: PipelineSwitch) -> None:
    sent = ip(FRONT, BACK.address) / TCP(sport=40000, dport=80) / Raw(b"hello")
    switch.receive(0, FRONT.ofport, bytes(ip(FRONT, STRANGER.address) / ICMP()))
    switch.receive(0, FRONT.ofport, bytes(sent))
    switch.receive(0, TUN_PORT, bytes(from_host(STRANGER.address) / ICMP()))
    (got,) = frames(switch, BACK.ofport, 1)
    assert bytes(got[IP]) == bytes(sent[IP])
    assert (got[Ether].src, got[Ether].dst) == (mac(FRONT.address), mac(BACK.address))
    (got,) = frames(switch, STRANGER.ofport, 1)
    assert got[IP].src == str(gateway_of(0))


def test_a_packet_of_a_pod_to_itself_comes_back_by_its_own_port(switch: PipelineSwitch) -> None:
    switch.receive(0, FRONT.ofport, bytes(ip(FRONT, FRONT.address) / ICMP()))
    (got,) = frames(switch, FRONT.ofport, 1)
    assert (got[Ether].dst, got[IP].dst) == (mac(FRONT.address), str(FRONT.address))


def test_fragments_pass_between_pods(switch: PipelineSwitch) -> None:
    pieces = fragment(ip(FRONT, BACK.address) / UDP(dport=53) / Raw(bytes(3000)), fragsize=1400)
    for piece in pieces:
        switch.receive(0, FRONT.ofport, bytes(piece))
    assert [got[IP].frag for got in frames(switch, BACK.ofport, len(pieces))] == [piece[IP].frag for piece in pieces]


def test_vxlan_in_fragments_does_not_slip_through_to_a_node(switch: PipelineSwitch) -> None:
    smuggled = fragment(ip(FRONT, node_address(1)) / UDP(dport=4789) / Raw(bytes(3000)), fragsize=1400)
    allowed = fragment(ip(FRONT, OUTSIDE) / UDP(dport=53) / Raw(bytes(3000)), fragsize=1400)
    for piece in (*smuggled, *allowed):
        switch.receive(0, FRONT.ofport, bytes(piece))
    assert {got[IP].dst for got in frames(switch, TUN_PORT, len(allowed))} == {str(OUTSIDE)}
