"""The agent from start to readiness, in the order that makes every step safe.

1. The switch's database, and the cluster's records: from etcd, or from the snapshot file while etcd is away.
2. Preflight: settings that clash end here, in words.
3. The node itself: filters before the first port, then the bridge, `tun0`, routes and NAT.
4. The flows: the difference to what the switch holds already. Pods that were attached never notice.
5. The CNI socket and, last of all, the network configuration, which tells the kubelet that pods may come.
"""

from __future__ import annotations

import asyncio
from collections.abc import Collection
from pathlib import Path

from agent.attach import Attacher, Devices, PodNetwork
from agent.attachments import Attachments, keep_remembered, outdated_limits, outdated_tenancies
from agent.bandwidth import Bandwidth
from agent.cluster import ClusterSource
from agent.cni_server import CniServer
from agent.flow_reconciler import Demand, FlowReconciler
from agent.host import Host, HostSpec
from agent.ipam import AddressRefused, Leases
from agent.links import Links
from agent.metrics import CniMetrics, FlowMetrics
from agent.ofports import Ofports
from agent.ovsdb import Ovsdb
from agent.podlink import HOST_LINK_PREFIX
from agent.ports import PodPorts
from agent.reaper import Reaper
from agent.service_filters import service_filter_spec
from agent.services import Services
from agent.services_file import ServicesFile
from agent.shaping import Shaper, desired_shapes
from agent.signal import when_changed
from agent.snapshot import Identity, Snapshots
from agent.snapshot_file import SnapshotFile
from agent.start import keep_forwarding, prepared, run_until_stopped
from agent.switch import Switch, SwitchDisconnected
from cni.conf import install_conf, install_executable, render_conflist
from cni.errors import CniError
from flows import service
from flows.flow import Source
from k8sovs import metrics
from k8sovs.config import AgentSettings, Datapath, ServiceProxy
from k8sovs.kubernetes import Statistics
from k8sovs.logs import get_logger

log = get_logger(__name__)

INSTALL_AUDIT_S = 5.0

_PROXIES = {ServiceProxy.OVS: service.ServiceProxy.OVS, ServiceProxy.KUBE_PROXY: service.ServiceProxy.KUBE_PROXY}
"""The setting in the terms of the switch."""

EXECUTABLE = Path(__file__).resolve().parent.parent / "cni" / "shim" / "k8s-ovs"


async def run(settings: AgentSettings) -> None:
    """Run the agent until SIGTERM. Raises ConfigError for settings that clash."""
    await run_until_stopped(_serve(settings))


async def _serve(settings: AgentSettings) -> None:
    registry = metrics.new_registry()
    kubernetes = Statistics()
    async with prepared(settings, registry, kubernetes) as node:
        tasks, cluster, ovsdb, links, spec = node.tasks, node.cluster, node.ovsdb, node.links, node.spec
        identity, sight = spec.identity, node.sight
        reaper, attachments = Reaper(links), Attachments(ovsdb)
        tasks.create_task(reaper.run())
        await _clear_dead(ovsdb, links, reaper)

        switch = Switch(str(settings.ovs_rundir / f"{settings.bridge}.mgmt"))
        snapshots = Snapshots(identity, _PROXIES[settings.service_proxy])
        remembered = ServicesFile(SnapshotFile(settings.state_dir / "services.json"), settings.node_name)
        services = Services(settings.kubeconfig, settings.node_name, kubernetes, remembered)
        services.restore()
        flows = FlowReconciler(
            switch, lambda: _demand(cluster, attachments, snapshots, services), metrics=FlowMetrics(registry)
        )
        sight.switch, sight.flows, sight.attachments = switch, flows, attachments
        for source in (cluster.changed, ovsdb.changes, services.changed):
            source.follow(flows.request)
        ports = PodPorts(ovsdb)
        bandwidth = Bandwidth(settings.kubeconfig, settings.node_name, registry, kubernetes)
        inside = spec.datapath is Datapath.NETDEV
        shaper = Shaper(
            links,
            lambda: desired_shapes(attachments.by_port(), spec.mtu, inside),
            lambda name, reason: bandwidth.tell_failure(attachments.by_port().get(name), reason),
        )
        ovsdb.changes.follow(when_changed(attachments.limited, shaper.request))
        for daemon in (
            switch.run(),
            flows.run(),
            ports.run_additions(),
            ports.run_removals(),
            keep_remembered(ovsdb, [cluster.changed], lambda: outdated_tenancies(attachments, cluster)),
            keep_remembered(ovsdb, [bandwidth.changed], lambda: outdated_limits(attachments, bandwidth)),
            bandwidth.run(),
            shaper.run(),
            services.run(),
            *((_tell_kernel(node.host, services, spec),) if settings.service_proxy is ServiceProxy.OVS else ()),
        ):
            tasks.create_task(daemon)
        await flows.reconcile()
        tasks.create_task(keep_forwarding(node, switch, flows, snapshots, settings.ovs_rundir))

        ofports = Ofports(lambda: _held_ofports(switch), attachments.numbers)
        await ofports.begin()
        devices = Devices(links, ports, ofports, flows, reaper, shaper)
        network = PodNetwork(
            networks=(spec.config.network, spec.config.service_network),
            mtu=spec.mtu,
            offloads_off=spec.datapath is Datapath.NETDEV,
            tenancy_deadline_s=settings.tenancy_deadline_s,
        )
        leases = _leases(identity, attachments)
        attacher = Attacher(identity, network, cluster, bandwidth, attachments, leases, devices)
        sight.leases = leases
        node.exposition.ready_when(lambda: _why_not_ready(attacher))
        tasks.create_task(attacher.run_undoing())
        await _serve_calls(CniServer(settings.cni_socket, attacher, metrics=CniMetrics(registry)), settings)


async def _why_not_ready(attacher: Attacher) -> str:
    """What an ADD would fail with now."""
    try:
        await attacher.status()
    except CniError as error:
        return error.message
    return ""


async def _serve_calls(server: CniServer, settings: AgentSettings) -> None:
    """Serve the CNI executable until cancelled: then calls under way are undone while the devices still serve them."""
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(server.run())
        await server.wait_serving()
        await asyncio.to_thread(_install, settings)
        log.info("ready", node=settings.node_name)
        while True:
            # An upgrade of the host's own packages empties the directory of executables, say.
            await asyncio.sleep(INSTALL_AUDIT_S)
            try:
                if await asyncio.to_thread(_install, settings):
                    log.warning("cni-files-put-back", bin_dir=settings.cni_bin_dir, conf_dir=settings.cni_conf_dir)
            except OSError as error:
                log.error("cni-files-not-put-back", error=str(error), action="trying again")


def _install(settings: AgentSettings) -> bool:
    """The executable, then the configuration that names it; False if both are there. Raises OSError."""
    executable = install_executable(settings.cni_bin_dir, EXECUTABLE)
    conflist = render_conflist(settings.cni_socket, settings.cni_chain)
    return install_conf(settings.cni_conf_dir, conflist) or executable


async def _clear_dead(ovsdb: Ovsdb, links: Links, reaper: Reaper) -> None:
    """Remove ports whose device is gone (a reboot, a namespace deleted while nobody looked), and links without port."""
    assert ovsdb.view is not None, "the bridge has just been made"
    devices = set(await links.links(HOST_LINK_PREFIX))
    ports = {name for name in ovsdb.view.ports if name.startswith(HOST_LINK_PREFIX)}
    dead, orphans = sorted(ports - devices), sorted(devices - ports)
    if dead:
        log.info("dead-ports-removed", ports=dead)
        await ovsdb.remove_ports(dead)
    if orphans:
        log.info("links-without-port-removed", links=orphans)
        reaper.delete_later(orphans)


def _leases(identity: Identity, attachments: Attachments) -> Leases:
    leases = Leases(identity.subnet)
    for attachment in attachments.by_port().values():
        try:
            leases.reserve(attachment.address, str(attachment.key))
        except AddressRefused as error:
            log.error("address-not-ours", attachment=str(attachment.key), error=str(error), action="the pod keeps it")
    return leases


async def _held_ofports(switch: Switch) -> Collection[int]:
    """The numbers that the switch has in use, once it is there to be asked."""
    while True:
        session = await switch.wait_connected()
        try:
            return (await switch.port_numbers()).values()
        except SwitchDisconnected:
            await switch.wait_disconnected(session)


async def _tell_kernel(host: Host, services: Services, spec: HostSpec) -> None:
    """Keep the node's kernel informed of what it has to pass on to the switch, once that is known."""
    seen = 0
    while True:
        seen = await services.changed.wait_beyond(seen)
        host.follow_services(service_filter_spec(spec.config.service_network, services.current.values()))


def _demand(cluster: ClusterSource, attachments: Attachments, snapshots: Snapshots, services: Services) -> Demand:
    view = cluster.known
    synced = {Source.PIPELINE, Source.NODE, Source.ATTACHMENTS}
    if view.live:
        synced.add(Source.PEERS)
    if services.synced:
        synced.add(Source.SERVICES)
    return Demand(
        snapshot=snapshots.take(view, attachments.forwarding(), services.current),
        synced=frozenset(synced),
    )
