"""The roles that we ship, on an API server that enforces them."""

from __future__ import annotations

from pathlib import Path

import pytest

from k8sovs.kubernetes import Kubernetes, KubernetesError, Namespace, Node, ObjectMeta, Pod
from k8sovs.lab import realserver
from k8sovs.lab.cluster import write_kubeconfig
from tests.support.apiserver import RealApiServer


async def account(api: RealApiServer, directory: Path, who: str) -> Kubernetes:
    """A client that is the service account of one of our daemons."""
    path = directory / f"kubeconfig-{who}"
    async with Kubernetes(str(api.kubeconfig)) as admin:
        await realserver.install_roles(admin)
        user = await realserver.by_token(admin, realserver.ACCOUNTS[who])
    write_kubeconfig(path, f"https://{api.address}", api.pki, user)
    return Kubernetes(str(path))


async def test_the_controller_reads_namespaces_and_nodes_tells_events_and_changes_nothing(
    real_api: RealApiServer, tmp_path: Path
) -> None:
    async with await account(real_api, tmp_path, "controller") as controller:
        await controller.list(Node)
        default = next(item for item in await controller.list(Namespace) if item.metadata and item.metadata.name)
        await controller.create_event("default", default, "ActionRefused", "told by a test", "k8sovs-controller")
        with pytest.raises(KubernetesError, match="forbidden"):
            await controller.create(Namespace(metadata=ObjectMeta(name="t")))
        with pytest.raises(KubernetesError, match="forbidden"):
            await controller.list(Pod)


async def test_an_agent_reads_pods_and_changes_nothing(real_api: RealApiServer, tmp_path: Path) -> None:
    async with await account(real_api, tmp_path, "agent") as agent:
        await agent.list(Pod)
        for kind in (Namespace, Node):
            with pytest.raises(KubernetesError, match="forbidden"):
                await agent.list(kind)
        with pytest.raises(KubernetesError, match="forbidden"):
            await agent.patch(Pod, "p", {"metadata": {"labels": {"a": "b"}}}, namespace="default")
