"""Which node this is: its address and its subnet, as the cluster's records have it."""

from __future__ import annotations

import asyncio
from typing import NoReturn

from agent.cluster import ClusterSource, ClusterView
from agent.links import EventKind, Links
from agent.snapshot import Identity
from k8sovs.config import EdgeSettings, HostSettings
from k8sovs.etcd import Etcd
from k8sovs.logs import get_logger

log = get_logger(__name__)

ETCD_PATIENCE_S = 2.0
"""How long a starting agent waits for etcd's own word before the snapshot file has to do. A node may have moved since
the file was written, and everything that the agent sets up follows from who it is."""

MOVE_PATIENCE_S = 1.0
"""The controller undoes a stranger's hand in this node's record at once: only what stays longer is a move."""


class NodeMoved(Exception):
    """The cluster now knows this node by another address or subnet: the agent has to start anew."""


async def wait_identity(cluster: ClusterSource, settings: HostSettings) -> tuple[ClusterView, Identity]:
    """Wait until the cluster has a subnet for this node."""
    try:
        async with asyncio.timeout(ETCD_PATIENCE_S):
            await cluster.wait_live()
    except TimeoutError:
        if cluster.view is not None:
            log.warning("etcd-away", action="going by the snapshot file")
    told = False
    while True:
        seen, view = cluster.changed.count, cluster.view
        if view is not None:
            identity = _identity(view, settings)
            if identity is not None:
                return view, identity
            if not told:
                told = True
                where = {} if settings.node_address is None else {"address": str(settings.node_address)}
                asking = "k8sovs edge add" if isinstance(settings, EdgeSettings) else "the Node object"
                log.info(
                    "waiting-for-subnet", node=settings.node_name, **where, given_by=f"the controller, after {asking}"
                )
        await cluster.changed.wait_beyond(seen)


async def watch_identity(
    cluster: ClusterSource, settings: HostSettings, identity: Identity, *, patience_s: float = MOVE_PATIENCE_S
) -> NoReturn:
    """Wait until the node is another than `identity`, and stays so for `patience_s`; then raises NodeMoved.

    A record that is gone changes nothing.
    """
    while True:
        seen, moved = cluster.changed.count, _moved(cluster.view, settings, identity)
        if moved is not None:
            await asyncio.sleep(patience_s)
            if _moved(cluster.view, settings, identity) == moved:
                raise NodeMoved(
                    f"{settings.node_name or 'this host'} was {identity.address} with {identity.subnet}, "
                    f"and is {moved.address} with {moved.subnet}"
                )
        await cluster.changed.wait_beyond(seen)


async def doubt_when_readdressed(links: Links, etcd: Etcd) -> None:
    """Have etcd's connection looked at whenever an address of the node comes or goes, for ever.

    A connection from an address that is gone is as silent as one on which nothing happens.
    """
    async for event in links.events():
        if event.kind is EventKind.ADDRESS:
            etcd.doubt()


def _moved(view: ClusterView | None, settings: HostSettings, identity: Identity) -> Identity | None:
    """Who the node is by now, if that is somebody else who can be.

    A subnet that is none of the network's, or another host's as well, is a mistake, and not worth the node's pods.
    """
    now = _identity(view, settings) if view is not None and view.live else None
    if view is None or now is None or now == identity:
        return None
    claims = [record for record in view.subnets.values() if record.subnet == now.subnet]
    return now if len(claims) == 1 and view.config.has_subnet(now.subnet) else None


def _identity(view: ClusterView, settings: HostSettings) -> Identity | None:
    record = view.subnet_of(settings.node_name, settings.node_address)
    if record is None or record.subnet is None:
        return None
    return Identity(record.host_ip, record.subnet, settings.vxlan_port)
