"""The bridge of the overlay, as data: what it should be, what the database says it is."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

VXLAN = "vxlan0"
GATEWAY = "tun0"
VXLAN_OFPORT = 1
GATEWAY_OFPORT = 2
RESERVED_OFPORTS = frozenset({VXLAN_OFPORT, GATEWAY_OFPORT})
FIRST_FREE_OFPORT = 3

PROTOCOLS = ("OpenFlow10", "OpenFlow11", "OpenFlow12", "OpenFlow13", "OpenFlow14", "OpenFlow15")
"""We speak 1.5; an operator's plain `ovs-ofctl` speaks 1.0."""


@dataclass(frozen=True, slots=True)
class BridgeSpec:
    """The bridge as the agent wants it. `datapath_type` is "system" or "netdev"; `gateway_mac` is that of `tun0`.

    `local_ip` is the source of tunnel packets; None leaves it to the route. `external_ids` are set beside those that
    others wrote.
    """

    datapath_type: str
    local_ip: IPv4Address | None
    vxlan_port: int
    gateway_mac: str
    mtu: int
    external_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PodPort:
    """A port to add: the pod link's host end, the ofport to ask for, what to remember with it."""

    name: str
    ofport_request: int
    external_ids: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class PortView:
    """A port of the bridge. `ofport` is None until the switch forwards for it; `error` is why it never will.

    An empty `type` is an ordinary device of the kernel.
    """

    name: str
    type: str
    ofport: int | None
    ofport_request: int | None
    external_ids: Mapping[str, str]
    error: str | None


@dataclass(frozen=True, slots=True)
class OtherBridge:
    """Somebody else's bridge (on the userspace datapath: the one that carries the underlay). `ports`: name to type."""

    datapath_type: str
    ports: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class BridgeView:
    """The database at one instant, as far as it concerns us. Without the bridge, `exists` is False and all is empty.

    `datapath_types` are those that the running ovs-vswitchd can do; empty until it has started.
    """

    exists: bool
    datapath_type: str
    external_ids: Mapping[str, str]
    ports: Mapping[str, PortView]
    others: Mapping[str, OtherBridge]
    datapath_types: frozenset[str]


def vxlan_options(spec: BridgeSpec) -> dict[str, str]:
    """Options of `vxlan0`: flows choose peer and VNI (ovs-vswitchd.conf.db(5), Tunnel Options)."""
    options = {"remote_ip": "flow", "key": "flow", "dst_port": str(spec.vxlan_port)}
    return options if spec.local_ip is None else {**options, "local_ip": str(spec.local_ip)}


def squatters(ports: Collection[PortView]) -> dict[str, int]:
    """Ports that ask for a number of `vxlan0` or `tun0`, or hold one without having asked for another, and the free
    number that each is to ask for. (Who holds one and asks for another, the switch moves by itself.)
    """
    taken = {number for port in ports for number in (port.ofport, port.ofport_request) if number is not None}
    free = _free(taken)
    return {
        port.name: next(free)
        for port in sorted(ports, key=lambda port: port.name)
        if port.name not in (VXLAN, GATEWAY) and (port.ofport_request or port.ofport) in RESERVED_OFPORTS
    }


def _free(taken: Collection[int]) -> Iterator[int]:
    return (number for number in range(FIRST_FREE_OFPORT, 1 << 16) if number not in taken)
