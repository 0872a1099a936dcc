"""A watch that is doubted asks for a sign of life at once."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import aclosing

import pytest

from k8sovs.etcd import Etcd, EtcdConfig, Listing
from tests.support.etcd import EtcdServers


@pytest.fixture
def servers() -> Iterator[EtcdServers]:
    with EtcdServers() as servers:
        yield servers


async def test_a_doubted_watch_whose_server_answers_goes_on(servers: EtcdServers) -> None:
    async with Etcd(EtcdConfig(servers.endpoints), silence=60) as store, aclosing(store.watch("/a/")) as updates:
        assert isinstance(await anext(updates), Listing)
        following = asyncio.ensure_future(anext(updates))
        for _ in range(20):
            store.doubt()
            await asyncio.sleep(0.02)  # twice while it waits for the answer, too
        servers.put("/a/x", "1")
        await following
        assert store.statistics().interruptions == 0
