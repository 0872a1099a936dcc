"""The pipeline in a real switch, judged by `ofproto/trace` and by the plain rule of who reaches whom."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

import pytest
from hypothesis import given, settings

from flows.snapshot import Mode, Tenancy, mac_of
from flows.tables import (
    CLASSIFY,
    DELIVER,
    EGRESS,
    HOST_IN,
    POD_IN,
    ROUTE,
    TO_NODE,
    TUN_PORT,
    TUNNEL_IN,
    TUNNEL_OUT,
    VXLAN_PORT,
    Table,
)
from tests.support.openvswitch import OpenVswitch
from tests.support.pipeline_switch import Fate, PipelineSwitch
from tests.support.worlds import OUTSIDE, Pod, World, gateway_of, node_address, subnet_of, tenant, worlds

FRONT = Pod(0, 0, tenant(10))
BACK = Pod(0, 1, tenant(10))
STRANGER = Pod(0, 2, tenant(11))
REMOTE = Pod(1, 0, tenant(10))
SMALL = World(Mode.MULTITENANT, 2, (FRONT, BACK, STRANGER, REMOTE))


@pytest.fixture(scope="module")
def switch() -> Iterator[PipelineSwitch]:
    with OpenVswitch() as openvswitch:
        yield PipelineSwitch(openvswitch)


@pytest.fixture
def small(switch: PipelineSwitch) -> PipelineSwitch:
    switch.install(SMALL)
    return switch


def mac(address: IPv4Address) -> str:
    return mac_of(address).to_bytes(6, "big").hex(":")


def packet(
    pod: Pod,
    destination: IPv4Address,
    protocol: str = "tcp",
    ports: str = "",
    *,
    in_port: int | str | None = None,
    source_mac: str | None = None,
    source: IPv4Address | None = None,
) -> str:
    """A packet as the pod's kernel sends it, to the gateway's MAC address; or a forgery."""
    port, own_mac = in_port or pod.ofport, source_mac or mac(pod.address)
    ends = f"nw_src={source or pod.address},nw_dst={destination}"
    return f"in_port={port},dl_src={own_mac},dl_dst={mac(gateway_of(pod.node))},{protocol},{ends},{ports}".rstrip(",")


def arp(pod: Pod, operation: int, sender: IPv4Address, sender_mac: str) -> str:
    """An ARP packet in a frame that is honestly the pod's."""
    says = f"arp_op={operation},arp_spa={sender},arp_sha={sender_mac},arp_tpa={gateway_of(pod.node)}"
    return f"in_port={pod.ofport},dl_src={mac(pod.address)},arp,{says}"


def from_host(source: IPv4Address, destination: IPv4Address) -> str:
    return f"in_port={TUN_PORT},dl_src={mac(source)},ip,nw_src={source},nw_dst={destination}"


def from_tunnel(outer: IPv4Address, here: int, vni: int, destination: IPv4Address) -> str:
    return f"in_port={VXLAN_PORT},tun_src={outer},tun_dst={node_address(here)},tun_id={vni},ip,nw_dst={destination}"


def arrival(switch: PipelineSwitch, start: int, sent: str, destination: IPv4Address) -> tuple[int, Fate]:
    """Where a packet ends, over the tunnel if it takes it: the last node and its verdict."""
    fate = switch.fate(start, sent)
    if fate.port != VXLAN_PORT:
        return start, fate
    assert fate.vni is not None
    assert fate.tun_dst is not None
    end = int(IPv4Address(fate.tun_dst)) - int(node_address(0))
    return end, switch.fate(end, from_tunnel(node_address(start), end, fate.vni, destination))


@settings(max_examples=10, deadline=None, database=None)
@given(world=worlds())
def test_pods_reach_each_other_as_the_rule_says(switch: PipelineSwitch, world: World) -> None:
    switch.install(world)
    for sender, receiver in world.pairs():
        node, fate = arrival(switch, sender.node, packet(sender, receiver.address), receiver.address)
        if world.reaches(sender, receiver):
            assert (node, fate.port, fate.eth_dst) == (receiver.node, receiver.ofport, mac(receiver.address))
        else:
            assert (node, fate.port, fate.tables[-1]) == (receiver.node, None, DELIVER.number)


@settings(max_examples=5, deadline=None, database=None)
@given(world=worlds())
def test_every_node_reaches_every_pod_and_every_pod_every_gateway(switch: PipelineSwitch, world: World) -> None:
    switch.install(world)
    for node in range(world.nodes):
        for pod in world.pods:
            sent = from_host(gateway_of(node), pod.address)
            end, fate = arrival(switch, node, sent, pod.address)
            assert (end, fate.port, fate.eth_dst) == (pod.node, pod.ofport, mac(pod.address))
            end, fate = arrival(switch, pod.node, packet(pod, gateway_of(node)), gateway_of(node))
            assert (end, fate.port, fate.eth_dst) == (node, TUN_PORT, mac(gateway_of(node)))


def test_a_pod_reaches_itself_by_its_own_address(small: PipelineSwitch) -> None:
    assert small.fate(0, packet(FRONT, FRONT.address)).port == FRONT.ofport


@pytest.mark.parametrize(
    "destination",
    [OUTSIDE, IPv4Address("10.96.0.1"), node_address(0), node_address(1)],
    ids=["outside", "service", "own node", "other node"],
)
def test_what_is_not_for_a_pod_leaves_through_the_host(small: PipelineSwitch, destination: IPv4Address) -> None:
    fate = small.fate(0, packet(FRONT, destination))
    assert (fate.port, fate.eth_dst) == (TUN_PORT, mac(gateway_of(0)))


def test_a_single_tenant_sends_vni_0_between_nodes(switch: PipelineSwitch) -> None:
    switch.install(World(Mode.SUBNET, 2, SMALL.pods))
    assert switch.fate(0, packet(FRONT, REMOTE.address)).vni == 0


def test_the_largest_vni_travels_whole(switch: PipelineSwitch) -> None:
    switch.install(World(Mode.MULTITENANT, 2, (Pod(0, 0, tenant(2**24 - 1)), REMOTE)))
    assert switch.fate(0, packet(FRONT, REMOTE.address)).vni == 2**24 - 1


def test_a_joining_pod_is_reached_from_its_old_and_its_new_tenant_and_by_nobody_else(switch: PipelineSwitch) -> None:
    joining = Pod(0, 0, Tenancy(10, frozenset({10, 11})))
    switch.install(World(Mode.MULTITENANT, 2, (joining, REMOTE)))
    reached = {
        vni: switch.fate(0, from_tunnel(node_address(1), 0, vni, joining.address)).port is not None
        for vni in (0, 9, 10, 11, 12)
    }
    assert reached == {0: True, 9: False, 10: True, 11: True, 12: False}


def test_a_pods_packet_that_the_host_turned_round_is_still_the_pods(small: PipelineSwitch) -> None:
    assert small.fate(0, from_host(FRONT.address, BACK.address)).port == BACK.ofport
    assert small.fate(0, from_host(FRONT.address, STRANGER.address)).tables[-1] == DELIVER.number
    assert small.fate(0, from_host(FRONT.address, REMOTE.address)).vni == 10


@pytest.mark.parametrize("source", [subnet_of(0)[200], REMOTE.address], ids=["a pod that has gone", "a remote pod"])
def test_a_pods_address_from_the_host_does_not_pass_for_the_host(small: PipelineSwitch, source: IPv4Address) -> None:
    fate = small.fate(0, from_host(source, STRANGER.address))
    assert (fate.port, fate.tables[-1]) == (None, HOST_IN.number)


@pytest.mark.parametrize(
    "spoofed",
    [
        packet(FRONT, BACK.address, source=STRANGER.address),
        packet(FRONT, BACK.address, source=IPv4Address("0.0.0.0")),
        packet(FRONT, BACK.address, source_mac=mac(STRANGER.address)),
        packet(FRONT, BACK.address, in_port=STRANGER.ofport),
        packet(FRONT, BACK.address, in_port="LOCAL"),
        arp(FRONT, 2, BACK.address, mac(FRONT.address)),
        arp(FRONT, 1, FRONT.address, mac(BACK.address)),
    ],
    ids=["address", "no address (DHCP)", "MAC", "port", "bridge port", "ARP address", "ARP MAC"],
)
def test_a_pod_that_sends_as_somebody_else_is_dropped_where_it_comes_in(small: PipelineSwitch, spoofed: str) -> None:
    fate = small.fate(0, spoofed)
    assert (fate.port, fate.tables[-1]) == (None, POD_IN.number)


@pytest.mark.parametrize("frame", ["dl_vlan=5,ip", "dl_vlan=0,ip", "ipv6", "dl_type=0x88cc"])
@pytest.mark.parametrize("in_port", [FRONT.ofport, VXLAN_PORT, TUN_PORT])
def test_tagged_frames_ipv6_and_other_protocols_go_nowhere(small: PipelineSwitch, in_port: int, frame: str) -> None:
    fate = small.fate(0, f"in_port={in_port},tun_src={node_address(1)},{frame}")
    assert (fate.port, fate.tables[-1] <= POD_IN.number) == (None, True)


def test_tagged_frames_are_dropped_before_anything_else_is_asked(small: PipelineSwitch) -> None:
    tagged = packet(FRONT, BACK.address, "ip,dl_vlan=5")
    assert small.fate(0, tagged).tables == (CLASSIFY.number,)


@pytest.mark.parametrize(
    "destination", ["224.0.0.251", "255.255.255.255", "169.254.169.254", "169.254.77.1", "127.0.0.1", "240.0.0.1"]
)
def test_addresses_that_cannot_be_routed_are_dropped(small: PipelineSwitch, destination: str) -> None:
    fate = small.fate(0, packet(FRONT, IPv4Address(destination)))
    assert (fate.port, fate.tables[-1]) == (None, ROUTE.number)


def test_a_stranger_cannot_use_the_tunnel(small: PipelineSwitch) -> None:
    fate = small.fate(0, from_tunnel(OUTSIDE, 0, 0, FRONT.address))
    assert (fate.port, fate.tables[-1]) == (None, TUNNEL_IN.number)


@pytest.mark.parametrize("destination", [REMOTE.address, OUTSIDE, node_address(1)])
def test_what_comes_out_of_the_tunnel_never_leaves_the_node_again(
    small: PipelineSwitch, destination: IPv4Address
) -> None:
    fate = small.fate(0, from_tunnel(node_address(1), 0, 0, destination))
    assert (fate.port, fate.tables[-1]) == (None, DELIVER.number)


@pytest.mark.parametrize("destination", [OUTSIDE, node_address(1)], ids=["outside", "node"])
def test_what_the_host_sends_here_by_mistake_does_not_go_back_to_it(
    small: PipelineSwitch, destination: IPv4Address
) -> None:
    fate = small.fate(0, from_host(gateway_of(0), destination))
    assert (fate.port, fate.tables[-1]) == (None, EGRESS.number)


@pytest.mark.parametrize(
    ("destination", "last"),
    [(subnet_of(0)[500], DELIVER), (subnet_of(9)[2], TUNNEL_OUT)],
    ids=["no such pod", "no such node"],
)
def test_cluster_addresses_that_nobody_has_never_leave_the_cluster(
    small: PipelineSwitch, destination: IPv4Address, last: Table
) -> None:
    fate = small.fate(0, packet(FRONT, destination))
    assert (fate.port, fate.tables[-1]) == (None, last.number)


@pytest.mark.parametrize("node", [0, 1])
def test_a_pod_cannot_send_vxlan_to_a_node(small: PipelineSwitch, node: int) -> None:
    fate = small.fate(0, packet(FRONT, node_address(node), "udp", "udp_dst=4789"))
    assert (fate.port, fate.tables[-1]) == (None, TO_NODE.number)


def test_a_pod_may_send_other_udp_to_a_node_and_vxlan_to_the_outside(small: PipelineSwitch) -> None:
    assert small.fate(0, packet(FRONT, node_address(1), "udp", "udp_dst=53")).port == TUN_PORT
    assert small.fate(0, packet(FRONT, OUTSIDE, "udp", "udp_dst=4789")).port == TUN_PORT


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
@pytest.mark.parametrize("destination", [BACK.address, REMOTE.address, OUTSIDE], ids=["local", "remote", "outside"])
def test_one_datapath_flow_serves_all_connections_between_two_ends(
    small: PipelineSwitch, destination: IPv4Address, protocol: str
) -> None:
    megaflow = small.fate(0, packet(FRONT, destination, protocol)).megaflow
    assert "tp_src" not in megaflow
    assert "tp_dst" not in megaflow


def test_one_datapath_flow_serves_all_senders_of_a_tenant_on_another_node(small: PipelineSwitch) -> None:
    megaflow = small.fate(0, from_tunnel(node_address(1), 0, 10, FRONT.address) + f",nw_src={REMOTE.address}").megaflow
    assert "nw_src" not in megaflow
