"""From what the leader knows to the next transaction. No I/O.

Many independent namespaces share one transaction. Every key that a batch writes is compared with the revision that the
decision was made on, and so is the leader's seat: what somebody else did in between makes the whole batch fail, nothing
is half done, and the decision is made again on what is then known. After a failure namespaces go one by one for a
while, so that a record which changes all the time holds up nobody but itself.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from heapq import heappop, heappush

from controller.actions import Behind, Rules, Situation, Step, Wait, next_step
from controller.subnets import Change, Plan, plan
from controller.vni import VnisExhausted, following, next_free
from controller.world import World
from k8sovs.etcd import Compare, Delete, Operation, Put, unchanged
from k8sovs.logs import get_logger
from k8sovs.records import VNI_FIRST

log = get_logger(__name__)

# etcd takes 128 comparisons and 128 operations; a step adds at most 4 of either, the fence and the cursor one each.
_FULL = 120
# How long a namespace steps back whose records somebody else keeps changing under our hands.
_STEP_BACK_S = 0.02

Turn = tuple[int, str]
"""When a namespace is looked at, and its name: those without an action first, then by the age of the action."""


@dataclass(slots=True)
class Batch:
    """One transaction, without the fence. `steps` are the namespaces in it; `cursor` follows the ids it gives away."""

    compares: dict[str, Compare] = field(default_factory=dict)
    operations: list[Operation] = field(default_factory=list)
    steps: list[Step] = field(default_factory=list)
    cursor: int | None = None

    @property
    def is_full(self) -> bool:
        """Whether there may be no room for another step."""
        return max(len(self.compares), len(self.operations)) > _FULL

    def write(self, key: str, revision: int, value: bytes | None) -> None:
        """Write `key`, or delete it, if it is still as it was at `revision`."""
        self.rely_on(key, revision)
        if value is not None:
            self.operations.append(Put(key, value))
        elif revision:
            self.operations.append(Delete(key))

    def rely_on(self, key: str, revision: int) -> None:
        """Fail if `key` is no longer as it was at `revision`."""
        self.compares.setdefault(key, unchanged(key, revision))


class Planner:
    """Decides what the leader writes next; keeps who waits for time, and who for whom."""

    def __init__(self, world: World, rules: Rules) -> None:
        self._world = world
        self._rules = rules
        self._deadlines: dict[str, float] = {}
        self._followers: dict[str, set[str]] = {}
        self._since: dict[str, tuple[int, float]] = {}
        self._queue: list[Turn] = []
        self._turns: dict[str, Turn] = {}
        self._subnet_changes: list[Change] = []
        self._one_by_one = 0
        self._is_exhausted = False
        self.subnets = Plan((), (), {}, 0, 0)

    def wake_in(self, now: float) -> float | None:
        """Seconds until a namespace has waited long enough; None if none waits."""
        return max(0.0, min(self._deadlines.values()) - now) if self._deadlines else None

    def next_batch(self, now: float) -> Batch | None:
        """The next transaction, None if there is nothing to write. Say afterwards `committed` or `withdrawn`."""
        world = self._world
        if not world.is_listed:
            return None
        if not world.network_intact:
            return self._network_batch()
        if world.cursor.value is not None and not world.cursor.intact:
            return self._cursor_batch(world.cursor.value)
        batch = self._namespaces_batch(now)
        if batch is None and world.cursor.value is None:
            # Every id that was found is taken in by now. Which ids were freed before we came is not known.
            return self._cursor_batch(following(max(world.tenants.in_use, default=VNI_FIRST - 1)))
        return batch or self._subnets_batch()

    def committed(self, batch: Batch, revision: int) -> None:
        """It was done, at `revision`."""
        puts = [(each.key, each.value) for each in batch.operations if isinstance(each, Put)]
        deletes = [each.key for each in batch.operations if isinstance(each, Delete)]
        had_cursor = self._world.cursor.value is not None
        self._world.take_written(revision, puts, deletes)
        self._world.dirty.update(step.before.name for step in batch.steps)
        if not had_cursor and self._world.cursor.value is not None:
            self._world.dirty.update(self._world.namespaces or ())
        self._one_by_one = max(0, self._one_by_one - 1)

    def withdrawn(self, batch: Batch, now: float) -> None:
        """None of it was done, or nobody knows: forget it, and decide again."""
        for step in batch.steps:
            attempted = step.after.tenancy if step.after else None
            self._world.tenants.put(replace(step.before, attempted=attempted))
        names = [step.before.name for step in batch.steps]
        if len(names) == 1:
            self._deadlines[names[0]] = now + _STEP_BACK_S
        else:
            self._world.dirty.update(names)
            self._one_by_one = len(names)
        self._subnet_changes = []
        self._world.subnets_dirty = True

    def _network_batch(self) -> Batch:
        """A change of a running cluster's network is refused: nodes and pods live in it."""
        batch = Batch()
        batch.write(self._world.keys.config, self._world.network_revision, self._world.network.encode())
        log.error("network-config-change-refused", key=self._world.keys.config, kept=str(self._world.network.network))
        return batch

    def _cursor_batch(self, value: int) -> Batch:
        batch = Batch()
        batch.write(self._world.keys.vni_cursor, self._world.cursor.revision, str(value).encode())
        return batch

    def _namespaces_batch(self, now: float) -> Batch | None:
        """As many namespaces as there is room for, those first whose action is the oldest."""
        dirty = self._world.dirty
        for name in [name for name, deadline in self._deadlines.items() if deadline <= now]:
            dirty.add(name)
        for name in list(dirty):
            dirty.update(self._followers.pop(name, ()))
        batch = Batch()
        self._queue_up(dirty)
        while self._queue and not batch.is_full and not (self._one_by_one and batch.steps):
            turn = heappop(self._queue)
            name = turn[1]
            if self._turns.get(name) == turn:  # else it has another turn by now
                del self._turns[name]
                self._decide(name, now, batch)
        if batch.cursor is not None:
            batch.write(self._world.keys.vni_cursor, self._world.cursor.revision, str(batch.cursor).encode())
        return batch if batch.steps else None

    def _queue_up(self, dirty: set[str]) -> None:
        """Give each of `dirty` its turn: once, not for every batch that it waits for. At a first start many wait."""
        for name in dirty:
            turn = self._turn(name)
            if self._turns.get(name) != turn:
                self._turns[name] = turn
                heappush(self._queue, turn)
        dirty.clear()

    def _turn(self, name: str) -> Turn:
        tenant = self._world.tenants[name]
        return (tenant.record_revision if tenant.awaits_action else 0, name)

    def _decide(self, name: str, now: float, batch: Batch) -> None:
        """Add the next step of one namespace to `batch`, or note what it waits for."""
        tenant = self._world.tenants[name]
        stamp = tenant.tenancy_revision or tenant.record_revision
        if name not in self._since or self._since[name][0] != stamp:
            self._since[name] = (stamp, now)
        self._deadlines.pop(name, None)
        situation = self._situation(batch)
        match next_step(tenant, situation, now - self._since[name][1]):
            case Step() as step:
                self._add(step, batch)
                if step.takes_fresh and situation.fresh is not None:
                    batch.cursor = following(situation.fresh)
            case Wait(seconds):
                self._deadlines[name] = now + seconds
            case Behind(other):
                self._followers.setdefault(other, set()).add(name)
            case None:
                del self._since[name]

    def _situation(self, batch: Batch) -> Situation:
        world = self._world
        cursor = world.cursor.value if batch.cursor is None else batch.cursor
        fresh = None if cursor is None else self._fresh(cursor)
        return Situation(world.tenants, world.namespaces, self._rules, fresh, world.is_importing)

    def _fresh(self, cursor: int) -> int | None:
        try:
            fresh = next_free(cursor, self._world.tenants.in_use)
        except VnisExhausted as error:
            if not self._is_exhausted:
                log.error("vnis-exhausted", error=str(error))
            self._is_exhausted = True
            return None
        self._is_exhausted = False
        return fresh

    def _add(self, step: Step, batch: Batch) -> None:
        """Put a step into the transaction. Until etcd has answered, later decisions rely on it as if it were done."""
        keys, tenants = self._world.keys, self._world.tenants
        before, after = step.before, step.after
        in_batch = {other.before.name for other in batch.steps} if step.target else ()
        if step.target and step.target not in in_batch:
            batch.rely_on(keys.vnid(step.target), tenants[step.target].tenancy_revision)
        record_key, vnid_key, uid_key = keys.netnamespace(before.name), keys.vnid(before.name), keys.uid(before.name)
        batch.rely_on(record_key, before.record_revision)
        batch.rely_on(vnid_key, before.tenancy_revision)
        batch.steps.append(step)
        if after is None:
            batch.write(record_key, before.record_revision, None)
            batch.write(vnid_key, before.tenancy_revision, None)
            batch.write(uid_key, before.uid_revision, None)
            tenants.discard(before.name)
            return
        now_known = max(before.record_revision, before.tenancy_revision, before.uid_revision) + 1
        if after.record is not None and (after.record != before.record or step.rewrites_record):
            batch.write(record_key, before.record_revision, after.record.encode())
            after = replace(after, record_revision=now_known, fault="")
        if after.tenancy is not None and (after.tenancy != before.tenancy or not before.intact):
            batch.write(vnid_key, before.tenancy_revision, after.tenancy.encode())
            since = before.tenancy_since if after.tenancy == before.tenancy else now_known
            after = replace(after, tenancy_revision=now_known, tenancy_since=since, intact=True)
        if after.uid != before.noted_uid:
            batch.write(uid_key, before.uid_revision, after.uid.encode())
            after = replace(after, noted_uid=after.uid, uid_revision=now_known)
        tenants.put(after)

    def _subnets_batch(self) -> Batch | None:
        """Changes of subnets, each whole, as many as there is room for."""
        world = self._world
        if world.subnets_dirty and not self._subnet_changes:
            world.subnets_dirty = False
            nodes = world.placed_nodes()
            self.subnets = plan(world.network, nodes, world.subnets, world.remembered)
            world.remembered = {host: s for host, s in self.subnets.owned.items() if nodes is None or host in nodes}
            self._subnet_changes = [change for change in self.subnets.changes if change]
        batch = Batch()
        while self._subnet_changes:
            change = self._subnet_changes[-1]
            if batch.operations and len(batch.operations) + len(change) > _FULL:
                break
            self._write_subnets(self._subnet_changes.pop(), batch)
        return batch if batch.operations else None

    def _write_subnets(self, change: Change, batch: Batch) -> None:
        for name, record in change.items():
            entry = self._world.subnets.get(name)
            key = f"{self._world.keys.subnets}{name}"
            batch.write(key, entry.revision if entry else 0, record.encode() if record else None)
