"""Small clusters, seen from outside: nodes, their pods, and the plain rule of who reaches whom.

`World.snapshot` gives what one node knows of the world, the input of the pipeline. `World.reaches` is the same
semantics once more, slow and obvious, for comparing.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from hypothesis import strategies as st

from flows.service import Service, ServiceProxy
from flows.snapshot import Attachment, Mode, Node, Peer, Snapshot, Tenancy
from flows.tables import FIRST_POD_PORT

CLUSTER = IPv4Network("172.11.0.0/16")
SERVICES = IPv4Network("10.96.0.0/12")
OUTSIDE = IPv4Address("198.51.100.10")


@dataclass(frozen=True, slots=True)
class Pod:
    """A pod: the index of its node, its own index there, and its tenancy."""

    node: int
    index: int
    tenancy: Tenancy

    @property
    def address(self) -> IPv4Address:
        return subnet_of(self.node)[2 + self.index]

    @property
    def ofport(self) -> int:
        return FIRST_POD_PORT + self.index


@dataclass(frozen=True, slots=True)
class World:
    """A whole cluster."""

    mode: Mode
    nodes: int
    pods: tuple[Pod, ...]
    services: tuple[Service, ...] | None = None
    """those that the switch handles; None: kube-proxy handles them"""

    def snapshot(self, node: int) -> Snapshot:
        """All that node number `node` knows."""
        return Snapshot(
            mode=self.mode,
            cluster_network=CLUSTER,
            service_network=SERVICES,
            node=Node(node_address(node), subnet_of(node), gateway_of(node)),
            attachments=frozenset(
                Attachment(pod.ofport, pod.address, pod.tenancy) for pod in self.pods if pod.node == node
            ),
            peers=frozenset(
                Peer(node_address(other), subnet_of(other)) for other in range(self.nodes) if other != node
            ),
            service_proxy=ServiceProxy.KUBE_PROXY if self.services is None else ServiceProxy.OVS,
            services={service.key: _seen_from(node, service) for service in self.services or ()},
        )

    def reaches(self, sender: Pod, receiver: Pod) -> bool:
        """Whether a packet of `sender` gets to `receiver`."""
        if self.mode is Mode.SUBNET:
            return True
        accept = receiver.tenancy.accept
        return sender.tenancy.send == 0 or 0 in accept or sender.tenancy.send in accept

    def pairs(self) -> Iterator[tuple[Pod, Pod]]:
        """Every pod with every pod, itself included."""
        return ((sender, receiver) for sender in self.pods for receiver in self.pods)


def _seen_from(node: int, service: Service) -> Service:
    """A Service whose endpoints know whether they are on `node`."""
    homes = (subnet_of(node), IPv4Network(node_address(node)))
    ports = tuple(
        replace(
            port,
            endpoints=tuple(
                replace(one, local=any(one.backend.address in home for home in homes)) for one in port.endpoints
            ),
        )
        for port in service.ports
    )
    return replace(service, ports=ports)


def node_address(node: int) -> IPv4Address:
    """The underlay address of a node."""
    return IPv4Address("192.0.2.11") + node


def subnet_of(node: int) -> IPv4Network:
    """The pods' subnet of a node."""
    return IPv4Network((int(CLUSTER.network_address) + 1024 * node, 22))


def gateway_of(node: int) -> IPv4Address:
    """The address of a node's `tun0`."""
    return subnet_of(node)[1]


def tenant(vni: int) -> Tenancy:
    """The tenancy of a namespace at rest."""
    return Tenancy(vni, frozenset({vni}))


def _tenancies() -> st.SearchStrategy[Tenancy]:
    vni = st.sampled_from((0, 10, 11, 2**24 - 1))
    at_rest = vni.map(tenant)
    changing = st.tuples(vni, vni).map(lambda both: Tenancy(both[0], frozenset(both)))
    return at_rest | changing


@st.composite
def worlds(draw: st.DrawFn, *, nodes: int = 2, pods_per_node: int = 3) -> World:
    """Worlds of `nodes` nodes, with namespaces at rest and in the middle of a change."""
    pods = [
        Pod(node, index, draw(_tenancies()))
        for node in range(nodes)
        for index in range(draw(st.integers(0, pods_per_node)))
    ]
    return World(draw(st.sampled_from(Mode)), nodes, tuple(pods))
