"""From what the sources know to the one immutable snapshot that every device's desired state is computed from. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from types import MappingProxyType

from agent.attachment import PodAttachment
from agent.cluster import ClusterView
from flows import snapshot as switch
from flows.service import Service, ServiceProxy
from k8sovs.records import Mode, SubnetRecord, VnidRecord

FLAT = switch.Tenancy(switch.VNI_GLOBAL, frozenset({switch.VNI_GLOBAL}))
"""The tenancy of every pod in single-tenant mode."""


@dataclass(frozen=True, slots=True)
class Identity:
    """This node: fixed for as long as the agent runs."""

    address: IPv4Address
    subnet: IPv4Network
    vxlan_port: int

    @property
    def gateway(self) -> IPv4Address:
        """The address of `tun0`: the first of the subnet."""
        return self.subnet[1]


def switch_snapshot(
    cluster: ClusterView,
    identity: Identity,
    attached: Mapping[PodAttachment, int],
    peers: frozenset[switch.Peer],
    proxy: ServiceProxy = ServiceProxy.KUBE_PROXY,
    services: Mapping[str, Service] = MappingProxyType({}),
) -> switch.Snapshot:
    """The input of the pipeline.

    `attached` are this node's attachments with their ofports, `peers` the other nodes; `proxy` handles `services`.
    """
    attachments = (_attachment(cluster, attachment, ofport) for attachment, ofport in attached.items())
    return _snapshot(cluster, identity, attachments, peers, proxy, services)


def _snapshot(
    cluster: ClusterView,
    identity: Identity,
    attachments: Iterable[switch.Attachment],
    peers: frozenset[switch.Peer],
    proxy: ServiceProxy,
    services: Mapping[str, Service],
) -> switch.Snapshot:
    return switch.Snapshot(
        mode=switch.Mode(cluster.config.mode.value),
        cluster_network=cluster.config.network,
        service_network=cluster.config.service_network,
        node=switch.Node(identity.address, identity.subnet, identity.gateway, identity.vxlan_port),
        attachments=frozenset(attachments),
        peers=peers,
        service_proxy=proxy,
        services=services,
    )


def _attachment(cluster: ClusterView, attachment: PodAttachment, ofport: int) -> switch.Attachment:
    return switch.Attachment(ofport, attachment.address, current_tenancy(cluster, attachment))


def current_tenancy(cluster: ClusterView, attachment: PodAttachment) -> switch.Tenancy:
    """What is in force for an attachment: its namespace's record; if there is none, what was in force last.

    That is also what holds until etcd has been heard: the port remembers at once, the snapshot file a second later.
    """
    known = tenancy_of(cluster, attachment.pod.namespace) if cluster.live else None
    return attachment.tenancy if known is None else known


def tenancy_of(cluster: ClusterView, namespace: str) -> switch.Tenancy | None:
    """What the cluster says of a namespace; None if it has no VNI yet."""
    if cluster.config.mode is Mode.SUBNET:
        return FLAT
    record = cluster.tenancies.get(namespace)
    return None if record is None else from_record(record)


def from_record(record: VnidRecord) -> switch.Tenancy:
    """A record of the store in the terms of the switch."""
    return switch.Tenancy(record.send, record.accept)


def peers(cluster: ClusterView, identity: Identity) -> frozenset[switch.Peer]:
    """Every other node that may be believed: its subnet is one of the cluster network's, and its address is not.

    Of two records that claim the same addresses the older one is believed: on every node the same, and nobody who
    writes a record can push a node aside.
    """
    return _believed(_peer(cluster, identity, record) for record in cluster.subnets.values())


def _believed(claims: Iterable[switch.Peer | None]) -> frozenset[switch.Peer]:
    """The first of `claims` on each subnet."""
    believed: dict[int, switch.Peer] = {}
    for peer in claims:
        if peer is not None:
            believed.setdefault(int(peer.subnet.network_address), peer)  # they are of one size, and this is quicker
    return frozenset(believed.values())


class Snapshots:
    """The snapshots of a node, one after another: what has not changed since the last one is the same object."""

    def __init__(self, identity: Identity, proxy: ServiceProxy = ServiceProxy.KUBE_PROXY) -> None:
        self._identity = identity
        self._proxy = proxy
        self._peers: tuple[Mapping[str, SubnetRecord], frozenset[switch.Peer]] | None = None
        self._judged: dict[str, tuple[SubnetRecord, switch.Peer | None]] = {}
        self._last: tuple[ClusterView, Mapping[PodAttachment, int], switch.Snapshot] | None = None
        self._attachments: dict[PodAttachment, switch.Attachment] = {}

    def take(
        self,
        cluster: ClusterView,
        attached: Mapping[PodAttachment, int],
        services: Mapping[str, Service] = MappingProxyType({}),
    ) -> switch.Snapshot:
        """What the node knows now. `attached` are this node's attachments with their ofports."""
        last = self._last
        if last is None or last[0] is not cluster or last[1] is not attached:
            # As long as the cluster says the same, a pod that stays is in the same words what it was.
            known = self._attachments if last is not None and last[0] is cluster else {}
            self._attachments = {}
            for pod, ofport in attached.items():
                before = known.get(pod)
                same = before is not None and before.ofport == ofport
                self._attachments[pod] = before if before and same else _attachment(cluster, pod, ofport)
            known_peers, pods = self.peers(cluster), self._attachments.values()
            taken = _snapshot(cluster, self._identity, pods, known_peers, self._proxy, services)
            self._last = (cluster, attached, taken)
        elif last[2].services is not services:
            self._last = (cluster, attached, replace(last[2], services=services))
        assert self._last is not None, "it has just been taken"
        return self._last[2]

    def peers(self, cluster: ClusterView) -> frozenset[switch.Peer]:
        """Every other node that `cluster` tells of and that may be believed."""
        if self._peers is None or self._peers[0] is not cluster.subnets:
            # Of thousands of records one has changed: the others are the same objects, and so is what they say.
            known, self._judged = self._judged, {}
            for key, record in cluster.subnets.items():
                judged = known.get(key)
                same = judged is not None and judged[0] is record
                self._judged[key] = judged if judged and same else (record, _peer(cluster, self._identity, record))
            self._peers = (cluster.subnets, _believed(peer for _, peer in self._judged.values()))
        return self._peers[1]


def _peer(cluster: ClusterView, identity: Identity, record: SubnetRecord) -> switch.Peer | None:
    subnet = record.subnet
    if subnet is None or record.host_ip == identity.address or subnet == identity.subnet:
        return None
    config = cluster.config
    if record.host_ip in config.network or record.host_ip in config.service_network:
        return None  # a tunnel to a pod's address would lead into itself
    # Subnets of one size inside one network are equal or disjoint, so nothing else can overlap ours.
    return switch.Peer(record.host_ip, subnet) if config.has_subnet(subnet) else None
