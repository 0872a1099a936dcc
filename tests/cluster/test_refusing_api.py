"""An API server that refuses: controller and agent wait, say so once, and go on when they are let in."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress
from ipaddress import IPv4Address
from pathlib import Path

import pytest
from prometheus_client import CollectorRegistry
from structlog.testing import capture_logs

from agent.attachment import PodAttachment
from agent.bandwidth import Bandwidth
from agent.limits import UNLIMITED, Limits
from cni.request import AttachmentKey, PodIdentity
from flows.snapshot import Tenancy
from k8sovs.kubernetes import Statistics
from tests.support.etcd import EtcdServers
from tests.support.lab import eventually
from tests.support.scripted_api import Answer, Request, ScriptedApi, Stream, Then, silence

DEADLINE_S = 20.0
REFUSALS = pytest.mark.parametrize(
    ("code", "reason"), [(403, "Forbidden"), (401, "Unauthorized"), (429, "TooManyRequests")]
)
NETWORK = {
    "Name": "refused",
    "Network": "172.11.0.0/16",
    "HostSubnetLength": 10,
    "ServiceNetwork": "10.96.0.0/12",
    "PluginName": "k8s-ovs-multitenant",
}
METADATA = {"uid": "u1", "resourceVersion": "5"}
OBJECTS = {
    "/api/v1/namespaces": {"metadata": {**METADATA, "name": "red"}},
    "/api/v1/nodes": {
        "metadata": {**METADATA, "name": "node1"},
        "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]},
    },
    "/api/v1/pods": {
        "metadata": {
            **METADATA,
            "name": "web",
            "namespace": "red",
            "annotations": {"kubernetes.io/ingress-bandwidth": "10M"},
        }
    },
}


class Gatekeeper:
    """Refuses every request with `code` until `open` is set; then there is one object of each kind."""

    def __init__(self, code: int, reason: str) -> None:
        self.open = False
        self._code = code
        self._refusal = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": "not you"}

    def answer(self, request: Request) -> Answer | Stream:
        if not self.open:
            return Answer(self._refusal, self._code, {"Content-Type": "application/json"})
        if "watch" in request.query:
            return silence(request)
        found = OBJECTS.get(request.path)
        if found is None:
            return Stream((), Then.HANG)
        return Answer({"kind": "List", "metadata": {"resourceVersion": "5"}, "items": [found]})


@asynccontextmanager
async def refusing(directory: Path, code: int, reason: str) -> AsyncIterator[tuple[Gatekeeper, ScriptedApi]]:
    keeper = Gatekeeper(code, reason)
    async with ScriptedApi(directory, afterwards=keeper.answer) as api:
        yield keeper, api


async def wait_refusals(api: ScriptedApi, path: str, count: int) -> None:
    """Until `path` has been asked for, in vain, that often."""
    async with asyncio.timeout(DEADLINE_S):
        seen = 0
        while sum(request.path == path for request in api.requests) < count:
            seen = max(seen, len(api.requests)) + 1
            await api.wait_requests(seen)


POD = PodAttachment(
    AttachmentKey("container", "eth0"),
    PodIdentity("red", "web", "u1"),
    "/run/netns/x",
    IPv4Address("172.11.0.2"),
    Tenancy(10, frozenset({10})),
)


@REFUSALS
async def test_an_agent_that_is_refused_keeps_what_it_has_says_so_once_and_goes_on_when_let_in(
    tmp_path: Path, code: int, reason: str
) -> None:
    async with refusing(tmp_path, code, reason) as (keeper, api):
        bandwidth = Bandwidth(api.kubeconfig, "node1", CollectorRegistry(), Statistics())
        with capture_logs() as logs:
            running = asyncio.create_task(bandwidth.run())
            await wait_refusals(api, "/api/v1/pods", 4)
            assert bandwidth.current(POD) == UNLIMITED
            assert not running.done()
            keeper.open = True
            async with asyncio.timeout(DEADLINE_S):
                await bandwidth.changed.wait_beyond(0)
            running.cancel()
            with suppress(asyncio.CancelledError):
                await running
    assert bandwidth.current(POD) == Limits(ingress=10_000_000, egress=None)
    said = [entry for entry in logs if entry["event"] == "kubernetes-watch-interrupted"]
    assert len(said) == 1
    assert "not you" in said[0]["error"]


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServers]:
    with EtcdServers() as running:
        yield running


@REFUSALS
async def test_a_controller_that_is_refused_waits_says_so_once_and_goes_on_when_let_in(
    tmp_path: Path, etcd: EtcdServers, code: int, reason: str
) -> None:
    prefix = f"/refused-{code}"
    async with refusing(tmp_path, code, reason) as (keeper, api), controller(etcd, prefix, api, tmp_path) as log:
        await wait_refusals(api, "/api/v1/namespaces", 4)
        assert records(etcd, prefix) == []
        keeper.open = True
        await asyncio.to_thread(eventually, lambda: len(records(etcd, prefix)) == 2, "node and namespace are served")
    assert records(etcd, prefix) == ["192.0.2.11", "red"]
    said = [line for line in log.read_text().splitlines() if "interrupted" in line]
    assert sorted("namespaces" in line for line in said) == [False, True], "once for each kind of object"
    assert all("not you" in line for line in said)


def records(etcd: EtcdServers, prefix: str) -> list[str]:
    """The nodes that have a subnet, and the namespaces that have a VNI."""
    keys = etcd.etcdctl("get", "--prefix", "--keys-only", f"{prefix}/refused/").split()
    return sorted(key.rpartition("/")[2] for key in keys if "/subnets/" in key or "/vnids/" in key)


@asynccontextmanager
async def controller(etcd: EtcdServers, prefix: str, api: ScriptedApi, directory: Path) -> AsyncIterator[Path]:
    """A controller as a process; its log."""
    settings = {
        "K8SOVS_CONFIG": "/dev/null",
        "K8SOVS_IDENTITY": "c",
        "K8SOVS_ETCD_ENDPOINTS": ",".join(etcd.endpoints),
        "K8SOVS_PREFIX": prefix,
        "K8SOVS_NETWORK": json.dumps(NETWORK),
        "K8SOVS_KUBECONFIG": str(api.kubeconfig),
    }
    log = directory / "controller.log"
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "k8sovs.cli", "controller"), stdout=output, stderr=output, env=os.environ | settings
        )
        try:
            yield log
        finally:
            process.terminate()
            await process.wait()
