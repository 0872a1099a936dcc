"""What an operator does and sees, in terms of etcd alone: the state of every namespace, the three verbs, an overview.

A verb is asked for as any etcd client could ask: by writing `Action` into the namespace's record, here in a transaction
on the record as it was read, so that nobody else's edit is lost. The controller carries it out.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from dataclasses import dataclass, replace
from enum import Enum
from ipaddress import IPv4Address, IPv4Network

from k8sovs.etcd import Etcd, KeyValue, Listing, Put, unchanged
from k8sovs.records import (
    Keys,
    NetNamespaceRecord,
    NetworkConfig,
    RecordError,
    SubnetRecord,
    VnidRecord,
    is_namespace_name,
)

REQUEST_TIMEOUT_S = 10.0


class NetError(Exception):
    """What the operator asked for cannot be had; the text says why, and what to do."""


class ActionRefused(NetError):
    """The controller refused an action."""


class Verb(Enum):
    """What can be done to a namespace; the value is the record's `Action`."""

    JOIN = "join"
    ISOLATE = "isolate"
    GLOBAL = "global"


class State(Enum):
    """How far a namespace is."""

    SETTLED = "settled"
    PENDING = "pending"
    """An action waits in its record."""
    CHANGING = "changing"
    """Nodes accept two ids, the former one for a moment longer."""
    UNKNOWN = "unknown"
    """One of its records is missing or cannot be read."""


@dataclass(frozen=True, slots=True)
class NamespaceState:
    """One namespace: the id it sends with, all that it accepts, what is asked of it, and what was said of the last."""

    name: str
    state: State
    send: int | None
    accept: frozenset[int]
    action: str = ""
    target: str = ""
    message: str = ""


@dataclass(frozen=True, slots=True)
class HostState:
    """One record of the folder of subnets. `problem` says why it cannot be read, or what the controller answered."""

    address: str
    host: str
    subnet: IPv4Network | None
    problem: str = ""
    is_of_node: bool = False


@dataclass(frozen=True, slots=True)
class Overview:
    """The network as a whole. `leader` is the identity of the leading controller, None while there is none."""

    config: NetworkConfig
    leader: str | None
    candidates: tuple[str, ...]
    hosts: tuple[HostState, ...]
    namespaces: tuple[NamespaceState, ...]


async def network(etcd: Etcd, prefix: str) -> NetworkConfig:
    """The network that is configured under `prefix`. Raises NetError if there is none, EtcdError."""
    key = Keys(prefix).config
    item = await etcd.get(key)
    if item is None:
        raise NetError(f"{key} does not exist: no controller has run on this etcd, or its prefix is another one")
    try:
        return NetworkConfig.parse(key, item.value)
    except RecordError as error:
        raise NetError(f"the network configuration cannot be read: {error}") from error


async def namespaces(etcd: Etcd, keys: Keys) -> tuple[NamespaceState, ...]:
    """Every namespace that etcd knows, by name."""
    return _namespaces(keys, (await etcd.list(keys.netnamespaces, keys.vnids)).items)


async def overview(etcd: Etcd, prefix: str) -> Overview:
    """The whole network, at one moment. Raises NetError, EtcdError."""
    config = await network(etcd, prefix)
    keys = Keys(prefix, config.name)
    items = (await etcd.list(keys.network)).items
    oldest_first = sorted(_folder(items, keys.leader), key=lambda item: item.create_revision)
    candidates = tuple(item.value.decode(errors="replace") for item in oldest_first)
    leader = candidates[0] if candidates else None
    return Overview(config, leader, candidates, _hosts(keys, items), _namespaces(keys, items))


async def hosts(etcd: Etcd, keys: Keys) -> tuple[HostState, ...]:
    """Every record of the folder of subnets, by address. Raises EtcdError."""
    return _hosts(keys, (await etcd.list(keys.subnets)).items)


async def request(
    etcd: Etcd, keys: Keys, namespace: str, verb: Verb, target: str = "", *, timeout: float = REQUEST_TIMEOUT_S
) -> int:
    """Ask for an action; the revision of the record that asks. An earlier one is let finish first, for `timeout` s.

    Raises NetError, EtcdError.
    """
    for name in (namespace, target) if verb is Verb.JOIN else (namespace,):
        if not is_namespace_name(name):
            raise NetError(f"{name!r} cannot be the name of a namespace")
    key = keys.netnamespace(namespace)
    waiting = ""
    try:
        async with asyncio.timeout(timeout), aclosing(etcd.watch(key)) as updates:
            async for _ in updates:
                item, record = await _record(etcd, key, namespace)
                if record.action:
                    waiting = record.action
                    continue
                asking = replace(record, action=verb.value, namespace=target, message="")
                result = await etcd.transact([unchanged(key, item.mod_revision)], [Put(key, asking.encode())])
                if result.succeeded:
                    return result.revision
    except TimeoutError:
        raise NetError(
            f"{namespace}: the action {waiting!r} has been waiting in its record for {timeout:.0f} s: "
            "see whether a controller leads (k8sovs status)"
        ) from None
    raise AssertionError("a watch does not end")


async def wait_completed(
    etcd: Etcd, keys: Keys, namespace: str, revision: int, *, timeout: float = REQUEST_TIMEOUT_S
) -> NamespaceState:
    """Wait until the action that was asked for at `revision` is complete; its result.

    Complete means that the last phase is written and nodes had their time to follow: nobody asks them, and one that
    is cut off from etcd goes on as it was.

    Raises ActionRefused with the controller's reason, NetError when `timeout` seconds are over, EtcdError.
    """
    record_key, vnid_key = keys.netnamespace(namespace), keys.vnid(namespace)
    try:
        async with asyncio.timeout(timeout), aclosing(etcd.watch(record_key, vnid_key)) as updates:
            async for _ in updates:
                listing = await etcd.list(record_key, vnid_key)
                state = _completed(keys, namespace, revision, listing)
                if state is not None:
                    return state
    except TimeoutError:
        raise NetError(
            f"{namespace}: not complete after {timeout:.0f} s: see whether a controller leads (k8sovs status)"
        ) from None
    raise AssertionError("a watch does not end")


def _completed(keys: Keys, namespace: str, revision: int, listing: Listing) -> NamespaceState | None:
    """The state of `namespace`, None while what was asked for at `revision` is under way."""
    record_key, vnid_key = keys.netnamespace(namespace), keys.vnid(namespace)
    item = listing.items.get(record_key)
    if item is None:
        raise NetError(f"{namespace}: its record has gone, and the Namespace with it")
    state = _namespace(keys, namespace, item, listing.items.get(vnid_key))
    if item.mod_revision <= revision or state.action:
        return None
    if state.message:
        raise ActionRefused(f"{namespace}: {state.message}")
    return state if state.state is State.SETTLED else None


async def _record(etcd: Etcd, key: str, namespace: str) -> tuple[KeyValue, NetNamespaceRecord]:
    item = await etcd.get(key)
    if item is None:
        raise NetError(f"there is no namespace {namespace}: it is not in Kubernetes, or no controller leads")
    try:
        return item, NetNamespaceRecord.parse(key, item.value)
    except RecordError as error:
        raise NetError(f"the record cannot be read, a controller that leads repairs it: {error}") from error


def _namespaces(keys: Keys, items: Mapping[str, KeyValue]) -> tuple[NamespaceState, ...]:
    names = {item.key.removeprefix(keys.netnamespaces) for item in _folder(items, keys.netnamespaces)}
    names |= {item.key.removeprefix(keys.vnids) for item in _folder(items, keys.vnids)}
    return tuple(
        _namespace(keys, name, items.get(keys.netnamespace(name)), items.get(keys.vnid(name))) for name in sorted(names)
    )


def _namespace(keys: Keys, name: str, record_item: KeyValue | None, vnid_item: KeyValue | None) -> NamespaceState:
    try:
        record = NetNamespaceRecord.parse(record_item.key, record_item.value) if record_item else None
        vnid = VnidRecord.parse(vnid_item.key, vnid_item.value) if vnid_item else None
    except RecordError as error:
        return NamespaceState(name, State.UNKNOWN, None, frozenset(), message=error.reason)
    send, accept = (vnid.send, vnid.accept) if vnid else (None, frozenset[int]())
    if record is None or vnid is None:
        missing = keys.netnamespace(name) if record is None else keys.vnid(name)
        said = record.message if record is not None and record.message else f"{missing} is missing"
        return NamespaceState(name, State.UNKNOWN, send, accept, message=said)
    settled = State.PENDING if record.action else State.SETTLED
    state = settled if accept == {send} else State.CHANGING
    return NamespaceState(name, state, send, accept, record.action, record.namespace, record.message)


def _hosts(keys: Keys, items: Mapping[str, KeyValue]) -> tuple[HostState, ...]:
    found = sorted((_host(keys, item) for item in _folder(items, keys.subnets)), key=_address_order)
    return tuple(_with_rival(host, found) for host in found)


def _host(keys: Keys, item: KeyValue) -> HostState:
    address = item.key.removeprefix(keys.subnets)
    try:
        record = SubnetRecord.parse(item.key, item.value)
    except RecordError as error:
        return HostState(address, "", None, error.reason)
    return HostState(address, record.host, record.subnet, record.message, record.is_of_node)


def _with_rival(host: HostState, hosts: Sequence[HostState]) -> HostState:
    """`host`, with a word on another record that says it is the same host, or has the same subnet."""
    if host.problem or host.subnet is None:
        return host
    for other in hosts:
        same = "name" if other.host == host.host else "subnet" if other.subnet == host.subnet else ""
        if same and other is not host:
            return replace(host, problem=f"the record of {other.address} has the same {same}: delete the wrong one")
    return host


def _address_order(host: HostState) -> tuple[int, str]:
    try:
        return int(IPv4Address(host.address)), ""
    except ValueError:
        return 2**32, host.address


def _folder(items: Mapping[str, KeyValue], folder: str) -> list[KeyValue]:
    return [item for key, item in items.items() if key.startswith(folder)]
