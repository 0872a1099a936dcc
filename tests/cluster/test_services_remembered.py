"""What an agent knows of Services when it starts and Kubernetes is away, or says something that cannot be read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.services import Services
from agent.services_file import Remembered, ServicesFile
from agent.snapshot_file import SnapshotFile
from flows.service import Backend, Endpoint, Protocol, Service, ServicePort
from k8sovs.kubernetes import Statistics
from tests.support.scripted_api import Answer, Request, ScriptedApi, Stream, Then

DEADLINE_S = 20.0
REMEMBERED = Service(
    "red/web",
    (IPv4Address("10.96.0.10"),),
    (ServicePort(Protocol.TCP, 80, 30080, (Endpoint(Backend(IPv4Address("172.11.0.2"), 8080), local=True),)),),
    external=(IPv4Address("198.51.100.7"),),
    affinity_s=60,
)
OBJECT = {
    "metadata": {"name": "web", "namespace": "red", "uid": "1"},
    "spec": {"clusterIP": "10.96.0.10", "ports": [{"name": "p", "port": 80}]},
}
SLICE = {
    "metadata": {
        "name": "web-x", "namespace": "red", "uid": "2", "labels": {"kubernetes.io/service-name": "web"}
    },
    "addressType": "IPv4",
    "endpoints": [{"addresses": ["172.11.0.3"], "conditions": {"ready": True}}],
    "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}],
}  # fmt: skip
UNREADABLE = {**SLICE, "endpoints": 7}


@pytest.fixture
def file(tmp_path: Path) -> ServicesFile:
    remembering = ServicesFile(SnapshotFile(tmp_path / "services.json"), "node1")
    remembering.save({"red/web": Remembered(REMEMBERED, ("web-x",))})
    return remembering


def saying(services: list[object], slices: list[object]) -> Mapping[str, list[object]]:
    return {"services": services, "endpointslices": slices}


@asynccontextmanager
async def told(tmp_path: Path, file: ServicesFile, said: Mapping[str, list[object]]) -> AsyncIterator[Services]:
    """An agent's Services after both were listed."""

    def answer(request: Request) -> Answer | Stream:
        if "watch" in request.query:
            return Stream((), Then.HANG)
        items = said[request.path.rsplit("/", 1)[1]]
        return Answer({"kind": "List", "metadata": {"resourceVersion": "5"}, "items": items})

    async with ScriptedApi(tmp_path, afterwards=answer) as api:
        services = Services(api.kubeconfig, "node1", Statistics(), file)
        services.restore()
        running = asyncio.create_task(services.run())
        try:
            async with asyncio.timeout(DEADLINE_S):
                while not services.synced:
                    await services.changed.wait_beyond(services.changed.count)
            yield services
        finally:
            running.cancel()
            await asyncio.wait({running})


def backends(services: Services) -> list[str]:
    return [str(one.backend.address) for port in services.current["red/web"].ports for one in port.endpoints]


async def test_what_the_file_remembers_is_there_at_once_and_may_remove_nothing(
    tmp_path: Path, file: ServicesFile
) -> None:
    services = Services(tmp_path / "none", "node1", Statistics(), file)
    services.restore()
    assert services.current == {"red/web": REMEMBERED}
    assert not services.synced


async def test_the_view_of_another_node_is_not_taken_over(tmp_path: Path, file: ServicesFile) -> None:
    assert ServicesFile(SnapshotFile(tmp_path / "services.json"), "node2").load() == {}
    assert file.load() != {}


async def test_a_record_that_cannot_be_read_costs_no_other(tmp_path: Path, file: ServicesFile) -> None:
    snapshot = SnapshotFile(tmp_path / "services.json")
    saved = snapshot.load()
    assert saved is not None
    broken = {"red/a": "{", "red/b": '{"service":{"key":"red/b","cluster_addresses":["x"],"ports":[]},"slices":[]}'}
    snapshot.save(type(saved)(0, {**saved.records, **broken}))
    assert file.load().keys() == {"red/web"}


async def test_what_kubernetes_says_takes_the_place_of_what_is_remembered(tmp_path: Path, file: ServicesFile) -> None:
    async with told(tmp_path, file, saying([OBJECT], [SLICE])) as services:
        assert backends(services) == ["172.11.0.3"]


async def test_a_service_that_is_gone_when_kubernetes_is_heard_goes(tmp_path: Path, file: ServicesFile) -> None:
    async with told(tmp_path, file, saying([], [])) as services:
        assert services.current == {}


@pytest.mark.parametrize(
    "said", [saying([OBJECT], [UNREADABLE]), saying([{**OBJECT, "spec": 7}], [SLICE])], ids=["slice", "service"]
)
async def test_what_exists_and_cannot_be_read_is_as_it_was_remembered(
    tmp_path: Path, file: ServicesFile, said: Mapping[str, list[object]]
) -> None:
    async with told(tmp_path, file, said) as services:
        assert services.current == {"red/web": REMEMBERED}


async def test_what_was_heard_is_remembered(tmp_path: Path, file: ServicesFile) -> None:
    async with told(tmp_path, file, saying([OBJECT], [SLICE])) as services:
        async with asyncio.timeout(DEADLINE_S):
            while file.load() != {"red/web": Remembered(services.current["red/web"], ("web-x",))}:  # noqa: ASYNC110 - a file
                await asyncio.sleep(0.05)
