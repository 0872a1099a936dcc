"""Forwarding into a network namespace, here the test's own."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from k8sovs.lab.forward import Forward

DEADLINE_S = 10.0


@asynccontextmanager
async def forwarded(answer: asyncio.Event) -> AsyncIterator[int]:
    """The port of a service that answers only when it is told to."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readline()
        await answer.wait()
        writer.write(b"answer" * 100_000)
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        port = server.sockets[0].getsockname()[1]
        async with Forward(Path("/proc/self/ns/net"), IPv4Address("127.0.0.1"), port) as forward:
            yield forward.port


@pytest.mark.parametrize("says_all", [False, True], ids=["client-may-say-more", "client-has-said-all"])
async def test_a_connection_lives_as_long_as_its_ends_whatever_the_collector_does(says_all: bool) -> None:
    answer = asyncio.Event()
    async with asyncio.timeout(DEADLINE_S), forwarded(answer) as port:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"question\n")
        if says_all:
            writer.write_eof()
        for _ in range(20):
            await asyncio.sleep(0.005)  # the relay is somewhere on its way, wherever that is
            gc.collect()
        answer.set()
        assert len(await reader.read()) == 600_000
        writer.close()
