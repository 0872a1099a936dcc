"""A watch: changes since a version, as a stream of lines, until its time is over."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime

from k8sovs.lab.apiserver import tables
from k8sovs.lab.apiserver.documents import Document, encode
from k8sovs.lab.apiserver.errors import ApiError
from k8sovs.lab.apiserver.requests import number
from k8sovs.lab.apiserver.resources import Resource
from k8sovs.lab.apiserver.selectors import Predicate
from k8sovs.lab.apiserver.store import Change, ChangeKind, Store, Stored

DEFAULT_DURATION_S = 1800.0


@dataclass(frozen=True, slots=True)
class WatchOptions:
    """What the query string of a watch says."""

    revision: int
    """changes after this one; 0 is: what is there now, then what changes"""
    bookmarks: bool
    initial_events: bool
    """begin with everything that is there, ended by a bookmark that says so (sendInitialEvents)"""
    duration_s: float

    @classmethod
    def parse(cls, query: Mapping[str, str]) -> WatchOptions:
        """ApiError 400: a number that is none."""
        return cls(
            revision=number(query, "resourceVersion"),
            bookmarks=query.get("allowWatchBookmarks") in ("true", "1"),
            initial_events=query.get("sendInitialEvents") in ("true", "1"),
            duration_s=number(query, "timeoutSeconds") or DEFAULT_DURATION_S,
        )


@dataclass(frozen=True, slots=True)
class Watch:
    """One watch of one resource."""

    store: Store
    resource: Resource
    selects: Predicate
    """which objects belong to the watch; an object that begins or ceases to is told as added or deleted"""
    options: WatchOptions
    as_table: bool
    bookmark_interval_s: float
    clock: Callable[[], datetime]

    def start(self) -> int:
        """The revision that the watch begins after. ApiError 410: no longer in history, or not from this server."""
        asked = self.options.revision
        if asked > self.store.revision:
            raise ApiError(410, "Expired", f"too large resource version: {asked} ({self.store.revision})")
        if asked:
            self.store.collection(self.resource).since(asked)
        return asked

    async def lines(self, start: int) -> AsyncGenerator[bytes, None]:
        """The events from `start` (see `start()`), each with its newline, several at a time where possible."""
        loop = asyncio.get_running_loop()
        deadline = loop.time() + self.options.duration_s
        bookmark_at = loop.time() + self.bookmark_interval_s
        position = start
        if not start or self.options.initial_events:
            position = self.store.revision
            yield b"".join(self._initial_events())
        collection = self.store.collection(self.resource)
        while loop.time() < deadline:
            changed = collection.changed
            try:
                news = collection.since(position)
            except ApiError as error:
                yield _line("ERROR", encode(error.status()))
                return
            position = self.store.revision
            lines = [line for change in news for line in self._tell(change)]
            if loop.time() >= bookmark_at:
                bookmark_at = loop.time() + self.bookmark_interval_s
                if self.options.bookmarks:
                    lines.append(self._bookmark(position))
            if lines:
                yield b"".join(lines)
            with suppress(TimeoutError):
                async with asyncio.timeout_at(min(deadline, bookmark_at)):
                    await changed.wait()

    def _initial_events(self) -> list[bytes]:
        present = [stored for stored in self.store.list(self.resource) if self.selects(stored.body)]
        lines = [self._event(ChangeKind.ADDED, stored) for stored in present]
        if self.options.initial_events and self.options.bookmarks:
            lines.append(self._bookmark(self.store.revision, {"k8s.io/initial-events-end": "true"}))
        return lines

    def _tell(self, change: Change) -> list[bytes]:
        was = change.before is not None and self.selects(change.before.body)
        is_now = change.kind is not ChangeKind.DELETED and self.selects(change.after.body)
        if is_now:
            return [self._event(ChangeKind.MODIFIED if was else ChangeKind.ADDED, change.after)]
        if not was or change.before is None:
            return []
        # What left the selection is told as it last was inside.
        last = change.after if change.kind is ChangeKind.DELETED else Stored.at(change.revision, change.before.body)
        return [self._event(ChangeKind.DELETED, last)]

    def _event(self, kind: ChangeKind, stored: Stored) -> bytes:
        if not self.as_table:
            return _line(kind.value, stored.encoded)
        metadata: Document = {"resourceVersion": str(stored.revision)}
        return _line(kind.value, encode(tables.render(self.resource, [stored], self.clock(), metadata)))

    def _bookmark(self, revision: int, annotations: Document | None = None) -> bytes:
        metadata: Document = {"resourceVersion": str(revision)}
        if annotations:
            metadata["annotations"] = annotations
        body = {"kind": self.resource.kind, "apiVersion": self.resource.group_version, "metadata": metadata}
        return _line("BOOKMARK", encode(body))


def _line(word: str, encoded: bytes) -> bytes:
    return b'{"type":"' + word.encode() + b'","object":' + encoded + b"}\n"
