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
from agent.cluster import ClusterView
from agent.flow_reconciler import Demand, FlowReconciler
from agent.metrics import FlowMetrics
from agent.snapshot import Snapshots
from agent.start import keep_forwarding, prepared, run_until_stopped
from agent.switch import Switch
from agent.sysctls import SysctlError
from flows.flow import Source
from k8sovs import metrics
from k8sovs.config import EdgeSettings
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
    async with prepared(settings, registry, None) as host:
        tasks, cluster, identity = host.tasks, host.cluster, host.spec.identity
        tasks.create_task(_keep_load_balancer())

        switch = Switch(str(settings.ovs_rundir / f"{settings.bridge}.mgmt"))
        snapshots = Snapshots(identity)
        flows = FlowReconciler(switch, lambda: _demand(cluster.known, snapshots), metrics=FlowMetrics(registry))
        host.sight.switch, host.sight.flows = switch, flows
        cluster.changed.follow(flows.request)
        tasks.create_task(switch.run())
        tasks.create_task(flows.run())
        await flows.reconcile()
        tasks.create_task(keep_forwarding(host, switch, flows, snapshots, settings.ovs_rundir))
        host.exposition.ready_when(host.sight.why_no_forwarding)
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
