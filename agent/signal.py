"""A counter that tasks can wait on: how a source tells everybody downstream that it has something new."""

from __future__ import annotations

import asyncio
from collections.abc import Callable


class Signal:
    """Counts notifications. A waiter names the count that it has already seen, so nothing is missed in between."""

    def __init__(self) -> None:
        self._count = 0
        self._next = asyncio.Event()
        self._followers: list[Callable[[], object]] = []

    @property
    def count(self) -> int:
        """How often `notify` has been called."""
        return self._count

    def notify(self) -> None:
        """Count one more, tell the followers, and wake every waiter."""
        self._count += 1
        awaited, self._next = self._next, asyncio.Event()
        awaited.set()
        for action in self._followers:
            action()

    def follow(self, action: Callable[[], object]) -> None:
        """Call `action` at each notification from now on; it must not block."""
        self._followers.append(action)

    async def wait_beyond(self, seen: int) -> int:
        """Wait until the count is above `seen`, and return it."""
        while self._count <= seen:
            await self._next.wait()
        return self._count


def when_changed(value: Callable[[], object], action: Callable[[], object]) -> Callable[[], None]:
    """A follower that calls `action` only if `value` is not what it was the last time; the first time it is."""
    last: list[object] = []

    def follow() -> None:
        now = value()
        if last != [now]:
            last[:] = [now]
            action()

    return follow
