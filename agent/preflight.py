"""What must hold before the first flow is installed: settings that clash make a node that nobody can explain.

Pure: returns one sentence for each clash, naming both settings and what to do.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import AddressValueError, IPv4Address, IPv4Network
from urllib.parse import urlsplit

from agent.snapshot import Identity
from agent.underlay import Underlay
from k8sovs.records import NetworkConfig

SMALLEST_MTU = 576
"""The datagram that every IPv4 host must accept (RFC 791)."""


def clashes(
    config: NetworkConfig, identity: Identity, etcd_endpoints: tuple[str, ...], mtu: int, underlay: Underlay
) -> Iterator[str]:
    """Every reason not to start, in words. `mtu` is that of the pods."""
    largest_mtu = underlay.pod_mtu
    for name, network in (("Network", config.network), ("ServiceNetwork", config.service_network)):
        if identity.address in network:
            yield (
                f"node-address {identity.address} lies inside {name} {network}: traffic to this node would be taken "
                f"for the overlay's; choose another {name}, or set node-address to an underlay address"
            )
    for endpoint, name, network in etcd_inside(config, etcd_endpoints):
        yield (
            f"etcd-endpoints names {endpoint}, inside {name} {network}: the agent would depend on the network that it "
            "makes; give the address of a host"
        )
    if not config.has_subnet(identity.subnet):
        yield (
            f"this node's subnet {identity.subnet} is not one of Network {config.network} with HostSubnetLength "
            f"{config.host_subnet_length}; correct the node's record under subnets/, or delete it to get a new one"
        )
    if mtu < SMALLEST_MTU:
        yield f"the MTU for pods would be {mtu}, IPv4 needs {SMALLEST_MTU}: raise the underlay's MTU, or set mtu"
    if mtu > largest_mtu:
        yield (
            f"mtu {mtu} is more than the {largest_mtu} bytes that the underlay leaves for a pod's packet: packets of "
            "that size would be lost between nodes; lower mtu, or raise the underlay's MTU"
        )


def overlaps(config: NetworkConfig, identity: Identity, underlay: Underlay) -> Iterator[str]:
    """What of the underlay this node will not reach, in words. Others may live with it: nobody may be there."""
    for name, network in (("Network", config.network), ("ServiceNetwork", config.service_network)):
        if identity.address not in network and underlay.network.overlaps(network):
            yield (
                f"{name} {network} overlaps {underlay.network}, the network of {underlay.ifname} with node-address "
                f"{identity.address}: hosts there are taken for the overlay's; choose another {name} if there are any"
            )


def etcd_inside(config: NetworkConfig, endpoints: tuple[str, ...]) -> Iterator[tuple[str, str, IPv4Network]]:
    """The endpoints of etcd that lie in the overlay, with the name of the setting and its network."""
    for name, network in (("Network", config.network), ("ServiceNetwork", config.service_network)):
        for endpoint in endpoints:
            address = _address(endpoint)
            if address is not None and address in network:
                yield endpoint, name, network


def _address(endpoint: str) -> IPv4Address | None:
    host = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}").hostname or ""
    try:
        return IPv4Address(host)
    except AddressValueError:
        return None
