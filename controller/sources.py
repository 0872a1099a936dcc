"""What the controller takes from Kubernetes: which Namespaces there are, and at which address each Node is."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from functools import partial
from ipaddress import IPv4Address

from controller.world import World
from k8sovs.etcd import Etcd, Listing
from k8sovs.kubernetes import (
    Gone,
    Kubernetes,
    Listed,
    Namespace,
    Node,
    NodeStatus,
    ObjectMeta,
    Put,
    Resource,
    key_of,
)

ADDRESS_ANNOTATION = "k8s.ovs.com/node-address"
"""On a Node: the underlay address that counts instead of its first IPv4 InternalIP."""

Inbox = asyncio.Queue[Callable[[], None]]
"""Updates of the world, in the order in which each source told of them; whoever owns the world runs them."""


async def follow_etcd(etcd: Etcd, world: World, inbox: Inbox) -> None:
    """Deliver all that happens to the network's records, for ever."""
    async with aclosing(etcd.watch(world.keys.network, world.keys.config)) as updates:
        async for update in updates:
            if isinstance(update, Listing):
                await inbox.put(partial(world.take_listing, update))
            else:
                await inbox.put(partial(world.take_changes, update))


async def follow_namespaces(kubernetes: Kubernetes, world: World, inbox: Inbox) -> None:
    """Deliver all that happens to Namespaces, for ever."""
    async with aclosing(kubernetes.watch(Namespace, trim=bare_namespace)) as updates:
        async for update in updates:
            match update:
                case Listed(items, unreadable):
                    uids = {key.name: uid for key, uid in unreadable.items()}
                    uids |= {key_of(item).name: uid_of(item) for item in items}
                    await inbox.put(partial(world.take_namespaces, uids))
                case Put(key, item):
                    await inbox.put(partial(world.take_namespace, key.name, uid_of(item)))
                case Gone(key, uid):
                    await inbox.put(partial(world.drop_namespace, key.name, uid))


async def follow_nodes(kubernetes: Kubernetes, world: World, inbox: Inbox) -> None:
    """Deliver all that happens to Nodes, for ever."""
    async with aclosing(kubernetes.watch(Node, trim=bare_node)) as updates:
        async for update in updates:
            match update:
                case Listed(items, unreadable):
                    addresses: dict[str, IPv4Address | None] = dict.fromkeys(key.name for key in unreadable)
                    addresses |= {key_of(item).name: address_of(item) for item in items}
                    await inbox.put(partial(world.take_nodes, addresses))
                case Put(key, item):
                    await inbox.put(partial(world.take_node, key.name, address_of(item)))
                case Gone(key, _):
                    await inbox.put(partial(world.drop_node, key.name))


def bare_namespace(item: Namespace) -> Namespace:
    """What the controller wants of a Namespace."""
    return Namespace(metadata=_bare(item.metadata))


def bare_node(item: Node) -> Node:
    """What the controller wants of a Node: a fiftieth of it."""
    addresses = item.status.addresses if item.status else None
    return Node(metadata=_bare(item.metadata), status=NodeStatus(addresses=addresses))


def _bare(metadata: ObjectMeta | None) -> ObjectMeta | None:
    if metadata is None:
        return None
    address = (metadata.annotations or {}).get(ADDRESS_ANNOTATION)
    annotations = None if address is None else {ADDRESS_ANNOTATION: address}
    return ObjectMeta(name=metadata.name, uid=metadata.uid, annotations=annotations)


def uid_of(item: Resource) -> str:
    """The UID of an object; the API gives every object one."""
    uid: str | None = item.metadata.uid if isinstance(item, Namespace) and item.metadata else None
    return uid or "unknown"


def address_of(node: Node) -> IPv4Address | None:
    """The underlay address of a node; None while it has none that can be used."""
    override = ((node.metadata.annotations if node.metadata else None) or {}).get(ADDRESS_ANNOTATION)
    reported = (node.status.addresses if node.status else None) or []
    texts = [override] if override else [each.address for each in reported if each.type == "InternalIP"]
    for text in texts:
        try:
            return IPv4Address(text)
        except ValueError:
            continue  # IPv6, or nothing at all
    return None
