"""Edge hosts, load balancers outside Kubernetes, as an operator adds and removes them: in terms of etcd alone.

To add one is to write what any etcd client could: a subnet record that asks with `Assign`. The controller answers it.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from ipaddress import IPv4Address, IPv4Network

from k8sovs import net
from k8sovs.etcd import Delete, Etcd, KeyValue, Put, unchanged
from k8sovs.net import REQUEST_TIMEOUT_S, HostState, NetError
from k8sovs.records import Keys, NetworkConfig, RecordError, SubnetRecord

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]{0,251}[A-Za-z0-9])?")


class EdgeRefused(NetError):
    """The controller gives the host no subnet."""


async def hosts(etcd: Etcd, keys: Keys) -> tuple[HostState, ...]:
    """Every host that is no node of Kubernetes, by address, and every record that cannot be read. Raises EtcdError."""
    return tuple(host for host in await net.hosts(etcd, keys) if not host.is_of_node)


async def add(etcd: Etcd, keys: Keys, config: NetworkConfig, address: IPv4Address, name: str) -> None:
    """Ask for a subnet for the host at `address`.

    Raises NetError for what the controller would refuse, EtcdError.
    """
    if not _NAME.fullmatch(name):
        raise NetError(f"{name!r} cannot be the name of a host: letters, digits and ._-, a letter or digit at each end")
    for setting, network in (("Network", config.network), ("ServiceNetwork", config.service_network)):
        if address in network:
            raise NetError(f"{address} lies inside {setting} {network}: give the host's address on the underlay")
    for other in await net.hosts(etcd, keys):
        if other.host == name and other.address != str(address):
            raise NetError(f"the host at {other.address} is called {name} already: choose another --name")
    key = keys.subnet(address)
    item = await etcd.get(key)
    extra = _replaceable(item, address).extra if item is not None else ()
    value = SubnetRecord(name, address, None, assign=True, extra=extra).encode()
    try:
        SubnetRecord.parse(key, value)
    except RecordError as error:
        raise NetError(f"{error.reason}: give the host's address on the underlay") from None
    await _write(etcd, key, item, Put(key, value))


async def wait_assigned(
    etcd: Etcd, keys: Keys, address: IPv4Address, *, timeout: float = REQUEST_TIMEOUT_S
) -> IPv4Network:
    """Wait until the controller has answered the host's record; its subnet.

    Raises EdgeRefused with the controller's reason, NetError when `timeout` seconds are over, EtcdError.
    """
    key = keys.subnet(address)
    try:
        async with asyncio.timeout(timeout), aclosing(etcd.watch(key)) as updates:
            async for _ in updates:
                item = await etcd.get(key)
                if item is None:
                    raise NetError(f"{address}: its record has been removed meanwhile")
                record = SubnetRecord.parse(key, item.value)
                if record.message:
                    raise EdgeRefused(f"{address}: {record.message}")
                if record.subnet is not None:
                    return record.subnet
    except TimeoutError:
        raise NetError(
            f"{address}: no subnet after {timeout:.0f} s: see whether a controller leads (k8sovs status)"
        ) from None
    raise AssertionError("a watch does not end")


async def remove(etcd: Etcd, keys: Keys, address: IPv4Address) -> None:
    """Remove the host's record: every node closes to it. Raises NetError if it is not an edge host's, EtcdError."""
    key = keys.subnet(address)
    item = await etcd.get(key)
    if item is None:
        raise NetError(f"there is no host {address}: see k8sovs edge ls")
    record = _read(item)
    if record is not None and record.is_of_node:
        raise NetError(f"{address} is node {record.host} of Kubernetes, no edge host: delete the Node instead")
    await _write(etcd, key, item, Delete(key))


def _replaceable(item: KeyValue, address: IPv4Address) -> SubnetRecord:
    """The record under the host's address, which may ask again if it has no subnet. Raises NetError if it may not."""
    record = _read(item)
    if record is None:
        raise NetError(f"a record that cannot be read lies under {address}: remove it with k8sovs edge rm {address}")
    if record.is_of_node:
        raise NetError(f"{address} is node {record.host} of Kubernetes, which is in the network already")
    if record.subnet is not None:
        raise NetError(f"{address} is host {record.host} already, with subnet {record.subnet}")
    return record


def _read(item: KeyValue) -> SubnetRecord | None:
    try:
        return SubnetRecord.parse(item.key, item.value)
    except RecordError:
        return None


async def _write(etcd: Etcd, key: str, item: KeyValue | None, operation: Put | Delete) -> None:
    """Do `operation` on the record as it was read. Raises NetError if somebody has written it meanwhile."""
    result = await etcd.transact([unchanged(key, item.mod_revision if item is not None else 0)], [operation])
    if not result.succeeded:
        raise NetError(f"{key} has been written by somebody else meanwhile: look at it (k8sovs edge ls), and try again")
