"""`Etcd`, the face of the store."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import AsyncGenerator, Callable, Sequence
from types import TracebackType
from typing import Self

from k8sovs.backoff import Backoff
from k8sovs.etcd.model import (
    Changes,
    Compare,
    EtcdConfig,
    EtcdUnavailable,
    KeyValue,
    LeaseLost,
    Listing,
    Operation,
    Range,
    TransactionResult,
)
from k8sovs.etcd.watching import WatchStatistics, list_ranges, watch_ranges
from k8sovs.etcd.wire import Wire

DEFAULT_TIMEOUT_S = 5.0
DEFAULT_SILENCE_S = 10.0


class Etcd:
    """A connection to an etcd cluster: `async with Etcd(config) as etcd`.

    Every call answers, or raises an `EtcdError`, within `timeout` seconds (a long listing: within that for each page).
    One that no server answered in time raises `EtcdUnavailable`; the next one goes to another endpoint. A watch that
    was silent for `silence` seconds asks its server for a sign of life, and leaves it if as long a wait brings none.
    """

    def __init__(
        self,
        config: EtcdConfig,
        *,
        timeout: float = DEFAULT_TIMEOUT_S,
        silence: float = DEFAULT_SILENCE_S,
        now: Callable[[], float] = time.monotonic,
        randomness: Callable[[], float] = random.random,
    ) -> None:
        self._config = config
        self._timeout = timeout
        self._silence = silence
        self._now = now
        self._randomness = randomness
        self._wire = Wire(config, timeout)
        self._watches = WatchStatistics()
        self._lease_ends: dict[int, float] = {}  # of leases that were granted and are not kept yet

    async def __aenter__(self) -> Self:
        """Raises EtcdError if a certificate cannot be read; connects to nothing yet."""
        self._wire.open()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._wire.close()

    async def get(self, key: str) -> KeyValue | None:
        """`key` as it is now (a linearizable read), None if there is none."""
        page = await self._wire.read([Range.of(key)], limit=1)
        items = page.parts[0].items
        return items[0] if items else None

    async def list(self, *names: str) -> Listing:
        """Everything in those folders and under those keys, at one revision."""
        return await list_ranges(self._wire, _ranges(names))

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation] = ()
    ) -> TransactionResult:
        """Do all of `then` if every comparison holds, else all of `otherwise`; atomically.

        etcd takes 128 comparisons and 128 operations, and each key once. Raises `LeaseLost` if a `Put` names a lease
        that is gone.
        """
        return await self._wire.transact(compares, then, otherwise)

    def watch(self, *names: str) -> AsyncGenerator[Listing | Changes, None]:
        """Everything in those folders and under those keys, then every change to it, for ever.

        The first update is a `Listing`, and whenever history was lost (compaction, a store that was restored) there
        is a new one: it is the complete truth, whatever was known before. Nothing raises: trouble is logged once, and
        retried until it ends. The updates of one name come in the order of revisions; a transaction that touched
        several of the names may arrive in parts.
        """
        backoff = Backoff(self._now, self._randomness)
        return watch_ranges(self._wire, _ranges(names), backoff, self._silence, self._watches)

    def doubt(self) -> None:
        """Have every watch ask its server for a sign of life now: something happened to this machine's network.

        Where the kernel gets no acknowledgement for 5 s the connection is given up, and made anew.
        """
        self._wire.doubt()

    def statistics(self) -> WatchStatistics:
        """How the watches do, for metrics."""
        return self._watches

    async def grant_lease(self, ttl_s: int) -> int:
        """A new lease that lives for `ttl_s` seconds unless it is kept."""
        asked = self._now()
        lease = await self._wire.grant_lease(ttl_s)
        self._lease_ends[lease] = asked + ttl_s
        return lease

    async def keep_lease(self, lease: int) -> None:
        """Renew `lease` until it is lost: never returns, raises `LeaseLost`.

        That is raised, at the latest, when the lease's time has run out by this machine's clock, counted from when
        the last answered renewal was asked for (or the lease itself, by this object): before etcd gives it up.
        """
        backoff = Backoff(self._now, self._randomness)
        end = self._lease_ends.pop(lease, self._now() + self._timeout)
        patience = (end - self._now()) / 3
        while (asked := self._now()) < end:
            try:
                ttl = await self._wire.renew_lease(lease, timeout=min(patience, end - asked))
            except EtcdUnavailable:
                await asyncio.sleep(min(backoff.delay(), max(end - self._now(), 0)))
                continue
            if ttl <= 0:
                raise LeaseLost(f"lease {lease:x} has expired or was revoked")
            end, patience = asked + ttl, ttl / 3
            await asyncio.sleep(patience)
        raise LeaseLost(f"lease {lease:x} could not be renewed in time at {', '.join(self._config.endpoints)}")

    async def revoke_lease(self, lease: int) -> None:
        """End `lease`, and with it its keys. Raises `LeaseLost` if it is gone already."""
        self._lease_ends.pop(lease, None)
        await self._wire.revoke_lease(lease)


def _ranges(names: Sequence[str]) -> tuple[Range, ...]:
    return tuple(dict.fromkeys(Range.of(name) for name in names))
