"""The cluster that is simulated: how large it is, and what its records say."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from itertools import islice

from k8sovs.etcd import Etcd, Put
from k8sovs.records import DEFAULT_PREFIX, NODE_MARK, VNI_FIRST, Keys, Mode, NetworkConfig, SubnetRecord, VnidRecord

NETWORK = NetworkConfig("k8ssdn", IPv4Network("10.128.0.0/10"), 9, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT)
"""8,192 subnets of 510 addresses: room for 5,000 nodes with 500 pods each."""

KEYS = Keys(DEFAULT_PREFIX, NETWORK.name)

UNDERLAY = IPv4Network("198.18.0.0/15")
"""Where the nodes that are not here have their addresses (RFC 2544: for benchmarks)."""

_KEYS_PER_WRITE = 100


@dataclass(frozen=True, slots=True)
class Scale:
    """A size of the cluster: all of it, or a tenth, to see how the cost grows. `pods` are those of one node."""

    name: str
    namespaces: int
    nodes: int
    pods: int

    @property
    def suffix(self) -> str:
        """What the keys of its figures end in."""
        return "" if self is FULL else f"_{self.name}"


TENTH = Scale("tenth", 1_000, 500, 50)
FULL = Scale("full", 10_000, 5_000, 500)
SCALES = {scale.name: scale for scale in (TENTH, FULL)}


def namespace_name(number: int) -> str:
    """The name of a namespace, as long as names usually are."""
    return f"tenant-{number:05d}-production"


def node_name(number: int) -> str:
    """The name of a node."""
    return f"node-{number:05d}.rack-{number // 40:03d}"


def node_address(number: int) -> IPv4Address:
    """The underlay address of a node."""
    return UNDERLAY[256 + number]


def node_subnet(number: int) -> IPv4Network:
    """The pod subnet of a node."""
    first = int(NETWORK.network.network_address) + (number << NETWORK.host_subnet_length)
    return IPv4Network((first, NETWORK.subnet_prefix_length))


def vni_of(number: int) -> int:
    """The VNI of a namespace that was never joined to another."""
    return VNI_FIRST + number


def subnet_record(number: int, address: IPv4Address | None = None) -> tuple[str, bytes]:
    """Key and value of a node's subnet."""
    record = SubnetRecord(node_name(number), address or node_address(number), node_subnet(number), extra=(NODE_MARK,))
    return KEYS.subnet(record.host_ip), record.encode()


def vnid_record(number: int, send: int, *accept: int) -> tuple[str, bytes]:
    """Key and value of what the data plane does for a namespace."""
    return KEYS.vnid(namespace_name(number)), VnidRecord(send, frozenset(accept or (send,))).encode()


def settled_records(scale: Scale) -> dict[str, bytes]:
    """What agents read of a cluster in which nothing changes; node 0 is left to whoever is measured."""
    records = {KEYS.config: NETWORK.encode()}
    records |= dict(subnet_record(number) for number in range(1, scale.nodes))
    records |= dict(vnid_record(number, vni_of(number)) for number in range(scale.namespaces))
    return records


async def write(etcd: Etcd, records: Mapping[str, bytes]) -> None:
    """Put all of `records`, many in one transaction."""
    rest = iter(records.items())
    while puts := [Put(key, value) for key, value in islice(rest, _KEYS_PER_WRITE)]:
        await etcd.transact([], puts)


def numbers_in_turn(count: int, step: int = 7919) -> Iterator[int]:
    """Numbers below `count` for ever, far from each other; `step` is a prime that `count` is no multiple of."""
    number = 0
    while True:
        number = (number + step) % count
        yield number
