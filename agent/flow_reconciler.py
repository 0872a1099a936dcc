"""The one writer of the switch's flows: keeps them equal to what the snapshot demands, by the smallest change.

On every connection it reads what the switch holds, so a switch that restarted, or an agent that did, ends with the
right flows, and those that were right all along are not touched: their counters go on.
"""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import count, cycle

from agent.metrics import FlowMetrics
from agent.signal import Signal
from agent.switch import BundleRejected, Switch, SwitchDisconnected, SwitchRefused
from flows.desired import DesiredFlows, changed_keys
from flows.diff import AddFlow, AddPassingFlow, DeleteFlow, FlowChange, PutGroup, difference
from flows.flow import PASSING_COOKIE, Flow, FlowKey, Source
from flows.group import GroupEntry
from flows.openflow.messages import FlushConnections, InstalledFlow, MeterEntry
from flows.pipeline import pod_flows
from flows.replies import FORMER_IDLE_S, Place, former_flow, place_of
from flows.service import Protocol
from flows.service_parts import Part, PartName, Rule, RuleKey
from flows.snapshot import Snapshot
from flows.tables import ARP_METER, ARP_RATE, UNCOUNTED
from k8sovs.logs import get_logger
from k8sovs.metrics import CollectorRegistry

log = get_logger(__name__)

AUDIT_S = 5.0
"""How often the switch is asked how many flows it has: one small question, whatever their number."""

COMPARED_EVERY = 3
"""At each third audit, that is every 15 s, the flows of one source are read and compared, all sources in turn."""

RETRY_S = 1.0

SLICE = 500
"""How many ports and endpoints of Services are taken at a time when many have changed: some 2,500 flows, which keep the
agent from other things for a tenth of a second."""


@dataclass(frozen=True, slots=True)
class Demand:
    """What the flows are to be computed from, and which sources of it are complete and may remove flows."""

    snapshot: Snapshot
    synced: frozenset[Source]


@dataclass(slots=True)
class _Table:
    """What the switch holds, as far as we know, what it would not take, and the demand that was met last."""

    installed: dict[RuleKey, Rule]
    refused: dict[RuleKey, Rule] = field(default_factory=dict)
    met: Mapping[PartName, Part] | None = None
    synced: frozenset[Source] = frozenset()
    doubtful: bool = False
    commits: int = 0
    """How many have begun, and how many have ended: odd while one is under way."""

    @property
    def flows(self) -> int:
        """How many flows the switch should hold, but for those that come and go by themselves."""
        return sum(not isinstance(rule, GroupEntry) and rule.table not in UNCOUNTED for rule in self.installed.values())

    def read_anew(self, flows: Iterable[InstalledFlow], groups: Iterable[GroupEntry]) -> None:
        """Forget what was believed; `flows` and `groups` are what the switch holds."""
        self.installed = {entry.flow.key: entry.flow for entry in flows if entry.cookie != PASSING_COOKIE}
        self.installed |= {group.key: group for group in groups}
        self.met, self.doubtful = None, False

    def changes(self, parts: Mapping[PartName, Part], synced: frozenset[Source]) -> list[FlowChange]:
        """What leads from here to `parts`. Only what differs from the demand that was met last is looked at."""
        if self.met is None:
            installed = self.installed
            desired = {key: flow for part in parts.values() for key, flow in part.items()}
        else:
            changed = [(self.met.get(name, _NOTHING), part) for name, part in parts.items()]
            changed += [(self.met[name], _NOTHING) for name in self.met.keys() - parts.keys()]
            keys: set[RuleKey] = set()
            desired = {}
            for before, after in changed:
                concerned = changed_keys(before, after)
                keys |= concerned
                desired |= {key: after[key] for key in concerned if key in after}
            if self.synced != synced:
                # What nobody might remove before may go now, and was never looked at.
                demanded = {key for part in parts.values() for key in part}
                keys |= self.installed.keys() - demanded
            installed = {key: self.installed[key] for key in keys if key in self.installed}
        wanted = {key: flow for key, flow in desired.items() if self.refused.get(key) != flow}
        return difference(installed, wanted, synced)

    def unchanged_since(self, commits: int) -> bool:
        """Whether no commit of ours has been under way since `commits` was read."""
        return self.commits == commits and commits % 2 == 0 and not self.doubtful

    def of(self, source: Source) -> dict[FlowKey, Flow]:
        """The flows of a source that the switch should hold."""
        return {rule.key: rule for rule in self.installed.values() if isinstance(rule, Flow) and rule.source is source}

    def take_over(self, changes: Iterable[FlowChange]) -> None:
        """The switch has made these changes."""
        for change in changes:
            match change:
                case AddFlow(flow):
                    self.installed[flow.key] = flow
                case PutGroup(group):
                    self.installed[group.key] = group
                case AddPassingFlow():
                    pass
                case _:
                    del self.installed[change.key]


class FlowReconciler:
    """Applies `demand()` to the switch whenever it may have changed."""

    def __init__(
        self,
        switch: Switch,
        demand: Callable[[], Demand],
        audit_s: float = AUDIT_S,
        metrics: FlowMetrics | None = None,
    ) -> None:
        self._metrics = metrics or FlowMetrics(CollectorRegistry())
        self._switch = switch
        self._audit_s = audit_s
        self._demand = demand
        self._desired = DesiredFlows()
        self._wanted = Signal()
        self._applied = Signal()
        self._applied_upto = 0
        self._served: int | None = None
        self._distrusted = False
        self._unforgotten: dict[FlowKey, FlushConnections] = {}
        self.complete = False
        """Whether the switch has all of what was demanded at the last reconciliation, all of many Services among it."""

    @property
    def current(self) -> bool:
        """Whether the switch is there and has been given its flows since it came."""
        return self._served is not None and self._served == self._switch.session

    @property
    def backlog(self) -> int:
        """How many requests are not served yet."""
        return self._wanted.count - self._applied_upto

    async def wait_current(self) -> int:
        """Wait until the switch has its flows; the number of the session that they were given in."""
        while not self.current:
            await self._applied.wait_beyond(self._applied.count)
        assert self._served is not None, "current means that a session was served"
        return self._served

    def request(self) -> int:
        """Say that the demand may have changed; returns the number of the request."""
        self._wanted.notify()
        return self._wanted.count

    async def reconcile(self) -> None:
        """Wait until the switch has committed all that is demanded now.

        Many Services that have changed come a few at a time, and are not waited for; see `complete`.
        """
        number = self.request()
        while self._applied_upto < number:
            await self._applied.wait_beyond(self._applied.count)

    async def missing(self, ofport: int) -> list[Flow]:
        """The flows of the pod at `ofport` that are demanded and that the switch, being asked, does not show.

        Raises SwitchDisconnected or SwitchRefused.
        """
        held = {entry.flow.key: entry.flow for entry in await self._switch.dump_flows(Source.ATTACHMENTS)}
        snapshot = self._demand().snapshot
        pods = [pod for pod in snapshot.attachments if pod.ofport == ofport]
        return [
            flow
            for pod in pods
            for flow in pod_flows(pod, snapshot.mode, snapshot.service_proxy)
            if held.get(flow.key) != flow
        ]

    def distrust(self) -> None:
        """Have everything that the switch holds read and compared at the next reconciliation."""
        self._distrusted = True

    async def run(self) -> None:
        """Reconcile for ever."""
        self.request()
        while True:
            session = await self._switch.wait_connected()
            try:
                await self._serve(session)
            except SwitchDisconnected:
                # The flows are compared again once it is back. A dead connection is written to without waiting: were
                # it tried again at once, `Switch.run` would never have a turn to take notice.
                await self._switch.wait_disconnected(session)
            except (SwitchRefused, BundleRejected) as error:
                self._served = None
                log.error("flows-not-installed", error=str(error), action="comparing them again")
                await asyncio.sleep(RETRY_S)

    async def _serve(self, session: int) -> None:
        """Keep one connection's flows right until it is lost. Raises what `Switch` raises."""
        await self._switch.set_meter(MeterEntry(ARP_METER, rate=ARP_RATE, burst=ARP_RATE))
        table = _Table({}, doubtful=True)
        number = self._wanted.count
        await self._apply(table, number)
        self._served = session
        self._applied.notify()
        lost = asyncio.create_task(self._switch.wait_disconnected(session))
        lost.add_done_callback(lambda _: self._wanted.notify())
        auditing = asyncio.create_task(self._audit(table))
        try:
            while True:
                number = await self._wanted.wait_beyond(number)
                if self._switch.session != session:
                    return
                await self._apply(table, number)
        finally:
            lost.cancel()
            auditing.cancel()

    def _left_alone(self, table: _Table, changes: Iterable[FlowChange]) -> list[AddPassingFlow]:
        """What lets connections go on that unlisted endpoints have, if nobody said that these would end.

        A pod that lives may be taken from a Service. Nobody cuts the connections that it has; kube-proxy does not.
        """
        places = ((change.key, place_of(change.key)) for change in changes if isinstance(change, DeleteFlow))
        return [
            AddPassingFlow(former_flow(flow), FORMER_IDLE_S)
            for key, place in places
            if place and not self._is_over(place) and isinstance(flow := table.installed.get(key), Flow)
        ]

    def _is_over(self, place: Place) -> bool:
        """Whether connections to where an endpoint was are to end: UDP's never would, an ended pod's are dead."""
        return place.protocol is Protocol.UDP or self._desired.has_ended(place)

    def _leave_behind(self, changes: Iterable[FlowChange]) -> None:
        """Note whose connections are to be forgotten. Before the commit: when the switch is lost in it, nobody knows
        whether the flows are gone, and they are in no later difference if they are.
        """
        for key in (change.key for change in changes if isinstance(change, DeleteFlow)):
            place = place_of(key)
            if place is not None and self._is_over(place):
                self._unforgotten[key] = place.forgetting

    async def _forget_connections(self, table: _Table) -> None:
        """Let go of what was tracked towards endpoints that are gone, so that nobody goes on sending to them."""
        for key, flush in list(self._unforgotten.items()):
            if key not in table.installed:  # else the endpoint has come back, and keeps its connections
                try:
                    await self._switch.flush_connections(flush)
                except SwitchRefused as refused:
                    log.warning("connections-not-forgotten", endpoint=str(flush.address), error=str(refused))
            del self._unforgotten[key]

    async def _audit(self, table: _Table) -> None:
        """Notice, until the connection is lost, that somebody else added, removed or changed flows."""
        sources = cycle(Source)
        with suppress(SwitchDisconnected):
            for number in count(1):
                await asyncio.sleep(self._audit_s)
                try:
                    if number % COMPARED_EVERY == 0:
                        await self._compare(table, next(sources))
                    await self._count(table)
                except SwitchRefused as refused:
                    log.warning("flows-not-audited", error=str(refused), action="trying again")

    async def _count(self, table: _Table) -> None:
        """Read how many flows there are."""
        commits, believed = table.commits, table.flows
        stats = (await self._switch.table_stats()).values()
        there = sum(one.flows for one in stats if one.table not in UNCOUNTED)
        if there != believed and table.unchanged_since(commits):
            log.warning("flows-touched", there=there, ours=believed, action="comparing all of them")
            self._metrics.touched.inc()
            table.doubtful = True
            self.request()

    async def _compare(self, table: _Table, source: Source) -> None:
        """Read the flows of one source. Somebody may have exchanged one for another, which no count shows."""
        commits = table.commits
        held = await self._switch.dump_flows(source)
        ours = table.of(source)
        same = await asyncio.to_thread(lambda: ours == {entry.flow.key: entry.flow for entry in held})
        if table.unchanged_since(commits) and not same:
            log.warning("flows-changed", source=source.name.lower(), action="comparing all of them")
            self._metrics.touched.inc()
            table.doubtful = True
            self.request()

    async def _apply(self, table: _Table, number: int) -> None:
        """Commit the difference between what is there and what is demanded, as of request `number`."""
        with self._metrics.reconcile.time():
            await self._make_equal(table)
        self._applied_upto = number
        self._applied.notify()

    async def _make_equal(self, table: _Table) -> None:
        if table.doubtful or self._distrusted:
            self._distrusted = False
            groups = [one.group for one in await self._switch.dump_groups()]
            table.read_anew(await self._switch.dump_flows(), groups)
        demand = self._demand()
        parts = self._desired.parts(demand.snapshot, SLICE)
        synced = demand.synced if self._desired.complete else demand.synced - {Source.SERVICES}
        while changes := await self._changes(table, parts, synced):
            table.commits += 1
            self._leave_behind(changes)
            try:
                await self._commit([*self._left_alone(table, changes), *changes])
                table.take_over(changes)
            except BundleRejected as rejected:
                _set_aside(table, rejected)
                continue
            finally:
                table.commits += 1
            log.debug("flows-committed", changes=len(changes), installed=len(table.installed))
            break
        await self._forget_connections(table)
        table.met, table.synced = parts, synced
        if not (self.complete and self._desired.complete):
            # What has been made stays. Else the collector looks at all of it again and again, for most of a second
            # when there are 10,000 Services, and nobody has a turn meanwhile.
            gc.freeze()
        self.complete = self._desired.complete
        if not self.complete:
            self.request()

    async def _changes(
        self, table: _Table, parts: Mapping[PartName, Part], synced: frozenset[Source]
    ) -> list[FlowChange]:
        if table.met is None:
            # Everything is compared with everything, which can take a second; nobody else changes the table.
            return await asyncio.to_thread(table.changes, parts, synced)
        return table.changes(parts, synced)

    async def _commit(self, changes: Sequence[FlowChange]) -> None:
        """Raises what `Switch.commit` raises, and counts it."""
        errors = self._metrics.bundle_errors
        try:
            with self._metrics.bundle.time():
                await self._switch.commit(changes)
        except BundleRejected:
            errors.labels("rejected").inc()
            raise
        except SwitchRefused:
            errors.labels("refused").inc()
            raise
        except SwitchDisconnected:
            errors.labels("disconnected").inc()
            raise
        self._metrics.changes.inc(len(changes))


_NOTHING: Part = {}


def _set_aside(table: _Table, rejected: BundleRejected) -> None:
    """Go on without the flow that the switch refuses, so that one bad flow does not hold up the others."""
    change = rejected.change
    match change:
        case AddFlow(flow):
            table.refused[flow.key] = flow
        case PutGroup(group):
            table.refused[group.key] = group
        case _:
            raise rejected
    log.error("flow-refused", change=str(change), error=str(rejected), action="the others are installed without it")
