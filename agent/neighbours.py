"""On the userspace datapath: tells the switch the way to every peer, and the MAC there, before a pod needs it.

There the switch routes tunnel packets itself. It copies the kernel's routes, anew whenever any device of the node
changes, and meanwhile knows none: packets of settled pods are lost while others come and go. An ovs-vswitchd that was
started with `--disable-system-route` copies nothing, and has what it is told here (docs/decisions/0018).

It resolves next hops itself too, and drops the packet that made it ask. So the agent lets the kernel ask, and hands the
answer over: when a peer appears, when the switch comes back, and now and then, since entries age (`tnl/neigh/aging` of
ovs-vswitchd, 15 minutes). The kernel datapath needs none of this.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from ipaddress import IPv4Address
from pathlib import Path
from typing import NoReturn

from agent.links import Links, UnderlayError
from agent.signal import Signal
from agent.switch import Switch
from agent.underlay import NextHop
from agent.unixctl import ControlError, set_tunnel_neighbour, set_tunnel_route
from flows.snapshot import Peer
from k8sovs.logs import get_logger

log = get_logger(__name__)

REFRESH_S = 300.0
RETRY_S = 1.0
PARALLEL = 16


class Neighbours:
    """Keeps the switch's routes and tunnel neighbours for `peers()`, which may differ after each `changed`.

    A route is never taken back: with it the switch would forget that tunnels end on that device (`rt_entry_delete__`
    of OVS' lib/ovs-router.c), and one that leads to no peer is used by nobody.
    """

    def __init__(
        self, links: Links, switch: Switch, ovs_rundir: Path, changed: Signal, peers: Callable[[], frozenset[Peer]]
    ) -> None:
        self._links = links
        self._switch = switch
        self._ovs_rundir = ovs_rundir
        self._changed = changed
        self._peers = peers
        self._places = asyncio.Semaphore(PARALLEL)

    async def run(self) -> NoReturn:
        """Warm neighbours for ever; all of them anew when the switch has restarted."""
        while True:
            session = await self._switch.wait_connected()
            async with asyncio.TaskGroup() as tasks:
                keeping = tasks.create_task(self._keep_all())
                await self._switch.wait_disconnected(session)
                keeping.cancel()

    async def _keep_all(self) -> NoReturn:
        """A task for each peer, so that one that does not answer delays no other."""
        async with asyncio.TaskGroup() as tasks:
            kept: dict[IPv4Address, asyncio.Task[NoReturn]] = {}
            while True:
                seen = self._changed.count
                wanted = {peer.address for peer in self._peers()}
                for address in kept.keys() - wanted:
                    kept.pop(address).cancel()
                for address in wanted - kept.keys():
                    kept[address] = tasks.create_task(self._keep(address))
                await self._changed.wait_beyond(seen)

    async def _keep(self, address: IPv4Address) -> NoReturn:
        told: NextHop | None = None
        while True:
            told = await self._route(address, told)
            async with self._places:  # silent peers hold theirs for a while: no route may wait for that
                warm = told is not None and await self._warm(address)
            await asyncio.sleep(REFRESH_S if warm else RETRY_S)

    async def _route(self, address: IPv4Address, told: NextHop | None) -> NextHop | None:
        """Tell the switch the way to `address` if it is not as `told`; the way, or None if that did not work."""
        try:
            hop = await self._links.next_hop(address)
            if hop != told:  # each word about routes has the switch revalidate all its flows
                gateway = None if hop.address == address else hop.address
                await set_tunnel_route(self._ovs_rundir, address, hop.ifname, gateway)
        except (OSError, UnderlayError, ControlError) as error:
            log.debug("route-not-set", peer=str(address), error=str(error))
            return None
        return hop

    async def _warm(self, address: IPv4Address) -> bool:
        """Ask for the MAC on the way to `address` and tell the switch; whether that worked."""
        try:
            found = await self._links.neighbour(address)
            if found is None:
                log.debug("peer-silent", peer=str(address))
                return False
            await set_tunnel_neighbour(self._ovs_rundir, found.ifname, found.address, found.mac)
        except (OSError, UnderlayError, ControlError) as error:
            log.debug("neighbour-not-set", peer=str(address), error=str(error))
            return False
        return True
