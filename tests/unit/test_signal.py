import asyncio

from agent.signal import Signal


async def test_a_waiter_that_is_behind_does_not_wait() -> None:
    signal = Signal()
    signal.notify()
    signal.notify()
    assert await signal.wait_beyond(0) == 2


async def test_every_waiter_is_woken_by_one_notification() -> None:
    signal = Signal()
    waiters = [asyncio.create_task(signal.wait_beyond(0)) for _ in range(3)]
    await asyncio.sleep(0)
    signal.notify()
    assert await asyncio.gather(*waiters) == [1, 1, 1]


async def test_a_waiter_for_more_than_the_next_count_goes_on_waiting() -> None:
    signal = Signal()
    waiter = asyncio.create_task(signal.wait_beyond(1))
    await asyncio.sleep(0)
    signal.notify()
    await asyncio.sleep(0)
    assert not waiter.done()
    signal.notify()
    assert await waiter == 2


async def test_a_waiter_that_gave_up_is_in_nobodys_way() -> None:
    signal = Signal()
    patient = asyncio.create_task(signal.wait_beyond(0))
    impatient = asyncio.create_task(signal.wait_beyond(0))
    await asyncio.sleep(0)
    impatient.cancel()
    await asyncio.sleep(0)
    signal.notify()
    assert await patient == 1


async def test_a_follower_is_called_at_once_and_every_time() -> None:
    signal, seen = Signal(), []
    signal.follow(lambda: seen.append(signal.count))
    signal.notify()
    signal.notify()
    assert seen == [1, 2]
