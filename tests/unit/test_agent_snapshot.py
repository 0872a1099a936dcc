from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.attachment import PodAttachment
from agent.cluster import ClusterView
from agent.snapshot import FLAT, Identity, Snapshots, current_tenancy, peers, switch_snapshot, tenancy_of
from cni.request import AttachmentKey, PodIdentity
from flows.snapshot import Attachment, Node, Peer, Tenancy
from k8sovs.records import Mode, NetworkConfig, SubnetRecord, VnidRecord

CONFIG = NetworkConfig("k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT)
IDENTITY = Identity(IPv4Address("192.0.2.11"), IPv4Network("172.11.0.0/22"), 4789)
POD = PodAttachment(
    AttachmentKey("c0ffee", "eth0"),
    PodIdentity("red", "web", ""),
    "/run/netns/x",
    IPv4Address("172.11.0.2"),
    Tenancy(10, frozenset({10})),
)
MOVED = VnidRecord(11, frozenset({10, 11}))


def view(
    *subnets: tuple[str, str, str | None],
    tenancies: dict[str, VnidRecord] | None = None,
    mode: Mode = Mode.MULTITENANT,
    live: bool = True,
) -> ClusterView:
    records = {
        f"/subnets/{address}": SubnetRecord(
            host, IPv4Address(address), IPv4Network(subnet) if subnet else None, assign=False
        )
        for host, address, subnet in subnets
    }
    return ClusterView(replace(CONFIG, mode=mode), records, tenancies or {}, live)


def test_the_gateway_is_the_first_address_of_the_subnet() -> None:
    assert IDENTITY.gateway == IPv4Address("172.11.0.1")


def test_the_switch_is_told_of_the_node_its_pods_and_its_peers() -> None:
    cluster = view(
        ("node1", "192.0.2.11", "172.11.0.0/22"), ("node2", "192.0.2.12", "172.11.4.0/22"), tenancies={"red": MOVED}
    )
    told = switch_snapshot(cluster, IDENTITY, {POD: 256}, peers(cluster, IDENTITY))
    assert told.node == Node(IDENTITY.address, IDENTITY.subnet, IDENTITY.gateway, 4789)
    assert told.attachments == {Attachment(256, POD.address, Tenancy(11, frozenset({10, 11})))}
    assert told.peers == {Peer(IPv4Address("192.0.2.12"), IPv4Network("172.11.4.0/22"))}
    assert (told.cluster_network, told.service_network) == (CONFIG.network, CONFIG.service_network)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        (("node1", "192.0.2.11", "172.11.0.0/22"), "this node itself"),
        (("node9", "192.0.2.11", "172.11.8.0/22"), "a record with this node's address"),
        (("node9", "192.0.2.19", "172.11.0.0/22"), "a record that claims this node's subnet"),
        (("node9", "192.0.2.19", None), "a node without a subnet"),
        (("node9", "192.0.2.19", "172.12.0.0/22"), "a subnet outside the network"),
        (("node9", "192.0.2.19", "172.11.0.0/16"), "the whole network"),
        (("node9", "192.0.2.19", "172.11.8.0/24"), "a subnet of another size"),
        (("node9", "172.11.200.5", "172.11.8.0/22"), "an address inside the cluster network"),
        (("node9", "10.96.0.10", "172.11.8.0/22"), "an address inside the service network"),
    ],
)
def test_not_every_record_makes_a_peer(record: tuple[str, str, str | None], why: str) -> None:
    assert peers(view(record), IDENTITY) == frozenset(), why


def test_of_two_claims_to_a_subnet_the_older_one_is_believed() -> None:
    old, new = ("node3", "192.0.2.13", "172.11.4.0/22"), ("node2", "192.0.2.12", "172.11.4.0/22")
    assert peers(view(old, new), IDENTITY) == {Peer(IPv4Address("192.0.2.13"), IPv4Network("172.11.4.0/22"))}


def test_what_has_not_changed_is_the_same_object_in_the_next_snapshot() -> None:
    cluster, attached = view(("node2", "192.0.2.12", "172.11.4.0/22")), {POD: 256}
    snapshots = Snapshots(IDENTITY)
    first = snapshots.take(cluster, attached)
    assert snapshots.take(cluster, attached) is first
    assert snapshots.take(replace(cluster, tenancies={"red": MOVED}), attached).peers is first.peers


def test_a_change_of_anything_is_in_the_next_snapshot() -> None:
    snapshots = Snapshots(IDENTITY)
    snapshots.take(view(("node2", "192.0.2.12", "172.11.4.0/22")), {POD: 256})
    after = view(("node2", "192.0.2.12", "172.11.8.0/22"), tenancies={"red": MOVED})
    for attached in ({POD: 256}, {POD: 257}, {}):
        assert snapshots.take(after, attached) == switch_snapshot(after, IDENTITY, attached, peers(after, IDENTITY))


def test_the_record_of_the_namespace_is_in_force() -> None:
    assert current_tenancy(view(tenancies={"red": MOVED}), POD) == Tenancy(11, frozenset({10, 11}))


def test_a_namespace_whose_record_is_gone_keeps_what_was_in_force() -> None:
    assert current_tenancy(view(tenancies={"blue": MOVED}), POD) == POD.tenancy


def test_until_etcd_is_heard_the_port_knows_better_than_the_snapshot_file() -> None:
    assert current_tenancy(view(tenancies={"red": MOVED}, live=False), POD) == POD.tenancy


def test_a_global_namespace_is_not_one_without_a_record() -> None:
    everybody = VnidRecord(0, frozenset({0}))
    assert tenancy_of(view(tenancies={"red": everybody}), "red") == Tenancy(0, frozenset({0}))
    assert tenancy_of(view(), "red") is None


def test_in_a_flat_network_every_namespace_has_the_same_tenancy() -> None:
    assert tenancy_of(view(mode=Mode.SUBNET), "whatever") == FLAT
    assert current_tenancy(view(mode=Mode.SUBNET, tenancies={"red": MOVED}), POD) == FLAT
