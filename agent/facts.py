"""What `k8sovs check` looks at on a host, as it was found: values, judged by `agent.findings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from k8sovs.records import NetworkConfig


class Module(Enum):
    """Where the kernel's Open vSwitch is."""

    LOADED = "loaded"
    AVAILABLE = "available, not loaded"
    MISSING = "missing"


class Right(Enum):
    """What etcd said to a request."""

    GRANTED = "granted"
    DENIED = "denied"


class Role(Enum):
    """Whose rights in etcd are looked at."""

    AGENT = "agent"
    CONTROLLER = "controller"


@dataclass(frozen=True, slots=True)
class Device:
    """A network device; `vxlan_port` is the UDP port of one of kind vxlan."""

    name: str
    mtu: int
    up: bool
    kind: str = ""
    vxlan_port: int | None = None
    addresses: tuple[IPv4Interface, ...] = ()
    routes: tuple[IPv4Network, ...] = ()


@dataclass(frozen=True, slots=True)
class PathProbe:
    """What came of packets that may not be fragmented on the way to `peer`.

    `wanted` and `passed` are sizes of IP packets in bytes; `passed` is the largest that was answered, 0: none was.
    """

    peer: IPv4Address
    wanted: int
    passed: int


@dataclass(frozen=True, slots=True)
class EtcdFacts:
    """What etcd answered; `trouble` is why it did not."""

    endpoints: tuple[str, ...]
    trouble: str = ""
    silent: tuple[str, ...] = ()
    """Endpoints that did not answer, while another did."""
    denied: tuple[str, ...] = ()
    """Folders and keys that may not be read."""
    writing: Right | None = None
    config: NetworkConfig | None = None
    config_trouble: str = ""


@dataclass(frozen=True, slots=True)
class FilterFacts:
    """What netfilter has that may be in the way; `trouble` is why it could not be asked."""

    forward_drops: bool = False
    admitted: bool = False
    """Whether our accepting rules are in that chain."""
    advice: tuple[str, ...] = ()
    trouble: str = ""


@dataclass(frozen=True, slots=True)
class Caretaker:
    """A service that takes care of network devices, and those of ours that it was not told to leave alone."""

    name: str
    minds: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Facts:
    """A host at one moment."""

    role: Role
    node_address: IPv4Address | None
    address_chosen: bool
    """Whether a setting or a record says so; else it is a guess from the route to etcd."""
    vxlan_port: int
    mtu: int
    """The setting: 0 means that of the underlay less what VXLAN adds."""
    installed: bool
    """Whether the agent has made its gateway device here."""
    module: Module
    userspace_wanted: bool
    ovs_version: str
    ovs_trouble: str
    devices: tuple[Device, ...]
    udp_port_taken_by: str
    """The program that has the VXLAN port, if one has."""
    probes: tuple[PathProbe, ...]
    etcd: EtcdFacts
    filters: FilterFacts
    api_server: str
    api_address: IPv4Address | None
    conf_dir: str
    conf_files: tuple[str, ...]
    sysctls: Mapping[str, str] = field(default_factory=dict)
    caretakers: tuple[Caretaker, ...] = ()

    @property
    def underlay(self) -> Device | None:
        """The device that holds the node's address."""
        held = (one for one in self.devices if any(each.ip == self.node_address for each in one.addresses))
        return next(held, None)
