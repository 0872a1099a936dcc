"""What the daemons of nodes and of edge hosts have in common at their start and at their end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path

from prometheus_client import CollectorRegistry

from agent.cluster import RECORD_KINDS, ClusterSource
from agent.flow_reconciler import FlowReconciler
from agent.host import Host, HostSpec, choose_datapath
from agent.identity import NodeMoved, doubt_when_readdressed, wait_identity, watch_identity
from agent.links import Links, UnderlayError
from agent.metrics import NodeMetrics
from agent.neighbours import Neighbours
from agent.nftables import Nftables
from agent.observe import Sight
from agent.originals import Originals
from agent.ovsdb import Ovsdb
from agent.preflight import clashes, overlaps
from agent.restore_wait import keep_armed
from agent.snapshot import Snapshots
from agent.snapshot_file import SnapshotFile
from agent.switch import Switch
from agent.underlay import Underlay
from k8sovs import metrics
from k8sovs.config import AgentSettings, ConfigError, Datapath, EdgeSettings, HostSettings, ServiceProxy
from k8sovs.etcd import Etcd
from k8sovs.exposition import Exposition
from k8sovs.kubernetes import Statistics
from k8sovs.logs import get_logger

log = get_logger(__name__)


async def run_until_stopped(work: Coroutine[None, None, None]) -> None:
    """Run `work` until SIGTERM, or until it fails; raises what it failed of."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(work)
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Everything stays as it is: the network goes on while no agent runs.
        stopped.cancel()
        serving.cancel()
        await asyncio.wait({serving})
    if not serving.cancelled():
        _raise_cause(serving.exception())


@dataclass(frozen=True, slots=True)
class Prepared:
    """A host that is ready for flows, and what it was made with. `tasks` are its daemons', and take in more.

    `sight` and `exposition` show what it does.
    """

    tasks: asyncio.TaskGroup
    cluster: ClusterSource
    ovsdb: Ovsdb
    links: Links
    spec: HostSpec
    host: Host
    sight: Sight
    exposition: Exposition


@asynccontextmanager
async def prepared(
    settings: HostSettings, registry: CollectorRegistry, kubernetes: Statistics | None
) -> AsyncIterator[Prepared]:
    """The host with its filters, bridge, tunnel and gateway, kept as they should be for as long as the block runs.

    Waits for a switch that is away, and for somebody to say who this host is; `kubernetes` is None where nothing is
    asked of Kubernetes. Raises ConfigError for settings that clash, and what the daemons raise.
    """
    malformed = metrics.malformed_records(registry, RECORD_KINDS)
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
        tasks.create_task(doubt_when_readdressed(links, etcd))
        ovsdb = Ovsdb(str(settings.ovs_rundir / "db.sock"), settings.bridge)
        tasks.create_task(ovsdb.run())
        sight = Sight(NodeMetrics(registry), etcd, ovsdb, cluster, kubernetes)
        exposition.refresh_with(sight.look)
        exposition.ready_when(sight.why_starting)

        spec = await _host_spec(cluster, ovsdb, links, settings)
        sight.identity = spec.identity
        tasks.create_task(watch_identity(cluster, settings, spec.identity))
        host = Host(spec, links, ovsdb, nftables, Originals(settings.state_dir))
        await host.prepare()
        tasks.create_task(host.run())
        yield Prepared(tasks, cluster, ovsdb, links, spec, host, sight, exposition)


def keep_forwarding(
    prepared: Prepared, switch: Switch, flows: FlowReconciler, snapshots: Snapshots, ovs_rundir: Path
) -> Coroutine[None, None, None]:
    """What a switch of the host's datapath needs beside its flows, for ever."""
    cluster, links = prepared.cluster, prepared.links
    if prepared.spec.datapath is Datapath.NETDEV:
        return Neighbours(links, switch, ovs_rundir, cluster.changed, lambda: snapshots.peers(cluster.known)).run()
    return keep_armed(prepared.ovsdb, switch, flows, prepared.spec.underlay.ifname)


async def _host_spec(cluster: ClusterSource, ovsdb: Ovsdb, links: Links, settings: HostSettings) -> HostSpec:
    """What this host should be, once it is known who it is. Raises ConfigError for settings that clash."""
    if settings.node_address is not None:
        await _underlay(links, settings.node_address)  # a mistake here would be waited for in vain below
    view, identity = await wait_identity(cluster, settings)
    underlay = await _underlay(links, identity.address)
    mtu = settings.mtu or underlay.pod_mtu
    problems = list(clashes(view.config, identity, settings.etcd_endpoints, mtu, underlay))
    if problems:
        raise ConfigError("; ".join(problems))
    for overlap in overlaps(view.config, identity, underlay):
        log.warning("networks-overlap", reason=overlap)
    await ovsdb.wait_connected()
    assert ovsdb.view is not None, "connected means that the database has been read"
    datapath = choose_datapath(settings.datapath, ovsdb.view)
    log.info("node", address=str(identity.address), subnet=str(identity.subnet), datapath=datapath.value, mtu=mtu)
    is_edge = isinstance(settings, EdgeSettings)
    proxy = settings.service_proxy if isinstance(settings, AgentSettings) else ServiceProxy.KUBE_PROXY
    return HostSpec(view.config, identity, datapath, underlay, mtu, settings.accept_unsolicited, proxy, is_edge)


async def _underlay(links: Links, address: IPv4Address) -> Underlay:
    try:
        return await links.underlay(address)
    except UnderlayError as error:
        raise ConfigError(f"node-address: {error}") from error


def _raise_cause(error: BaseException | None) -> None:
    """Raise what ended the agent, without the groups that it came wrapped in."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, NodeMoved):
        log.warning("ending", reason=str(error), action="to be started again, as the node that it is now")
    elif error is not None:
        raise error
