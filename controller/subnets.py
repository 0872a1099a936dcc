"""Which node, and which edge host, has which pod subnet: a plan of transactions. Pure.

Who has a subnet keeps it, through changes of address too. All subnets are of one size and aligned, so that two either
are the same or have nothing in common. Where two records name the same one, the one that we know better keeps it, then
the older one; what an operator typed is never stronger than what a live node uses.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from controller.placement import Entry, Placement, Problem, Trouble, marked, place, unmarked
from k8sovs.records import NetworkConfig, SubnetRecord

Change = Mapping[str, SubnetRecord | None]
"""One transaction: the last part of each key, and its new record, or None to delete it."""

# Running out is said beforehand: when a tenth is left, or one.
_SCARCE_PART = 10


@dataclass(frozen=True, slots=True)
class Plan:
    """What to write, what to tell people, and who then has which subnet: nodes by name, other hosts by address.

    `total` counts the subnets that there are, `free` those that nobody has.
    """

    changes: tuple[Change, ...]
    problems: tuple[Problem, ...]
    owned: Mapping[str, IPv4Network]
    free: int
    total: int


def plan(
    config: NetworkConfig,
    nodes: Mapping[str, IPv4Address] | None,
    entries: Mapping[str, Entry],
    remembered: Mapping[str, IPv4Network],
) -> Plan:
    """What to write so that every node, and every edge host that asks, has a subnet of its own.

    `nodes` are the names and addresses of Kubernetes, None while it is not known: then the records stand for them, and
    nothing is moved or removed. `entries` are by the last part of the key. `remembered` are the subnets that live
    nodes were last seen to have.
    """
    if nodes is None:
        nodes = {e.host: e.record.host_ip for e in entries.values() if e.record is not None and e.is_of_node}
    placement = place(config, nodes, entries)
    leaving = {entry.name for entry in placement.stale}
    owned = _owned(config, [e for e in entries.values() if e.name not in leaving], remembered, placement, nodes)
    seekers = [host for host in sorted(placement.homes) if host not in owned]
    seekers += [e.name for e in placement.edges if e.record and e.record.assign and e.name not in owned]
    owned.update(_allotted(config, set(owned.values()), seekers))
    changes: list[Change] = [
        _node_change(host, address, owned[host], entries, placement.left[host])
        for host, address in sorted(placement.homes.items())
        if host in owned
    ]
    changes += [_edge_change(entry, entry.record, owned) for entry in placement.edges if entry.record]
    changes += [_answer(entries[name], reason) for name, reason in placement.refused.items()]
    changes += [{entry.name: None} for entry in placement.stale]
    total = config.network.num_addresses >> config.host_subnet_length
    free = total - len(owned)
    problems = [*placement.problems, *_shortage(config, owned, seekers, free, total)]
    return Plan(_joined(changes), tuple(problems), owned, free, total)


def _owned(
    config: NetworkConfig,
    entries: Iterable[Entry],
    remembered: Mapping[str, IPv4Network],
    placement: Placement,
    nodes: Mapping[str, IPv4Address],
) -> dict[str, IPv4Network]:
    """The subnet of each node (by name) and of each other record (by key) that has a good claim to one."""
    claims = [(0, 0, host, subnet) for host, subnet in remembered.items() if host in nodes]
    for entry in entries:
        if entry.record is not None and entry.record.subnet is not None:
            # A stranger's record that names a live node does not speak for the node.
            owner = entry.host if entry.is_of_node or _is_home(entry, placement) else entry.name
            claims.append((1 if entry.is_of_node else 2, entry.create_revision, owner, entry.record.subnet))
    owned: dict[str, IPv4Network] = {}
    taken: set[IPv4Network] = set()
    for _, _, owner, subnet in sorted(claims):
        if owner not in owned and subnet not in taken and config.has_subnet(subnet):
            owned[owner] = subnet
            taken.add(subnet)
    return owned


def _is_home(entry: Entry, placement: Placement) -> bool:
    address = placement.homes.get(entry.host)
    return entry.name == str(address) or entry in placement.left.get(entry.host, ())


def _allotted(config: NetworkConfig, taken: set[IPv4Network], seekers: Sequence[str]) -> dict[str, IPv4Network]:
    """The lowest free subnets, as long as there are any."""
    if not seekers:
        return {}
    free = (s for s in config.network.subnets(new_prefix=config.subnet_prefix_length) if s not in taken)
    return dict(zip(seekers, free, strict=False))


def _node_change(
    host: str, address: IPv4Address, subnet: IPv4Network, entries: Mapping[str, Entry], left: Sequence[Entry]
) -> Change:
    """The node's record under its address, and nothing under former ones."""
    here = entries.get(str(address))
    former = here if here is not None and here.host == host else next(iter(left), None)
    extra = former.record.extra if former is not None and former.record is not None else ()
    wanted = SubnetRecord(host, address, subnet, extra=marked(extra))
    change: dict[str, SubnetRecord | None] = {entry.name: None for entry in left}
    if here is None or here.record != wanted:
        change[str(address)] = wanted
    return change


def _edge_change(entry: Entry, record: SubnetRecord, owned: Mapping[str, IPv4Network]) -> Change:
    """The answer to an edge host's record."""
    subnet = owned.get(entry.name)
    if subnet is not None:
        # The mark may have come along when somebody took a node's record for a pattern.
        extra = unmarked(record.extra) if record.assign else record.extra
        wanted = replace(record, subnet=subnet, assign=False, message="", extra=extra)
    elif record.assign:
        wanted = replace(record, subnet=None, message="no subnet is free: remove hosts, or build a larger Network")
    elif record.subnet is not None:
        reason = f"Subnet {record.subnet} is another host's, or none of Network's: write Assign true to get one"
        wanted = replace(record, subnet=None, message=reason)
    else:
        return {}
    return {} if wanted == record else {entry.name: wanted}


def _answer(entry: Entry, reason: str) -> Change:
    """What is wrong with a record, said in it; the rest is left as it is."""
    if entry.record is None or entry.record.message == reason:
        return {}
    return {entry.name: replace(entry.record, message=reason)}


def _shortage(
    config: NetworkConfig, owned: Mapping[str, IPv4Network], seekers: Sequence[str], free: int, total: int
) -> list[Problem]:
    """Running out of subnets, and coming close to it; the latter is told of the host with the last one."""
    size = f"Network {config.network} has {total} subnets of {2**config.host_subnet_length} addresses"
    unserved = [seeker for seeker in seekers if seeker not in owned]
    if unserved:
        text = f"no subnet is free for it: {size}; remove hosts"
        return [Problem(seeker, Trouble.EXHAUSTED, text) for seeker in unserved]
    if owned and total > 1 and free <= max(1, total // _SCARCE_PART):
        last = max(owned, key=lambda owner: owned[owner])
        return [Problem(last, Trouble.SCARCE, f"few subnets are left: {size}, {free} of them free")]
    return []


def _joined(changes: Iterable[Change]) -> tuple[Change, ...]:
    """Changes that touch a common key made one: nodes that swap addresses do so in one transaction."""
    groups: dict[str, dict[str, SubnetRecord | None]] = {}
    for change in changes:
        merged = dict(change)
        for group in [groups[key] for key in change if key in groups]:
            for key, record in group.items():
                # A record for a key is stronger than its removal by the node that left it.
                merged[key] = merged.get(key) or record
        groups.update(dict.fromkeys(merged, merged))
    return tuple({id(group): group for group in groups.values()}.values())
