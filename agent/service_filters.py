"""What the node's kernel does for Services that the switch handles, as nft rules.

It gives the switch what clients outside the cluster ask for (a NodePort at the node's address, an external address),
and refuses in words of TCP and ICMP what the switch marks as refused. It chooses no endpoint and knows none.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from agent.podlink import mac_text
from flows.service import Protocol, Service
from flows.tables import NODE_PORT_ADDRESS, REFUSED_MAC, TURN_ADDRESS

REFUSED_PRIORITY = -150
"""After connection tracking, as a refusal is part of its connection; before routing, which would find that the node's
own packets come from nowhere. Takes Linux 5.9."""

Asked = tuple[Protocol, int]
"""A protocol and a port."""


@dataclass(frozen=True, slots=True)
class ServiceFilterSpec:
    """`network` is that of the Services; `kept` are the NodePorts whose endpoints see the client's own address.

    `external` leads from an external address and port to where the node sends it: a NodePort, else a Service's address.
    """

    network: IPv4Network
    node_ports: frozenset[Asked] = frozenset()
    kept: frozenset[Asked] = frozenset()
    external: Mapping[tuple[IPv4Address, Asked], tuple[IPv4Address, int]] = field(
        default_factory=lambda: MappingProxyType({})
    )


def service_filter_spec(network: IPv4Network, services: Iterable[Service]) -> ServiceFilterSpec:
    """What the kernel must know of `services`: nothing of those that have but a cluster address."""
    node_ports: set[Asked] = set()
    kept: set[Asked] = set()
    external: dict[tuple[IPv4Address, Asked], tuple[IPv4Address, int]] = {}
    exposed = [one for one in services if one.external or any(port.node_port is not None for port in one.ports)]
    for service in sorted(exposed, key=lambda service: service.key):
        for port in service.ports:
            target = (service.cluster_addresses[0], port.port)
            if port.node_port is not None:
                target = (NODE_PORT_ADDRESS, port.node_port)
                node_ports.add((port.protocol, port.node_port))
                if service.external_local:
                    kept.add((port.protocol, port.node_port))
            for address in service.external:
                external.setdefault((address, (port.protocol, port.port)), target)
    return ServiceFilterSpec(network, frozenset(node_ports), frozenset(kept), MappingProxyType(external))


def masquerades(spec: ServiceFilterSpec, gateway: str, cluster: IPv4Network) -> str:
    """For the chain of source NAT: answers have to come back to the switch that made the connection.

    Who asks from outside is seen by its own address only where a Service wants that (externalTrafficPolicy Local).
    """
    service = f"oifname {gateway} ip daddr {{ {spec.network}, {NODE_PORT_ADDRESS} }} ip saddr != {cluster}"
    return f"""
        ip saddr {TURN_ADDRESS} oifname != {gateway} masquerade
        {service} fib saddr type local masquerade
        {service} meta l4proto . th dport != @kept masquerade"""


def chains(spec: ServiceFilterSpec, gateway: str) -> str:
    """The sets and chains that only Services need."""
    to_switch = f"""
        fib daddr type local meta l4proto . th dport @node_ports dnat ip to {NODE_PORT_ADDRESS}
        dnat ip to ip daddr . meta l4proto . th dport map @external"""
    arriving = to_switch.replace("\n        ", f"\n        iifname != {gateway} ")
    refused = f"iifname {gateway} ether saddr {mac_text(REFUSED_MAC)}"
    external = ", ".join(
        f"{address} . {_asked(asked)} : {to} . {port}" for (address, asked), (to, port) in sorted(spec.external.items())
    )
    return f"""
    set node_ports {{
        type inet_proto . inet_service{_elements(", ".join(map(_asked, sorted(spec.node_ports))))}
    }}
    set kept {{
        type inet_proto . inet_service{_elements(", ".join(map(_asked, sorted(spec.kept))))}
    }}
    map external {{
        type ipv4_addr . inet_proto . inet_service : ipv4_addr . inet_service{_elements(external)}
    }}
    chain service_in {{
        type nat hook prerouting priority dstnat; policy accept;{arriving}
    }}
    chain service_out {{
        type nat hook output priority -100; policy accept;{to_switch}
    }}
    chain refused {{
        type filter hook prerouting priority {REFUSED_PRIORITY}; policy accept;
        {refused} meta l4proto tcp reject with tcp reset
        {refused} reject
    }}"""


def _asked(asked: Asked) -> str:
    return f"{asked[0].name.lower()} . {asked[1]}"


def _elements(text: str) -> str:
    return f"\n        elements = {{ {text} }}" if text else ""
