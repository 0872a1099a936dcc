"""All that the leader knows, fed by the watches of etcd and Kubernetes. No I/O, no decisions.

What is written here is what etcd is known to hold: by the watch, or by the answer to a transaction of our own,
whichever comes first. An update older than what is known is passed over. A record that cannot be read is reported
once. The last good form of what only we write is kept, to be restored when somebody else writes there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from controller.placement import Entry
from controller.tenants import Tenant, Tenants
from controller.vni import is_behind
from k8sovs.etcd import Changes, KeyValue, Listing
from k8sovs.records import (
    Keys,
    MisplacedRecordError,
    NetNamespaceRecord,
    NetworkConfig,
    RecordError,
    SubnetRecord,
    VnidRecord,
    parse_uid,
    parse_vni_cursor,
)

ReportMalformed = Callable[[str, RecordError], None]
"""Called with the kind of the record and what is wrong with it."""


@dataclass(frozen=True, slots=True)
class Cursor:
    """Where the search for the next id begins; `value` is None while there never was one.

    `intact` says whether etcd holds just this, under `revision` (0: the key is absent).
    """

    value: int | None = None
    revision: int = 0
    intact: bool = False


class World:
    """The state, by subject, and what has changed since somebody looked (`dirty`, `subnets_dirty`)."""

    def __init__(self, keys: Keys, network: NetworkConfig, report_malformed: ReportMalformed) -> None:
        self.keys = keys
        self.network = network
        self.network_revision = 0
        self.network_intact = True
        self.tenants = Tenants()
        self.namespaces: dict[str, str] | None = None
        self.nodes: dict[str, IPv4Address | None] | None = None
        self.subnets: dict[str, Entry] = {}
        self.remembered: Mapping[str, IPv4Network] = {}
        self.cursor = Cursor()
        self.is_listed = False
        self.leader_keys: set[str] = set()
        self.dirty: set[str] = set()
        self.subnets_dirty = False
        self._report = report_malformed

    @property
    def is_importing(self) -> bool:
        """Whether no controller of ours has finished its first start on this store."""
        return self.cursor.value is None and self.cursor.revision == 0

    def take_listing(self, listing: Listing) -> None:
        """The complete truth about etcd: whatever is not in it does not exist."""
        for tenant in list(self.tenants):
            if self.keys.netnamespace(tenant.name) not in listing.items:
                self._record_deleted(tenant.name)
            if self.keys.vnid(tenant.name) not in listing.items:
                self._vnid_deleted(tenant.name)
            if self.keys.uid(tenant.name) not in listing.items:
                self._uid_deleted(tenant.name)
        self.subnets = {}
        self.leader_keys = set()
        if self.keys.vni_cursor not in listing.items:
            self.cursor = replace(self.cursor, revision=0, intact=False)
        if self.keys.config not in listing.items:
            self.network_revision, self.network_intact = 0, False
        for item in listing.items.values():
            self._put(item)
        self.is_listed = True
        self.subnets_dirty = True
        self.dirty.update(tenant.name for tenant in self.tenants)

    def take_changes(self, changes: Changes) -> None:
        """What has happened in etcd since."""
        for item in changes.puts:
            if item.mod_revision > self._known_revision(item.key):
                self._put(item)
        for key in changes.deletes:
            if changes.revision >= self._known_revision(key) > 0:
                self._delete(key)

    def take_written(self, revision: int, puts: Iterable[tuple[str, bytes]], deletes: Iterable[str]) -> None:
        """What a transaction of ours did, at `revision`; sooner or later the watch tells of it, too."""
        items = (KeyValue(key, value, self._created(key) or revision, revision) for key, value in puts)
        self.take_changes(Changes(revision, tuple(items), tuple(deletes)))

    def take_namespaces(self, namespaces: Mapping[str, str]) -> None:
        """The complete truth about the Namespaces of Kubernetes: their UIDs by name, empty where it cannot be read."""
        before, self.namespaces = self.namespaces, dict(namespaces)
        if before is None:
            self.dirty.update(namespaces, (tenant.name for tenant in self.tenants))
        else:
            self.dirty.update(name for name, _ in before.items() ^ namespaces.items())

    def take_namespace(self, name: str, uid: str) -> None:
        """A Namespace exists."""
        if self.namespaces is not None and self.namespaces.get(name) != uid:
            self.namespaces[name] = uid
            self.dirty.add(name)

    def drop_namespace(self, name: str, uid: str) -> None:
        """That Namespace was deleted."""
        if self.namespaces is not None and self.namespaces.get(name) in ("", uid):
            del self.namespaces[name]
            self.dirty.add(name)

    def take_nodes(self, nodes: Mapping[str, IPv4Address | None]) -> None:
        """The complete truth about the Nodes of Kubernetes: their addresses by name, None if one has none (yet)."""
        self.nodes = dict(nodes)
        self.subnets_dirty = True

    def take_node(self, name: str, address: IPv4Address | None) -> None:
        """A Node exists."""
        if self.nodes is not None and (name not in self.nodes or self.nodes[name] != address):
            self.nodes[name] = address
            self.subnets_dirty = True

    def drop_node(self, name: str) -> None:
        """That Node was deleted."""
        if self.nodes is not None and name in self.nodes:
            del self.nodes[name]
            self.subnets_dirty = True

    def placed_nodes(self) -> dict[str, IPv4Address] | None:
        """The addresses of the live nodes: a node that lost its address keeps the one in its record."""
        if self.nodes is None:
            return None
        recorded = {e.host: e.record.host_ip for e in self.subnets.values() if e.record is not None and e.is_of_node}
        found = {name: address or recorded.get(name) for name, address in self.nodes.items()}
        return {name: address for name, address in found.items() if address is not None}

    def _known_revision(self, key: str) -> int:
        """The revision of the newest form of `key` that has been taken in; 0 if it is not known to exist."""
        folder, name = self._place_of(key)
        if folder == self.keys.netnamespaces:
            return self.tenants[name].record_revision
        if folder == self.keys.vnids:
            return self.tenants[name].tenancy_revision
        if folder == self.keys.uids:
            return self.tenants[name].uid_revision
        if folder == self.keys.subnets:
            return self.subnets[name].revision if name in self.subnets else 0
        if folder == self.keys.leader:
            return 1 if key in self.leader_keys else 0
        if key == self.keys.vni_cursor:
            return self.cursor.revision
        return self.network_revision if key == self.keys.config else 0

    def _created(self, key: str) -> int:
        """The revision at which `key` came to be, where that matters; 0 if that is not known."""
        folder, name = self._place_of(key)
        return self.subnets[name].create_revision if folder == self.keys.subnets and name in self.subnets else 0

    def _place_of(self, key: str) -> tuple[str, str]:
        """The folder of ours that `key` lies in, and the rest of it; no folder for all other keys."""
        keys = self.keys
        for folder in (keys.netnamespaces, keys.vnids, keys.uids, keys.subnets, keys.leader):
            if key.startswith(folder):
                return folder, key[len(folder) :]
        return "", key

    def _put(self, item: KeyValue) -> None:
        folder, name = self._place_of(item.key)
        if folder == self.keys.netnamespaces:
            self._put_record(name, item)
        elif folder == self.keys.vnids:
            self._put_vnid(name, item)
        elif folder == self.keys.uids:
            self._put_uid(name, item)
        elif folder == self.keys.subnets:
            self._put_subnet(name, item)
        elif folder == self.keys.leader:
            self.leader_keys.add(item.key)
        elif item.key == self.keys.vni_cursor:
            self._put_cursor(item)
        elif item.key == self.keys.config:
            self._put_network(item)

    def _delete(self, key: str) -> None:
        folder, name = self._place_of(key)
        if folder == self.keys.netnamespaces:
            self._record_deleted(name)
        elif folder == self.keys.vnids:
            self._vnid_deleted(name)
        elif folder == self.keys.uids:
            self._uid_deleted(name)
        elif folder == self.keys.subnets:
            del self.subnets[name]
            self.subnets_dirty = True
        elif folder == self.keys.leader:
            self.leader_keys.discard(key)
        elif key == self.keys.vni_cursor:
            self.cursor = replace(self.cursor, revision=0, intact=False)
        elif key == self.keys.config:
            self.network_revision, self.network_intact = 0, False

    def _put_record(self, name: str, item: KeyValue) -> None:
        tenant = replace(self.tenants[name], record=None, record_revision=item.mod_revision, fault="")
        try:
            record = NetNamespaceRecord.parse(item.key, item.value)
        except RecordError as error:
            self._report("netnamespace", error)
            tenant = replace(tenant, fault=error.reason)
        else:
            tenant = replace(tenant, record=record)
        self._update(tenant)

    def _put_vnid(self, name: str, item: KeyValue) -> None:
        """Only the first listing, and what we have written since, is believed: this record is ours alone."""
        known = self.tenants[name]
        tenant = replace(known, tenancy_revision=item.mod_revision, intact=False)
        try:
            found = VnidRecord.parse(item.key, item.value)
        except RecordError as error:
            self._report("vnid", error)
        else:
            if not self.is_listed or known.tenancy is None or found in (known.tenancy, known.attempted):
                since = known.tenancy_since if found == known.tenancy else item.mod_revision
                tenant = replace(tenant, tenancy=found, tenancy_since=since, intact=True, attempted=None)
        self._update(tenant)

    def _put_uid(self, name: str, item: KeyValue) -> None:
        noted = ""
        try:
            noted = parse_uid(item.key, item.value)
        except RecordError as error:
            self._report("uid", error)
        tenant = self.tenants[name]
        self._update(replace(tenant, uid=tenant.uid or noted, noted_uid=noted, uid_revision=item.mod_revision))

    def _record_deleted(self, name: str) -> None:
        self._update(replace(self.tenants[name], record=None, record_revision=0, fault=""))

    def _vnid_deleted(self, name: str) -> None:
        self._update(replace(self.tenants[name], tenancy_revision=0, intact=False))

    def _uid_deleted(self, name: str) -> None:
        self._update(replace(self.tenants[name], noted_uid="", uid_revision=0))

    def _update(self, tenant: Tenant) -> None:
        is_gone = self.namespaces is not None and tenant.name not in self.namespaces
        is_stored = tenant.record_revision or tenant.tenancy_revision or tenant.uid_revision
        if not is_stored and (tenant.tenancy is None or is_gone):
            self.tenants.discard(tenant.name)
        else:
            self.tenants.put(tenant)
        self.dirty.add(tenant.name)

    def _put_subnet(self, name: str, item: KeyValue) -> None:
        create_revision = item.create_revision
        try:
            record = SubnetRecord.parse(item.key, item.value)
            entry = Entry(name, record, item.mod_revision, create_revision)
        except RecordError as error:
            self._report("subnet", error)
            misplaced = isinstance(error, MisplacedRecordError)
            entry = Entry(name, None, item.mod_revision, create_revision, error.reason, misplaced)
        self.subnets[name] = entry
        self.subnets_dirty = True

    def _put_cursor(self, item: KeyValue) -> None:
        try:
            found: int | None = parse_vni_cursor(item.key, item.value)
        except RecordError as error:
            self._report("vni-cursor", error)
            found = None
        known = self.cursor.value
        if found is not None and (known is None or not is_behind(found, known)):
            known = found
        self.cursor = Cursor(known, item.mod_revision, intact=found is not None and found == known)

    def _put_network(self, item: KeyValue) -> None:
        self.network_revision = item.mod_revision
        try:
            self.network_intact = NetworkConfig.parse(item.key, item.value) == self.network
        except RecordError as error:
            self._report("config", error)
            self.network_intact = False
