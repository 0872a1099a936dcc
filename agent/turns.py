"""Whose turn it is: calls for one attachment run one after the other, in the order of their arrival."""

from __future__ import annotations

import asyncio
from weakref import WeakValueDictionary

from cni.request import AttachmentKey


class Turns:
    """A lock for each attachment that somebody is busy with, and none for the others."""

    def __init__(self) -> None:
        self._locks: WeakValueDictionary[AttachmentKey, asyncio.Lock] = WeakValueDictionary()

    def of(self, key: AttachmentKey) -> asyncio.Lock:
        """The lock of this attachment: keep a reference for as long as it is needed."""
        return self._locks.setdefault(key, asyncio.Lock())

    def taken(self, key: AttachmentKey) -> bool:
        """Whether a call for this attachment is under way."""
        lock = self._locks.get(key)
        return lock is not None and lock.locked()
