"""The input of the pipeline: all that a node knows, at one instant, in the terms of the switch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from flows.service import Service, ServiceProxy

VNI_GLOBAL = 0
VNI_MAX = 2**24 - 1


class Mode(Enum):
    """Whether namespaces are kept apart."""

    SUBNET = "k8s-ovs-subnet"
    MULTITENANT = "k8s-ovs-multitenant"


@dataclass(frozen=True, slots=True)
class Tenancy:
    """What the data plane does for a namespace: pods send with VNI `send` and are reached from any of `accept`.

    VNI 0 as a sender reaches everybody; a 0 inside `accept` means from anyone. In subnet mode nobody asks.
    """

    send: int
    accept: frozenset[int]


@dataclass(frozen=True, slots=True)
class Attachment:
    """One local pod interface on the switch."""

    ofport: int
    address: IPv4Address
    tenancy: Tenancy
    _hash: int = field(init=False, repr=False, compare=False)
    """Sets of all attachments are made for every change, and the hash of all the parts takes longer than the rest."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.ofport, self.address, self.tenancy)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Peer:
    """Another node (or edge host): the underlay address it tunnels from, and the pod subnet behind it."""

    address: IPv4Address
    subnet: IPv4Network
    _hash: int = field(init=False, repr=False, compare=False)
    """There are thousands, in sets that are made whenever one of them changes."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.address, self.subnet)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Node:
    """This node. `gateway` is the address of `tun0`, the first of `subnet`."""

    address: IPv4Address
    subnet: IPv4Network
    gateway: IPv4Address
    vxlan_port: int = 4789


@dataclass(frozen=True, slots=True)
class Snapshot:
    """Everything the desired flows depend on."""

    mode: Mode
    cluster_network: IPv4Network
    service_network: IPv4Network
    node: Node
    attachments: frozenset[Attachment] = frozenset()
    peers: frozenset[Peer] = frozenset()
    service_proxy: ServiceProxy = ServiceProxy.KUBE_PROXY
    services: Mapping[str, Service] = field(default_factory=lambda: MappingProxyType({}), hash=False)
    """By key; a Service that has not changed is the same object."""


def mac_of(address: IPv4Address) -> int:
    """The MAC address of the pod or gateway at `address`, 48 bits: 0a:58 and the four bytes of the address.

    A MAC that follows from the address lets one flow answer every ARP request.
    """
    return 0x0A58 << 32 | int(address)
