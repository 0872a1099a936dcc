"""What Kubernetes says of the bandwidth of this node's pods, and telling people what cannot be done.

Kubernetes is never needed for a pod to start: the runtime passes the limits with ADD, and the port remembers them. The
watch brings what changes later. A pod that it has not mentioned keeps what it has, so silence removes no limit.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from pathlib import Path

from prometheus_client import CollectorRegistry, Counter

from agent.attachment import PodAttachment
from agent.limits import Limits, granted_limits, limits_of
from agent.signal import Signal
from cni.request import PodIdentity
from k8sovs.kubernetes import Gone, Kubernetes, KubernetesError, Listed, ObjectKey, ObjectMeta, Pod, Statistics, key_of
from k8sovs.logs import get_logger

log = get_logger(__name__)

COMPONENT = "k8s-ovs-agent"
REASON = "BandwidthNotLimited"
_EVENTS_WAITING = 100
"""More than this at once is a flood that nobody reads; the log has them all."""


class Bandwidth:
    """The limits of the node's pods. `changed` counts what the watch brought."""

    def __init__(self, kubeconfig: Path | None, node: str, registry: CollectorRegistry, statistics: Statistics) -> None:
        self.changed = Signal()
        self._kubeconfig = kubeconfig
        self._statistics = statistics
        self._node = node
        self._known: dict[ObjectKey, tuple[str, Limits]] = {}
        self._told: set[tuple[PodIdentity, str]] = set()
        self._events: asyncio.Queue[tuple[PodIdentity, str]] = asyncio.Queue(_EVENTS_WAITING)
        self._refused = Counter(
            "k8sovs_bandwidth_refused_total",
            "Bandwidth limits that cannot be read (cause value), or not be set on the pod's link (cause device).",
            ["cause"],
            registry=registry,
        )
        for cause in ("value", "device"):
            self._refused.labels(cause)  # shown from the start: Prometheus sees only what rises

    def current(self, attachment: PodAttachment) -> Limits:
        """What is in force for an attached pod: what its annotations say; before they were heard, what it has."""
        known = self._heard(attachment.pod)
        return attachment.limits if known is None else known

    def at_start(self, pod: PodIdentity, runtime_config: Mapping[str, object]) -> Limits:
        """What a new pod starts with: what its annotations say if they were heard, else what the runtime passes."""
        known = self._heard(pod)
        if known is not None:
            return known
        limits, problems = granted_limits(runtime_config)
        self._tell(pod, "value", problems)
        return limits

    def tell_failure(self, attachment: PodAttachment | None, reason: str) -> None:
        """A pod's link cannot be limited: say so, once for each reason."""
        if attachment is not None:
            self._tell(attachment.pod, "device", (f"the kernel refuses: {reason}",))

    async def run(self) -> None:
        """Follow the pods of this node for ever; without a way to Kubernetes, never bring anything new."""
        try:
            path = None if self._kubeconfig is None else str(self._kubeconfig)
            kubernetes = Kubernetes(path, statistics=self._statistics)
        except KubernetesError as error:
            log.warning("pods-not-watched", error=str(error), consequence="limits stay as they were when a pod started")
            return
        async with kubernetes, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._announce(kubernetes))
            selector = f"spec.nodeName={self._node}"
            async with aclosing(kubernetes.watch(Pod, field_selector=selector)) as changes:
                async for change in changes:
                    match change:
                        case Listed(items=pods):
                            self._known.clear()
                            for pod in pods:
                                self._take(pod)
                        case Gone(key=key):
                            self._forget(key)
                        case _:
                            self._take(change.item)
                    self.changed.notify()

    def _forget(self, key: ObjectKey) -> None:
        self._known.pop(key, None)
        self._told = {(pod, problem) for pod, problem in self._told if (pod.namespace, pod.name) != key}

    def _take(self, pod: Pod) -> None:
        metadata, key = pod.metadata or ObjectMeta(), key_of(pod)
        limits, problems = limits_of(metadata.annotations or {})
        self._known[key] = (metadata.uid or "", limits)
        self._tell(PodIdentity(key.namespace, key.name, metadata.uid or ""), "value", problems)

    def _heard(self, pod: PodIdentity) -> Limits | None:
        """What the annotations of `pod` say; None if the watch has not mentioned it, or an older one of its name."""
        uid, limits = self._known.get(ObjectKey(pod.namespace, pod.name), ("", None))
        return limits if pod.uid in ("", uid) else None

    def _tell(self, pod: PodIdentity, cause: str, problems: tuple[str, ...]) -> None:
        for problem in problems:
            if (pod, problem) in self._told:
                continue
            self._told.add((pod, problem))
            self._refused.labels(cause).inc()
            log.warning("bandwidth-not-limited", pod=f"{pod.namespace}/{pod.name}", reason=problem)
            try:
                self._events.put_nowait((pod, f"{problem}; the pod runs without this limit"))
            except asyncio.QueueFull:
                log.warning("event-dropped", pod=f"{pod.namespace}/{pod.name}", reason=REASON)

    async def _announce(self, kubernetes: Kubernetes) -> None:
        """Create the Events one after another, for ever. One that the API refuses is logged and passed over."""
        while True:
            pod, message = await self._events.get()
            about = Pod(metadata=ObjectMeta(name=pod.name, namespace=pod.namespace, uid=pod.uid or None))
            try:
                await kubernetes.create_event(pod.namespace, about, REASON, message, COMPONENT)
            except KubernetesError as error:
                log.warning("event-not-created", pod=f"{pod.namespace}/{pod.name}", reason=REASON, error=str(error))
