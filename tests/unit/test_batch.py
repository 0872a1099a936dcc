import asyncio
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

import pytest

from agent.batch import Batch


class Refused(Exception):
    """What the committer says of an item."""


class Committer:
    """Commits when it is let; an item of "bad" is refused."""

    def __init__(self) -> None:
        self.batches: list[list[str]] = []
        self.begun = asyncio.Event()
        self.free = asyncio.Event()
        self.free.set()

    async def commit(self, items: Sequence[str]) -> Mapping[int, str | Exception]:
        self.batches.append(list(items))
        self.begun.set()
        await self.free.wait()
        return {i: Refused(item) if item == "bad" else item.upper() for i, item in enumerate(items)}


@asynccontextmanager
async def running(committer: Committer) -> AsyncIterator[Batch[str, str]]:
    batch = Batch(committer.commit)
    task = asyncio.create_task(batch.run())
    try:
        yield batch
    finally:
        task.cancel()
        await asyncio.wait({task})


async def test_requests_of_one_moment_share_a_commit() -> None:
    committer = Committer()
    async with running(committer) as batch:
        assert await asyncio.gather(*map(batch.submit, "abc")) == ["A", "B", "C"]
    assert committer.batches == [["a", "b", "c"]]


async def test_what_arrives_during_a_commit_goes_into_the_next_one_together() -> None:
    committer = Committer()
    committer.free.clear()
    async with running(committer) as batch:
        first = asyncio.create_task(batch.submit("a"))
        await committer.begun.wait()
        others = [asyncio.create_task(batch.submit(item)) for item in "bc"]
        await asyncio.sleep(0)
        committer.free.set()
        assert await asyncio.gather(first, *others) == ["A", "B", "C"]
    assert committer.batches == [["a"], ["b", "c"]]


async def test_a_refused_request_spoils_no_other() -> None:
    async with running(Committer()) as batch:
        outcomes = await asyncio.gather(*map(batch.submit, ("a", "bad", "c")), return_exceptions=True)
    assert [str(outcome) for outcome in outcomes] == ["A", "bad", "C"]
    assert isinstance(outcomes[1], Refused)


async def test_a_request_that_was_given_up_before_its_commit_is_not_committed() -> None:
    committer = Committer()
    async with running(committer) as batch:
        given_up = asyncio.create_task(batch.submit("a"))
        await asyncio.sleep(0)
        given_up.cancel()
        assert await batch.submit("b") == "B"
    assert committer.batches == [["b"]]


async def test_a_request_that_is_given_up_during_its_commit_holds_up_nobody() -> None:
    committer = Committer()
    committer.free.clear()
    async with running(committer) as batch:
        given_up = asyncio.create_task(batch.submit("a"))
        await committer.begun.wait()
        given_up.cancel()
        committer.free.set()
        assert await batch.submit("b") == "B"


async def test_nobody_waits_for_a_batch_that_has_ended() -> None:
    committer = Committer()
    committer.free.clear()
    async with running(committer) as batch:
        under_way = asyncio.create_task(batch.submit("a"))
        await committer.begun.wait()
        queued = asyncio.create_task(batch.submit("b"))
        await asyncio.sleep(0)
    late = asyncio.create_task(batch.submit("c"))
    for request in (under_way, queued, late):
        with pytest.raises(asyncio.CancelledError):
            await request
