"""The node's own place in the pod network: the device `tun0`. Blocking: `agent.links` runs this in a worker thread.

Everything for the cluster and the services goes into the switch by `tun0`, to a next hop that exists only as a
permanent neighbour; the switch decides by the destination address alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from operator import attrgetter

from agent import netlink
from agent.netlink import NUD_PERMANENT, ROUTE_PROTOCOL, Address, Link, Neighbour, Netlink, Request, Route
from agent.podlink import LinkError, mac_text
from flows.snapshot import mac_of

HOST_PREFIX_LENGTH = 32


@dataclass(frozen=True, slots=True)
class GatewaySpec:
    """`address`, the node's gateway address, on `ifname`; `networks` are routed `via next_hop`.

    The device's MAC is that of its address: the switch sends there, whatever somebody (udev, say) makes of the device.
    """

    ifname: str
    address: IPv4Address
    mtu: int
    networks: tuple[IPv4Network, ...]
    next_hop: IPv4Address


@dataclass(frozen=True, slots=True)
class GatewayState:
    """What the kernel says about the device now."""

    link: Link
    addresses: frozenset[Address]
    routes: frozenset[Route]
    neighbours: frozenset[Neighbour]


def configure_gateway(spec: GatewaySpec) -> tuple[str, ...]:
    """Make the device what `spec` says; what was changed, in words, empty if all was right. Raises LinkError."""
    with Netlink() as kernel:
        link = kernel.link(spec.ifname)
        if link is None:
            raise LinkError(f"{spec.ifname} does not exist: the switch has not made it (yet)")
        state = GatewayState(
            link=link,
            addresses=frozenset(kernel.addresses(link.index)),
            routes=frozenset(kernel.routes(link.index)),
            neighbours=frozenset(kernel.neighbours(link.index)),
        )
        repairs = required_changes(spec, state)
        if repairs:
            try:
                kernel.execute(repairs)
            except OSError as error:
                raise LinkError(f"gateway {spec.ifname}: {error.strerror}") from error
        return tuple(request.purpose for request in repairs)


def required_changes(spec: GatewaySpec, state: GatewayState) -> list[Request]:
    """The requests that lead from `state` to `spec`, in order; routes of other people on the device stay."""
    index = state.link.index
    requests: list[Request] = []
    own_mac = mac_text(mac_of(spec.address))
    if state.link.mac != own_mac:
        requests.append(netlink.set_link(spec.ifname, mac=own_mac))
    if not state.link.up or state.link.mtu != spec.mtu:
        requests.append(netlink.set_link(spec.ifname, mtu=spec.mtu, up=True))
    wrong = [have for have in state.addresses if not _is(have, spec)]
    # First the right address: with its last one the device would lose its routes and neighbours too.
    if len(wrong) == len(state.addresses):
        requests.append(netlink.add_address(index, spec.address, HOST_PREFIX_LENGTH))
    requests += [netlink.delete_address(have) for have in wrong]

    mac = mac_text(mac_of(spec.next_hop))
    if Neighbour(index, spec.next_hop, mac, NUD_PERMANENT) not in state.neighbours:
        requests.append(netlink.permanent_neighbour(index, spec.next_hop, mac))

    wanted = {
        Route(network, index, gateway=spec.next_hop, source=spec.address, onlink=True) for network in spec.networks
    }
    destinations = {route.destination for route in wanted}
    ours = {route for route in state.routes if route.protocol == ROUTE_PROTOCOL}
    stale = {route for route in ours if route.destination not in destinations}
    requests += [netlink.delete_route(route) for route in sorted(stale, key=attrgetter("destination"))]
    requests += [netlink.replace_route(route) for route in sorted(wanted - ours, key=attrgetter("destination"))]
    return requests


def _is(address: Address, spec: GatewaySpec) -> bool:
    return (address.address, address.prefix_length) == (spec.address, HOST_PREFIX_LENGTH)
