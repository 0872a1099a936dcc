"""Listing at one revision, and the watch loop: list at revision R, watch from R + 1, and go on after any trouble.

What no etcd client does right is left to none of them:
- a watch that etcd cancels (compaction, a right withdrawn, no leader) is an error, not an end;
- after an error the watch resumes behind the last event seen, of each range; where that is no longer possible, or the
  store is another one than before, it lists again;
- the answer to a progress request is a sign of life only, never a revision to resume from: etcd 3.4 lets it run ahead
  of the events. Nor is the revision in the header of an event message, which may hold a part of what happened so far;
- silence is broken by such a request, and a stream that does not answer it is given up.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import dataclass, field

from k8sovs.backoff import Backoff
from k8sovs.etcd.messages import Event, WatchMessage
from k8sovs.etcd.model import (
    Changes,
    EtcdCompacted,
    EtcdError,
    KeyValue,
    Listing,
    Range,
    from_wire,
)
from k8sovs.etcd.wire import WatchStream, Wire
from k8sovs.logs import get_logger

log = get_logger(__name__)

PAGE_SIZE = 1000
LISTING_ATTEMPTS = 3


@dataclass(slots=True)
class WatchStatistics:
    """The watches of a store: how many there are, which of them stand, and how often one was interrupted."""

    running: int = 0
    interruptions: int = 0
    standing: set[object] = field(default_factory=set, repr=False)

    @property
    def connected(self) -> bool:
        """Whether every watch stands, and there is one."""
        return self.running > 0 and len(self.standing) == self.running


class _Trouble:
    """Says once that a watch is interrupted, once more if the trouble is of another kind, and once that it goes on."""

    def __init__(self, ranges: Sequence[Range], statistics: WatchStatistics) -> None:
        self._statistics = statistics
        self._names = [from_wire(each.start) for each in ranges]
        self._kind: type[EtcdError] | None = None

    def noticed(self, error: EtcdError) -> None:
        self._statistics.interruptions += 1
        self._statistics.standing.discard(self)
        if type(error) is not self._kind:
            self._kind = type(error)
            log.warning("etcd-watch-interrupted", watching=self._names, error=str(error))

    def over(self) -> None:
        self._statistics.standing.add(self)
        if self._kind is not None:
            self._kind = None
            log.info("etcd-watch-resumed", watching=self._names)


async def list_ranges(wire: Wire, ranges: Sequence[Range]) -> Listing:
    """Everything in `ranges`, page by page, all at the revision of the first page. Raises `EtcdError`."""
    for attempt in range(1, LISTING_ATTEMPTS + 1):
        try:
            return await _list_at_one_revision(wire, ranges)
        except EtcdCompacted:  # that revision went away between two pages
            if attempt == LISTING_ATTEMPTS:
                raise
    raise AssertionError("every attempt returns or raises")


async def _list_at_one_revision(wire: Wire, ranges: Sequence[Range]) -> Listing:
    page = await wire.read(ranges, limit=PAGE_SIZE)
    revision = page.revision
    items: dict[str, KeyValue] = {}
    while True:
        items.update((item.key, item) for part in page.parts for item in part.items)
        ranges = [part.rest for part in page.parts if part.rest is not None]
        if not ranges:
            return Listing(revision, items, page.cluster_id)
        page = await wire.read(ranges, limit=PAGE_SIZE, revision=revision)


@dataclass(slots=True)
class _Position:
    """Up to where the history is known: the next revision of each range, in the store `cluster_id`."""

    cluster_id: int
    next_revisions: dict[Range, int]

    def precedes(self, message: WatchMessage) -> bool:
        """Whether a store at the revision of `message` can have that history behind it."""
        known = max(self.next_revisions.values()) - 1
        return message.cluster_id == self.cluster_id and message.revision >= known


async def watch_ranges(
    wire: Wire, ranges: Sequence[Range], backoff: Backoff, silence: float, statistics: WatchStatistics
) -> AsyncGenerator[Listing | Changes, None]:
    """The loop behind `Etcd.watch`."""
    trouble = _Trouble(ranges, statistics)
    statistics.running += 1
    try:
        async with aclosing(_watch(wire, ranges, backoff, silence, trouble)) as updates:
            async for update in updates:
                yield update
    finally:
        statistics.running -= 1
        statistics.standing.discard(trouble)


async def _watch(
    wire: Wire, ranges: Sequence[Range], backoff: Backoff, silence: float, trouble: _Trouble
) -> AsyncGenerator[Listing | Changes, None]:
    position: _Position | None = None
    while True:
        try:
            if position is None:
                listing = await list_ranges(wire, ranges)
                position = _Position(listing.cluster_id, dict.fromkeys(ranges, listing.revision + 1))
                trouble.over()
                yield listing
            async with aclosing(_follow(wire, position, trouble, silence)) as changes:
                async for change in changes:
                    yield change
        except EtcdCompacted as error:
            position = None
            trouble.noticed(error)
        except EtcdError as error:
            trouble.noticed(error)
        await asyncio.sleep(backoff.delay())


async def _follow(wire: Wire, position: _Position, trouble: _Trouble, silence: float) -> AsyncGenerator[Changes, None]:
    """One watch stream. Ends by raising `EtcdError`; `EtcdCompacted` if `position` is no longer one to go on from."""
    ranges = list(position.next_revisions)
    async with wire.watch(list(position.next_revisions.items())) as stream:
        unfinished: dict[int, list[Event]] = {}
        unconfirmed = len(ranges)
        while True:
            message = await _next_message(stream, silence)
            if message.created:
                if not position.precedes(message):
                    raise EtcdCompacted("the store lacks the history known so far: it was restored, or lags behind")
                unconfirmed -= 1
                if not unconfirmed:
                    trouble.over()
            if not message.events:
                continue
            events = unfinished.setdefault(message.index, [])
            events.extend(message.events)
            if message.fragment:
                continue
            del unfinished[message.index]
            changes = _changes(events)
            position.next_revisions[ranges[message.index]] = changes.revision + 1
            yield changes


async def _next_message(stream: WatchStream, silence: float) -> WatchMessage:
    message = await stream.receive(silence)
    if message is None:
        await stream.request_progress()
        message = await stream.receive(silence, doubting=False)
    if message is None:
        raise stream.silent()
    return message


def _changes(events: Sequence[Event]) -> Changes:
    """Events in the order of revisions, as the last state of each key."""
    last = {event.key: event for event in events}
    return Changes(
        revision=events[-1].revision,
        puts=tuple(event.item for event in last.values() if event.item is not None),
        deletes=tuple(event.key for event in last.values() if event.item is None),
    )
