"""Pods as a person asks for them: made through the Kubernetes API, like anybody's, and waited for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, cast

from k8sovs.kubernetes import (
    AlreadyExists,
    Gone,
    Kubernetes,
    KubernetesError,
    Listed,
    Namespace,
    NotFound,
    Pod,
    Put,
    key_of,
)
from k8sovs.lab.kubelet import Kubelet
from k8sovs.lab.layout import Lab, LabError
from k8sovs.lab.waiting import PATIENCE

POD_TIMEOUT_S = 60.0 * PATIENCE


class Pods:
    """The pods of one lab; the methods answer requests of the command line."""

    def __init__(self, lab: Lab, kubernetes: Kubernetes, kubelets: Mapping[str, Kubelet]) -> None:
        self._lab = lab
        self._kubernetes = kubernetes
        self._kubelets = kubelets

    async def add(self, request: Mapping[str, Any]) -> object:
        """Create a pod, and its namespace if that is missing; answered when the pod has its network."""
        namespace, name = request["namespace"], request["name"]
        node = request["node"]
        if node and node not in self._kubelets:
            raise LabError(f"lab '{self._lab.name}' has no node '{node}'; it has {', '.join(self._kubelets)}")
        metadata = {"name": name, "annotations": request["annotations"], "labels": request["labels"]}
        # The sandbox is a network namespace alone; the container is there because a Pod has at least one.
        spec: dict[str, Any] = {"containers": [{"name": "sandbox", "image": "none"}]}
        if node:
            spec["nodeName"] = node  # else the scheduler finds one
        pod = cast(Pod, Pod.from_dict({"metadata": metadata, "spec": spec}))
        try:
            await self._ensure_namespace(namespace)
            created = await self._kubernetes.create(pod, namespace)
        except AlreadyExists:
            raise LabError(f"pod {namespace}/{name} exists already") from None
        except KubernetesError as error:
            raise LabError(f"pod {namespace}/{name} cannot be created: {error}") from error
        ready = await self._wait(created, lambda pod: pod is None or _is_ready(pod))
        if ready is None:
            raise LabError(f"pod {namespace}/{name} was deleted before it was ready")
        return self._describe(ready)

    async def delete(self, request: Mapping[str, Any]) -> object:
        """Delete a pod; answered when its network and its object are gone."""
        namespace, name = request["namespace"], request["name"]
        try:
            pod = await self._kubernetes.get(Pod, name, namespace)
            await self._kubernetes.delete(Pod, name, namespace=namespace)
        except NotFound:
            raise LabError(f"there is no pod {namespace}/{name}") from None
        except KubernetesError as error:
            raise LabError(f"pod {namespace}/{name} cannot be deleted: {error}") from error
        await self._wait(pod, lambda pod: pod is None)
        return None

    async def list(self, request: Mapping[str, Any]) -> object:
        """Every pod of the lab, by namespace and name."""
        try:
            pods = await self._kubernetes.list(Pod)
        except KubernetesError as error:
            raise LabError(f"the pods cannot be listed: {error}") from error
        return [self._describe(pod) for pod in sorted(pods, key=key_of)]

    async def _ensure_namespace(self, name: str) -> None:
        try:
            await self._kubernetes.get(Namespace, name)
        except NotFound:
            with suppress(AlreadyExists):  # by another pod of it that is being added
                await self._kubernetes.create(cast(Namespace, Namespace.from_dict({"metadata": {"name": name}})))

    async def _wait(self, pod: Pod, enough: Callable[[Pod | None], bool]) -> Pod | None:
        """Wait until `enough` is true of the pod, or of None when it is gone; LabError with the kubelet's last word."""
        key, latest = key_of(pod), pod
        watch = self._kubernetes.watch(Pod, namespace=key.namespace, field_selector=f"metadata.name={key.name}")
        try:
            async with asyncio.timeout(POD_TIMEOUT_S):
                async for event in watch:
                    current = _after(event)
                    latest = current or latest
                    if enough(current):
                        return current
        except TimeoutError:
            word = _word_of_kubelet(latest) or "its kubelet has not touched it"
            raise LabError(f"pod {key.namespace}/{key.name}: not done within {POD_TIMEOUT_S:.0f} s: {word}") from None
        finally:
            await watch.aclose()
        raise AssertionError("a watch never ends")

    def _describe(self, pod: Pod) -> Mapping[str, object]:
        assert pod.metadata is not None
        node = pod.spec.nodeName if pod.spec else None
        kubelet = self._kubelets.get(node or "")
        sandbox = kubelet.sandbox(pod.metadata.uid or "") if kubelet else None
        return {
            "namespace": pod.metadata.namespace,
            "name": pod.metadata.name,
            "node": node,
            "ip": pod.status.podIP if pod.status else None,
            "netns": str(sandbox.netns) if sandbox else None,
            "container_id": sandbox.container_id if sandbox else None,
            "ready": _is_ready(pod),
        }


def _after(event: Listed[Pod] | Put[Pod] | Gone[Pod]) -> Pod | None:
    match event:
        case Listed(items=pods):
            return pods[0] if pods else None
        case Put(item=pod):
            return pod
        case _:
            return None


def _is_ready(pod: Pod) -> bool:
    conditions = (pod.status.conditions if pod.status else None) or []
    return any(condition.type == "Ready" and condition.status == "True" for condition in conditions)


def _word_of_kubelet(pod: Pod) -> str | None:
    """Why the pod is not ready, if its kubelet has said."""
    conditions = (pod.status.conditions if pod.status else None) or []
    return next((condition.message for condition in conditions if condition.type == "Ready"), None)
