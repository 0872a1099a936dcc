"""What the cluster's records in etcd say, kept current and remembered across restarts.

Owns nothing but its own view. It never takes an outage for an answer: until etcd has been heard, the view is the
last good one from the snapshot file and says so (`live` is False); and a record that cannot be read leaves the last
good value of its key in force.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass
from ipaddress import IPv4Address
from types import MappingProxyType
from typing import TypeVar

from agent.signal import Signal
from agent.snapshot_file import SavedRecords, SnapshotFile
from k8sovs.etcd import Changes, Etcd, Listing
from k8sovs.logs import get_logger
from k8sovs.records import Keys, NetworkConfig, RecordError, SubnetRecord, VnidRecord

log = get_logger(__name__)

Record = NetworkConfig | SubnetRecord | VnidRecord
RecordT = TypeVar("RecordT", NetworkConfig, SubnetRecord, VnidRecord)

SAVE_INTERVAL_S = 1.0
"""Changes that follow each other within this time share one write of the file."""


@dataclass(frozen=True, slots=True)
class ClusterView:
    """The records that concern a node: `subnets` by key, `tenancies` by namespace.

    `subnets` has the oldest first, and is the same object in one view after another until one of them changes.
    """

    config: NetworkConfig
    subnets: Mapping[str, SubnetRecord]
    tenancies: Mapping[str, VnidRecord]
    live: bool
    """Whether etcd has been heard since the process started; False: from the snapshot file alone."""

    def subnet_of(self, host: str, address: IPv4Address | None = None) -> SubnetRecord | None:
        """The record of node `host`, at `address` if that is known, once it has a subnet; of several the oldest.

        An empty `host` is whoever is at `address`.
        """
        return next(
            (
                record
                for record in self.subnets.values()
                if host in ("", record.host) and record.subnet and address in (None, record.host_ip)
            ),
            None,
        )


class ClusterSource:
    """Follows the records. `view` is None until a network configuration is known.

    `count_malformed` is told the kind of each record that cannot be read.
    """

    def __init__(
        self,
        etcd: Etcd,
        prefix: str,
        file: SnapshotFile,
        count_malformed: Callable[[str], object],
        *,
        save_interval_s: float = SAVE_INTERVAL_S,
    ) -> None:
        self.changed = Signal()
        self.view: ClusterView | None = None
        self._etcd = etcd
        self._prefix = prefix
        self._file = file
        self._count_malformed = count_malformed
        self._save_interval_s = save_interval_s
        self._config_key = Keys(prefix, "").config
        self._config: NetworkConfig | None = None
        self._subnets: dict[str, SubnetRecord] = {}
        self._vnids: dict[str, VnidRecord] = {}
        self._revision = 0

    def restore(self) -> None:
        """Take up the records of the snapshot file, if there is one."""
        saved = self._file.load()
        if saved is not None:
            values = {key: text.encode() for key, text in saved.records.items()}
            self._take_config(values.get(self._config_key))
            self._put(values)
            self._revision = saved.revision
            self._publish(live=False)

    async def run(self) -> None:
        """Follow etcd for ever, and keep the file up to date."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow())
            tasks.create_task(self._keep_saved())

    @property
    def known(self) -> ClusterView:
        """The view, for those who begin when there is one: it stays."""
        assert self.view is not None, "nobody asks before there is a network configuration"
        return self.view

    async def wait_live(self) -> None:
        """Wait until etcd has been heard."""
        while self.view is None or not self.view.live:
            await self.changed.wait_beyond(self.changed.count)

    async def read_tenancy(self, namespace: str) -> VnidRecord | None:
        """The namespace's record straight from etcd, past a watch that may lag. Raises EtcdError."""
        if self._config is None:
            return None
        key = Keys(self._prefix, self._config.name).vnid(namespace)
        found = await self._etcd.get(key)
        return None if found is None else self._parsed(VnidRecord, key, found.value)

    async def _follow(self) -> None:
        config = self._config or await self._wait_config()
        keys = Keys(self._prefix, config.name)
        async with aclosing(self._etcd.watch(keys.config, keys.subnets, keys.vnids)) as updates:
            async for update in updates:
                self._apply(update)
                self._publish(live=True)

    async def _wait_config(self) -> NetworkConfig:
        """Wait for the network configuration; its name is part of every other key."""
        async with aclosing(self._etcd.watch(self._config_key)) as updates:
            async for update in updates:
                items = update.items.values() if isinstance(update, Listing) else update.puts
                for item in items:
                    self._take_config(item.value)
                if self._config is not None:
                    return self._config
                log.info("waiting-for-network-config", key=self._config_key, written_by="the controller")
        raise AssertionError("a watch never ends")

    def _apply(self, update: Listing | Changes) -> None:
        """Take over what etcd says. The configuration is never gone, whatever becomes of its record."""
        known = {*self._subnets, *self._vnids}
        if isinstance(update, Listing):
            # What was written last stands last, here as in the updates that follow (`agent.snapshot.peers`).
            ordered = sorted(update.items.values(), key=lambda item: item.mod_revision)
            values = {item.key: item.value for item in ordered}
            gone = known - values.keys()
        else:
            values = {put.key: put.value for put in update.puts}
            gone = known.intersection(update.deletes)
        for key in gone:
            self._subnets.pop(key, None)
            self._vnids.pop(key, None)
        self._take_config(values.get(self._config_key))
        self._put(values)
        self._revision = update.revision

    def _take_config(self, value: bytes | None) -> None:
        """The first configuration stays: what the pods have been told cannot be taken back."""
        new = None if value is None else self._parsed(NetworkConfig, self._config_key, value)
        if new is None or new == self._config:
            return
        if self._config is None:
            self._config = new
        else:
            log.error(
                "network-config-change-refused",
                key=self._config_key,
                keeping=str(self._config),
                wanted=str(new),
                action="put the old one back; or drain this node, delete its snapshot file and restart the agent",
            )

    def _put(self, values: Mapping[str, bytes]) -> None:
        """Take over records of subnets and VNIDs; one that cannot be read changes nothing."""
        if self._config is None:
            return
        keys = Keys(self._prefix, self._config.name)
        for key, value in values.items():
            if key.startswith(keys.subnets):
                subnet = self._parsed(SubnetRecord, key, value)
                if subnet is not None:
                    if subnet != self._subnets.get(key):
                        self._subnets.pop(key, None)  # a new claim stands behind the older ones
                    self._subnets[key] = subnet
            elif key.startswith(keys.vnids):
                vnid = self._parsed(VnidRecord, key, value)
                if vnid is not None:
                    self._vnids[key] = vnid

    def _parsed(self, kind: type[RecordT], key: str, value: bytes) -> RecordT | None:
        try:
            return kind.parse(key, value)
        except RecordError as error:
            self._count_malformed(_KINDS[kind])
            log.warning("record-malformed", key=key, error=str(error), action="keeping the last good value")
            return None

    def _publish(self, *, live: bool) -> None:
        if self._config is None:
            return
        folder = Keys(self._prefix, self._config.name).vnids
        tenancies = {key.removeprefix(folder): record for key, record in self._vnids.items()}
        subnets: Mapping[str, SubnetRecord] = MappingProxyType(dict(self._subnets))
        if self.view is not None and self.view.subnets == subnets:
            subnets = self.view.subnets
        self.view = ClusterView(self._config, subnets, MappingProxyType(tenancies), live)
        self.changed.notify()

    async def _keep_saved(self) -> None:
        seen, saved = self.changed.count, self._revision
        while True:
            seen = await self.changed.wait_beyond(seen)
            await asyncio.sleep(self._save_interval_s)  # not a guess at readiness: it is what coalesces the writes
            if self._config is None or self._revision == saved:
                continue
            revision = self._revision
            records: dict[str, Record] = {self._config_key: self._config, **self._subnets, **self._vnids}
            try:
                await asyncio.to_thread(self._save, revision, records)
            except OSError as error:
                log.warning(
                    "snapshot-file-not-written", error=str(error), consequence="a restart without etcd would wait"
                )
            else:
                saved = revision

    def _save(self, revision: int, records: Mapping[str, Record]) -> None:
        """Blocking, and in a large cluster so much text that the event loop should not make it."""
        self._file.save(SavedRecords(revision, {key: record.encode().decode() for key, record in records.items()}))


_KINDS: Mapping[type[Record], str] = {NetworkConfig: "config", SubnetRecord: "subnet", VnidRecord: "vnid"}

RECORD_KINDS = tuple(_KINDS.values())
"""What `count_malformed` may be told."""
