"""The node's network devices, for asyncio: pod links, the gateway device, the underlay, and the kernel's events.

Every operation runs in a worker thread, because the kernel works inside the system call and a deletion takes 20 ms.
No process is ever forked: namespaces are entered by threads. A creation that is cancelled is waited for, then undone.
"""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from enum import Enum
from functools import partial
from ipaddress import IPv4Address, IPv4Network
from types import TracebackType
from typing import TypeVar

from agent import gateway, netlink, podlink, podshape, podview, underlay
from agent.gateway import GatewaySpec
from agent.netns import NetnsGone
from agent.podlink import (
    EVERYWHERE,
    HOST_LINK_PREFIX,
    InterfaceExists,
    LinkError,
    LinkExists,
    PodLink,
    PodLinkSpec,
    host_link_name,
    mac_text,
)
from agent.podshape import PodShape
from agent.podview import PodLinkView
from agent.underlay import NextHop, Underlay, UnderlayError
from k8sovs.logs import get_logger

__all__ = [
    "EVERYWHERE",
    "HOST_LINK_PREFIX",
    "DeviceEvent",
    "EventKind",
    "GatewaySpec",
    "InterfaceExists",
    "LinkError",
    "LinkExists",
    "Links",
    "NetnsGone",
    "NextHop",
    "PodLink",
    "PodLinkSpec",
    "PodLinkView",
    "TunnelNeighbour",
    "Underlay",
    "UnderlayError",
    "host_link_name",
    "mac_text",
]

log = get_logger(__name__)

_WORKERS = 4
_DISCARD_PORT = 9
_BUFFER = 1 << 16
_EVENT_BUFFER = 1 << 20

T = TypeVar("T")


class EventKind(Enum):
    """What changed. QDISC: a qdisc or a filter of one. LOST: too much at once for the socket; look at all again."""

    LINK = "link"
    ADDRESS = "address"
    ROUTE = "route"
    QDISC = "qdisc"
    LOST = "lost"


@dataclass(frozen=True, slots=True)
class DeviceEvent:
    """Something changed about the device `ifname` (None when it is unknown or events were lost)."""

    kind: EventKind
    ifname: str | None


@dataclass(frozen=True, slots=True)
class TunnelNeighbour:
    """The next hop of a tunnel, in the words of `ovs-appctl tnl/neigh/set BRIDGE IP MAC`."""

    ifname: str
    address: IPv4Address
    mac: str


_EVENT_KINDS = {
    netlink.RTM_NEWLINK: EventKind.LINK,
    netlink.RTM_DELLINK: EventKind.LINK,
    netlink.RTM_NEWADDR: EventKind.ADDRESS,
    netlink.RTM_DELADDR: EventKind.ADDRESS,
    netlink.RTM_NEWROUTE: EventKind.ROUTE,
    netlink.RTM_DELROUTE: EventKind.ROUTE,
    netlink.RTM_NEWQDISC: EventKind.QDISC,
    netlink.RTM_DELQDISC: EventKind.QDISC,
    netlink.RTM_NEWTFILTER: EventKind.QDISC,
    netlink.RTM_DELTFILTER: EventKind.QDISC,
}


class Links:
    """The devices of the network namespace that it is opened in: `async with Links() as links`."""

    def __init__(self) -> None:
        self._workers = ThreadPoolExecutor(_WORKERS, thread_name_prefix="links")

    async def __aenter__(self) -> Links:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._workers.shutdown)

    async def make_pod_link(
        self, spec: PodLinkSpec, created: Callable[[], object]
    ) -> tuple[PodLink, tuple[IPv4Network, ...]]:
        """Make a pod's link, ready to send. `created` is called as soon as both ends are there, for the switch to use.

        Returns it, and the destinations that are reached by it in the main table. Raises NetnsGone, LinkError and its
        kinds.
        """
        loop = asyncio.get_running_loop()
        tell = partial(loop.call_soon_threadsafe, created)
        work = loop.run_in_executor(self._workers, podlink.make_pod_link, spec, tell)
        try:
            return await asyncio.shield(work)
        except asyncio.CancelledError:
            with suppress(LinkError, NetnsGone):
                await work
                await self._undo(spec.host_name)
            raise

    async def _undo(self, host_name: str) -> None:
        try:
            await self.delete_links([host_name])
        except OSError as error:  # not in the place of the cancellation, which whoever is stopping the caller awaits
            log.warning("link-not-deleted", link=host_name, error=str(error), action="the reaper deletes it")

    async def view_pod_link(self, host_name: str, netns: str, ifname: str) -> PodLinkView:
        """What the two ends of a pod's link are now. Raises NetnsGone, OSError."""
        return await self._run(podview.view_pod_link, host_name, netns, ifname)

    async def delete_links(self, names: Sequence[str]) -> None:
        """Delete host ends (and so their pods' ends); all of `names` in the time of one. Missing ones are no error."""
        if names:
            await self._run(podlink.delete_links, list(names))

    async def links(self, prefix: str) -> list[str]:
        """The names of the node's devices that start with `prefix`."""
        return await self._run(podlink.list_links, prefix)

    async def shape(self, shapes: Sequence[PodShape]) -> Mapping[str, tuple[str, ...] | OSError]:
        """Make the limits of pods what `shapes` say. By host end: what was changed, in words, or why it failed."""
        return await self._run(podshape.shape_pods, tuple(shapes))

    async def missing_limits(self, shape: PodShape) -> tuple[str, ...]:
        """What `shape` would change about a pod's limits, in words; empty if they are right. Raises OSError."""
        return await self._run(podshape.missing_limits, shape)

    async def configure_gateway(self, spec: GatewaySpec) -> tuple[str, ...]:
        """Make `tun0` what `spec` says and tell what was changed; nothing is written if all is right.

        Raises LinkError.
        """
        return await self._run(gateway.configure_gateway, spec)

    async def underlay(self, address: IPv4Address) -> Underlay:
        """The device that holds the node's `address`, and its MTU in bytes. Raises UnderlayError."""
        return await self._run(underlay.find_underlay, address)

    async def disable_receive_offloads(self, ifnames: Sequence[str]) -> None:
        """GRO and LRO off, for underlay devices of the userspace datapath. Raises OSError."""
        await self._run(underlay.disable_receive_offloads, tuple(ifnames))

    async def next_hop(self, address: IPv4Address) -> NextHop:
        """Where the kernel sends packets to the node `address`. Raises UnderlayError when there is no route."""
        return await self._run(underlay.next_hop, address)

    async def neighbour(self, address: IPv4Address, timeout: float = 2.0) -> TunnelNeighbour | None:
        """The next hop towards the node `address`, and its MAC, for which the kernel asks if it must.

        None if nobody answered within `timeout` seconds. Raises UnderlayError when there is no route.
        """
        hop = await self._run(underlay.next_hop, address)
        loop = asyncio.get_running_loop()
        with netlink.route_socket([netlink.GROUP_NEIGHBOUR]) as events:
            events.setblocking(False)
            mac = await self._run(underlay.known_mac, hop)
            if mac is None:
                _poke(address)
            try:
                async with asyncio.timeout(timeout):
                    while mac is None:
                        await loop.sock_recv(events, _BUFFER)
                        mac = await self._run(underlay.known_mac, hop)
            except TimeoutError:
                return None
        return TunnelNeighbour(hop.ifname, hop.address, mac)

    async def events(self) -> AsyncIterator[DeviceEvent]:
        """What happens to devices, addresses, routes and qdiscs, whoever does it; never ends.

        The first event, LOST, comes at once: what happened before it was not seen.
        """
        groups = (netlink.GROUP_LINK, netlink.GROUP_IPV4_ADDRESS, netlink.GROUP_IPV4_ROUTE, netlink.GROUP_TC)
        loop = asyncio.get_running_loop()
        with netlink.route_socket(groups) as sock:
            sock.setblocking(False)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _EVENT_BUFFER)
            names = dict(socket.if_nameindex())
            yield DeviceEvent(EventKind.LOST, None)
            while True:
                try:
                    data = await loop.sock_recv(sock, _BUFFER)
                except OSError as error:
                    if error.errno != errno.ENOBUFS:
                        raise
                    names = dict(socket.if_nameindex())
                    yield DeviceEvent(EventKind.LOST, None)
                    continue
                for event in netlink.decode_events(data):
                    if event.name is not None:
                        names[event.index] = event.name
                    yield DeviceEvent(_EVENT_KINDS[event.kind], names.get(event.index))
                    if event.kind == netlink.RTM_DELLINK:
                        names.pop(event.index, None)

    async def _run(self, function: Callable[..., T], *arguments: object) -> T:
        return await asyncio.get_running_loop().run_in_executor(self._workers, partial(function, *arguments))


def _poke(address: IPv4Address) -> None:
    """Give the kernel a reason to ask for the MAC on the way to `address`: a datagram to the discard port (RFC 863)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        try:
            sock.sendto(b"", (str(address), _DISCARD_PORT))
        except OSError:  # a local firewall's refusal; then the answer to somebody else's question has to do
            return
