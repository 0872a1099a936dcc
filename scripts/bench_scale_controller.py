"""A controller among ten thousand namespaces and five thousand nodes, on a real etcd.

The controller is the product's own process. What it wrote is judged by a watch of etcd in this process, of which it
knows nothing. `python -m scripts.bench_scale_controller SCALE` runs it alone.
"""

from __future__ import annotations

import asyncio
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, aclosing, suppress
from dataclasses import dataclass, field
from pathlib import Path

from k8sovs import logs
from k8sovs.etcd import Etcd, EtcdConfig, Listing
from scripts.bench_figures import Report, percentile
from scripts.bench_scale_processes import ScaleApi, end_in_good_order, peak_mb, resident_mb, wait_until
from scripts.bench_scale_world import KEYS, NETWORK, SCALES, Scale, node_address
from tests.support.controllers import ControllerProcess, Site
from tests.support.etcd import EtcdServers

CHANGES_PER_S = 20
CHURN_S = {"full": 60, "tenth": 20}
LEASE_TTL_S = 5
"""The default of the product."""
FAILOVERS = 2
PATIENCE_S = 240.0


@dataclass
class Records:
    """What etcd has, and when each key came or went (`time.monotonic`)."""

    at: dict[str, float] = field(default_factory=dict)
    gone: dict[str, float] = field(default_factory=dict)
    writes: int = 0
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    async def follow(self, etcd: Etcd) -> None:
        """For ever."""
        async with aclosing(etcd.watch(KEYS.vnids, KEYS.subnets)) as updates:
            async for update in updates:
                now = time.monotonic()
                puts = list(update.items) if isinstance(update, Listing) else [item.key for item in update.puts]
                deletes = () if isinstance(update, Listing) else update.deletes
                self.at.update(dict.fromkeys(puts, now))
                self.gone.update(dict.fromkeys(deletes, now))
                for key in deletes:
                    self.at.pop(key, None)
                self.writes += len(puts) + len(deletes)
                self.changed.set()

    async def wait(self, condition: Callable[[], bool], what: str) -> float:
        """Until `condition` of what is known holds; the time of the change that made it."""
        try:
            async with asyncio.timeout(PATIENCE_S):
                while not condition():
                    self.changed.clear()
                    await self.changed.wait()
        except TimeoutError:
            raise SystemExit(f"not within {PATIENCE_S:.0f} s: {what}; {len(self.at)} records are there") from None
        return time.monotonic()


def main() -> None:
    """One scale, named on the command line."""
    end_in_good_order()
    logs.configure("warning")
    report = Report()
    asyncio.run(measure(report, SCALES[sys.argv[1]]))
    report.last_line()


async def measure(report: Report, scale: Scale) -> None:
    """All figures of one scale."""
    report.section(f"controller: {scale.namespaces} namespaces, {scale.nodes} nodes, real etcd")
    with tempfile.TemporaryDirectory(prefix="bench-scale-") as directory, ExitStack() as stack:
        servers = stack.enter_context(EtcdServers())
        api = stack.enter_context(ScaleApi(Path(directory), scale))
        async with Etcd(EtcdConfig(servers.endpoints)) as etcd:
            records = Records()
            following = asyncio.create_task(records.follow(etcd))
            try:
                await _Controllers(report, scale, Site(servers, api), api, records, stack).measure()
            finally:
                following.cancel()
                with suppress(asyncio.CancelledError):
                    await following


class _Controllers:
    """The course of the measurement."""

    def __init__(
        self, report: Report, scale: Scale, site: Site, api: ScaleApi, records: Records, stack: ExitStack
    ) -> None:
        self._report = report
        self._scale = scale
        self._site = site
        self._api = api
        self._records = records
        self._stack = stack
        self._next = scale.namespaces

    async def measure(self) -> None:
        """Cold, churn, warm, failover; in an order in which each finds what it needs."""
        controller = self._controller("c1")
        suffix, report = self._scale.suffix, self._report
        report.value(f"controller_cold_s{suffix}", await self._cold(controller), "60")
        delays = await self._churn()
        report.samples(f"{CHANGES_PER_S} namespaces a second come or go, to the record", delays)
        report.value(f"controller_p50_ms{suffix}", percentile(delays, 50))
        report.value(f"controller_p99_ms{suffix}", percentile(delays, 99), "100")
        report.value(f"controller_peak_mb{suffix}", peak_mb(controller.pid), digits=0)
        controller.stop()
        warm_s, writes = await self._warm(controller)
        report.value(f"controller_warm_s{suffix}", warm_s, "3")
        report.value(f"controller_warm_rewrites{suffix}", writes, "0", digits=0)
        report.value(f"controller_rss_mb{suffix}", resident_mb(controller.pid), "200", digits=0)
        failovers = await self._failovers(controller)
        report.value(f"controller_failover_s{suffix}", max(failovers), f"{LEASE_TTL_S + 1}: lease and 1 s")

    async def _cold(self, controller: ControllerProcess) -> float:
        """From exec to the last record."""
        wanted, began = self._scale.namespaces + self._scale.nodes, time.monotonic()
        controller.start()
        return await self._records.wait(lambda: len(self._records.at) >= wanted, f"{wanted} records") - began

    async def _churn(self) -> list[float]:
        """Milliseconds from what the API server tells to the record, namespaces coming and going in turns."""
        told: list[tuple[str, float, bool]] = []
        began = time.monotonic()
        for number in range(CHANGES_PER_S * CHURN_S[self._scale.name]):
            await asyncio.sleep(max(0.0, began + number / CHANGES_PER_S - time.monotonic()))
            comes = number % 2 == 0
            which = self._next if comes else number // 2
            self._next += comes
            method = "POST" if comes else "DELETE"
            name, at = await asyncio.to_thread(self._api.change, method, "namespaces", which)
            told.append((KEYS.vnid(name), at, comes))
        there, gone = self._records.at, self._records.gone
        await self._records.wait(lambda: all(key in (there if comes else gone) for key, _, comes in told), "the churn")
        return [((there if comes else gone)[key] - at) * 1000 for key, at, comes in told]

    async def _warm(self, controller: ControllerProcess) -> tuple[float, int]:
        """From exec until it has dealt with what came while it was away; and how much else it wrote.

        A namespace and a node came: who has given both what is theirs has read everything, leads, and works.
        """
        namespace, _ = self._api.change("POST", "namespaces", self._take_number())
        self._api.change("POST", "nodes", self._scale.nodes)
        wanted = {KEYS.vnid(namespace), KEYS.subnet(node_address(self._scale.nodes))}
        writes, began = self._records.writes, time.monotonic()
        controller.start()
        warm_s = await self._records.wait(lambda: wanted <= self._records.at.keys(), "the warm start") - began
        return warm_s, self._records.writes - writes - len(wanted)

    async def _failovers(self, leader: ControllerProcess) -> list[float]:
        """Seconds from the leader's death to its successor's record of a namespace that comes just then."""
        standby, seconds = self._controller("c2"), []
        for _ in range(FAILOVERS):
            standby.start()
            await asyncio.to_thread(self._wait_candidates, 2)
            leader.kill()
            name, at = self._api.change("POST", "namespaces", self._take_number())
            key = KEYS.vnid(name)
            await self._records.wait(lambda key=key: key in self._records.at, "the failover")
            seconds.append(self._records.at[key] - at)
            leader, standby = standby, leader
        return seconds

    def _wait_candidates(self, count: int) -> None:
        wait_until(
            lambda: len(self._site.values(KEYS.leader)) >= count,
            f"{count} controllers stand for election (see their logs)",
            within_s=PATIENCE_S,
            every_s=0.1,  # each look is an etcdctl
        )

    def _controller(self, identity: str) -> ControllerProcess:
        """One that is not started yet; it ends with the measurement."""
        settings = {
            "K8SOVS_NETWORK": NETWORK.encode().decode(),
            "K8SOVS_LEASE_TTL_S": str(LEASE_TTL_S),
        }
        controller = self._site.controller(identity, **settings)
        self._stack.callback(controller.__exit__, None, None, None)
        return controller

    def _take_number(self) -> int:
        self._next += 1
        return self._next - 1


if __name__ == "__main__":
    main()
