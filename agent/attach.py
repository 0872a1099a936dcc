"""A pod's way onto the network and off it again: what the CNI server calls.

ADD, in order: the tenancy of the namespace, a free address, a port number that the switch does not have in use; the
flows for that number (one bundle for all pods of a burst); the veth pair, its end in the pod's namespace; the port on
the switch with everything worth remembering of the pod (one OVSDB transaction for all), and beside it the rest of the
link. When the switch has the flows and has given the port its number, and it is the right one, only the bandwidth
limits are left, if it has any. Then it answers: the pod can send at once.
Whatever fails undoes what was done before it; but a limit that cannot be set keeps no pod from starting.

DEL, in order: the flows; the port, and with it all that is remembered (the point of no return); the address; then it
answers. The veth is deleted afterwards: the kernel takes its time for that, and nobody has to wait. A veth of ours
without a port is garbage, so a crash in between leaves nothing for long; and a crash before the port is gone leaves a
pod that has its flows again, until the runtime asks again.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from typing import TypeAlias

from agent.attachment import PodAttachment
from agent.attachments import Attachments
from agent.bandwidth import Bandwidth
from agent.check import Checker
from agent.cluster import ClusterSource
from agent.collect import Collector
from agent.flow_reconciler import FlowReconciler
from agent.ipam import Leases, SubnetFull
from agent.limits import UNLIMITED
from agent.links import InterfaceExists, LinkError, Links, NetnsGone, PodLink, PodLinkSpec, host_link_name
from agent.ofports import NoNumber, Ofports
from agent.ovsdb import OvsdbError, PodPort
from agent.ports import PodPorts
from agent.reaper import Reaper
from agent.shaping import Shaper
from agent.snapshot import Identity
from agent.tenancy import NoTenancy, wait_tenancy
from agent.turns import Turns
from agent.undoing import Undoing
from cni.errors import CniError, ErrorCode
from cni.request import AttachmentKey, Request
from cni.result import Interface, IpConfig, Result, Route
from k8sovs.logs import get_logger

log = get_logger(__name__)

FLOW_DEADLINE_S = 10.0
"""How long a call waits for a switch that is away. Then an ADD fails; a DEL succeeds, and its flows go with the first
bundle after the switch is back, before or together with those of the next pod that gets the address."""


HEAD_START_S = 0.005
"""How long a link waits for the flows. They take a fraction of this, unless the switch is busy or away. A new device
sends the switch through all of its ports, and flows that come behind it wait for the end of that."""

_NOTHING_LEFT = "nothing was left, so no DEL is needed; make a new sandbox"

_Made: TypeAlias = tuple[PodLink, tuple[IPv4Network, ...]]
"""A link, and the destinations that are reached by it."""


class SwitchAway(Exception):
    """The switch did not commit flows in time."""


@dataclass(frozen=True, slots=True)
class PodNetwork:
    """What all pods of the node have in common. `networks` are routed to the gateway, besides everything else."""

    networks: tuple[IPv4Network, ...]
    mtu: int
    offloads_off: bool
    tenancy_deadline_s: float


@dataclass(frozen=True, slots=True)
class Devices:
    """The writers that an attachment goes through, one for each kind of device."""

    links: Links
    ports: PodPorts
    ofports: Ofports
    flows: FlowReconciler
    reaper: Reaper
    shaper: Shaper


class Attacher:
    """Attaches and detaches pods: the handler of the CNI server."""

    def __init__(
        self,
        identity: Identity,
        network: PodNetwork,
        cluster: ClusterSource,
        bandwidth: Bandwidth,
        attachments: Attachments,
        leases: Leases,
        devices: Devices,
    ) -> None:
        self._identity = identity
        self._network = network
        self._cluster = cluster
        self._bandwidth = bandwidth
        self._attachments = attachments
        self._leases = leases
        self._devices = devices
        self._checker = Checker(
            attachments, devices.links, devices.flows, self._link_spec, extra=[devices.shaper.faults]
        )
        self._collector = Collector(attachments, self._disconnect_surely)
        self._undoing = Undoing(self._disconnect, devices.ports.wait_connected)

    async def run_undoing(self) -> None:
        """Undo, for ever, what failed ADDs could not undo while the database was away."""
        await self._undoing.run()

    async def add(self, request: Request) -> Result:
        """Attach a pod; returns when it can send and be reached."""
        pod = request.pod
        await self._undoing.wait_undone(request.key)
        if self._attachments.get(request.key) is not None:
            raise CniError(
                ErrorCode.ALREADY_ATTACHED,
                f"{request.key} of pod {pod.namespace}/{pod.name} is attached already",
                "the first attachment stays as it is; DEL it before another ADD",
            )
        try:
            tenancy = await wait_tenancy(self._cluster, pod.namespace, self._network.tenancy_deadline_s)
            address = self._leases.allocate(str(request.key))
        except NoTenancy as error:
            raise CniError(ErrorCode.TRY_AGAIN_LATER, f"pod {pod.namespace}/{pod.name}: {error}") from error
        except SubnetFull as error:
            raise CniError(
                ErrorCode.SUBNET_FULL,
                f"pod {pod.namespace}/{pod.name}: {error}",
                "delete pods of this node or start it on another; HostSubnetLength says how many fit",
            ) from error
        limits = self._bandwidth.at_start(pod, request.conf.runtime_config)
        attachment = PodAttachment(request.key, pod, request.netns, address, tenancy, limits, request.conf.name)
        try:
            return self._result(*await self._connect(attachment), address)
        except BaseException:  # whatever it was, cancellation included: half an attachment must not stay
            try:
                await self._disconnect_surely(request.key)
            except OvsdbError as error:
                # The pod's link waits for nobody; port and address go when the database is back.
                self._devices.reaper.delete_later([host_link_name(request.key.container_id, request.key.ifname)])
                log.warning("add-not-undone", attachment=str(request.key), error=str(error), action="doing it later")
            raise

    async def delete(self, request: Request) -> None:
        """Detach a pod, or what is left of one; nothing attached is no error."""
        try:
            await self._disconnect(request.key)
        except OvsdbError as error:
            raise CniError(ErrorCode.TRY_AGAIN_LATER, f"{request.key} cannot be detached: {error}") from error

    async def check(self, request: Request) -> None:
        """Raise unless the attachment is as its ADD left it."""
        await self._checker.check(request)

    async def gc(self, request: Request, turns: Turns) -> None:
        """Detach everything of this network that the runtime does not name as valid."""
        await self._collector.collect(request, turns)

    async def status(self) -> None:
        """Raise what an ADD would fail with now, whatever its pod."""
        if not self._devices.flows.current:
            raise CniError(
                ErrorCode.NOT_AVAILABLE_LIMITED, "the switch does not have its flows: is ovs-vswitchd running?"
            )
        if not self._devices.ports.connected:
            raise CniError(ErrorCode.NOT_AVAILABLE, "no connection to the switch's database: is ovsdb-server running?")
        if self._leases.full:
            raise CniError(ErrorCode.NOT_AVAILABLE, str(SubnetFull(self._leases.subnet, self._leases.capacity)))

    async def _connect(self, attachment: PodAttachment) -> _Made:
        """Link, port, flows; the link, and where the container reaches by it. Raises CniError."""
        name = host_link_name(attachment.key.container_id, attachment.key.ifname)
        try:
            await self._devices.reaper.wait_deleted(name)
            port = PodPort(name, await self._take_ofport(), attachment.external_ids())
            self._attachments.expect(name, attachment, port.ofport_request)
            made, number = await self._make(self._link_spec(attachment), port)
            self._attachments.expect_no_more(name)
            if number != port.ofport_request:
                await self._commit_flows()
            if attachment.limits != UNLIMITED:
                await self._devices.shaper.reconcile()
        except NetnsGone as error:
            raise CniError(ErrorCode.UNKNOWN_CONTAINER, f"{attachment.key}: {error}", _NOTHING_LEFT) from error
        except InterfaceExists as error:
            raise CniError(
                ErrorCode.INTERFACE_EXISTS, f"{attachment.key}: {error}", "it stays; ADD with another CNI_IFNAME"
            ) from error
        except LinkError as error:
            raise CniError(
                ErrorCode.IO_FAILURE, f"{attachment.key}: {error}", "nothing was left; see the agent's log"
            ) from error
        except (OvsdbError, SwitchAway, NoNumber) as error:
            raise await self._failure(attachment, error) from error
        return made

    async def _failure(self, attachment: PodAttachment, error: Exception) -> CniError:
        """What to say when the switch did not take a port: perhaps only because its pod went away meanwhile."""
        key = attachment.key
        try:
            await self._devices.links.view_pod_link(
                host_link_name(key.container_id, key.ifname), attachment.netns, key.ifname
            )
        except NetnsGone as gone:
            return CniError(ErrorCode.UNKNOWN_CONTAINER, f"{key}: {gone}", _NOTHING_LEFT)
        except OSError as unseen:
            log.warning("link-not-seen", attachment=str(key), error=str(unseen))
        return CniError(ErrorCode.TRY_AGAIN_LATER, f"{key}: {error}", "nothing was left; ADD again")

    async def _make(self, spec: PodLinkSpec, port: PodPort) -> tuple[_Made, int]:
        """The flows, the link, and the port with its number; all have ended on return."""
        created = asyncio.Event()
        flows = asyncio.create_task(self._commit_flows())
        linking = asyncio.create_task(self._link_after(flows, spec, created))
        linking.add_done_callback(lambda _: created.set())
        adding = asyncio.create_task(self._add_port(created, linking, port))
        outcomes = await asyncio.gather(flows, linking, adding, return_exceptions=True)
        for outcome in outcomes:
            if isinstance(outcome, BaseException):
                raise outcome
        return linking.result(), adding.result()

    async def _link_after(self, flows: asyncio.Task[None], spec: PodLinkSpec, created: asyncio.Event) -> _Made:
        await asyncio.wait({flows}, timeout=HEAD_START_S)
        return await self._devices.links.make_pod_link(spec, created.set)

    async def _add_port(self, created: asyncio.Event, linking: asyncio.Task[_Made], port: PodPort) -> int:
        """Add the port once its device is there; if that fails, `linking` says why."""
        await created.wait()
        failed = linking.done() and (linking.cancelled() or linking.exception() is not None)
        return port.ofport_request if failed else await self._devices.ports.add(port)

    async def _take_ofport(self) -> int:
        """Raises SwitchAway or NoNumber."""
        async with self._switch_deadline():
            return await self._devices.ofports.take()

    async def _disconnect(self, key: AttachmentKey) -> None:
        """Flows, port, address, link. Raises OvsdbError, with everything in place again."""
        name = host_link_name(key.container_id, key.ifname)
        try:
            with self._attachments.leaving(name) as known:
                if known:
                    with suppress(SwitchAway):
                        await self._commit_flows()
                await self._devices.ports.remove(name)
        except BaseException:  # cancellation included: the flows belong to a pod that still has its port
            self._devices.flows.request()
            raise
        self._leases.release(str(key))
        self._devices.reaper.delete_later([name])

    async def _disconnect_surely(self, key: AttachmentKey) -> None:
        """The same; what the database does not answer is done later. Nobody would ask again if it has done it."""
        try:
            await self._disconnect(key)
        except OvsdbError:
            self._undoing.undo_later(key)
            raise

    async def _commit_flows(self) -> None:
        """Wait until the switch has the flows for what is attached now. Raises SwitchAway."""
        async with self._switch_deadline():
            await self._devices.flows.reconcile()

    @asynccontextmanager
    async def _switch_deadline(self) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(FLOW_DEADLINE_S):
                yield
        except TimeoutError:
            raise SwitchAway(f"the switch did nothing for {FLOW_DEADLINE_S:g} s: is ovs-vswitchd running?") from None

    def _link_spec(self, attachment: PodAttachment) -> PodLinkSpec:
        return PodLinkSpec(
            host_name=host_link_name(attachment.key.container_id, attachment.key.ifname),
            netns=attachment.netns,
            ifname=attachment.key.ifname,
            address=attachment.address,
            prefix_length=self._identity.subnet.prefixlen,
            gateway=self._identity.gateway,
            networks=self._network.networks,
            mtu=self._network.mtu,
            offloads_off=self._network.offloads_off,
        )

    def _result(self, link: PodLink, routes: tuple[IPv4Network, ...], address: IPv4Address) -> Result:
        gateway = self._identity.gateway
        return Result(
            interfaces=(
                Interface(link.host_name, link.host_mac),
                Interface(link.ifname, link.mac, sandbox=link.netns, mtu=link.mtu),
            ),
            ips=(IpConfig(IPv4Interface((address, self._identity.subnet.prefixlen)), gateway, interface=1),),
            routes=tuple(Route(network, gateway) for network in sorted(routes)),
        )
