"""One term of leadership: the watches feed a world, the planner looks at it, and what it plans is written, fenced."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable

from controller.actions import Rules, Step
from controller.announcements import Announcement, Announcer
from controller.leadership import LeadershipLost, Seat
from controller.metrics import ControllerMetrics
from controller.placement import Problem, Trouble
from controller.planner import Batch, Planner
from controller.sources import Inbox, follow_etcd, follow_namespaces, follow_nodes
from controller.world import World
from k8sovs.etcd import Etcd, EtcdError
from k8sovs.kubernetes import Kubernetes, Namespace, Node
from k8sovs.logs import get_logger
from k8sovs.records import Keys, NetworkConfig, RecordError

log = get_logger(__name__)

# Updates that wait while a transaction is under way; a source with more has to wait itself.
_INBOX_SIZE = 1000
_RETRY_S = 0.5
_NO_TROUBLE = frozenset[Problem]()


class Reign:
    """The leader at work. Everything it knows it has learnt in this term."""

    def __init__(
        self,
        etcd: Etcd,
        kubernetes: Kubernetes,
        keys: Keys,
        network: NetworkConfig,
        rules: Rules,
        metrics: ControllerMetrics,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        self._etcd = etcd
        self._kubernetes = kubernetes
        self._metrics = metrics
        self._now = now
        self._world = World(keys, network, self._malformed)
        self._planner = Planner(self._world, rules)
        self._announcer = Announcer(kubernetes)
        self._problems = _NO_TROUBLE

    async def run(self, seat: Seat) -> None:
        """Work until cancelled. Raises LeadershipLost, in an ExceptionGroup."""
        inbox: Inbox = asyncio.Queue(_INBOX_SIZE)
        self._metrics.leader.set(1)
        self._metrics.terms.inc()
        self._metrics.backlog.set_function(inbox.qsize)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(follow_etcd(self._etcd, self._world, inbox))
                group.create_task(follow_namespaces(self._kubernetes, self._world, inbox))
                group.create_task(follow_nodes(self._kubernetes, self._world, inbox))
                group.create_task(self._announcer.run())
                await self._work(seat, inbox)
        finally:
            self._metrics.leader.set(0)
            self._metrics.backlog.set_function(lambda: 0)

    async def _work(self, seat: Seat, inbox: Inbox) -> None:
        while True:
            await self._take_in(inbox, self._planner.wake_in(self._now()))
            while True:
                if self._world.is_listed and seat.key not in self._world.leader_keys:
                    raise LeadershipLost(f"{seat.key} is gone")
                with self._metrics.planning.time():
                    batch = self._planner.next_batch(self._now())
                self._report_problems()
                if batch is None:
                    break
                await self._write(seat, batch)
                await self._take_in(inbox, 0)
            self._measure()

    async def _take_in(self, inbox: Inbox, patience_s: float | None) -> None:
        """Bring the world up to date with what has arrived; wait for something if there is nothing."""
        if inbox.empty() and patience_s != 0:
            try:
                async with asyncio.timeout(patience_s):
                    (await inbox.get())()
            except TimeoutError:
                return
        while not inbox.empty():
            inbox.get_nowait()()

    async def _write(self, seat: Seat, batch: Batch) -> None:
        try:
            with self._metrics.transaction.time():
                result = await self._etcd.transact([seat.fence, *batch.compares.values()], batch.operations)
        except EtcdError as error:
            # Perhaps it was done: the watch will tell, and until then the comparisons keep it from being done twice.
            self._metrics.transaction_errors.inc()
            log.warning("transaction-failed", error=str(error), writes=len(batch.operations))
            self._planner.withdrawn(batch, self._now())
            await asyncio.sleep(_RETRY_S)
            return
        if result.succeeded:
            self._planner.committed(batch, result.revision)
            for step in batch.steps:
                self._tell(step)
            return
        self._metrics.withdrawn.inc()
        self._planner.withdrawn(batch, self._now())
        if await self._etcd.get(seat.key) is None:
            raise LeadershipLost(f"{seat.key} is gone")

    def _tell(self, step: Step) -> None:
        """One line for each step, and an Event where the operator is told something."""
        name, outcome = step.before.name, step.outcome
        self._metrics.steps.labels(outcome.value).inc()
        said: dict[str, object] = {"namespace": name}
        if step.before.record is not None and step.before.record.action:
            said |= {"action": step.before.record.action[:40], "target": step.before.record.namespace[:63]}
        if step.after is not None and step.after.tenancy is not None:
            said |= {"send": step.after.tenancy.send, "accept": sorted(step.after.tenancy.accept)}
        if step.message:
            said["message"] = step.message
        log.info(outcome.value, **said)
        if step.is_answer:
            uid = (self._world.namespaces or {}).get(name)
            if uid is not None:
                self._announcer.announce(Announcement(Namespace, name, uid, "ActionRefused", step.message))

    def _report_problems(self) -> None:
        """Say what is wrong with subnets, once; those of nodes as Events too."""
        problems = frozenset(self._planner.subnets.problems)
        if problems == self._problems:
            return
        for problem in sorted(problems - self._problems, key=lambda each: (each.subject, each.text)):
            event = "subnets-scarce" if problem.trouble is Trouble.SCARCE else "subnet-refused"
            log.warning(event, subject=problem.subject, reason=problem.trouble.value, message=problem.text)
            if problem.subject in (self._world.nodes or {}):
                announcement = Announcement(Node, problem.subject, "", problem.trouble.value, problem.text)
                self._announcer.announce(announcement)
        self._problems = problems

    def _measure(self) -> None:
        self._metrics.namespaces.set(len(self._world.tenants))
        self._metrics.vnis.set(len(self._world.tenants.in_use))
        self._metrics.subnets_free.set(self._planner.subnets.free)
        self._metrics.subnets.set(self._planner.subnets.total)
        self._metrics.subnet_problems.set(len(self._problems))

    def _malformed(self, kind: str, error: RecordError) -> None:
        self._metrics.malformed.labels(kind).inc()
        log.warning("record-malformed", key=error.key, reason=error.reason)
