"""The switch's database: one connection, one immutable view, and the few changes that the agent makes.

The connection is made again for ever. On each the whole of what concerns us is read anew, and from then on the server
tells what changes; a change that was under way when the connection broke is composed anew from what the database then
says. A change is sent in the same instant in which it is asked for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager

from agent import edits
from agent.bridge import (
    GATEWAY,
    GATEWAY_OFPORT,
    VXLAN,
    VXLAN_OFPORT,
    BridgeSpec,
    BridgeView,
    OtherBridge,
    PodPort,
    PortView,
    squatters,
)
from agent.edits import NoBridge, Operation
from agent.jsonrpc import Disconnected, Json, JsonRpc, RequestFailed
from agent.replica import COLUMNS, NotUnderstood, Replica
from agent.signal import Signal
from k8sovs.logs import get_logger

__all__ = [
    "BridgeSpec",
    "BridgeView",
    "ChangeRefused",
    "OtherBridge",
    "Ovsdb",
    "OvsdbError",
    "PodPort",
    "PortRefused",
    "PortView",
]

log = get_logger(__name__)

DATABASE = "Open_vSwitch"
COMMENT = "k8sovs agent"
"""Stands at every change of ours in the database's log, for whoever reads it: `ovsdb-tool show-log -m conf.db`."""

DEADLINE_S = 20.0
_RETRY_S = 1.0
_SILENCE_S = 5.0


class OvsdbError(Exception):
    """The database refused a change, or nobody carried it out in time."""


class ChangeRefused(OvsdbError):
    """The database refused a change, all of it: one part is enough."""


class PortRefused(OvsdbError):
    """The switch cannot forward for the port `name`."""

    def __init__(self, name: str, error: str) -> None:
        super().__init__(f"Open vSwitch cannot use {name}: {error}")
        self.name = name
        self.error = error


class Ovsdb:
    """The database behind the Unix socket `db_socket`, as far as it concerns `bridge`.

    Nothing happens unless `run()` does. Every change has a deadline of `deadline_s` seconds, then raises OvsdbError.
    `view` is None until the database was read once; `changes` counts its versions.
    """

    def __init__(self, db_socket: str, bridge: str = "br0", deadline_s: float = DEADLINE_S) -> None:
        self.view: BridgeView | None = None
        self.changes = Signal()
        self._path = db_socket
        self._bridge = bridge
        self._deadline_s = deadline_s
        self._server: JsonRpc | None = None
        self._early: list[Json] = []
        self._replica = Replica(bridge)
        self._unwanted: set[str] = set()
        self._removals: set[asyncio.Task[None]] = set()

    @property
    def connected(self) -> bool:
        """Whether the replica follows the database now, and somebody has initialised that."""
        return self._server is not None and self._replica.initialised

    async def run(self) -> None:
        """Keep the connection and the replica, for ever."""
        reported = ""
        try:
            while True:
                try:
                    reason = await self._follow()
                    log.info("ovsdb-lost", socket=self._path, reason=reason)
                    reported = ""
                except (Disconnected, RequestFailed, NotUnderstood) as error:
                    if str(error) != reported:
                        log.warning("ovsdb-away", error=str(error), action="trying again until it answers")
                        reported = str(error)
                await asyncio.sleep(_RETRY_S)
        finally:
            for removal in self._removals:
                removal.cancel()

    async def wait_connected(self) -> None:
        """Wait until the replica follows the database."""
        while not self.connected:
            await self.changes.wait_beyond(self.changes.count)

    async def ensure_bridge(self, spec: BridgeSpec) -> None:
        """Make the bridge with `vxlan0` and `tun0` on their fixed numbers, or repair it; pod ports stay as they are.

        Whoever holds one of the two numbers is moved in the same transaction. Raises OvsdbError.
        """
        wanted = {VXLAN: VXLAN_OFPORT, GATEWAY: GATEWAY_OFPORT}
        async with self._deadline(f"bridge {self._bridge} of datapath type {spec.datapath_type}"):
            while True:
                seen = self.changes.count
                # Composed anew at every change: a squatter may show only when the switch has told its number.
                await self._transact(lambda: self._bridge_edits(spec))
                decided = {name: self._decided(name) for name in wanted}
                for result in decided.values():
                    if isinstance(result, PortRefused):
                        raise result
                if decided == wanted:
                    return
                await self.changes.wait_beyond(seen)

    async def insert_ports(self, ports: Sequence[PodPort]) -> None:
        """Insert ports in one transaction; returns when the database has them, before the switch has looked.

        When the time is over (OvsdbError), or the caller is cancelled, they are removed again.
        """
        names = [port.name for port in ports]
        with self.removed_on_failure(names):
            async with self._deadline(f"adding {', '.join(names)}"):
                self._unwanted.difference_update(names)
                await self._transact(lambda: edits.put_ports(self._replica, self._bridge, ports))

    async def wait_forwarding(self, name: str) -> int:
        """The ofport of an inserted port, once the switch forwards for it.

        Raises PortRefused if the switch cannot use it, OvsdbError if it does not look in time; then, or if the caller
        is cancelled, the port is removed again.
        """
        with self.removed_on_failure([name]):
            async with self._deadline(f"adding {name}"):
                while True:
                    seen = self.changes.count
                    result = self._decided(name)
                    if isinstance(result, PortRefused):
                        raise result
                    if result is not None:
                        return result
                    await self.changes.wait_beyond(seen)

    @contextmanager
    def removed_on_failure(self, names: Sequence[str]) -> Iterator[None]:
        """Remove these ports when the block raises; one that the database has not told of yet, when it does."""
        try:
            yield
        except BaseException:  # cancellation included: half an addition must not stay
            self._remove_now(names)
            raise

    async def remove_ports(self, names: Collection[str]) -> None:
        """Remove ports, and what is remembered with them, in one transaction; missing ones are no error.

        It returns when the database has done it, and the view shows it; the switch follows within milliseconds.
        Raises OvsdbError.
        """
        async with self._deadline(f"removing {', '.join(names)}"):
            await self._transact(lambda: edits.remove_ports(self._replica, names))
            while self.view is not None and not self.view.ports.keys().isdisjoint(names):
                await self.changes.wait_beyond(self.changes.count)

    async def remove_bridge(self) -> bool:
        """Remove the bridge with all its ports, and `flow-restore-wait`; none is no error.

        Returns whether ovs-vswitchd has carried it out, within the deadline. Raises OvsdbError if the database has not.
        """
        async with self._deadline(f"removing bridge {self._bridge}"):
            await self._transact(lambda: edits.remove_bridge(self._replica))
            while self.view is not None and self.view.exists:
                await self.changes.wait_beyond(self.changes.count)
        try:
            async with asyncio.timeout(self._deadline_s):
                while self._configuration("cur_cfg") < self._configuration("next_cfg"):
                    await self.changes.wait_beyond(self.changes.count)
        except TimeoutError:
            return False
        return True

    async def set_port_ids(self, ids: Mapping[str, Mapping[str, str]]) -> None:
        """Set `external_ids` of ports, by port name, in one transaction; keys not mentioned stay.

        A port that is gone is passed over. Raises OvsdbError.
        """
        async with self._deadline(f"external_ids of {', '.join(ids)}"):
            await self._transact(lambda: edits.put_ids(self._replica, ids))

    async def set_flow_restore_wait(self, armed: bool) -> None:
        """Set or clear `flow-restore-wait`; returns when ovs-vswitchd has taken notice.

        An ovs-vswitchd that starts with it set forwards by the kernel's old flows until it is cleared; one that runs
        without is not changed by it (ovs-vswitchd.conf.db(5)). For the kernel datapath only. Raises OvsdbError.
        """
        async with self._deadline(edits.RESTORE_WAIT):
            await self._transact(lambda: edits.set_restore_wait(self._replica, armed))
            awaited = self._configuration("next_cfg")
            while self._configuration("cur_cfg") < awaited:
                await self.changes.wait_beyond(self.changes.count)

    async def _follow(self) -> str:
        """Connect and follow the database until the connection ends; the reason.

        Raises Disconnected, RequestFailed or NotUnderstood if it cannot be followed at all.
        """
        server = await JsonRpc.connect(self._path, self._told)
        alive = asyncio.create_task(server.keep_alive(_SILENCE_S))
        try:
            self._early = []
            replica = Replica(self._bridge)
            monitored: Json = {table: [{"columns": list(columns)}] for table, columns in COLUMNS.items()}
            replica.apply(await server.request("monitor_cond", [DATABASE, DATABASE, monitored]))
            for updates in self._early:
                replica.apply(updates)
            self._replica, self._server = replica, server
            log.info("ovsdb-connected", socket=self._path)
            self._publish()
            reason = await asyncio.shield(server.ended)
        finally:
            self._server = None
            alive.cancel()
            server.close()
        self.changes.notify()
        return reason

    def _told(self, method: str, parameters: Json) -> None:
        """The server tells of a change, perhaps in one breath with the first rows."""
        match parameters:
            case [_, updates] if method == "update2":
                if self._server is None:
                    self._early.append(updates)
                    return
                try:
                    self._replica.apply(updates)
                    self._publish()
                except NotUnderstood as error:
                    log.error("ovsdb-answer-not-understood", socket=self._path, error=str(error), action="reading anew")
                    self._server.close(str(error))

    def _publish(self) -> None:
        if self._replica.initialised:
            self.view = self._replica.view()
            self.changes.notify()
            self._remove_now(self._unwanted & self.view.ports.keys())

    async def _transact(self, compose: Callable[[], list[Operation]]) -> None:
        """Carry out the change that `compose` says; anew, after a broken connection, from what is there then."""
        while True:
            await self.wait_connected()
            assert self._server is not None, "connected means that there is a server"
            try:
                operations = compose()
                if not operations:
                    return
                comment: Operation = {"op": "comment", "comment": COMMENT}
                results = await self._server.request("transact", [DATABASE, *operations, comment])
            except NoBridge as error:
                raise OvsdbError(str(error)) from None
            except RequestFailed as error:
                raise ChangeRefused(f"the database refused a change: {error}") from None
            except Disconnected:
                await asyncio.sleep(0)  # `run` takes notice
                continue
            for result in results if isinstance(results, list) else []:
                if isinstance(result, dict) and "error" in result:
                    raise ChangeRefused(f"the database refused a change: {result['error']}: {result.get('details')}")
            return

    def _bridge_edits(self, spec: BridgeSpec) -> list[Operation]:
        present = [] if self.view is None else list(self.view.ports.values())
        moved = squatters(present)
        for name, number in moved.items():
            log.warning("port-moved", port=name, ofport=number, reason="its number belongs to the overlay")
        return edits.put_bridge(self._replica, self._bridge, spec, moved)

    def _decided(self, name: str) -> int | PortRefused | None:
        """What the switch has said of a port: its number, or why there is none; None: nothing yet."""
        port = None if self.view is None else self.view.ports.get(name)
        if port is not None and port.error is not None:
            return PortRefused(name, port.error)
        return None if port is None else port.ofport

    def _configuration(self, column: str) -> int:
        value = self._replica.root()[1][column] if self._replica.initialised else 0
        assert isinstance(value, int), "both are numbers"
        return value

    def _remove_now(self, names: Collection[str]) -> None:
        """Send the removal and do not wait. What is not there yet, or cannot be asked for now, goes once it is seen."""
        self._unwanted.update(names)
        if names and self.connected:
            removal = asyncio.create_task(self._remove_quietly(names))
            self._removals.add(removal)
            removal.add_done_callback(self._removals.discard)

    async def _remove_quietly(self, names: Collection[str]) -> None:
        there = self._replica.ports.keys() & names
        try:
            # Somebody may have asked for one of them again while there was no connection.
            await self._transact(lambda: edits.remove_ports(self._replica, self._unwanted & there))
        except OvsdbError as error:
            log.warning("ports-not-removed", ports=sorted(there), error=str(error), action="again at the next change")
        else:
            self._unwanted -= there

    @asynccontextmanager
    async def _deadline(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except TimeoutError:
            hint = "see ovs-vswitchd.log" if self.connected else f"no connection to {self._path}"
            raise OvsdbError(f"{what}: Open vSwitch did not do it within {self._deadline_s:g} s; {hint}") from None
