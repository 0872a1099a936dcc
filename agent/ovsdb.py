"""The switch's database: one connection, one immutable view, and the few changes that the agent makes.

The `ovs` library keeps a replica of the database (its IDL). It wants a poll loop; here its descriptors are watched by
asyncio, so there is no thread, and a change is sent in the same instant in which it is asked for. The connection is
made again for ever; a change that was under way when it broke is composed anew from what the database then says.
"""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import AsyncIterator, Callable, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, TypeAlias
from uuid import UUID

import ovs.db.error
import ovs.timeval
from ovs.db.idl import Idl, SchemaHelper, Transaction

from agent import unixctl
from agent.bridge import (
    GATEWAY,
    GATEWAY_OFPORT,
    PROTOCOLS,
    VXLAN,
    VXLAN_OFPORT,
    BridgeSpec,
    BridgeView,
    OtherBridge,
    PodPort,
    PortView,
    squatters,
    vxlan_options,
)
from agent.signal import Signal
from k8sovs.logs import get_logger

__all__ = ["BridgeSpec", "BridgeView", "OtherBridge", "Ovsdb", "OvsdbError", "PodPort", "PortRefused", "PortView"]

log = get_logger(__name__)

Untyped: TypeAlias = Any
"""A row, replica or transaction of the library: it has no types, and this module is where that ends."""

_COLUMNS = {
    "Open_vSwitch": ["bridges", "datapath_types", "other_config", "next_cfg", "cur_cfg"],
    "Bridge": ["name", "datapath_type", "fail_mode", "protocols", "ports", "external_ids", "other_config"],
    "Port": ["name", "interfaces"],
    "Interface": ["name", "type", "options", "mac", "mtu_request", "ofport", "ofport_request", "external_ids", "error"],
}
COMMENT = "k8sovs agent"
"""Stands at every change of ours in the database's log, for whoever reads it: `ovsdb-tool show-log -m conf.db`."""

_DEADLINE_S = 20.0
_RETRY_MS = 1000
_STUMBLES = (ovs.db.error.Error, TypeError, ValueError, LookupError, AttributeError, AssertionError)
"""What the library raises for an answer that is not as it expects; it takes most of one on trust."""
_NOTHING_READ = str(UUID(int=0))
"""As the library has it before the first answer of a database."""


class OvsdbError(Exception):
    """The database refused a change, or nobody carried it out in time."""


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

    def __init__(self, db_socket: str, bridge: str = "br0", deadline_s: float = _DEADLINE_S) -> None:
        self.view: BridgeView | None = None
        self.changes = Signal()
        self._path = db_socket
        self._bridge = bridge
        self._deadline_s = deadline_s
        self._idl: Untyped = None
        self._wake = asyncio.Event()
        self._rounds = Signal()
        self._outstanding: dict[Untyped, asyncio.Future[str]] = {}
        self._unwanted: set[str] = set()
        self._rows: dict[str, _PortRows] = {}
        self._seen: dict[UUID, _PortRows] = {}

    @property
    def connected(self) -> bool:
        """Whether the replica follows the database now, and somebody has initialised that."""
        idl = self._idl
        if idl is None or idl.state != Idl.IDL_S_MONITORING or not idl._session.is_connected():
            return False
        return bool(idl.tables["Open_vSwitch"].rows)

    async def run(self) -> None:
        """Keep the connection and the replica, for ever."""
        idl = self._idl = await self._open()
        seen, was_connected = None, False
        try:
            while True:
                try:
                    idl.run()
                except _STUMBLES as error:
                    log.error("ovsdb-answer-not-understood", socket=self._path, error=repr(error))
                    idl.last_id = _NOTHING_READ  # half an update may be in the replica: all is to be read again
                    idl.force_reconnect()
                self._settle()
                if self.connected is not was_connected:
                    was_connected = self.connected
                    log.info("ovsdb-connected" if was_connected else "ovsdb-lost", socket=self._path)
                if idl.change_seqno != seen and self.connected:
                    seen = idl.change_seqno
                    self.view = self._read()
                    self.changes.notify()
                    self._remove_now(self._unwanted & self.view.ports.keys())
                self._rounds.notify()
                await self._readiness(idl)
        finally:
            self._idl = None
            idl.close()
            for future in self._outstanding.values():
                if not future.done():
                    future.set_exception(OvsdbError(f"the connection to {self._path} was closed during a change"))

    async def wait_connected(self) -> None:
        """Wait until the replica follows the database."""
        while not self.connected:
            await self._rounds.wait_beyond(self._rounds.count)

    async def ensure_bridge(self, spec: BridgeSpec) -> None:
        """Make the bridge with `vxlan0` and `tun0` on their fixed numbers, or repair it; pod ports stay as they are.

        Whoever holds one of the two numbers is moved in the same transaction. Raises OvsdbError.
        """
        wanted = {VXLAN: VXLAN_OFPORT, GATEWAY: GATEWAY_OFPORT}
        async with self._deadline(f"bridge {self._bridge} of datapath type {spec.datapath_type}"):
            while True:
                seen = self.changes.count
                # Composed anew at every change: a squatter may show only when the switch has told its number.
                await self._transact(lambda transaction: self._compose_bridge(transaction, spec))
                results = self._results(wanted)
                for result in results.values():
                    if isinstance(result, PortRefused):
                        raise result
                if len(results) == len(wanted):
                    return
                await self.changes.wait_beyond(seen)

    async def add_ports(self, ports: Sequence[PodPort]) -> Mapping[str, int | PortRefused]:
        """Add ports in one transaction. By name: the ofport, once the switch forwards, or why it cannot use the port.

        A refused port is removed again; so are all of them when the time is over (OvsdbError) or the caller is
        cancelled.
        """
        names = [port.name for port in ports]
        try:
            async with self._deadline(f"adding {', '.join(names)}"):
                self._unwanted.difference_update(names)
                await self._transact(lambda transaction: self._compose_ports(transaction, ports))
                results = await self._forwarding(names)
        except BaseException:  # cancellation included: half an addition must not stay
            self._remove_now(names)
            raise
        self._remove_now([name for name, result in results.items() if isinstance(result, PortRefused)])
        return results

    async def remove_ports(self, names: Collection[str]) -> None:
        """Remove ports, and what is remembered with them, in one transaction; missing ones are no error.

        It returns when the database has done it; the switch follows within milliseconds. Raises OvsdbError.
        """
        async with self._deadline(f"removing {', '.join(names)}"):
            await self._transact(lambda transaction: self._compose_removal(names))

    async def set_port_ids(self, ids: Mapping[str, Mapping[str, str]]) -> None:
        """Set `external_ids` of ports, by port name, in one transaction; keys not mentioned stay.

        A port that is gone is passed over. Raises OvsdbError.
        """
        async with self._deadline(f"external_ids of {', '.join(ids)}"):
            await self._transact(lambda transaction: self._compose_ids(ids))

    async def set_flow_restore_wait(self, armed: bool) -> None:
        """Set or clear `flow-restore-wait`; returns when ovs-vswitchd has taken notice.

        An ovs-vswitchd that starts with it set forwards by the kernel's old flows until it is cleared; one that runs
        without is not changed by it (ovs-vswitchd.conf.db(5)). For the kernel datapath only. Raises OvsdbError.
        """

        def compose(transaction: Untyped) -> None:
            root = self._root()
            kept = {key: value for key, value in root.other_config.items() if key != "flow-restore-wait"}
            root.verify("other_config")
            root.verify("next_cfg")
            root.other_config = kept | ({"flow-restore-wait": "true"} if armed else {})
            root.next_cfg = root.next_cfg + 1

        async with self._deadline("flow-restore-wait"):
            await self._transact(compose)
            awaited = self._root().next_cfg
            while self._root().cur_cfg < awaited:
                await self.changes.wait_beyond(self.changes.count)

    async def _open(self) -> Untyped:
        """A replica that connects by itself; the schema comes from the server, so any version of it will do."""
        reported = ""
        while True:
            try:
                schema = await unixctl.call(self._path, "get_schema", ["Open_vSwitch"])
                break
            except unixctl.ControlError as error:
                if str(error) != reported:
                    log.warning("ovsdb-away", error=str(error), action="trying again until it answers")
                    reported = str(error)
                await asyncio.sleep(_RETRY_MS / 1000)
        helper = SchemaHelper(schema_json=schema)
        for table, columns in _COLUMNS.items():
            helper.register_columns(table, columns)
        idl = Idl(f"unix:{self._path}", helper, leader_only=False)
        idl._session.reconnect.set_backoff(_RETRY_MS, _RETRY_MS)  # the library has no public way; 8 s is too long
        idl.notify = self._row_changed
        return idl

    async def _readiness(self, idl: Untyped) -> None:
        """Wait until there is something for the replica to do, or a change was sent."""
        loop = asyncio.get_running_loop()
        waits = _Waits()
        idl.wait(waits)
        self._wake.clear()
        for descriptor, events in waits.descriptors.items():
            if events & select.POLLIN:
                loop.add_reader(descriptor, self._wake.set)
            if events & select.POLLOUT:
                loop.add_writer(descriptor, self._wake.set)
        timer = None if waits.delay_s is None else loop.call_later(waits.delay_s, self._wake.set)
        try:
            await self._wake.wait()
        finally:
            if timer:
                timer.cancel()
            for descriptor in waits.descriptors:
                loop.remove_reader(descriptor)
                loop.remove_writer(descriptor)

    async def _transact(self, compose: Callable[[Untyped], None]) -> None:
        """Carry out the change that `compose` writes; anew, after a broken connection, from what is there then."""
        while True:
            await self.wait_connected()
            transaction = self._composed(compose)
            status = transaction.commit()
            if status == Transaction.INCOMPLETE:
                self._wake.set()
                future = self._outstanding[transaction] = asyncio.get_running_loop().create_future()
                try:
                    status = await future
                finally:
                    self._outstanding.pop(transaction, None)
            if status in (Transaction.SUCCESS, Transaction.UNCHANGED):
                return
            if status == Transaction.ERROR:
                raise OvsdbError(f"the database refused a change: {transaction.get_error()}")
            self._wake.set()
            await self._rounds.wait_beyond(self._rounds.count)

    def _composed(self, compose: Callable[[Untyped], None]) -> Untyped:
        transaction = Transaction(self._idl)
        transaction.add_comment(COMMENT)
        try:
            compose(transaction)
        except BaseException:
            transaction.abort()
            raise
        return transaction

    def _settle(self) -> None:
        """Tell those who wait for a transaction how it ended."""
        for transaction, future in self._outstanding.items():
            status = transaction.commit()
            if status != Transaction.INCOMPLETE and not future.done():
                future.set_result(status)

    async def _forwarding(self, names: Sequence[str]) -> Mapping[str, int | PortRefused]:
        """Wait until the switch has given each port an ofport or has said why not."""
        wanted = dict.fromkeys(names)
        while True:
            seen = self.changes.count
            results = self._results(wanted)
            if len(results) == len(wanted):
                return results
            await self.changes.wait_beyond(seen)

    def _results(self, wanted: Mapping[str, int | None]) -> dict[str, int | PortRefused]:
        """Of the wanted ports those that the switch has decided: an ofport (the wanted one, if any) or a refusal."""
        ports = {} if self.view is None else self.view.ports
        results: dict[str, int | PortRefused] = {}
        for name, number in wanted.items():
            port = ports.get(name)
            if port is not None and port.error is not None:
                results[name] = PortRefused(name, port.error)
            elif port is not None and port.ofport is not None and number in (None, port.ofport):
                results[name] = port.ofport
        return results

    def _remove_now(self, names: Collection[str]) -> None:
        """Send the removal and do not wait. What is not there yet, or cannot be asked for now, goes once it is seen."""
        self._unwanted.update(names)
        if names and self.connected:
            self._composed(lambda transaction: self._compose_removal(names)).commit()
            self._wake.set()

    @asynccontextmanager
    async def _deadline(self, what: str) -> AsyncIterator[None]:
        try:
            async with asyncio.timeout(self._deadline_s):
                yield
        except TimeoutError:
            hint = "see ovs-vswitchd.log" if self.connected else f"no connection to {self._path}"
            raise OvsdbError(f"{what}: Open vSwitch did not do it within {self._deadline_s:g} s; {hint}") from None

    def _compose_bridge(self, transaction: Untyped, spec: BridgeSpec) -> None:
        bridge = self._bridge_row()
        if bridge is None:
            bridge = self._insert(transaction, "Bridge", name=self._bridge)
            local = self._insert(transaction, "Interface", name=self._bridge, type="internal")
            bridge.ports = [self._insert(transaction, "Port", name=self._bridge, interfaces=[local])]
            root = self._root()
            root.verify("bridges")
            root.bridges = [*root.bridges, bridge]
        else:
            bridge.verify("external_ids")
            bridge.verify("other_config")
        bridge.datapath_type = spec.datapath_type
        bridge.fail_mode = ["secure"]
        bridge.protocols = list(PROTOCOLS)
        bridge.external_ids = {**getattr(bridge, "external_ids", {}), **spec.external_ids}
        bridge.other_config = {**getattr(bridge, "other_config", {}), "disable-in-band": "true"}
        present = [] if self.view is None else list(self.view.ports.values())
        for name, number in squatters(present).items():
            log.warning("port-moved", port=name, ofport=number, reason="its number belongs to the overlay")
            self._interface_row(name).ofport_request = [number]
        self._put_port(
            transaction, bridge, VXLAN, type="vxlan", ofport_request=[VXLAN_OFPORT], options=vxlan_options(spec)
        )
        self._put_port(
            transaction,
            bridge,
            GATEWAY,
            type="internal",
            ofport_request=[GATEWAY_OFPORT],
            mac=[spec.gateway_mac],
            mtu_request=[spec.mtu],
        )

    def _compose_ports(self, transaction: Untyped, ports: Sequence[PodPort]) -> None:
        bridge = self._bridge_row()
        if bridge is None:
            raise OvsdbError(f"there is no bridge {self._bridge}")
        for port in ports:
            ids = dict(port.external_ids)
            self._put_port(transaction, bridge, port.name, ofport_request=[port.ofport_request], external_ids=ids)

    def _put_port(self, transaction: Untyped, bridge: Untyped, name: str, **columns: object) -> None:
        """A port with one interface of these columns; one that the bridge has already is changed to them."""
        interface = self._interface_row(name)
        if interface is None:
            interface = self._insert(transaction, "Interface", name=name, **columns)
            bridge.addvalue("ports", self._insert(transaction, "Port", name=name, interfaces=[interface]))
            return
        for column, value in columns.items():
            setattr(interface, column, value)

    def _compose_removal(self, names: Collection[str]) -> None:
        bridge = self._bridge_row()
        for name in names:
            rows = self._rows.get(name)
            if rows is not None:
                bridge.delvalue("ports", rows.port)  # the database then drops the port, and its interface

    def _compose_ids(self, ids: Mapping[str, Mapping[str, str]]) -> None:
        for name, values in ids.items():
            interface = self._interface_row(name)
            if interface is not None:
                interface.verify("external_ids")
                interface.external_ids = {**interface.external_ids, **values}

    def _insert(self, transaction: Untyped, table: str, **columns: object) -> Untyped:
        row = transaction.insert(self._idl.tables[table])
        for column, value in columns.items():
            setattr(row, column, value)
        return row

    def _root(self) -> Untyped:
        return next(iter(self._idl.tables["Open_vSwitch"].rows.values()))

    def _bridge_row(self) -> Untyped:
        return next((row for row in self._idl.tables["Bridge"].rows.values() if row.name == self._bridge), None)

    def _interface_row(self, name: str) -> Untyped:
        """The interface of the bridge's port `name`, or None."""
        rows = self._rows.get(name)
        return None if rows is None else rows.interface

    def _row_changed(self, event: str, row: Untyped, updates: Untyped = None) -> None:
        known = self._seen.pop(row.uuid, None)
        if known is not None:
            self._seen.pop(known.port.uuid, None)
            self._seen.pop(known.interface.uuid, None)

    def _read(self) -> BridgeView:
        root, bridge = self._root(), self._bridge_row()
        others = {other.name: _other(other) for other in root.bridges if other.name != self._bridge}
        self._rows = (
            {} if bridge is None else {rows.view.name: rows for rows in map(self._port_rows, self._ports_of(bridge))}
        )
        return BridgeView(
            exists=bridge is not None,
            datapath_type="" if bridge is None else bridge.datapath_type,
            external_ids=MappingProxyType({} if bridge is None else bridge.external_ids),
            ports=MappingProxyType({name: rows.view for name, rows in self._rows.items()}),
            others=MappingProxyType(others),
            datapath_types=frozenset(root.datapath_types),
        )

    def _ports_of(self, bridge: Untyped) -> list[Untyped]:
        """The rows in `bridge.ports`; asked for that column, the library copies and sorts it, 4 ms for 100 ports."""
        rows = self._idl.tables["Port"].rows
        return [rows[atom.value] for atom in bridge._data["ports"].values if atom.value in rows]

    def _port_rows(self, port: Untyped) -> _PortRows:
        """Rows and view of a port, read from the replica only if they changed. (Bonds are no business of ours.)"""
        known = self._seen.get(port.uuid)
        if known is None:
            interface = port.interfaces[0]
            known = _PortRows(port, interface, _port(interface))
            self._seen[port.uuid] = self._seen[interface.uuid] = known
        return known


@dataclass(frozen=True, slots=True)
class _PortRows:
    """A port of the bridge in the replica, and what it says. An interface of the port stands for all of it."""

    port: Untyped
    interface: Untyped
    view: PortView


class _Waits:
    """What a poll loop would wait for: stands in for `ovs.poller.Poller`, and only writes down."""

    def __init__(self) -> None:
        self.descriptors: dict[int, int] = {}
        self.delay_s: float | None = None

    def fd_wait(self, descriptor: int | socket.socket, events: int) -> None:
        """`descriptor` is to be watched for `events` of poll(2)."""
        number = descriptor if isinstance(descriptor, int) else descriptor.fileno()
        self.descriptors[number] = self.descriptors.get(number, 0) | events

    def timer_wait(self, milliseconds: float) -> None:
        """Wake up after `milliseconds` at the latest."""
        delay = max(0.0, milliseconds / 1000)
        self.delay_s = delay if self.delay_s is None else min(self.delay_s, delay)

    def timer_wait_until(self, milliseconds: float) -> None:
        """Wake up when the library's clock says `milliseconds`."""
        self.timer_wait(milliseconds - ovs.timeval.msec())

    def immediate_wake(self) -> None:
        """Do not wait at all."""
        self.timer_wait(0)


def _port(interface: Untyped) -> PortView:
    number, error = _only(interface.ofport), _only(interface.error)
    return PortView(
        name=interface.name,
        type=interface.type,
        ofport=number if isinstance(number, int) and number > 0 else None,
        ofport_request=_only(interface.ofport_request),
        external_ids=MappingProxyType(interface.external_ids),
        error=error or ("it has no ofport" if number == -1 else None),
    )


def _other(bridge: Untyped) -> OtherBridge:
    ports = {interface.name: interface.type for port in bridge.ports for interface in port.interfaces}
    return OtherBridge(bridge.datapath_type, MappingProxyType(ports))


def _only(values: Untyped) -> Untyped:
    """An optional value, which the library gives as a list."""
    return values[0] if values else None
