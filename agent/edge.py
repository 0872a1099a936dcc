"""The agent of an edge host: a load balancer outside Kubernetes, in the pod network with VNI 0.

Like a node it has the bridge, the tunnel, `tun0` and the filters, and keeps them; it follows etcd, and comes back from
its snapshot file while etcd is away. It has no pods, so it serves no CNI and asks nothing of Kubernetes.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping
from typing import NoReturn

from agent import notify, sysctls
from agent.attachment import PodAttachment
from agent.cluster import ClusterSource, ClusterView
from agent.flow_reconciler import Demand, FlowReconciler
from agent.host import Host
from agent.identity import watch_identity
from agent.links import Links
from agent.metrics import FlowMetrics, NodeMetrics
from agent.neighbours import Neighbours
from agent.nftables import Nftables
from agent.observe import Sight
from agent.ovsdb import Ovsdb
from agent.restore_wait import keep_armed
from agent.snapshot import Snapshots
from agent.snapshot_file import SnapshotFile
from agent.start import host_spec, run_until_stopped
from agent.switch import Switch
from agent.sysctls import SysctlError
from flows.flow import Source
from k8sovs import metrics
from k8sovs.config import Datapath, EdgeSettings
from k8sovs.etcd import Etcd
from k8sovs.exposition import Exposition
from k8sovs.logs import get_logger

log = get_logger(__name__)

AUDIT_S = 5.0
"""How often to look whether the kernel has LVS by now: it tells nobody."""

_NO_PODS: Mapping[PodAttachment, int] = {}


async def run(settings: EdgeSettings) -> None:
    """Run the agent until SIGTERM. Raises ConfigError for settings that clash."""
    await run_until_stopped(_serve(settings))


async def _serve(settings: EdgeSettings) -> None:
    registry = metrics.new_registry()
    malformed = metrics.malformed_records(registry)
    file = SnapshotFile(settings.state_dir / "cluster.json")
    async with (
        Exposition(registry, settings.metrics_address) as exposition,
        Etcd(settings.etcd) as etcd,
        Links() as links,
        Nftables() as nftables,
        asyncio.TaskGroup() as tasks,
    ):
        cluster = ClusterSource(etcd, settings.prefix, file, lambda kind: malformed.labels(kind).inc())
        cluster.restore()
        tasks.create_task(cluster.run())
        ovsdb = Ovsdb(str(settings.ovs_rundir / "db.sock"), settings.bridge)
        tasks.create_task(ovsdb.run())
        sight = Sight(NodeMetrics(registry), etcd, ovsdb, cluster)
        exposition.refresh_with(sight.look)
        exposition.ready_when(sight.why_starting)

        spec = await host_spec(cluster, ovsdb, links, settings)
        identity = spec.identity
        tasks.create_task(watch_identity(cluster, settings, identity))
        host = Host(spec, links, ovsdb, nftables)
        await host.prepare()
        tasks.create_task(host.run())
        tasks.create_task(_keep_load_balancer())

        switch = Switch(str(settings.ovs_rundir / f"{settings.bridge}.mgmt"))
        snapshots = Snapshots(identity)
        flows = FlowReconciler(switch, lambda: _demand(_known(cluster), snapshots), metrics=FlowMetrics(registry))
        sight.switch, sight.flows, sight.identity = switch, flows, identity
        cluster.changed.follow(flows.request)
        tasks.create_task(switch.run())
        tasks.create_task(flows.run())
        await flows.reconcile()
        if spec.datapath is Datapath.NETDEV:
            neighbours = Neighbours(
                links, switch, settings.ovs_rundir, cluster.changed, lambda: snapshots.peers(_known(cluster))
            )
            tasks.create_task(neighbours.run())
        else:
            tasks.create_task(keep_armed(ovsdb, switch, flows, spec.underlay.ifname))
        exposition.ready_when(sight.why_no_forwarding)
        log.info("ready", address=str(identity.address), gateway=str(identity.gateway))
        notify.ready(os.environ.get("NOTIFY_SOCKET", ""))


async def _keep_load_balancer() -> NoReturn:
    """Make and keep the settings that LVS needs, whenever it is loaded."""
    while True:
        try:
            for name in await sysctls.ensure(sysctls.LOAD_BALANCER):
                log.info("kernel-setting-changed", name=name)
        except SysctlError as error:
            log.error("kernel-setting-not-changed", error=str(error), action="trying again")
        await asyncio.sleep(AUDIT_S)


def _demand(view: ClusterView, snapshots: Snapshots) -> Demand:
    # What an edge host has is all its own but for the other hosts, whom etcd knows.
    sources = set(Source) - (set() if view.live else {Source.PEERS})
    return Demand(snapshots.take(view, _NO_PODS), frozenset(sources))


def _known(cluster: ClusterSource) -> ClusterView:
    assert cluster.view is not None, "a view, once known, stays"
    return cluster.view
