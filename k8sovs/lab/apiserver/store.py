"""Versions of objects and their history. Pure but for one wake-up: it waits for nothing and keeps no clock.

Every write takes the next revision of the one counter that all collections share; an object's resourceVersion is the
revision that wrote it. A bounded history per collection answers watches; who is further behind must list again.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import NamedTuple

from k8sovs.lab.apiserver.documents import Document, encode, section
from k8sovs.lab.apiserver.errors import expired_watch
from k8sovs.lab.apiserver.journal import Journal
from k8sovs.lab.apiserver.resources import RESOURCES, Resource


class Key(NamedTuple):
    """An object within its resource; `namespace` is empty where there are none."""

    namespace: str
    name: str


@dataclass(frozen=True, slots=True)
class Stored:
    """One version of one object."""

    revision: int
    body: Document
    encoded: bytes

    @classmethod
    def at(cls, revision: int, body: Document) -> Stored:
        """`body` with its resourceVersion set to `revision`."""
        metadata = section(body, "metadata") | {"resourceVersion": str(revision)}
        stamped = body | {"metadata": metadata}
        return cls(revision, stamped, encode(stamped))


class ChangeKind(Enum):
    """What happened to an object; the value is the word of a watch."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"


@dataclass(frozen=True, slots=True)
class Change:
    """One write. `after` is the last state, with the revision of the deletion, when the object was deleted."""

    kind: ChangeKind
    before: Stored | None
    after: Stored

    @property
    def revision(self) -> int:
        """The revision that the write took."""
        return self.after.revision


class Collection:
    """The objects of one resource, and what happened to them lately."""

    def __init__(self, revision: int, history_length: int) -> None:
        self.objects: dict[Key, Stored] = {}
        self.changed = asyncio.Event()
        self._floor = revision
        self._history: deque[Change] = deque()
        self._history_length = history_length

    def record(self, change: Change) -> None:
        """Append to history, forget the oldest, wake who waits."""
        self._history.append(change)
        while len(self._history) > self._history_length:
            self._floor = self._history.popleft().revision
        changed, self.changed = self.changed, asyncio.Event()
        changed.set()

    def since(self, revision: int) -> list[Change]:
        """The changes after `revision`, oldest first. ApiError 410: history does not reach back so far."""
        if revision < self._floor:
            raise expired_watch(revision, self._floor)
        newer: deque[Change] = deque()
        for change in reversed(self._history):
            if change.revision <= revision:
                break
            newer.appendleft(change)
        return list(newer)


class Store:
    """All collections."""

    def __init__(self, revision: int = 1, history_length: int = 10_000, journal: Journal | None = None) -> None:
        """`revision` is where counting starts: above that of any earlier store whose clients may come back.

        What `journal` has restored is there from the beginning; no watch tells of it.
        """
        self.revision = revision
        self._journal = journal
        self._collections = {resource: Collection(revision, history_length) for resource in RESOURCES}
        for resource, body in () if journal is None else journal.restored:
            metadata = body["metadata"]
            key = Key(metadata.get("namespace", ""), metadata["name"])
            self._collections[resource].objects[key] = Stored.at(int(metadata["resourceVersion"]), body)

    def collection(self, resource: Resource) -> Collection:
        """The collection of `resource`."""
        return self._collections[resource]

    def get(self, resource: Resource, key: Key) -> Stored | None:
        """The newest version, if the object exists."""
        return self._collections[resource].objects.get(key)

    def list_at(self, resource: Resource, namespace: str, revision: int) -> list[Stored]:
        """As `list`, at an earlier revision. ApiError 410: history does not reach back so far."""
        collection = self._collections[resource]
        objects = dict(collection.objects)
        for change in reversed(collection.since(revision)):
            metadata = change.after.body["metadata"]
            key = Key(metadata.get("namespace", ""), metadata["name"])
            if change.before is None:
                del objects[key]
            else:
                objects[key] = change.before
        return [objects[key] for key in sorted(objects) if not namespace or key.namespace == namespace]

    def list(self, resource: Resource, namespace: str = "") -> list[Stored]:
        """The objects of one namespace, or of all, ordered by key."""
        objects = self._collections[resource].objects
        return [objects[key] for key in sorted(objects) if not namespace or key.namespace == namespace]

    def contents(self, namespace: str) -> Iterator[tuple[Resource, Key]]:
        """Everything that lies in a namespace; nothing may be written meanwhile."""
        for resource, collection in self._collections.items():
            yield from ((resource, key) for key in collection.objects if key.namespace == namespace)

    def is_empty(self, namespace: str) -> bool:
        """Whether nothing lies in a namespace."""
        return not any(
            key.namespace == namespace for collection in self._collections.values() for key in collection.objects
        )

    def put(self, resource: Resource, key: Key, body: Document) -> Stored:
        """Write a new version."""
        collection = self._collections[resource]
        before = collection.objects.get(key)
        self.revision += 1
        after = Stored.at(self.revision, body)
        if self._journal is not None:
            self._journal.write(resource, after.body, gone=False)
        collection.objects[key] = after
        collection.record(Change(ChangeKind.MODIFIED if before else ChangeKind.ADDED, before, after))
        return after

    def remove(self, resource: Resource, key: Key) -> Stored:
        """Delete an object that exists; its last state, stamped with the revision of the deletion."""
        collection = self._collections[resource]
        before = collection.objects.pop(key)
        self.revision += 1
        after = Stored.at(self.revision, before.body)
        if self._journal is not None:
            self._journal.write(resource, after.body, gone=True)
        collection.record(Change(ChangeKind.DELETED, before, after))
        return after
