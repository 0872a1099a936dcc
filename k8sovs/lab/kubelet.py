"""A small kubelet: keeps one Node object, and gives each Pod bound to that node a network namespace and its network.

A sandbox is a network namespace with nothing running in it. What a kubelet does with a sandbox it does in order: CNI
ADD, status; when the pod is to go CNI DEL, the namespace removed, the Pod object deleted for good. Each pod has a task
of its own, so that a slow one holds up nobody.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, cast

from k8sovs.kubernetes import (
    AlreadyExists,
    Conflict,
    Gone,
    Kubernetes,
    KubernetesError,
    Listed,
    Node,
    NotFound,
    Pod,
)
from k8sovs.lab import netns, runtime
from k8sovs.lab.layout import NETNS_ROOT, Lab, LabError, NodeLayout
from k8sovs.lab.netns import Journal
from k8sovs.lab.runtime import Sandbox
from k8sovs.logs import get_logger

RETRY_S = 1.0
POLL_S = 0.5

log = get_logger(__name__)


@dataclass(slots=True)
class _PodTask:
    """One pod on its way: `leaving` is set when it should go."""

    leaving: asyncio.Event = field(default_factory=asyncio.Event)
    sandbox: Sandbox | None = None


class Kubelet:
    """The kubelet of one node; `run` is its life."""

    def __init__(self, lab: Lab, node: NodeLayout, kubernetes: Kubernetes, journal: Journal) -> None:
        self._lab = lab
        self._node = node
        self._kubernetes = kubernetes
        self._journal = journal
        self._pods: dict[str, _PodTask] = {}
        self._network_ready = asyncio.Event()

    def sandbox(self, uid: str) -> Sandbox | None:
        """The sandbox of the pod with this UID, if it has one now."""
        known = self._pods.get(uid)
        return known.sandbox if known else None

    async def run(self) -> None:
        """Register the node, and serve its pods for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_node(), name=f"node-{self._node.name}")
            async for event in self._kubernetes.watch(Pod, field_selector=f"spec.nodeName={self._node.name}"):
                match event:
                    case Listed(items=pods, unreadable=unreadable):
                        for pod in pods:
                            self._observe(pod, tasks)
                        for uid in self._pods.keys() - {_uid(pod) for pod in pods} - set(unreadable.values()):
                            self._pods[uid].leaving.set()
                    case Gone(uid=uid):
                        if uid in self._pods:
                            self._pods[uid].leaving.set()
                    case _:
                        self._observe(event.item, tasks)

    def _observe(self, pod: Pod, tasks: asyncio.TaskGroup) -> None:
        uid = _uid(pod)
        leaving = pod.metadata is not None and pod.metadata.deletionTimestamp is not None
        known = self._pods.get(uid)
        if known is None:
            known = self._pods[uid] = _PodTask()
            tasks.create_task(self._live(pod, known), name=f"pod-{uid}")
        if leaving:
            known.leaving.set()

    async def _live(self, pod: Pod, task: _PodTask) -> None:
        """A pod from its first sight to its end."""
        assert pod.metadata is not None
        namespace, name, uid = pod.metadata.namespace or "default", pod.metadata.name or "", _uid(pod)
        try:
            await _first(self._network_ready, task.leaving)
            while not task.leaving.is_set():
                sandbox = task.sandbox = self._new_sandbox(pod)
                try:
                    await asyncio.to_thread(self._journal.create, sandbox.netns.name)
                    address = await runtime.add(self._node, sandbox)
                except LabError as error:
                    log.warning("sandbox-failed", node=self._node.name, pod=f"{namespace}/{name}", error=str(error))
                    await self._set_status(namespace, name, _waiting_status(self._node, str(error)))
                    await self._remove(sandbox)
                    task.sandbox = None
                    await _wait(task.leaving, RETRY_S)
                    continue
                await self._set_status(namespace, name, _running_status(self._node, pod, str(address)))
                await task.leaving.wait()
            if task.sandbox is not None:
                await self._remove(task.sandbox)
            await self._persist(
                lambda: self._kubernetes.delete(Pod, name, namespace=namespace, grace_period_s=0, uid=uid)
            )
        finally:
            del self._pods[uid]

    def _new_sandbox(self, pod: Pod) -> Sandbox:
        assert pod.metadata is not None
        namespace, name = pod.metadata.namespace or "default", pod.metadata.name or ""
        container_id = secrets.token_hex(32)
        path = NETNS_ROOT / self._lab.pod_netns(namespace, name, container_id)
        bandwidth = runtime.bandwidth_of(pod.metadata.annotations or {})
        return Sandbox(container_id, path, namespace, name, _uid(pod), bandwidth)

    async def _remove(self, sandbox: Sandbox) -> None:
        """DEL until it works, and only then the namespace: an address must not be given away while it is in use."""
        while True:
            try:
                await runtime.delete(self._node, sandbox)
                break
            except LabError as error:
                log.warning("sandbox-stuck", node=self._node.name, netns=sandbox.netns.name, error=str(error))
                await asyncio.sleep(RETRY_S)
        await asyncio.to_thread(netns.delete, sandbox.netns.name)

    async def _keep_node(self) -> None:
        """Register the node; it becomes Ready when the plugin says it can attach pods."""
        labels = {"kubernetes.io/hostname": self._node.name, "kubernetes.io/os": "linux"}
        node = cast(Node, Node.from_dict({"metadata": {"name": self._node.name, "labels": labels}}))
        await self._persist(lambda: self._kubernetes.create(node))
        await self._set_node_status("False", "network plugin is not ready")
        while True:
            try:
                await runtime.check_ready(self._node)
                break
            except LabError:
                await asyncio.sleep(POLL_S)
        self._network_ready.set()
        await self._set_node_status("True", "kubelet is posting ready status")

    async def _set_node_status(self, ready: str, message: str) -> None:
        addresses = [
            {"type": "InternalIP", "address": str(self._node.address)},
            {"type": "Hostname", "address": self._node.name},
        ]
        reason = "KubeletReady" if ready == "True" else "KubeletNotReady"
        condition = _condition("Ready", ready, reason, message) | {"lastHeartbeatTime": _now()}
        status = {"status": {"addresses": addresses, "conditions": [condition]}}
        await self._persist(lambda: self._kubernetes.patch(Node, self._node.name, status, subresource="status"))

    async def _set_status(self, namespace: str, name: str, status: dict[str, Any]) -> None:
        await self._persist(
            lambda: self._kubernetes.patch(Pod, name, {"status": status}, namespace=namespace, subresource="status")
        )

    async def _persist(self, call: Callable[[], Awaitable[object]]) -> None:
        """Make the call until the API answers; that the object is there, or gone, or another one by now, is one."""
        while True:
            try:
                await call()
                return
            except (AlreadyExists, NotFound, Conflict):
                return
            except KubernetesError as error:
                log.warning("api-call-failed", node=self._node.name, error=str(error))
                await asyncio.sleep(RETRY_S)


def _uid(pod: Pod) -> str:
    assert pod.metadata is not None, "the API gives every object metadata"
    assert pod.metadata.uid is not None, "the API gives every object a UID"
    return pod.metadata.uid


async def _first(*events: asyncio.Event) -> None:
    """Wait until any of the events is set."""
    waits = [asyncio.create_task(event.wait()) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()


async def _wait(event: asyncio.Event, timeout_s: float) -> None:
    try:
        async with asyncio.timeout(timeout_s):
            await event.wait()
    except TimeoutError:
        return


def _running_status(node: NodeLayout, pod: Pod, address: str) -> dict[str, Any]:
    return {
        "phase": "Running",
        "hostIP": str(node.address),
        "podIP": address,
        "podIPs": [{"ip": address}],
        "startTime": _now(),
        "containerStatuses": [
            {
                "name": container.name,
                "image": container.image or "",
                "imageID": "",
                "ready": True,
                "started": True,
                "restartCount": 0,
                "state": {"running": {"startedAt": _now()}},
            }
            for container in (pod.spec.containers if pod.spec else [])
        ],
        "conditions": [_condition(kind, "True", "", "") for kind in ("PodScheduled", "Initialized", "Ready")],
    }


def _waiting_status(node: NodeLayout, message: str) -> dict[str, Any]:
    ready = _condition("Ready", "False", "FailedCreatePodSandBox", message)
    return {"phase": "Pending", "hostIP": str(node.address), "conditions": [ready]}


def _condition(kind: str, status: str, reason: str, message: str) -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message, "lastTransitionTime": _now()}


def _now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
