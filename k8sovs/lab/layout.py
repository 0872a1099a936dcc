"""Names, addresses and paths of a lab: everything that the other modules must agree on, and no I/O but `load`.

The underlay is 192.0.2.0/24, the outside world 198.51.100.0/24, clients of edge hosts are in 198.18.0.0/24. These are
set aside for documentation (RFC 5737) and for benchmarks (RFC 2544), so a packet that escaped would meet nobody. They
exist in the lab's own network namespaces only, and so two labs can use the same ones side by side.
"""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass, fields
from enum import Enum
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from zlib import crc32

from k8sovs.config import ServiceProxy

RUN_ROOT = Path("/run/k8sovs-lab")
NETNS_ROOT = Path("/run/netns")
OWNER_VARIABLE = "K8SOVS_LAB_DIR"
"""Every process of a lab carries its run directory in this variable: how `down` finds them after a crash."""

ASSETS_VARIABLE = "KUBEBUILDER_ASSETS"
"""Names the directory of Kubernetes' own binaries, when a lab is to use them."""

DEFAULT_NAME = "lab"
MAX_NODES = 50
MAX_ETCD_MEMBERS = 5
MAX_EDGES = 9
CONTROLLERS = 2

UNDERLAY = IPv4Network("192.0.2.0/24")
OUTSIDE = IPv4Network("198.51.100.0/24")
CLIENTS = IPv4Network("198.18.0.0/24")
FABRIC_ADDRESS = IPv4Address("192.0.2.1")
CONTROL_ADDRESS = IPv4Address("192.0.2.2")
FIRST_NODE_ADDRESS = IPv4Address("192.0.2.11")
FIRST_EDGE_ADDRESS = IPv4Address("192.0.2.199")
OUTSIDE_GATEWAY = IPv4Address("198.51.100.1")
OUTSIDE_ADDRESS = IPv4Address("198.51.100.10")
CLIENT_ADDRESS = IPv4Address("198.18.0.10")
CLUSTER_NETWORK = IPv4Network("172.11.0.0/16")
SERVICE_NETWORK = IPv4Network("10.96.0.0/12")
DEFAULT_HOST_SUBNET_LENGTH = 10
ETCD_PREFIX = "/k8s.ovs.com/ovs/network"
NETWORK_NAME = "k8ssdn"

ETCD_PORT = 2379
ETCD_PORT_STEP = 10
"""Members of one etcd share an address: their ports are this far apart, and one above each is for its peers."""
API_PORT = 6443
API_ETCD_PORT = 2479
METRICS_PORT = 9441

_NAME = re.compile(r"[a-z0-9]([a-z0-9-]{0,18}[a-z0-9])?")


class LabError(Exception):
    """What went wrong with a lab, in words for the person who asked."""


class LabMode(Enum):
    """How tenants are kept: each namespace by itself, or one flat network."""

    MULTITENANT = "multitenant"
    SUBNET = "subnet"


class Datapath(Enum):
    """The switch below the nodes: the kernel's, the userspace one, or whichever this machine can run."""

    AUTO = "auto"
    NETDEV = "netdev"
    SYSTEM = "system"


@dataclass(frozen=True, slots=True)
class NodeLayout:
    """One node, or edge host: its names, addresses and files."""

    name: str
    netns: str
    address: IPv4Address
    directory: Path

    @property
    def netns_path(self) -> Path:
        """The file to enter the node by: `nsenter --net=`."""
        return NETNS_ROOT / self.netns

    @property
    def ovs_rundir(self) -> Path:
        """Sockets and pid files of the node's Open vSwitch."""
        return self.directory / "ovs"

    @property
    def cni_socket(self) -> Path:
        """Where the agent answers the CNI executable."""
        return self.directory / "cni.sock"

    @property
    def cni_conf_dir(self) -> Path:
        """Where the agent puts the network configuration, last of all."""
        return self.directory / "cni" / "net.d"

    @property
    def cni_bin_dir(self) -> Path:
        """Where the agent puts the CNI executable."""
        return self.directory / "cni" / "bin"

    @property
    def state_dir(self) -> Path:
        """What the agent keeps across restarts."""
        return self.directory / "state"

    @property
    def notify_socket(self) -> Path:
        """Where an edge host's agent says that it is ready, as a service of systemd does."""
        return self.directory / "notify.sock"

    @property
    def client_side(self) -> IPv4Address:
        """Where clients reach an edge host."""
        return CLIENTS[int(self.address) - int(UNDERLAY[0])]


@dataclass(frozen=True, slots=True)
class Lab:
    """What a lab was asked to be; all else follows from it."""

    name: str
    nodes: int
    mode: LabMode
    datapath: Datapath
    kubernetes_assets: Path | None = None
    """where `kube-apiserver` is; without, the embedded API server runs"""
    host_subnet_length: int = DEFAULT_HOST_SUBNET_LENGTH
    """Host bits of each node's pod subnet."""
    etcd_members: int = 1
    edges: int = 0
    """Hosts outside Kubernetes, for load balancers."""
    service_proxy: ServiceProxy = ServiceProxy.KUBE_PROXY
    """who handles Services on the nodes"""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise LabError(f"lab name {self.name!r}: at most 20 of a-z, 0-9 and '-', with no '-' at either end")
        if not 1 <= self.nodes <= MAX_NODES:
            raise LabError(f"{self.nodes} nodes: a lab has 1 to {MAX_NODES}")
        if not 1 <= self.etcd_members <= MAX_ETCD_MEMBERS:
            raise LabError(f"{self.etcd_members} members of etcd: a lab has 1 to {MAX_ETCD_MEMBERS}")
        if not 0 <= self.edges <= MAX_EDGES:
            raise LabError(f"{self.edges} edge hosts: a lab has 0 to {MAX_EDGES}")
        if self.kubernetes_assets and not (self.kubernetes_assets / "kube-apiserver").is_file():
            raise LabError(f"{ASSETS_VARIABLE}={self.kubernetes_assets}: there is no kube-apiserver in it")
        shortest, longest = 2, 32 - CLUSTER_NETWORK.prefixlen
        if not shortest <= self.host_subnet_length <= longest:
            raise LabError(f"host subnet length {self.host_subnet_length}: it is {shortest} to {longest} bits")
        subnets = 1 << longest - self.host_subnet_length
        if subnets < self.nodes + self.edges:
            raise LabError(
                f"host subnet length {self.host_subnet_length} divides {CLUSTER_NETWORK} into {subnets} subnets, "
                f"and {self.nodes} nodes and {self.edges} edge hosts need one each: choose a smaller one"
            )

    @property
    def directory(self) -> Path:
        """The run directory; it exists exactly while the lab does."""
        return RUN_ROOT / self.name

    @property
    def control_socket(self) -> Path:
        """Where the supervisor takes requests."""
        return self.directory / "control.sock"

    @property
    def logs(self) -> Path:
        """One file for each process."""
        return self.directory / "logs"

    def netns(self, part: str) -> str:
        """The network namespace of `part`: fabric, control, outside, node1 and so on."""
        return f"{self.name}-{part}"

    def pod_netns(self, namespace: str, pod: str, container_id: str) -> str:
        """The network namespace of one sandbox: a pod that is created again under its name gets another."""
        return f"{self.name}-pod-{namespace}-{pod}"[:200] + f"-{container_id[:8]}"

    def node(self, number: int) -> NodeLayout:
        """Node `number`, counted from 1."""
        name = f"node{number}"
        return NodeLayout(name, self.netns(name), FIRST_NODE_ADDRESS + (number - 1), self.directory / name)

    def all_nodes(self) -> tuple[NodeLayout, ...]:
        """Every node, in order."""
        return tuple(self.node(number) for number in range(1, self.nodes + 1))

    @property
    def etcd_ports(self) -> tuple[int, ...]:
        """Where each member of etcd serves, at the control plane's address."""
        return tuple(ETCD_PORT + ETCD_PORT_STEP * member for member in range(self.etcd_members))

    @property
    def etcd_endpoints(self) -> tuple[str, ...]:
        """The members of etcd, as they are reached on the underlay."""
        return tuple(f"http://{CONTROL_ADDRESS}:{port}" for port in self.etcd_ports)

    def etcd_name(self, member: int) -> str:
        """What the process of a member is called; `member` counts from 0."""
        return "etcd" if self.etcd_members == 1 else f"etcd-{member + 1}"

    def all_edges(self) -> tuple[NodeLayout, ...]:
        """Every edge host, in order: edge1, edge2 and so on."""
        names = [f"edge{number}" for number in range(1, self.edges + 1)]
        return tuple(
            NodeLayout(name, self.netns(name), FIRST_EDGE_ADDRESS + index, self.directory / name)
            for index, name in enumerate(names)
        )

    def network_config(self) -> str:
        """The network's record in etcd, as the controller is told it."""
        return json.dumps(
            {
                "Name": NETWORK_NAME,
                "Network": str(CLUSTER_NETWORK),
                "HostSubnetLength": self.host_subnet_length,
                "ServiceNetwork": str(SERVICE_NETWORK),
                "PluginName": f"k8s-ovs-{self.mode.value}",
            }
        )

    def encode(self) -> str:
        """The lab as text, for `load`."""
        return json.dumps(asdict(self), default=lambda value: value.value if isinstance(value, Enum) else str(value))


def route_metric(name: str) -> int:
    """The metric of the blackhole routes of lab `name`: very high, so any other route wins; `down` finds them by it."""
    return 0xF0000000 | crc32(name.encode()) >> 4


def directory_of(name: str) -> Path:
    """The run directory of the lab called `name`."""
    return Lab(name, 1, LabMode.MULTITENANT, Datapath.AUTO).directory


def spec_file(directory: Path) -> Path:
    """The file in run directory `directory` that says what the lab was asked to be."""
    return directory / "lab.json"


def load(directory: Path) -> Lab:
    """The lab whose run directory is `directory`. LabError when there is none, or one of another version."""
    name = directory.name
    try:
        told = json.loads(spec_file(directory).read_text())
    except FileNotFoundError:
        raise LabError(f"lab '{name}' is not up: start it with 'k8sovs lab up --name {name}'") from None
    except (OSError, ValueError) as error:
        raise _unreadable(directory, str(error)) from error
    if not isinstance(told, dict):
        raise _unreadable(directory, "it is no JSON object")
    if told.keys() != {field.name for field in fields(Lab)}:
        raise LabError(
            f"lab '{name}' is from another version of k8sovs: take it down with 'k8sovs lab down --name {name}' "
            "and start it again"
        )
    assets = told["kubernetes_assets"]
    try:
        return Lab(
            told["name"],
            told["nodes"],
            LabMode(told["mode"]),
            Datapath(told["datapath"]),
            Path(assets) if assets else None,
            told["host_subnet_length"],
            told["etcd_members"],
            told["edges"],
            ServiceProxy(told["service_proxy"]),
        )
    except (TypeError, ValueError) as error:
        raise _unreadable(directory, str(error)) from error


def _unreadable(directory: Path, reason: str) -> LabError:
    return LabError(
        f"{spec_file(directory)} cannot be read: {reason}; "
        f"take lab '{directory.name}' down with 'k8sovs lab down --name {directory.name}' and start it again"
    )
