"""The node's own side of the network: filters, bridge, `tun0`, routes, NAT. All of it is made at the start.

Nothing here belongs to a pod, and nothing here changes while pods come and go. Bridge and `tun0` with its routes are
repaired when the database or the kernel says that somebody touched them; the filters when the agent starts again.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, replace
from pathlib import Path

from agent import sysctls
from agent.bridge import GATEWAY, VXLAN, BridgeSpec, BridgeView
from agent.filters import Filters
from agent.links import GatewaySpec, LinkError, Links, mac_text
from agent.nftables import FilterSpec, Nftables
from agent.originals import Originals
from agent.ovsdb import Ovsdb, OvsdbError
from agent.service_filters import ServiceFilterSpec
from agent.snapshot import Identity
from agent.sysctls import SysctlError
from agent.underlay import Underlay
from flows.snapshot import mac_of
from flows.tables import HOST_NEXT_HOP, RULE_VERSION, SERVICE_ADDRESSES
from k8sovs.config import Datapath, ServiceProxy
from k8sovs.logs import get_logger
from k8sovs.records import NetworkConfig

log = get_logger(__name__)

RETRY_S = 1.0
AUDIT_S = 5.0
"""How often the kernel's settings are looked at."""
KERNEL_MODULE = Path("/sys/module/openvswitch")


def choose_datapath(wanted: Datapath, bridge: BridgeView) -> Datapath:
    """The datapath to use: as told; else that of the bridge that exists; else the kernel's if its module is loaded."""
    if wanted is not Datapath.AUTO:
        return wanted
    if bridge.exists:
        return Datapath.NETDEV if bridge.datapath_type == "netdev" else Datapath.SYSTEM
    return Datapath.SYSTEM if KERNEL_MODULE.exists() else Datapath.NETDEV


@dataclass(frozen=True, slots=True)
class HostSpec:
    """What the node's own side should be."""

    config: NetworkConfig
    identity: Identity
    datapath: Datapath
    underlay: Underlay
    mtu: int
    accept_unsolicited: bool
    service_proxy: ServiceProxy
    is_edge: bool = False
    """Whether it is a load balancer outside Kubernetes: no pods, no Services, clients that are not in the overlay."""

    @property
    def bridge(self) -> BridgeSpec:
        """The bridge with its tunnel and its gateway."""
        return BridgeSpec(
            datapath_type=self.datapath.value,
            # The userspace datapath sends from a given address only if the kernel's routes are copied (decision 0018).
            local_ip=None if self.datapath is Datapath.NETDEV else self.identity.address,
            vxlan_port=self.identity.vxlan_port,
            gateway_mac=mac_text(mac_of(self.identity.gateway)),
            mtu=self.mtu,
            external_ids={"k8sovs-rule-version": str(RULE_VERSION)},
        )

    @property
    def gateway(self) -> GatewaySpec:
        """The device by which the node itself is in the pod network."""
        return GatewaySpec(
            ifname=GATEWAY,
            address=self.identity.gateway,
            mtu=self.mtu,
            networks=(self.config.network, *(() if self.is_edge else (self.config.service_network, SERVICE_ADDRESSES))),
            next_hop=HOST_NEXT_HOP,
        )

    def filters(self, underlay_devices: tuple[str, ...]) -> FilterSpec:
        """Filters and NAT; `underlay_devices` matter on the userspace datapath, where the kernel gets copies."""
        return FilterSpec(
            cluster_network=self.config.network,
            gateway_device=GATEWAY,
            vxlan_port=self.identity.vxlan_port,
            refuse_unsolicited=not self.accept_unsolicited,
            copied_devices=underlay_devices if self.datapath is Datapath.NETDEV else None,
            masquerade_as=self.identity.gateway if self.is_edge else None,
            services=ServiceFilterSpec(self.config.service_network) if self.service_proxy is ServiceProxy.OVS else None,
        )


class Host:
    """Makes and keeps what `spec` says."""

    def __init__(
        self, spec: HostSpec, links: Links, ovsdb: Ovsdb, nftables: Nftables, originals: Originals | None = None
    ) -> None:
        self._spec = spec
        self._links = links
        self._ovsdb = ovsdb
        self._originals = originals
        self._filters = Filters(nftables, spec.filters(self._underlay_devices()))

    def follow_services(self, services: ServiceFilterSpec) -> None:
        """Let the node's kernel know of other Services from now on."""
        self._filters.become(replace(self._filters.spec, services=services))

    async def prepare(self) -> None:
        """Make everything, the filters first: no frame may pass before they stand.

        Waits for a switch that is away. Raises NftablesError, LinkError, SysctlError.
        """
        devices = self._underlay_devices()
        await self._filters.prepare()
        if self._spec.datapath is Datapath.NETDEV:
            if not devices:
                log.warning(
                    "underlay-outside-the-switch",
                    device=self._spec.underlay.ifname,
                    consequence="the userspace datapath cannot send to other nodes",
                    action="put the underlay NIC on a bridge of Open vSwitch, and the node's address on that bridge",
                )
            await self._links.disable_receive_offloads(devices)
        await self._ensure_bridge()
        await self._repair()

    async def run(self) -> None:
        """Repair filters, bridge and gateway when somebody has touched them, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._filters.run())
            tasks.create_task(self._keep_bridge())
            tasks.create_task(self._keep_gateway())
            tasks.create_task(self._keep_settings())

    async def _keep_bridge(self) -> None:
        while True:
            seen, view = self._ovsdb.changes.count, self._ovsdb.view
            if view is not None and not {VXLAN, GATEWAY} <= view.ports.keys():
                log.warning("bridge-damaged", ports=sorted(view.ports), action="making what is missing")
                await self._ensure_bridge()
            await self._ovsdb.changes.wait_beyond(seen)

    async def _keep_gateway(self) -> None:
        async for event in self._links.events():
            if event.ifname in (GATEWAY, None):
                try:
                    await self._repair()
                except (LinkError, SysctlError) as error:
                    # The switch makes the device anew when it restarts, and that is the next event.
                    log.warning("gateway-not-repaired", device=GATEWAY, error=str(error))

    async def _keep_settings(self) -> None:
        """`sysctl --system`, a network restart or another daemon set them for all devices, and nobody tells of it."""
        while True:
            await asyncio.sleep(AUDIT_S)
            try:
                for name in await sysctls.ensure(sysctls.node_sysctls(GATEWAY)):
                    log.warning("kernel-setting-put-back", name=name, action="see who changes it: /etc/sysctl.d")
            except SysctlError as error:
                log.debug("kernel-setting-not-put-back", error=str(error))

    async def _ensure_bridge(self) -> None:
        while True:
            try:
                await self._ovsdb.ensure_bridge(self._spec.bridge)
                return
            except OvsdbError as error:
                log.error("bridge-not-made", error=str(error), action="trying again; 'k8sovs check' may say why")
                await asyncio.sleep(RETRY_S)

    async def _repair(self) -> None:
        for change in await self._links.configure_gateway(self._spec.gateway):
            log.info("gateway-changed", device=GATEWAY, change=change)
        await sysctls.ensure(sysctls.node_sysctls(GATEWAY), self._originals)

    def _underlay_devices(self) -> tuple[str, ...]:
        """On the userspace datapath: the devices of the bridge that holds the node's address."""
        view = self._ovsdb.view
        bridge = view.others.get(self._spec.underlay.ifname) if view else None
        ports = bridge.ports.items() if bridge else ()
        return tuple(sorted(name for name, kind in ports if kind not in ("internal", "patch")))
