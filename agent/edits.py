"""The changes that the agent makes to the switch's database, as operations of RFC 7047, section 5.2. Pure.

Each function says what leads from what the replica holds to what is wanted; nothing, if that is there already. What
others wrote beside ours stays: sets and maps are changed by the values that are ours.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import TypeAlias

from agent.bridge import GATEWAY, GATEWAY_OFPORT, PROTOCOLS, VXLAN, VXLAN_OFPORT, BridgeSpec, PodPort, vxlan_options
from agent.jsonrpc import Json
from agent.replica import Replica, Row, Value, mapping

Operation: TypeAlias = dict[str, Json]

RESTORE_WAIT = "flow-restore-wait"
_RESTORE_WAIT_CLEARED: Json = ["other_config", "delete", ["set", [RESTORE_WAIT]]]


class NoBridge(Exception):
    """There is no bridge to change."""


def put_bridge(replica: Replica, name: str, spec: BridgeSpec, moved: Mapping[str, int]) -> list[Operation]:
    """The bridge with `vxlan0` and `tun0`, and the ports in `moved` asking for other numbers."""
    columns: Row = {"datapath_type": spec.datapath_type, "fail_mode": "secure", "protocols": set(PROTOCOLS)}
    maps = {"external_ids": dict(spec.external_ids), "other_config": {"disable-in-band": "true"}}
    ours = _Ports(replica)
    ours.put(VXLAN, {"type": "vxlan", "ofport_request": VXLAN_OFPORT, "options": vxlan_options(spec)})
    gateway: Row = {"type": "internal", "ofport_request": GATEWAY_OFPORT}
    ours.put(GATEWAY, {**gateway, "mac": spec.gateway_mac, "mtu_request": spec.mtu})
    for port, number in moved.items():
        ours.put(port, {"ofport_request": number})
    found = replica.bridge()
    if found is not None:
        uuid, row = found
        changes = [*_update("Bridge", uuid, row, columns), *_put_pairs("Bridge", uuid, row, maps)]
        return [*changes, *ours.operations, *_insert_into("Bridge", uuid, "ports", ours.inserted)]
    ours.put(name, {"type": "internal"})
    root, _ = replica.root()
    row = {"name": name, **columns, **maps}
    bridge = _insert("Bridge", "bridge", row) | {"row": _encoded(row) | {"ports": ["set", ours.inserted]}}
    return [*ours.operations, bridge, *_insert_into("Open_vSwitch", root, "bridges", [["named-uuid", "bridge"]])]


def put_ports(replica: Replica, name: str, ports: Sequence[PodPort]) -> list[Operation]:
    """Ports of the bridge called `name`; one that is there already is changed. Raises NoBridge."""
    found = replica.bridge()
    if found is None:
        raise NoBridge(f"there is no bridge {name}")
    put = _Ports(replica)
    for port in ports:
        put.put(port.name, {"ofport_request": port.ofport_request, "external_ids": dict(port.external_ids)})
    return [*put.operations, *_insert_into("Bridge", found[0], "ports", put.inserted)]


def remove_bridge(replica: Replica) -> list[Operation]:
    """Without the bridge and all its ports, and without `flow-restore-wait`; ovs-vswitchd is told by `next_cfg`."""
    found = replica.bridge()
    if found is None:
        return []
    root, _ = replica.root()
    gone: Json = ["bridges", "delete", ["set", [["uuid", found[0]]]]]
    return [_mutate("Open_vSwitch", root, gone, _RESTORE_WAIT_CLEARED, ["next_cfg", "+=", 1])]


def remove_ports(replica: Replica, names: Collection[str]) -> list[Operation]:
    """Without these ports. The database drops the rows that nobody refers to any more."""
    found = replica.bridge()
    gone: list[Json] = [["uuid", replica.ports[name].port] for name in names if name in replica.ports]
    return [] if found is None or not gone else [_mutate("Bridge", found[0], ["ports", "delete", ["set", gone]])]


def put_ids(replica: Replica, ids: Mapping[str, Mapping[str, str]]) -> list[Operation]:
    """These pairs in `external_ids` of ports, by port name; a port that is gone is passed over."""
    operations: list[Operation] = []
    for name, pairs in ids.items():
        if name in replica.ports:
            uuid = replica.ports[name].interface
            row = replica.rows["Interface"][uuid]
            operations += _put_pairs("Interface", uuid, row, {"external_ids": dict(pairs)})
    return operations


def set_restore_wait(replica: Replica, armed: bool) -> list[Operation]:
    """`flow-restore-wait` set or cleared, and a new number in `next_cfg`, which ovs-vswitchd copies once it knows."""
    uuid, _ = replica.root()
    wanted: list[Json] = [["other_config", "insert", ["map", [[RESTORE_WAIT, "true"]]]]] if armed else []
    return [_mutate("Open_vSwitch", uuid, _RESTORE_WAIT_CLEARED, *wanted, ["next_cfg", "+=", 1])]


class _Ports:
    """Collects the operations for ports with one interface each, and references to those that are new."""

    def __init__(self, replica: Replica) -> None:
        self.operations: list[Operation] = []
        self.inserted: list[Json] = []
        self._replica = replica

    def put(self, name: str, columns: Row) -> None:
        known = self._replica.ports.get(name)
        if known is not None:
            row = self._replica.rows["Interface"][known.interface]
            self.operations += _update("Interface", known.interface, row, columns)
            return
        number = len(self.inserted)
        self.operations.append(_insert("Interface", f"interface{number}", {"name": name, **columns}))
        port = _insert("Port", f"port{number}", {"name": name})
        port["row"] = {"name": name, "interfaces": ["named-uuid", f"interface{number}"]}
        self.operations.append(port)
        self.inserted.append(["named-uuid", f"port{number}"])


def _insert(table: str, called: str, row: Row) -> Operation:
    return {"op": "insert", "table": table, "uuid-name": called, "row": _encoded(row)}


def _update(table: str, uuid: str, row: Row, columns: Row) -> list[Operation]:
    """Columns as wanted, as far as `row` has others."""
    changed = {name: value for name, value in columns.items() if row[name] != value}
    return [{"op": "update", "table": table, "where": _where(uuid), "row": _encoded(changed)}] if changed else []


def _put_pairs(table: str, uuid: str, row: Row, maps: Mapping[str, Mapping[str, str]]) -> list[Operation]:
    """Pairs in columns that are maps, beside those of others."""
    mutations: list[Json] = []
    for column, pairs in maps.items():
        there = mapping(row, column)
        new = {key: value for key, value in pairs.items() if there.get(key) != value}
        if new:
            keys: list[Json] = list(new)
            # An insertion alone would leave a key that is there as it is.
            mutations += [[column, "delete", ["set", keys]], [column, "insert", _notation(new)]]
    return [_mutate(table, uuid, *mutations)] if mutations else []


def _insert_into(table: str, uuid: str, column: str, references: Iterable[Json]) -> list[Operation]:
    new = list(references)
    return [_mutate(table, uuid, [column, "insert", ["set", new]])] if new else []


def _mutate(table: str, uuid: str, *mutations: Json) -> Operation:
    return {"op": "mutate", "table": table, "where": _where(uuid), "mutations": list(mutations)}


def _where(uuid: str) -> Json:
    return [["_uuid", "==", ["uuid", uuid]]]


def _encoded(row: Row) -> dict[str, Json]:
    return {name: _notation(value) for name, value in row.items()}


def _notation(value: Value) -> Json:
    """RFC 7047, section 5.1."""
    if value is None:
        return ["set", []]
    if isinstance(value, set):
        return ["set", sorted(value, key=str)]
    if isinstance(value, dict):
        return ["map", [[key, text] for key, text in value.items()]]
    return value
