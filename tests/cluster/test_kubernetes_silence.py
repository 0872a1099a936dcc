"""The list/watch loop on a connection that falls silent, as when a machine or a way to it is lost."""

from __future__ import annotations

import asyncio
import os
import threading
from collections.abc import Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from k8sovs.kubernetes import Kubernetes, Listed, Namespace, Put, Timing
from tests.support.apiserver import ApiServerProcess
from tests.support.namespaces import fresh_namespace
from tests.support.partition import Fault, broken

TIMING = Timing(request_s=1.0, keepalive_s=1, longest_delay_s=0.5)  # but a watch may be inactive for 100 s
GIVEN_UP_WITHIN_S = 20.0


@pytest.fixture
def api(tmp_path: Path) -> Iterator[ApiServerProcess]:
    with fresh_namespace(), ApiServerProcess(tmp_path) as process:
        yield process


@pytest.mark.parametrize("settled", [True, False], ids=["idle", "asking"])
async def test_a_silent_connection_is_given_up_long_before_a_watch_counts_as_inactive(
    api: ApiServerProcess, settled: bool
) -> None:
    port = int(api.address.rpartition(":")[2])
    here = f"/proc/{os.getpid()}/task/{threading.get_native_id()}/ns/net"
    kubernetes = Kubernetes(str(api.kubeconfig), timing=TIMING)
    async with kubernetes, aclosing(kubernetes.watch(Namespace)) as changes:
        assert isinstance(await anext(changes), Listed)
        if settled:
            api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "sooner"}})
            assert isinstance(await anext(changes), Put)
        following = asyncio.ensure_future(anext(changes))
        with broken(Fault.SILENT, [port], here):
            async with asyncio.timeout(GIVEN_UP_WITHIN_S):
                while not kubernetes.statistics().errors:  # noqa: ASYNC110 - it is the kernel that ends it
                    await asyncio.sleep(0.05)
        api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "later"}})
        async with asyncio.timeout(GIVEN_UP_WITHIN_S):
            assert isinstance(await following, Put)
