"""What the node's kernel knows of the network between the nodes. Blocking: `agent.links` runs it in worker threads."""

from __future__ import annotations

import socket
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from agent.ethtool import receive_offloads_off
from agent.netlink import Netlink

VXLAN_OVERHEAD = 50
"""Bytes that VXLAN over IPv4 adds to an inner IP packet: Ethernet 14, VXLAN 8, UDP 8, IP 20 (RFC 7348)."""


class UnderlayError(Exception):
    """The node's address, or the way to another node, is not there; the text says which."""


@dataclass(frozen=True, slots=True)
class Underlay:
    """The device that holds the node's address."""

    ifname: str
    index: int
    mtu: int
    network: IPv4Network
    """the network that the address is connected to"""

    @property
    def pod_mtu(self) -> int:
        """The largest packet of a pod that passes between nodes in one piece."""
        return self.mtu - VXLAN_OVERHEAD


@dataclass(frozen=True, slots=True)
class NextHop:
    """Where packets to another node go first: `address` (the node itself, or a router) on the device `ifname`."""

    address: IPv4Address
    ifname: str
    index: int


def find_underlay(address: IPv4Address) -> Underlay:
    """The device that holds `address`. Raises UnderlayError."""
    with Netlink() as kernel:
        held = next((held for held in kernel.addresses() if held.address == address), None)
        if held is None:
            raise UnderlayError(f"no device of this node holds its address {address}; set the node address")
        name = socket.if_indextoname(held.index)
        link = kernel.link(name)
        if link is None:
            raise UnderlayError(f"the device {name} with the node address {address} is gone")
        return Underlay(name, link.index, link.mtu, IPv4Network((address, held.prefix_length), strict=False))


def next_hop(address: IPv4Address) -> NextHop:
    """Where the kernel sends a packet to `address`. Raises UnderlayError."""
    with Netlink() as kernel:
        route = kernel.route_to(address)
    if route is None:
        raise UnderlayError(f"no route to {address}")
    return NextHop(route.gateway or address, socket.if_indextoname(route.index), route.index)


def known_mac(hop: NextHop) -> str | None:
    """The MAC of `hop` if the kernel knows it: of an entry that failed, or waits for its answer, it tells none."""
    with Netlink() as kernel:
        entries = kernel.neighbours(hop.index)
    return next((entry.mac for entry in entries if entry.address == hop.address), None)


def disable_receive_offloads(ifnames: tuple[str, ...]) -> None:
    """Turn GRO and LRO off on `ifnames`. Raises OSError."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inet:
        for ifname in ifnames:
            receive_offloads_off(inet, ifname)
