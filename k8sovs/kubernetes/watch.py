"""The list/watch loop.

What a network plugin must never do is to take an unreachable API, a silent connection or an object that it cannot read
for a deletion: pods would lose their network. So:

- a deletion is reported only if the server said so, or if a complete later list does not have the object;
- an object that cannot be decoded is logged, counted and passed over; if it could be read before, the last good
  version goes on standing for it; a list says of the others that they exist;
- a watch asks for bookmarks and is given up when nothing at all arrives for a while; it resumes at the last version,
  and lists again only when the server no longer has that version (410) or sent what is not a watch event;
- every retry waits, longer each time, with jitter, and as long as the server asks for.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Final, Generic, TypeVar

import msgspec

from k8sovs.backoff import Backoff
from k8sovs.kubernetes.errors import UNDECODABLE, Expired, KubernetesError, Status, Unreadable, from_status
from k8sovs.kubernetes.objects import ObjectKey, Resource, decode, metadata_of, path_of, read_metadata, read_name
from k8sovs.kubernetes.transport import Timing, Transport
from k8sovs.logs import get_logger

log = get_logger(__name__)

T = TypeVar("T", bound=Resource)

PAGE_SIZE: Final = 500
"""Objects that one answer to a list may hold."""


@dataclass(frozen=True, slots=True)
class Listed(Generic[T]):
    """The complete truth at one moment; whatever is not in it does not exist.

    `unreadable` are the UIDs of objects that exist and have never been readable, by key; a UID that is not readable
    either is empty.
    """

    items: tuple[T, ...]
    unreadable: Mapping[ObjectKey, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Put(Generic[T]):
    """The object was created or changed. May come more than once for one change."""

    key: ObjectKey
    item: T


@dataclass(frozen=True, slots=True)
class Gone(Generic[T]):
    """The server says that the object was deleted, or no longer matches the selector. `uid` is the one deleted."""

    key: ObjectKey
    uid: str


@dataclass(slots=True)
class Statistics:
    """Counters since the start, over all watches of a client; and how many watches there are, and which stand."""

    lists: int = 0
    watches: int = 0
    errors: int = 0
    undecodable: int = 0
    running: int = 0
    standing: set[object] = field(default_factory=set, repr=False)

    @property
    def connected(self) -> bool:
        """Whether every watch stands, and there is one."""
        return self.running > 0 and len(self.standing) == self.running


@dataclass(frozen=True, slots=True)
class Query(Generic[T]):
    """Which objects a list or watch is about; namespace None is all namespaces.

    `trim` makes of an object what is kept and told of it: a Node is 10 KB, and there are thousands.
    """

    resource: type[T]
    namespace: str | None = None
    field_selector: str | None = None
    label_selector: str | None = None
    trim: Callable[[T], T] | None = None

    @property
    def path(self) -> str:
        """The collection's path."""
        return path_of(self.resource, self.namespace)

    @property
    def selectors(self) -> dict[str, str]:
        """Parameters of the request."""
        given = {"fieldSelector": self.field_selector, "labelSelector": self.label_selector}
        return {name: value for name, value in given.items() if value}

    def decode(self, content: msgspec.Raw) -> T:
        """What is kept of an object. Unreadable: it is not of this type."""
        item = decode(content, self.resource)
        return item if self.trim is None else self.trim(item)


class _ListMetadata(msgspec.Struct, rename={"continue_": "continue"}):
    resourceVersion: str = ""
    continue_: str | None = None


class _List(msgspec.Struct):
    """A list whose items are still to be decoded, so that one bad item is one bad item."""

    metadata: _ListMetadata
    items: list[msgspec.Raw] | None = None


class _Event(msgspec.Struct):
    type: str
    object: msgspec.Raw


class Watch(Generic[T]):
    """One list or watch: the version reached, and the last good form of every object."""

    def __init__(
        self,
        transport: Transport,
        query: Query[T],
        statistics: Statistics,
        timing: Timing,
        now: Callable[[], float],
        chance: Callable[[], float],
    ) -> None:
        """`now` is a clock in seconds, `chance` gives numbers from 0 to 1."""
        self._transport = transport
        self._query = query
        self._statistics = statistics
        self._timing = timing
        self._now = now
        self._chance = chance
        self._version = ""
        self._known: dict[ObjectKey, T] = {}

    async def run(self) -> AsyncGenerator[Listed[T] | Put[T] | Gone[T], None]:
        """Everything that happens to the objects, for ever."""
        self._statistics.running += 1
        try:
            async with aclosing(self._follow()) as changes:
                async for change in changes:
                    yield change
        finally:
            self._statistics.running -= 1
            self._statistics.standing.discard(self)

    async def _follow(self) -> AsyncGenerator[Listed[T] | Put[T] | Gone[T], None]:
        timing = self._timing
        backoff = Backoff(
            self._now,
            self._chance,
            shortest=timing.first_delay_s,
            longest=timing.longest_delay_s,
            settled=timing.settled_s,
        )
        reported = ""
        while True:
            asked_delay_s = 0.0
            try:
                if not self._version:
                    yield await self.list()
                    reported = ""
                async with aclosing(self._session()) as changes:
                    async for change in changes:
                        yield change
                        reported = ""
            except KubernetesError as error:
                asked_delay_s = error.retry_after_s
                self._statistics.errors += 1
                self._statistics.standing.discard(self)
                if isinstance(error, Expired | Unreadable):
                    self._version = ""
                if str(error) != reported:
                    log.warning("kubernetes-watch-interrupted", path=self._query.path, error=str(error))
                    reported = str(error)
            await asyncio.sleep(max(asked_delay_s, backoff.delay()))

    async def list(self) -> Listed[T]:
        """All objects; what cannot be decoded is replaced by its last good version. KubernetesError."""
        self._statistics.lists += 1
        parameters = {"limit": str(PAGE_SIZE), **self._query.selectors}
        items: dict[ObjectKey, T] = {}
        unreadable: dict[ObjectKey, str] = {}
        while True:
            page = await self._transport.call("GET", self._query.path, parameters=parameters)
            try:
                listing = msgspec.json.decode(page, type=_List)
            except UNDECODABLE as error:
                raise Unreadable(f"the answer to GET {self._query.path} is no list: {error}") from error
            for raw in listing.items or ():
                self._read(raw, items, unreadable)
            if not listing.metadata.continue_:
                break
            parameters["continue"] = listing.metadata.continue_
        self._version, self._known = listing.metadata.resourceVersion, items
        return Listed(tuple(items.values()), unreadable)

    def _read(self, raw: msgspec.Raw, items: dict[ObjectKey, T], unreadable: dict[ObjectKey, str]) -> None:
        """Add one item of a list to `items`, or else to `unreadable`, if it has a name at all."""
        metadata = None
        try:
            metadata = read_name(raw)
            items[metadata.key] = self._query.decode(raw)
        except Unreadable as error:
            self._tell_undecodable(metadata.key if metadata else None, error)
            if metadata is None:
                return
            last_good = self._known.get(metadata.key)
            if last_good and metadata_of(last_good).uid == metadata.uid:
                items[metadata.key] = last_good
            else:
                unreadable[metadata.key] = metadata.uid

    async def _session(self) -> AsyncGenerator[Put[T] | Gone[T], None]:
        """One watch request, to its end. KubernetesError: how it broke."""
        self._statistics.watches += 1
        parameters = {
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(self._timing.watch_s * (1 + 0.5 * self._chance()))),
            **self._query.selectors,
        }
        async with aclosing(self._transport.lines(self._query.path, parameters)) as lines:
            async for line in lines:
                self._statistics.standing.add(self)
                change = self._change(line) if line else None
                if change is not None:
                    yield change

    def _change(self, line: bytes) -> Put[T] | Gone[T] | None:
        """What one line of a watch says; the version moves on. KubernetesError: it is an error, or no event."""
        event = self._parse(line)
        metadata = read_metadata(event.object)
        change: Put[T] | Gone[T] | None = None
        if event.type in ("ADDED", "MODIFIED", "DELETED") and not metadata.name:
            self._tell_undecodable(None, Unreadable("it has no name"))
        elif event.type in ("ADDED", "MODIFIED"):
            change = self._put(metadata.key, event.object)
        elif event.type == "DELETED":
            self._known.pop(metadata.key, None)
            change = Gone(metadata.key, metadata.uid)
        self._version = metadata.resourceVersion or self._version
        return change

    def _parse(self, line: bytes) -> _Event:
        request = f"the watch of {self._query.path}"
        try:
            event = msgspec.json.decode(line, type=_Event)
            status = msgspec.json.decode(event.object, type=Status) if event.type == "ERROR" else None
        except UNDECODABLE as error:
            raise Unreadable(f"a line of {request} is no event: {error}") from error
        if status is not None:
            raise from_status(request, status, status.code or 0)
        return event

    def _put(self, key: ObjectKey, raw: msgspec.Raw) -> Put[T] | None:
        try:
            item = self._query.decode(raw)
        except Unreadable as error:
            self._tell_undecodable(key, error)
            return None
        self._known[key] = item
        return Put(key, item)

    def _tell_undecodable(self, key: ObjectKey | None, error: Unreadable) -> None:
        self._statistics.undecodable += 1
        name = str(key) if key else "without a readable name"
        kind = self._query.resource.__name__
        log.warning("kubernetes-object-undecodable", kind=kind, object=name, error=str(error))
