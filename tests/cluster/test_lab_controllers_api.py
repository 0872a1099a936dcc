"""The lab's small controllers against an API server, the embedded one and the real one; a person uses kubectl."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncGenerator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog

from k8sovs.kubernetes import EndpointSlice, Kubernetes, Namespace, Node, NotFound, ObjectMeta, Pod, ReplicaSet, Timing
from k8sovs.lab.controllers.loop import CONTROLLER_MANAGER, NAMESPACE_CONTROLLER, SCHEDULER, ControllerLoop
from k8sovs.lab.waiting import wait_until
from tests.support.apiserver import ApiServer, ApiServerProcess
from tests.support.scripted_api import Answer, ScriptedApi

QUICK = Timing(first_delay_s=0.01, longest_delay_s=0.05)
READY = {"type": "Ready", "status": "True"}


@pytest.fixture(params=["embedded", "real_api"])
def api(request: pytest.FixtureRequest, tmp_path: Path) -> ApiServer:
    server: ApiServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def embedded(tmp_path: Path) -> object:
    with ApiServerProcess(tmp_path) as process:
        yield process


@asynccontextmanager
async def controllers(api: ApiServer) -> AsyncGenerator[Kubernetes, None]:
    """All jobs at work, on two nodes that are ready."""
    async with Kubernetes(str(api.kubeconfig), timing=QUICK) as kubernetes:
        for name in ("node1", "node2"):
            await kubernetes.create(Node(metadata=ObjectMeta(name=name)))
            await kubernetes.patch(Node, name, {"status": {"conditions": [READY]}}, subresource="status")
        jobs = [SCHEDULER, CONTROLLER_MANAGER, NAMESPACE_CONTROLLER]
        tasks = [asyncio.create_task(ControllerLoop(kubernetes, job).run()) for job in jobs]
        try:
            yield kubernetes
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


async def has_slices(kubernetes: Kubernetes) -> bool:
    """Kubernetes 1.20, the one that can be built from Debian, has EndpointSlices only as a beta."""
    try:
        await kubernetes.list(EndpointSlice)
    except NotFound:
        return False
    return True


async def until(condition: Callable[[], Awaitable[bool]], what: str) -> None:
    async def problem() -> str | None:
        return None if await condition() else f"waited for {what}"

    await wait_until(problem, timeout_s=20)


async def kubectl(api: ApiServer, *arguments: str) -> str:
    return await asyncio.to_thread(api.kubectl, *arguments)


async def play_kubelet(kubernetes: Kubernetes, count: int) -> list[str]:
    """Wait until `count` pods of `t` have nodes, and say that they run; the nodes that they were given."""

    async def bound() -> bool:
        pods = await kubernetes.list(Pod, namespace="t")
        return len([pod for pod in pods if pod.spec and pod.spec.nodeName]) == count

    await until(bound, "all pods to have nodes")
    nodes = []
    for number, pod in enumerate(await kubernetes.list(Pod, namespace="t"), 2):
        assert pod.metadata is not None
        assert pod.metadata.name is not None
        assert pod.spec is not None
        address = f"172.11.0.{number}"
        status = {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}], "conditions": [READY]}
        await kubernetes.patch(Pod, pod.metadata.name, {"status": status}, namespace="t", subresource="status")
        nodes.append(pod.spec.nodeName or "")
    return nodes


async def test_kubectl_create_deployment_ends_in_pods_on_nodes_and_a_finished_rollout(api: ApiServer) -> None:
    async with controllers(api) as kubernetes:
        await kubectl(api, "create", "ns", "t")
        await kubectl(api, "-n", "t", "create", "deployment", "web", "--image=i", "--replicas=4")
        nodes = await play_kubelet(kubernetes, 4)
        assert set(nodes) == {"node1", "node2"}
        await kubectl(api, "-n", "t", "rollout", "status", "deployment", "web", "--timeout=20s")
        row = (await kubectl(api, "-n", "t", "get", "deployment", "web", "--no-headers")).split()
        assert row[:4] == ["web", "4/4", "4", "4"]


async def test_an_exposed_deployment_has_the_pods_as_endpoints_and_loses_those_that_are_scaled_away(
    api: ApiServer,
) -> None:
    async with controllers(api) as kubernetes:
        if not await has_slices(kubernetes):
            pytest.skip("this API server has no EndpointSlice of version v1")
        await kubectl(api, "create", "ns", "t")
        await kubectl(api, "-n", "t", "create", "deployment", "web", "--image=i", "--replicas=2")
        await kubectl(api, "-n", "t", "expose", "deployment", "web", "--port=80", "--target-port=8080")
        await play_kubelet(kubernetes, 2)

        async def endpoints() -> list[str]:
            told = json.loads(await kubectl(api, "-n", "t", "get", "endpointslices", "-o", "json"))["items"]
            return sorted(
                entry["addresses"][0]
                for body in told
                for entry in body.get("endpoints") or []
                if entry["conditions"]["ready"]
            )

        async def both() -> bool:
            return await endpoints() == ["172.11.0.2", "172.11.0.3"]

        async def one() -> bool:
            return len(await endpoints()) == 1

        await until(both, "two endpoints")
        table = (await kubectl(api, "-n", "t", "get", "endpoints", "web", "--no-headers")).split()
        assert table[:2] == ["web", "172.11.0.2:8080,172.11.0.3:8080"]
        assert "172.11.0.2:8080,172.11.0.3:8080" in await kubectl(api, "-n", "t", "describe", "service", "web")
        await kubectl(api, "-n", "t", "scale", "deployment", "web", "--replicas=1")
        await until(one, "one endpoint")


async def test_what_a_deployment_owns_goes_with_it(api: ApiServer) -> None:
    async with controllers(api) as kubernetes:
        await kubectl(api, "create", "ns", "t")
        await kubectl(api, "-n", "t", "create", "deployment", "web", "--image=i")
        await play_kubelet(kubernetes, 1)
        await kubectl(api, "-n", "t", "delete", "deployment", "web")

        async def leaving() -> bool:
            pods = await kubernetes.list(Pod, namespace="t")
            return all(pod.metadata is not None and pod.metadata.deletionTimestamp is not None for pod in pods)

        await until(leaving, "the pods to be deleted")
        assert await kubectl(api, "-n", "t", "get", "replicasets", "-o", "name") == ""


async def test_an_object_stays_while_its_owner_is_there_and_goes_after_it(api: ApiServer) -> None:
    async with controllers(api) as kubernetes:
        await kubectl(api, "create", "ns", "t")
        await kubectl(api, "-n", "t", "create", "service", "clusterip", "owner", "--tcp=80")
        uid = await kubectl(api, "-n", "t", "get", "service", "owner", "-o", "jsonpath={.metadata.uid}")
        reference = {"apiVersion": "v1", "kind": "Service", "name": "owner", "uid": uid}
        metadata = {"name": "owned", "ownerReferences": [reference]}
        body = {"metadata": metadata, "spec": {"containers": [{"name": "c", "image": "i"}]}}
        created = await asyncio.to_thread(api.request, "POST", "/api/v1/namespaces/t/pods", body)
        assert created[0] == 201
        await play_kubelet(kubernetes, 1)
        await kubectl(api, "-n", "t", "delete", "service", "owner")

        async def leaving() -> bool:
            (pod,) = await kubernetes.list(Pod, namespace="t")
            return pod.metadata is not None and pod.metadata.deletionTimestamp is not None

        await until(leaving, "the pods to be deleted")


async def test_a_namespace_with_pods_ends_when_they_do(api: ApiServer) -> None:
    async with controllers(api) as kubernetes:
        await kubectl(api, "create", "ns", "t")
        await kubectl(api, "-n", "t", "run", "p", "--image=i")
        await play_kubelet(kubernetes, 1)
        await kubectl(api, "delete", "ns", "t", "--wait=false")

        async def leaving() -> bool:
            (pod,) = await kubernetes.list(Pod, namespace="t")
            return pod.metadata is not None and pod.metadata.deletionTimestamp is not None

        await until(leaving, "the pods to be deleted")
        await kubernetes.get(Namespace, "t")
        await kubernetes.delete(Pod, "p", namespace="t", grace_period_s=0)

        async def gone() -> bool:
            return "t" not in {item.metadata.name for item in await kubernetes.list(Namespace) if item.metadata}

        await until(gone, "the namespace to be gone")


async def test_orphans_stay_and_forget_their_owner(api: ApiServer) -> None:
    async with controllers(api) as kubernetes:
        await kubectl(api, "create", "ns", "t")
        await kubectl(api, "-n", "t", "create", "deployment", "web", "--image=i")
        await play_kubelet(kubernetes, 1)
        await kubectl(api, "-n", "t", "delete", "deployment", "web", "--cascade=orphan", "--timeout=20s")
        (replica_set,) = await kubernetes.list(ReplicaSet, namespace="t")
        assert replica_set.metadata is not None
        assert not replica_set.metadata.ownerReferences
        (pod,) = await kubernetes.list(Pod, namespace="t")
        assert pod.metadata is not None
        assert pod.metadata.deletionTimestamp is None


async def test_an_owner_deleted_in_the_foreground_stays_until_its_pods_are_gone(api: ApiServer) -> None:
    async with controllers(api) as kubernetes:
        await kubectl(api, "create", "ns", "t")
        await kubectl(api, "-n", "t", "create", "deployment", "web", "--image=i")
        await play_kubelet(kubernetes, 1)
        await kubectl(api, "-n", "t", "delete", "deployment", "web", "--cascade=foreground", "--wait=false")

        async def leaving() -> bool:
            pods = await kubernetes.list(Pod, namespace="t")
            return all(pod.metadata is not None and pod.metadata.deletionTimestamp is not None for pod in pods)

        await until(leaving, "the pods to be deleted")
        assert await kubectl(api, "-n", "t", "get", "deployments,replicasets", "-o", "name") != ""
        (pod,) = await kubernetes.list(Pod, namespace="t")
        assert pod.metadata is not None
        assert pod.metadata.name is not None
        await kubernetes.delete(Pod, pod.metadata.name, namespace="t", grace_period_s=0)

        async def gone() -> bool:
            return await kubectl(api, "-n", "t", "get", "deployments,replicasets", "-o", "name") == ""

        await until(gone, "the owners to be gone")


async def test_endpoints_written_by_hand_become_endpoint_slices_and_go_with_them(api: ApiServer) -> None:
    async with controllers(api) as kubernetes:
        if not await has_slices(kubernetes):
            pytest.skip("this API server has no EndpointSlice of version v1")
        await kubectl(api, "create", "ns", "t")
        service = {"metadata": {"name": "db"}, "spec": {"ports": [{"port": 5432}]}}
        assert (await asyncio.to_thread(api.request, "POST", "/api/v1/namespaces/t/services", service))[0] == 201
        subset = {"addresses": [{"ip": "198.51.100.7"}], "ports": [{"port": 5432}]}
        body = {"metadata": {"name": "db"}, "subsets": [subset]}
        assert (await asyncio.to_thread(api.request, "POST", "/api/v1/namespaces/t/endpoints", body))[0] == 201

        async def mirrored() -> list[tuple[list[str], int | None]]:
            found = await kubernetes.list(EndpointSlice, namespace="t", label_selector="kubernetes.io/service-name=db")
            return [
                (endpoint.addresses, port.port)
                for each in found
                for endpoint in each.endpoints
                for port in each.ports or []
            ]

        async def one() -> bool:
            return await mirrored() == [(["198.51.100.7"], 5432)]

        async def none() -> bool:
            return await mirrored() == []

        await until(one, "the mirrored slice")
        await kubectl(api, "-n", "t", "delete", "endpoints", "db")
        await until(none, "the mirrored slice to be gone")


async def test_an_api_without_a_kind_is_said_once_and_the_rest_is_done(tmp_path: Path) -> None:
    missing = Answer({"kind": "Status", "code": 404, "reason": "NotFound"}, 404)
    async with ScriptedApi(tmp_path, [missing]) as scripted, Kubernetes(str(scripted.kubeconfig)) as kubernetes:
        with structlog.testing.capture_logs() as lines:
            task = asyncio.create_task(ControllerLoop(kubernetes, CONTROLLER_MANAGER).run())
            async with asyncio.timeout(20):
                await scripted.wait_requests(len(CONTROLLER_MANAGER.watched))
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
    asked = [request.path.rpartition("/")[2] for request in scripted.requests]
    assert asked.count("endpointslices") == 1
    assert [line["kind"] for line in lines if line["event"] == "kind-not-offered"] == ["EndpointSlice"]
    assert set(asked) >= {"pods", "services", "endpoints", "deployments", "replicasets", "namespaces", "nodes"}
