"""Many small requests, few commits: whatever arrives while a commit is under way goes into the next one.

A switch or a database takes about as long for one change as for a hundred, so a burst of pods shares its commits
instead of queueing for them. A single request waits for nothing: it is committed at once.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Generic, TypeVar

Item = TypeVar("Item")
Outcome = TypeVar("Outcome")


class Batch(Generic[Item, Outcome]):
    """Collects items for `commit`, which takes all of them and says for each, by position, what became of it."""

    def __init__(self, commit: Callable[[Sequence[Item]], Awaitable[Mapping[int, Outcome | Exception]]]) -> None:
        self._commit = commit
        self._pending: list[tuple[Item, asyncio.Future[Outcome]]] = []
        self._wake = asyncio.Event()
        self._ended = False

    async def submit(self, item: Item) -> Outcome:
        """Have `item` committed; returns or raises its own outcome. Cancelled when `run` is, or has been."""
        future: asyncio.Future[Outcome] = asyncio.get_running_loop().create_future()
        if self._ended:
            future.cancel()
        else:
            self._pending.append((item, future))
            self._wake.set()
        return await future

    async def run(self) -> None:
        """Commit what was submitted, for ever."""
        try:
            while True:
                await self._wake.wait()
                self._wake.clear()
                # One turn of the loop: requests that are just being read join this commit.
                await asyncio.sleep(0)
                await self._commit_pending()
        finally:
            # Nobody is left to commit: those who wait must not wait for ever, or the process could not end.
            self._ended = True
            for _, future in self._pending:
                future.cancel()

    async def _commit_pending(self) -> None:
        self._pending = [(item, future) for item, future in self._pending if not future.done()]
        under_way = len(self._pending)
        if under_way:
            outcomes = await self._commit([item for item, _ in self._pending])
            batch, self._pending = self._pending[:under_way], self._pending[under_way:]
            for position, (_, future) in enumerate(batch):
                _settle(future, outcomes[position])


def _settle(future: asyncio.Future[Outcome], outcome: Outcome | Exception) -> None:
    if future.done():  # the requester gave up meanwhile
        return
    if isinstance(outcome, Exception):
        future.set_exception(outcome)
    else:
        future.set_result(outcome)
