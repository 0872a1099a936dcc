"""A controller without I/O: the real world and planner on a store that is a dictionary, with a clock set by hand."""

from __future__ import annotations

import json
from ipaddress import IPv4Network

from controller.actions import Outcome, Rules
from controller.planner import Batch, Planner
from controller.world import World
from k8sovs.etcd import Changes, Delete, KeyValue, Listing, Put
from k8sovs.records import Keys, Mode, NetworkConfig, RecordError

KEYS = Keys("/k8s.ovs.com/ovs/network", "k8ssdn")
NETWORK = NetworkConfig("k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT)
PHASE_DELAY_S = 0.3
DRAIN_DELAY_S = 0.5
# A clock that stands still would never pass a deadline that rounding has put beyond the sum of two numbers.
CLOCK_TICK_S = 1e-9


class Store:
    """What etcd does with transactions: all comparisons hold, or nothing happens."""

    def __init__(self) -> None:
        self.revision = 1
        self.items: dict[str, KeyValue] = {}
        self.history: list[Changes] = []

    def put(self, key: str, value: bytes | str) -> Changes:
        """A write by anybody, as the watch tells of it."""
        self.revision += 1
        content = value.encode() if isinstance(value, str) else value
        create = self.items[key].create_revision if key in self.items else self.revision
        self.items[key] = KeyValue(key, content, create, self.revision)
        return self._told(Changes(self.revision, (self.items[key],)))

    def delete(self, key: str) -> Changes:
        self.revision += 1
        del self.items[key]
        return self._told(Changes(self.revision, deletes=(key,)))

    def transact(self, batch: Batch) -> Changes | None:
        """The changes, or None if a comparison fails."""
        for compare in batch.compares.values():
            item = self.items.get(compare.key)
            if (item.mod_revision if item else 0) != compare.mod_revision:
                return None
        keys = [operation.key for operation in batch.operations]
        assert len(keys) == len(set(keys)) <= 128, "etcd refuses such a transaction"
        assert len(batch.compares) < 128
        assert batch.compares.keys() >= set(keys), "a write that compares nothing"
        self.revision += 1
        puts, deletes = [], []
        for operation in batch.operations:
            if isinstance(operation, Put):
                old = self.items.get(operation.key)
                create = old.create_revision if old else self.revision
                self.items[operation.key] = KeyValue(operation.key, operation.value, create, self.revision)
                puts.append(self.items[operation.key])
            elif isinstance(operation, Delete) and self.items.pop(operation.key, None):
                deletes.append(operation.key)
        return self._told(Changes(self.revision, tuple(puts), tuple(deletes)))

    def _told(self, changes: Changes) -> Changes:
        self.history.append(changes)
        return changes


class Controller:
    """The leader of `store`. Restart it by making another one on the same store."""

    def __init__(
        self, store: Store, namespaces: dict[str, str] | None = None, *, network: NetworkConfig = NETWORK
    ) -> None:
        self.store = store
        self.now = 0.0
        self.malformed: list[RecordError] = []
        self.outcomes: list[tuple[str, Outcome]] = []
        self.answers: list[tuple[str, Outcome, str]] = []  # what becomes an Event
        self.world = World(KEYS, network, lambda _, error: self.malformed.append(error))
        rules = Rules(network.mode, frozenset({"default", "kube-system"}), PHASE_DELAY_S, DRAIN_DELAY_S)
        self.planner = Planner(self.world, rules)
        if KEYS.config not in store.items:
            store.put(KEYS.config, network.encode())
        self.world.take_listing(Listing(store.revision, dict(store.items)))
        if namespaces is not None:
            self.world.take_namespaces(namespaces)
        self.work()

    def work(self, limit: int = 1000) -> int:
        """Write until there is nothing to write, at this moment; the number of transactions."""
        for count in range(limit):
            batch = self.planner.next_batch(self.now)
            if batch is None:
                return count
            changes = self.store.transact(batch)
            if changes is None:
                self.planner.withdrawn(batch, self.now)
                continue
            self.planner.committed(batch, changes.revision)
            self.world.take_changes(changes)  # the watch tells of it, too
            self.outcomes += [(step.before.name, step.outcome) for step in batch.steps]
            self.answers += [(step.before.name, step.outcome, step.message) for step in batch.steps if step.is_answer]
        raise AssertionError(f"still writing after {limit} transactions")

    def wait(self, seconds: float) -> None:
        """Let time pass, and do what it brings."""
        until = self.now + seconds
        while (wake := self.planner.wake_in(self.now)) is not None and self.now + wake <= until:
            self.now += wake + CLOCK_TICK_S
            self.work()
        self.now = max(self.now, until)
        self.work()

    def settle(self) -> None:
        """Let time pass until nothing waits any longer."""
        while (wake := self.planner.wake_in(self.now)) is not None:
            self.wait(wake)

    def put(self, key: str, value: bytes | str) -> None:
        """Somebody writes a key, and the watch tells of it."""
        self.world.take_changes(self.store.put(key, value))
        self.work()

    def delete(self, key: str) -> None:
        self.world.take_changes(self.store.delete(key))
        self.work()

    def act(self, name: str, action: str, target: str = "", *, net_id: object = 300924) -> None:
        """An operator overwrites the whole record, as the predecessor's documentation says."""
        record = {"NetName": name, "NetID": net_id, "Action": action, "Namespace": target}
        self.put(KEYS.netnamespace(name), json.dumps(record))

    def create(self, name: str, uid: str) -> None:
        self.world.take_namespace(name, uid)
        self.work()

    def remove(self, name: str, uid: str) -> None:
        self.world.drop_namespace(name, uid)
        self.work()

    def record(self, name: str) -> dict[str, object]:
        return self._json(KEYS.netnamespace(name))

    def vnid(self, name: str) -> tuple[int, set[int]]:
        """Send and Accept."""
        found = self._json(KEYS.vnid(name))
        send, accept = found["Send"], found["Accept"]
        assert isinstance(send, int)
        assert isinstance(accept, list)
        return send, set(accept)

    def _json(self, key: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.store.items[key].value)
        return found
