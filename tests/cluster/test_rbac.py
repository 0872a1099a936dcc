"""The roles that we ship, on API servers that enforce them: each daemon may do what it does, and nothing else.

The lab's own server enforces them too, so every test with a lab shows that they suffice.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import pytest

from k8sovs.kubernetes import (
    EndpointSlice,
    Kubernetes,
    KubernetesError,
    Namespace,
    Node,
    ObjectMeta,
    Pod,
    Resource,
    Service,
)
from k8sovs.lab import realserver
from k8sovs.lab.apiserver.authorization import user_name
from k8sovs.lab.cluster import write_kubeconfig
from tests.support.apiserver import ApiServerProcess, RealApiServer

Account = Callable[[str], Awaitable[Kubernetes]]


@pytest.fixture(params=["embedded_with_roles", "real_api"])
def account(request: pytest.FixtureRequest, tmp_path: Path) -> Account:
    """Gives a client that is the service account of one of our daemons."""
    server = request.getfixturevalue(request.param)

    async def client(who: str) -> Kubernetes:
        path, name = tmp_path / f"kubeconfig-{who}", realserver.ACCOUNTS[who]
        if isinstance(server, RealApiServer):
            async with Kubernetes(str(server.kubeconfig)) as admin:
                await realserver.install_roles(admin)
                user = await realserver.by_token(admin, name)
            write_kubeconfig(path, f"https://{server.address}", server.pki, user)
        else:
            token = user_name(realserver.ACCOUNT_NAMESPACE, name)
            write_kubeconfig(path, f"http://{server.address}", None, {"token": token})
        return Kubernetes(str(path))

    return client


@pytest.fixture
def embedded_with_roles(tmp_path: Path) -> Iterator[ApiServerProcess]:
    with ApiServerProcess(tmp_path, "--manifest", str(realserver.RBAC)) as process:
        yield process


async def refused(work: Awaitable[object]) -> None:
    with pytest.raises(KubernetesError, match="forbidden"):
        await work


async def test_the_controller_reads_namespaces_and_nodes_tells_events_and_changes_nothing(account: Account) -> None:
    async with await account("controller") as controller:
        await controller.list(Node)
        default = next(item for item in await controller.list(Namespace) if item.metadata and item.metadata.name)
        await controller.create_event("default", default, "ActionRefused", "told by a test", "k8sovs-controller")
        await refused(controller.create(Namespace(metadata=ObjectMeta(name="t"))))
        await refused(controller.delete(Namespace, "default"))
        for kind in (Pod, Service):
            await refused(controller.list(kind))


async def test_an_agent_reads_pods_and_services_tells_events_and_changes_nothing(account: Account) -> None:
    async with await account("agent") as agent:
        readable: tuple[type[Resource], ...] = (Pod, Service, EndpointSlice)
        for kind in readable:
            await agent.list(kind)
        pod = Pod(metadata=ObjectMeta(name="p", namespace="default"))
        await agent.create_event("default", pod, "BandwidthNotLimited", "told by a test", "k8sovs-agent")
        for kind in (Namespace, Node):
            await refused(agent.list(kind))
        await refused(agent.patch(Pod, "p", {"metadata": {"labels": {"a": "b"}}}, namespace="default"))
        await refused(agent.get(Pod, "p", namespace="default"))
        await refused(agent.delete(Pod, "p", namespace="default"))
