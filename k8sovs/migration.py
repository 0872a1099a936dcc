"""Taking over the records of the predecessor from etcd's v2 store: a dump is judged, then written to the v3 store.

The records stay as they are, byte by byte: their form is still valid (`docs/state-in-etcd.md`), and the controller's
first start imports the ids. Nothing is overwritten, and what nobody could read there is not written at all.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network

from k8sovs.etcd import Etcd, Put, absent
from k8sovs.net import NetError
from k8sovs.records import Keys, NetNamespaceRecord, NetworkConfig, RecordError, SubnetRecord

TRANSACTION_LIMIT = 128
"""Operations that etcd takes in one transaction unless it is told otherwise (`--max-txn-ops`)."""


class MigrationRefused(NetError):
    """The dump, or what is in the v3 store, does not allow it; nothing was written."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be written, by key, and what is left out because it is none of our records."""

    config_key: str
    records: Mapping[str, bytes]
    left_out: tuple[str, ...]
    notes: tuple[str, ...]
    """What a person should know of single records."""


def read_dump(text: str) -> dict[str, bytes]:
    """The keys and values of a dump: what `/v2/keys/...?recursive=true` or `etcdctl -o json` answers; one or several.

    Raises MigrationRefused.
    """
    values: dict[str, bytes] = {}
    decoder, rest = json.JSONDecoder(), text.strip()
    while rest:
        try:
            document, end = decoder.raw_decode(rest)
        except (ValueError, RecursionError) as error:
            raise MigrationRefused(f"the dump is not JSON, {len(text) - len(rest)} characters in: {error}") from None
        rest = rest[end:].lstrip()
        node = document.get("node", document) if isinstance(document, dict) else None
        if not isinstance(node, dict) or "key" not in node:
            said = document.get("message", "") if isinstance(document, dict) else ""
            raise MigrationRefused(
                f"the dump holds something that is no answer of etcd's v2 API{f': {said}' if said else ''}; "
                "make it with curl 'http://HOST:2379/v2/keys/k8s.ovs.com?recursive=true'"
            )
        values.update(_leaves(node))
    return values


def _leaves(root: Mapping[str, object]) -> Iterator[tuple[str, bytes]]:
    pending: list[object] = [root]
    while pending:
        node = pending.pop()
        if not isinstance(node, dict) or not isinstance(key := node.get("key"), str):
            raise MigrationRefused("the dump holds a node without a key: was it cut?")
        children = node.get("nodes")
        if isinstance(children, list):
            pending += children
        elif not node.get("dir"):
            yield key, str(node.get("value", "")).encode()


def plan(values: Mapping[str, bytes], prefix: str, leave_out: Collection[str] = ()) -> Plan:
    """What of a dump is to be written. `leave_out` are keys that the operator gives up.

    Raises MigrationRefused with everything that is wrong.
    """
    config_key = Keys(prefix).config
    if config_key not in values:
        raise MigrationRefused(f"the dump has no {config_key}: is --prefix that of the old network?")
    try:
        config = NetworkConfig.parse(config_key, values[config_key])
    except RecordError as error:
        raise MigrationRefused(str(error)) from None
    keys = Keys(prefix, config.name)
    records, left_out = {config_key: values[config_key]}, list[str]()
    problems, notes = list[str](), list[str]()
    subnets: dict[IPv4Network, str] = {}
    for key, value in sorted(values.items()):
        if key == config_key:
            continue
        if key in leave_out or not key.startswith((keys.subnets, keys.netnamespaces)):
            left_out.append(key)
            continue
        records[key] = value
        try:
            if key.startswith(keys.subnets):
                problems += _subnet_problems(config, SubnetRecord.parse(key, value), key, subnets)
            else:
                notes += _notes(NetNamespaceRecord.parse(key, value), key)
        except RecordError as error:
            problems.append(str(error))
    unknown = sorted(set(leave_out) - values.keys())
    problems += [f"{key} is to be left out, and not in the dump" for key in unknown]
    if problems:
        listed = "\n  ".join(problems)
        raise MigrationRefused(f"nothing is written: correct these in the dump, or leave them out:\n  {listed}")
    return Plan(config_key, records, tuple(left_out), tuple(notes))


def _subnet_problems(
    config: NetworkConfig, record: SubnetRecord, key: str, seen: dict[IPv4Network, str]
) -> Iterator[str]:
    if record.subnet is None:
        return
    if not config.has_subnet(record.subnet):
        yield f"{key}: {record.subnet} is none of the subnets of {config.network} (HostSubnetLength)"
    other = seen.setdefault(record.subnet, key)
    if other != key:
        yield f"{key} and {other} have the same subnet {record.subnet}"


def _notes(record: NetNamespaceRecord, key: str) -> Iterator[str]:
    if record.net_id is None:
        yield f"{key} has no usable NetID: the controller will give it one"
    if record.action:
        yield f"{key}: the action {record.action!r} waits, and will be carried out when a controller leads"


async def write(etcd: Etcd, wanted: Plan, prefix: str, *, dry_run: bool = False) -> int:
    """Write the plan, or in a `dry_run` only see whether that could be done; how many keys are new.

    Keys that are there with the same value are left as they are.
    The network configuration comes last, so that nobody works with half of the records: a run that was interrupted is
    repeated. Raises MigrationRefused before the first write if anything else is there, and EtcdError.
    """
    there = (await etcd.list(f"{prefix}/")).items
    differing = sorted(key for key, item in there.items() if wanted.records.get(key) != item.value)
    if differing:
        listed = "\n  ".join(differing[:20])
        raise MigrationRefused(
            f"nothing is written: the v3 store has {len(differing)} keys under {prefix}/ already that are not in the "
            f"dump or differ from it; has a controller run on it? Remove them if they are of no use:\n  {listed}"
        )
    new = sorted(wanted.records.keys() - there.keys() - {wanted.config_key})
    new += [wanted.config_key] if wanted.config_key not in there else []
    for start in range(0, 0 if dry_run else len(new), TRANSACTION_LIMIT):
        part = new[start : start + TRANSACTION_LIMIT]
        done = await etcd.transact([absent(key) for key in part], [Put(key, wanted.records[key]) for key in part])
        if not done.succeeded:
            raise MigrationRefused(
                f"somebody else writes under {prefix}/ now; {start} keys are written. Stop it (a controller?) "
                "and run this again: it goes on where it ended"
            )
    return len(new)
