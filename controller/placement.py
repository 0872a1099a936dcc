"""Under which key each node's subnet record belongs, and which records are whose. Pure.

A node is known by its name; the key of its record is its address. A record that we make for a node of Kubernetes
carries a mark: one without is an edge host's, and outlives a list of nodes that it is not in. A record that claims a
live node's address or name, an address of the pod network, or whose key and content disagree, is left alone and
reported.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address

from k8sovs.records import NODE_MARK, Extra, NetworkConfig, SubnetRecord


@dataclass(frozen=True, slots=True)
class Entry:
    """A key in the folder of subnets; `name` is its last part. `record` is None if it is malformed, `fault` says how.

    `misplaced`: it is a sound record, but of another key.
    """

    name: str
    record: SubnetRecord | None
    revision: int
    create_revision: int
    fault: str = ""
    misplaced: bool = False

    @property
    def host(self) -> str:
        """Whose it is; empty if that cannot be read."""
        return self.record.host if self.record else ""

    @property
    def is_of_node(self) -> bool:
        """Whether we made it for a node of Kubernetes."""
        return self.record is not None and self.record.is_of_node


class Trouble(Enum):
    """What a node or a record suffers from; the value is the reason of its Event."""

    REFUSED = "SubnetRefused"
    EXHAUSTED = "SubnetsExhausted"
    SCARCE = "SubnetsScarce"


@dataclass(frozen=True, slots=True)
class Problem:
    """Something for a person to mend. `subject` is the name of a node, or the last part of a record's key."""

    subject: str
    trouble: Trouble
    text: str


@dataclass(frozen=True, slots=True)
class Placement:
    """Whose the records are.

    `homes` are the nodes that may write under their address, `left` what each of them leaves under former ones;
    `stale` are the records of nodes that are no more, `edges` those of hosts outside Kubernetes. `refused` says what is
    wrong with records that can be read, by key.
    """

    homes: Mapping[str, IPv4Address]
    left: Mapping[str, tuple[Entry, ...]]
    stale: tuple[Entry, ...]
    edges: tuple[Entry, ...]
    refused: Mapping[str, str]
    problems: tuple[Problem, ...]


def marked(extra: Extra) -> Extra:
    """`extra` with the mark of a node's record."""
    return extra if NODE_MARK in extra else (*unmarked(extra), NODE_MARK)


def unmarked(extra: Extra) -> Extra:
    """`extra` without the mark of a node's record."""
    return tuple((name, text) for name, text in extra if name != NODE_MARK[0])


def place(config: NetworkConfig, nodes: Mapping[str, IPv4Address], entries: Mapping[str, Entry]) -> Placement:
    """Sort out `entries` (by the last part of the key) for the live `nodes` and their addresses."""
    homes, problems = _one_node_an_address(nodes, entries)
    by_host: dict[str, list[Entry]] = {}
    for entry in entries.values():
        by_host.setdefault(entry.host, []).append(entry)
    left: dict[str, tuple[Entry, ...]] = {}
    refused: dict[str, str] = {}
    for host, address in homes.items():
        former, strangers = _records_elsewhere(address, by_host.get(host, ()))
        left[host] = former
        for stranger in strangers:
            refused[stranger.name] = f"it names node {host}, which is at {address}: delete it"
            problems.append(_refused(host, f"the record of {stranger.name} names it, too: delete that"))
    while blocked := _blocked(homes, left, nodes, entries):
        for host, reason in blocked.items():
            here = entries[str(homes[host])]
            if here.record is not None:
                refused[here.name] = f"its HostIP is the address of node {host}: delete or correct it"
            problems.append(_refused(host, reason))
            del homes[host], left[host]
    others = [e for e in entries.values() if e.record is not None and e.host not in nodes]
    addresses = set(nodes.values())
    edges = [e for e in others if not e.is_of_node and e.record and e.record.host_ip not in addresses]
    refused.update({e.name: reason for e in edges if e.record and (reason := _unreachable(config, e.record.host_ip))})
    problems += [_refused(name, reason) for name, reason in refused.items()]
    problems += [_refused(e.name, e.fault) for e in entries.values() if e.record is None and _is_kept(e, homes)]
    return Placement(
        homes,
        left,
        stale=tuple(e for e in others if e.is_of_node),
        edges=tuple(e for e in edges if e.name not in refused),
        refused=refused,
        problems=tuple(problems),
    )


def _refused(subject: str, reason: str) -> Problem:
    return Problem(subject, Trouble.REFUSED, reason)


def _unreachable(config: NetworkConfig, address: IPv4Address) -> str:
    """Why nobody could tunnel to an edge host at `address`; empty if nothing is wrong with it."""
    for name, network in (("Network", config.network), ("ServiceNetwork", config.service_network)):
        if address in network:
            return f"its HostIP lies inside {name} {network}: write a record under the host's address on the underlay"
    return ""


def _is_kept(malformed: Entry, homes: Mapping[str, IPv4Address]) -> bool:
    """Whether nobody is going to overwrite it."""
    return malformed.misplaced or malformed.name not in map(str, homes.values())


def _one_node_an_address(
    nodes: Mapping[str, IPv4Address], entries: Mapping[str, Entry]
) -> tuple[dict[str, IPv4Address], list[Problem]]:
    """Of two live nodes with one address, the one whose record is there keeps it."""
    owners: dict[IPv4Address, str] = {}
    for host, address in sorted(nodes.items()):
        here = entries.get(str(address))
        if address not in owners or (here is not None and here.host == host):
            owners[address] = host
    problems = [
        _refused(host, f"its address {address} is also that of node {owners[address]}: correct one of them")
        for host, address in sorted(nodes.items())
        if owners[address] != host
    ]
    return {host: address for address, host in owners.items()}, problems


def _records_elsewhere(
    address: IPv4Address, records: list[Entry] | tuple[Entry, ...]
) -> tuple[tuple[Entry, ...], tuple[Entry, ...]]:
    """A live node's records under other addresses: its former ones, and those of strangers that name the node."""
    is_home = any(entry.name == str(address) for entry in records)
    elsewhere = [entry for entry in records if entry.name != str(address)]
    former = tuple(entry for entry in elsewhere if entry.is_of_node or not is_home)
    return former, tuple(entry for entry in elsewhere if entry not in former)


def _blocked(
    homes: Mapping[str, IPv4Address],
    left: Mapping[str, tuple[Entry, ...]],
    nodes: Mapping[str, IPv4Address],
    entries: Mapping[str, Entry],
) -> dict[str, str]:
    """The nodes that cannot write under their address, and why."""
    vacated = {entry.name for former in left.values() for entry in former}
    blocked = {}
    for host, address in homes.items():
        here = entries.get(str(address))
        if here is None or here.host == host or here.name in vacated:
            continue  # who moves away makes room in the same transaction
        if here.misplaced:
            blocked[host] = f"the record under its address is not its own: {here.fault}"
        elif here.record is not None and not (here.is_of_node and here.host not in nodes):
            blocked[host] = f"its address {address} is claimed by the record of {here.host}: delete or correct that"
    return blocked
