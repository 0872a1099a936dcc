"""The HTTP endpoint of a process, asked over real sockets while the loop does its work, or does not."""

from __future__ import annotations

import asyncio
import socket
import time
import urllib.error
import urllib.request

import pytest
from prometheus_client import CollectorRegistry, Counter

from k8sovs.exposition import Exposition, ExpositionError


def free_address() -> str:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        return f"127.0.0.1:{sock.getsockname()[1]}"


def get(address: str, path: str) -> tuple[int, str]:
    try:
        with urllib.request.urlopen(f"http://{address}{path}", timeout=20) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


async def test_a_process_that_starts_is_alive_and_not_ready() -> None:
    address = free_address()
    async with Exposition(CollectorRegistry(), address):
        assert await asyncio.to_thread(get, address, "/livez") == (200, "ok\n")
        assert await asyncio.to_thread(get, address, "/readyz") == (503, "starting\n")


async def test_the_reason_not_to_be_ready_is_told() -> None:
    address, reasons = free_address(), ["no switch", ""]

    async def why_not() -> str:
        return reasons.pop(0)

    async with Exposition(CollectorRegistry(), address) as exposition:
        exposition.ready_when(why_not)
        assert await asyncio.to_thread(get, address, "/readyz") == (503, "no switch\n")
        assert await asyncio.to_thread(get, address, "/readyz") == (200, "ok\n")


async def test_a_stuck_loop_is_not_alive_and_its_counters_are_shown_all_the_same() -> None:
    address, registry = free_address(), CollectorRegistry()
    Counter("k8sovs_seen", "Seen.", registry=registry).inc(3)
    async with Exposition(registry, address, live_deadline_s=0.3):
        asked = [asyncio.create_task(asyncio.to_thread(get, address, path)) for path in ("/livez", "/metrics")]
        await asyncio.sleep(0)
        time.sleep(2)  # noqa: ASYNC251 - this is the stuck loop
        (status, text), (_, metrics) = await asyncio.gather(*asked)
        assert (status, text) == (503, "the event loop has not answered for 0.3 s\n")
        assert "k8sovs_seen_total 3.0" in metrics
        assert await asyncio.to_thread(get, address, "/livez") == (200, "ok\n")


async def test_what_is_looked_at_is_looked_at_each_time() -> None:
    address, registry = free_address(), CollectorRegistry()
    looks = Counter("k8sovs_looks", "Looks.", registry=registry)

    async def look() -> None:
        looks.inc()

    async with Exposition(registry, address) as exposition:
        exposition.refresh_with(look)
        await asyncio.to_thread(get, address, "/metrics")
        _, text = await asyncio.to_thread(get, address, "/metrics")
        assert "k8sovs_looks_total 2.0" in text


async def test_another_path_is_not_found() -> None:
    address = free_address()
    async with Exposition(CollectorRegistry(), address):
        assert (await asyncio.to_thread(get, address, "/"))[0] == 404


async def test_an_address_that_is_taken_is_an_error_in_words() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = f"127.0.0.1:{taken.getsockname()[1]}"
        with pytest.raises(ExpositionError, match="cannot listen"):
            async with Exposition(CollectorRegistry(), address):
                pass


async def test_without_an_address_nothing_is_served() -> None:
    async with Exposition(CollectorRegistry(), ""):
        pass
