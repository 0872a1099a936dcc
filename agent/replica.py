"""A copy of the part of the switch's database that the agent reads, kept by what the server tells. Pure.

The server sends whole rows at first and afterwards what changed of each ("update2": ovsdb-server(7), section
"Monitor_Cond"). A row is a dictionary of plain values: text or number, None for an optional value that is not there,
a set, a dictionary; a reference to another row is that row's UUID as text.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from types import MappingProxyType
from typing import TypeAlias

from agent.bridge import BridgeView, OtherBridge, PortView
from agent.jsonrpc import Json

Atom: TypeAlias = str | int | float | bool
Value: TypeAlias = Atom | set[Atom] | dict[str, str] | None
Row: TypeAlias = dict[str, Value]


class Kind(Enum):
    """What values a column has (RFC 7047, section 3.2)."""

    ONE = "one"
    OPTIONAL = "optional"
    SET = "set"
    MAP = "map"


COLUMNS: Mapping[str, Mapping[str, Kind]] = {
    "Open_vSwitch": {
        "bridges": Kind.SET,
        "datapath_types": Kind.SET,
        "other_config": Kind.MAP,
        "next_cfg": Kind.ONE,
        "cur_cfg": Kind.ONE,
    },
    "Bridge": {
        "name": Kind.ONE,
        "datapath_type": Kind.ONE,
        "fail_mode": Kind.OPTIONAL,
        "protocols": Kind.SET,
        "ports": Kind.SET,
        "external_ids": Kind.MAP,
        "other_config": Kind.MAP,
    },
    "Port": {"name": Kind.ONE, "interfaces": Kind.SET},
    "Interface": {
        "name": Kind.ONE,
        "type": Kind.ONE,
        "options": Kind.MAP,
        "mac": Kind.OPTIONAL,
        "mtu_request": Kind.OPTIONAL,
        "ofport": Kind.OPTIONAL,
        "ofport_request": Kind.OPTIONAL,
        "external_ids": Kind.MAP,
        "error": Kind.OPTIONAL,
    },
}
"""The columns that are read (ovs-vswitchd.conf.db(5))."""

_NUMBERS = {"next_cfg", "cur_cfg"}


class NotUnderstood(Exception):
    """The server told something that does not fit what it told before."""


@dataclass(frozen=True, slots=True)
class PortRows:
    """A port of the bridge: its row, that of its first interface (bonds are no business of ours), what they say."""

    port: str
    interface: str
    view: PortView


class Replica:
    """The rows, by table and UUID, and the ports of the bridge called `bridge`, by name."""

    def __init__(self, bridge: str) -> None:
        self.rows: dict[str, dict[str, Row]] = {table: {} for table in COLUMNS}
        self.ports: dict[str, PortRows] = {}
        self._bridge = bridge
        self._read: dict[str, PortRows] = {}

    @property
    def initialised(self) -> bool:
        """Whether somebody has run `ovs-vsctl init`, which every start script does."""
        return bool(self.rows["Open_vSwitch"])

    def root(self) -> tuple[str, Row]:
        """UUID and row of the one row that everything hangs on."""
        return next(iter(self.rows["Open_vSwitch"].items()))

    def bridge(self) -> tuple[str, Row] | None:
        """UUID and row of the bridge."""
        return next((found for found in self.rows["Bridge"].items() if found[1]["name"] == self._bridge), None)

    def apply(self, updates: Json) -> None:
        """Take over what the server tells. Raises NotUnderstood."""
        try:
            for table, rows in _items(updates):
                for uuid, change in _items(rows):
                    self._change(table, uuid, change)
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NotUnderstood(f"{type(error).__name__}: {error}") from error

    def view(self) -> BridgeView:
        """What the rows say; a port that did not change is the same object as before. Raises NotUnderstood."""
        try:
            return self._viewed()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise NotUnderstood(f"{type(error).__name__}: {error}") from error

    def _viewed(self) -> BridgeView:
        _, root = self.root()
        found = self.bridge()
        bridge: Row = {} if found is None else found[1]
        self.ports = {rows.view.name: rows for rows in self._ports(bridge)}
        return BridgeView(
            exists=found is not None,
            datapath_type=_text(bridge.get("datapath_type", "")),
            external_ids=MappingProxyType(dict(mapping(bridge, "external_ids"))),
            ports=MappingProxyType({name: rows.view for name, rows in self.ports.items()}),
            others=MappingProxyType(self._others()),
            datapath_types=frozenset(map(str, members(root, "datapath_types"))),
        )

    def _change(self, table: str, uuid: str, change: Json) -> None:
        rows, columns = self.rows[table], COLUMNS[table]
        self._forget(uuid)
        for what, told in _items(change):
            if what in ("initial", "insert"):
                rows[uuid] = {name: _default(name, kind) for name, kind in columns.items()}
                for name, value in _items(told):
                    rows[uuid][name] = _value(columns[name], value)
            elif what == "modify":
                for name, difference in _items(told):
                    _modify(rows[uuid], name, columns[name], difference)
            elif what == "delete":
                del rows[uuid]

    def _forget(self, uuid: str) -> None:
        known = self._read.pop(uuid, None)
        if known is not None:
            self._read.pop(known.port, None)
            self._read.pop(known.interface, None)

    def _ports(self, bridge: Row) -> Iterator[PortRows]:
        read = self._read
        for port in members(bridge, "ports"):
            known = read.get(str(port)) or self._port(str(port))
            if known is not None:
                yield known

    def _port(self, port: str) -> PortRows | None:
        """None while the server has not told all of it."""
        row = self.rows["Port"].get(port)
        interface = None if row is None else next(iter(sorted(map(str, members(row, "interfaces")))), None)
        if interface is None or interface not in self.rows["Interface"]:
            return None
        known = PortRows(port, interface, _port_view(self.rows["Interface"][interface]))
        self._read[port] = self._read[interface] = known
        return known

    def _others(self) -> dict[str, OtherBridge]:
        return {
            _text(row["name"]): OtherBridge(_text(row["datapath_type"]), MappingProxyType(self._types(row)))
            for row in self.rows["Bridge"].values()
            if row["name"] != self._bridge
        }

    def _types(self, bridge: Row) -> dict[str, str]:
        """The type of each interface of `bridge`, by name."""
        ports = (self.rows["Port"].get(str(port), {}) for port in members(bridge, "ports"))
        interfaces = (self.rows["Interface"].get(str(one)) for port in ports for one in members(port, "interfaces"))
        return {_text(row["name"]): _text(row["type"]) for row in interfaces if row is not None}


def members(row: Row, column: str) -> set[Atom]:
    """The values of a column that is a set."""
    value = row.get(column)
    return value if isinstance(value, set) else set()


def mapping(row: Row, column: str) -> dict[str, str]:
    """The pairs of a column that is a map."""
    value = row.get(column)
    return value if isinstance(value, dict) else {}


def _port_view(interface: Row) -> PortView:
    number, error, wanted = interface["ofport"], interface["error"], interface["ofport_request"]
    return PortView(
        name=_text(interface["name"]),
        type=_text(interface["type"]),
        ofport=number if isinstance(number, int) and number > 0 else None,
        ofport_request=wanted if isinstance(wanted, int) else None,
        external_ids=MappingProxyType(dict(mapping(interface, "external_ids"))),
        error=_text(error) if error is not None else ("it has no ofport" if number == -1 else None),
    )


def _modify(row: Row, column: str, kind: Kind, difference: Json) -> None:
    """A set changes by the values that came or went, a map by the pairs that did; of anything else the new is told."""
    value, change = row[column], _value(kind, difference)
    if isinstance(value, set) and isinstance(change, set):
        value ^= change
    elif isinstance(value, dict) and isinstance(change, dict):
        for key, new in change.items():
            if value.get(key) == new:
                del value[key]
            else:
                value[key] = new
    else:
        row[column] = change


def _default(column: str, kind: Kind) -> Value:
    """What a column has that the server does not mention in a new row."""
    match kind:
        case Kind.SET:
            return set()
        case Kind.MAP:
            return {}
        case Kind.OPTIONAL:
            return None
        case Kind.ONE:
            return 0 if column in _NUMBERS else ""


def _value(kind: Kind, told: Json) -> Value:
    """A value from the notation of RFC 7047, section 5.1."""
    match kind:
        case Kind.MAP:
            return dict(map(_pair, _tagged("map", told)))
        case Kind.ONE:
            return _atom(told)
    atoms = {_atom(atom) for atom in (_tagged("set", told) if _is_tagged("set", told) else [told])}
    if kind is Kind.SET:
        return atoms
    return next(iter(atoms), None)


def _is_tagged(tag: str, told: Json) -> bool:
    return isinstance(told, list) and len(told) == 2 and told[0] == tag


def _tagged(tag: str, told: Json) -> list[Json]:
    if isinstance(told, list) and _is_tagged(tag, told) and isinstance(told[1], list):
        return told[1]
    raise ValueError(f"{told} is no {tag}")


def _pair(told: Json) -> tuple[str, str]:
    if isinstance(told, list) and len(told) == 2:
        return _text(told[0]), _text(told[1])
    raise ValueError(f"{told} is no pair")


def _atom(told: Json) -> Atom:
    if isinstance(told, list) and (_is_tagged("uuid", told) or _is_tagged("named-uuid", told)):
        return _text(told[1])
    if isinstance(told, str | int | float):
        return told
    raise ValueError(f"{told} is no value")


def _text(value: Json | Value) -> str:
    if isinstance(value, str):
        return value
    raise TypeError(f"{value} is no text")


def _items(value: Json) -> Iterator[tuple[str, Json]]:
    """The pairs of an object; of null, none."""
    if value is not None:
        if not isinstance(value, dict):
            raise TypeError(f"{value} is no object")
        yield from value.items()
