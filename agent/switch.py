"""The bridge as the agent uses it: one persistent OpenFlow connection to its management socket.

`Switch.run` connects again for ever. Each connection is a session with a number; what the switch held before a new
session is unknown, so whoever owns flows reads and compares them on every session. Changes go as one ordered atomic
bundle: all or nothing, and if nothing, the exception names the change to blame.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NoReturn

from agent.connection import Connection, SwitchDisconnected, SwitchRefused
from agent.signal import Signal
from flows.diff import AddFlow, AddPassingFlow, DeleteFlow, DeleteGroup, PutGroup
from flows.flow import Flow, Source
from flows.group import GroupEntry, GroupType
from flows.openflow import (
    Error,
    FlowMod,
    FlowPurge,
    FlushConnections,
    GroupCommand,
    GroupMod,
    InstalledFlow,
    MeterEntry,
    TableStats,
)
from flows.openflow.error_names import METER_EXISTS
from flows.openflow.messages import (
    BarrierReply,
    BarrierRequest,
    BundleAdd,
    BundleControl,
    BundleControlType,
    FlowDescReply,
    FlowDescRequest,
    GroupDescReply,
    GroupDescRequest,
    GroupStatsReply,
    GroupStatsRequest,
    MeterCommand,
    MeterDescReply,
    MeterDescRequest,
    MeterMod,
    PortDescReply,
    PortDescRequest,
    TableStatsReply,
    TableStatsRequest,
)
from flows.text import flow_text, match_text
from k8sovs.logs import get_logger

__all__ = ["BundleRejected", "Change", "InstalledGroup", "Switch", "SwitchDisconnected", "SwitchRefused"]

FIRST_RETRY_S = 0.1
LAST_RETRY_S = 1.0
SILENCE_S = 5.0
ALL_BITS = (1 << 64) - 1

Change = AddFlow | AddPassingFlow | DeleteFlow | PutGroup | DeleteGroup | FlowMod | FlowPurge | GroupMod

log = get_logger(__name__)


class BundleRejected(Exception):
    """The switch refused a bundle because of `change`; nothing of the bundle was done."""

    def __init__(self, change: Change, error: Error) -> None:
        super().__init__(f"the switch refused {_described(change)}, and so all changes of its bundle: {error}")
        self.change = change
        self.error = error


@dataclass(frozen=True, slots=True)
class InstalledGroup:
    """A group as the switch has it, and what it has handled since it was added."""

    group: GroupEntry
    packets: int
    bytes: int


class Switch:
    """The bridge whose management socket is `path`.

    Every method that asks the switch raises SwitchDisconnected at once if there is no session, or if it ends before
    the answer, and SwitchRefused with the switch's error.
    """

    def __init__(self, path: str, *, silence_s: float = SILENCE_S) -> None:
        self._path = path
        self._silence_s = silence_s
        self._connection: Connection | None = None
        self._sessions = 0
        self._bundles = 0
        self._session_changed = Signal()

    @property
    def session(self) -> int | None:
        """The number of the present connection, from 1; None while there is none."""
        return None if self._connection is None else self._sessions

    async def run(self) -> NoReturn:
        """Connect, serve the connection, and connect again when it ends, for ever."""
        reported = ""
        retry_s = FIRST_RETRY_S
        while True:
            try:
                connection = await Connection.open(self._path, self._silence_s)
                self._begin(connection)
                reported, retry_s = "", FIRST_RETRY_S
                await connection.serve()
            except SwitchDisconnected as error:
                if str(error) != reported:
                    log.warning("switch-disconnected", error=str(error), action="trying until ovs-vswitchd answers")
                    reported = str(error)
            finally:
                self._end()
            await asyncio.sleep(retry_s)
            retry_s = min(2 * retry_s, LAST_RETRY_S)

    async def wait_connected(self) -> int:
        """Wait until there is a session, and return its number."""
        while (session := self.session) is None:
            await self._session_changed.wait_beyond(self._session_changed.count)
        return session

    async def wait_disconnected(self, session: int) -> None:
        """Wait until `session` has ended."""
        while self.session == session:
            await self._session_changed.wait_beyond(self._session_changed.count)

    async def dump_flows(self, source: Source | None = None) -> list[InstalledFlow]:
        """All flows of the bridge with their counters, or those of one source."""
        question = FlowDescRequest()
        if source is not None:
            question = FlowDescRequest(cookie=source.cookie, cookie_mask=ALL_BITS)
        return await self._live().collect(question, FlowDescReply)

    async def dump_groups(self) -> list[InstalledGroup]:
        """All groups of the bridge with their counters."""
        connection = self._live()
        groups = await connection.collect(GroupDescRequest(), GroupDescReply)
        counters = await connection.collect(GroupStatsRequest(), GroupStatsReply)
        counted = {one.identifier: (one.packets, one.bytes) for one in counters}
        return [InstalledGroup(group, *counted.get(group.identifier, (0, 0))) for group in groups]

    async def dump_meters(self) -> list[MeterEntry]:
        """All meters of the bridge."""
        return await self._live().collect(MeterDescRequest(), MeterDescReply)

    async def port_numbers(self) -> dict[str, int]:
        """The number of each port of the bridge, by name; the bridge's own port is `flows.actions.LOCAL`."""
        return {port.name: port.number for port in await self._live().collect(PortDescRequest(), PortDescReply)}

    async def table_stats(self) -> dict[int, TableStats]:
        """The counters of each table, by number."""
        return {stats.table: stats for stats in await self._live().collect(TableStatsRequest(), TableStatsReply)}

    async def set_meter(self, meter: MeterEntry) -> None:
        """Make `meter` what its number stands for, whether or not there is such a meter yet."""
        try:
            await self._change(MeterMod(MeterCommand.ADD, meter))
        except SwitchRefused as refused:
            if (refused.error.type, refused.error.code) != METER_EXISTS:
                raise
            await self._change(MeterMod(MeterCommand.MODIFY, meter))

    async def commit(self, changes: Sequence[Change]) -> None:
        """Make all of `changes`, in order, as one: no packet sees a part of them.

        Raises BundleRejected if the switch refuses one of them, OpenFlowError if one has a value that OpenFlow cannot
        carry; nothing is done then. When cancelled, or when the connection ends, the changes may be made or not, but
        never in part.
        """
        if not changes:
            return
        connection = self._live()
        self._bundles += 1
        bundle = self._bundles
        opened = BundleControl(bundle, BundleControlType.OPEN_REQUEST)
        added = (BundleAdd(bundle, _message(change)) for change in changes)
        xids = connection.reserve(1 + len(changes))
        with connection.errors_of(xids) as errors:
            try:
                await connection.send([opened], xids[:1])
                await connection.send(added, xids[1:])
                # A change that the switch could not even read does not spoil its bundle: it would commit the others.
                # So nothing is committed before the switch has answered for all of them.
                await connection.request(BundleControl(bundle, BundleControlType.CLOSE_REQUEST), BundleControl)
                _raise_for(errors, opened, changes, xids)
            except BaseException:
                connection.send_and_forget(BundleControl(bundle, BundleControlType.DISCARD_REQUEST))
                raise
            try:
                await connection.request(BundleControl(bundle, BundleControlType.COMMIT_REQUEST), BundleControl)
            except SwitchRefused:
                _raise_for(errors, opened, changes, xids)
                raise

    async def flush_connections(self, flush: FlushConnections) -> None:
        """Forget tracked connections. An Open vSwitch before 3.1 refuses."""
        await self._change(flush)

    async def _change(self, change: MeterMod | FlushConnections) -> None:
        connection = self._live()
        xids = connection.reserve(1)
        with connection.errors_of(xids) as errors:
            await connection.send([change], xids)
            await connection.request(BarrierRequest(), BarrierReply)
        for error in errors.values():
            raise SwitchRefused(change, error)

    def _live(self) -> Connection:
        if self._connection is None:
            raise SwitchDisconnected(f"{self._path}: not connected")
        return self._connection

    def _begin(self, connection: Connection) -> None:
        self._connection = connection
        self._sessions += 1
        log.info("switch-connected", path=self._path, session=self._sessions)
        self._session_changed.notify()

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.close()
            self._connection = None
            self._session_changed.notify()


def _message(change: Change) -> FlowMod | FlowPurge | GroupMod:
    match change:
        case AddFlow(flow):
            return FlowMod.add(flow)
        case AddPassingFlow(flow, idle_s):
            return FlowMod.add(flow, idle_s)
        case DeleteFlow(key):
            return FlowMod.delete(key)
        case PutGroup(group):
            return GroupMod(GroupCommand.ADD_OR_MODIFY, group)
        case DeleteGroup(group_key):
            return GroupMod(GroupCommand.DELETE, GroupEntry(group_key.identifier, GroupType.ALL, ()))
        case _:
            return change


def _described(change: Change) -> str:
    message = _message(change)
    if isinstance(message, GroupMod):
        return f"{message.command.name} of group {message.group.identifier}"
    if isinstance(message, FlowPurge):
        return f"to delete all flows of {message}"
    target = message.target
    if isinstance(target, Flow):
        return f"{message.command.name} of flow {flow_text(target)}"
    return f"to delete flow table={target.table},priority={target.priority},{match_text(target.match)}"


def _raise_for(errors: dict[int, Error], opened: BundleControl, changes: Sequence[Change], xids: range) -> None:
    """Raise the first of `errors`; the first of `xids` is that of the bundle itself, then one for each change."""
    if errors:
        xid = min(errors)
        if xid == xids[0]:
            raise SwitchRefused(opened, errors[xid])
        raise BundleRejected(changes[xid - xids[1]], errors[xid])
