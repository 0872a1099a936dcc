"""One controller leads, by a lease of etcd; the others stand by.

Each candidate writes a key of its own into the folder of the election, bound to its lease; the oldest key leads. So a
key that exists, and was never written again, is the seat: a transaction that compares it cannot be carried out for a
leader whose lease has run out, however long that one was asleep.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import aclosing, suppress
from dataclasses import dataclass

from k8sovs.etcd import Compare, Etcd, EtcdError, LeaseLost, Put, absent, unchanged
from k8sovs.logs import get_logger
from k8sovs.records import Keys

log = get_logger(__name__)


class LeadershipLost(Exception):
    """The seat is gone: somebody else may lead by now."""


@dataclass(frozen=True, slots=True)
class Seat:
    """The leader's key, and the revision at which it was written, once."""

    key: str
    revision: int

    @property
    def fence(self) -> Compare:
        """Holds as long as this leader leads."""
        return unchanged(self.key, self.revision)


async def lead(etcd: Etcd, keys: Keys, identity: str, ttl_s: int, reign: Callable[[Seat], Awaitable[None]]) -> None:
    """Stand for election, wait to be elected, then run `reign` until it ends or the seat is lost.

    `ttl_s` is how long a leader that fell silent keeps the others waiting; one that ends in good order does not. Raises
    LeadershipLost, EtcdError, or what `reign` raises, in an ExceptionGroup.
    """
    lease = await etcd.grant_lease(ttl_s)
    try:
        async with asyncio.TaskGroup() as group:
            keeper = group.create_task(_keep(etcd, lease))
            seat = await _candidacy(etcd, keys, identity, lease)
            await _election(etcd, keys, seat)
            log.info("leadership-won", identity=identity, seat=seat.key)
            await reign(seat)
            keeper.cancel()
    finally:
        with suppress(EtcdError):  # then it runs out by itself
            await etcd.revoke_lease(lease)


async def _keep(etcd: Etcd, lease: int) -> None:
    try:
        await etcd.keep_lease(lease)
    except LeaseLost as error:
        raise LeadershipLost(str(error)) from error


async def _candidacy(etcd: Etcd, keys: Keys, identity: str, lease: int) -> Seat:
    key = f"{keys.leader}{lease:016x}"
    result = await etcd.transact([absent(key)], [Put(key, identity.encode(), lease)])
    if not result.succeeded:
        raise LeadershipLost(f"{key} exists already")
    return Seat(key, result.revision)


async def _election(etcd: Etcd, keys: Keys, seat: Seat) -> None:
    """Return when no older candidate is left."""
    async with aclosing(etcd.watch(keys.leader)) as updates:
        async for _ in updates:
            candidates = (await etcd.list(keys.leader)).items
            if seat.key not in candidates:
                raise LeadershipLost(f"{seat.key} is gone")
            if min(candidates.values(), key=lambda candidate: candidate.create_revision).key == seat.key:
                return
