"""The client: plain calls, and watches."""

from __future__ import annotations

import random
import time
from collections.abc import AsyncGenerator, Callable, Mapping, Sequence
from datetime import UTC, datetime
from enum import Enum
from types import TracebackType
from typing import Self, TypeVar

import msgspec

from k8sovs.kubernetes.objects import (
    Event,
    EventSource,
    Namespace,
    ObjectKey,
    ObjectMeta,
    Pod,
    Resource,
    ServiceAccount,
    decode,
    decode_token,
    encode,
    key_of,
    metadata_of,
    path_of,
    reference_to,
)
from k8sovs.kubernetes.transport import DEFAULT_TIMING, Timing, Transport
from k8sovs.kubernetes.watch import Gone, Listed, Put, Query, Statistics, Watch

T = TypeVar("T", bound=Resource)


class PatchKind(Enum):
    """How a patch is meant; the value is its content type."""

    JSON = "application/json-patch+json"
    MERGE = "application/merge-patch+json"
    STRATEGIC = "application/strategic-merge-patch+json"


class Kubernetes:
    """A client of one API server; use it as an async context manager."""

    def __init__(
        self,
        kubeconfig: str | None,
        *,
        timing: Timing = DEFAULT_TIMING,
        statistics: Statistics | None = None,
        now: Callable[[], float] = time.monotonic,
        chance: Callable[[], float] = random.random,
    ) -> None:
        """`kubeconfig` is the path of a file; None takes the service account of the pod one runs in.

        `statistics` is counted in; clients may share one.
        `now` is a clock in seconds, `chance` gives numbers from 0 to 1. KubernetesError: the configuration cannot be
        used, and why.
        """
        self._transport = Transport(kubeconfig, timing)
        self._timing = timing
        self._now = now
        self._chance = chance
        self._statistics = Statistics() if statistics is None else statistics

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._transport.close()

    def statistics(self) -> Statistics:
        """Counters, for metrics."""
        return self._statistics

    def watch(
        self,
        resource: type[T],
        *,
        namespace: str | None = None,
        field_selector: str | None = None,
        label_selector: str | None = None,
        trim: Callable[[T], T] | None = None,
    ) -> AsyncGenerator[Listed[T] | Put[T] | Gone[T], None]:
        """Everything that happens to these objects, for ever: first a Listed, a new one after every later list.

        namespace None is all namespaces. `trim` makes of an object what is wanted of it; it keeps name and UID. Errors
        are logged and retried, never raised.
        """
        return self._watch(Query(resource, namespace, field_selector, label_selector, trim)).run()

    async def list(
        self,
        resource: type[T],
        *,
        namespace: str | None = None,
        field_selector: str | None = None,
        label_selector: str | None = None,
    ) -> tuple[T, ...]:
        """All objects that can be decoded; namespace None is all namespaces. KubernetesError."""
        return (await self._watch(Query(resource, namespace, field_selector, label_selector)).list()).items

    async def get(self, resource: type[T], name: str, namespace: str | None = None) -> T:
        """One object. NotFound, KubernetesError."""
        return decode(await self._transport.call("GET", path_of(resource, namespace, name)), resource)

    async def create(self, item: T, namespace: str | None = None) -> T:
        """Create `item` (in `namespace`, or in the one its metadata names). AlreadyExists, KubernetesError."""
        path = path_of(type(item), namespace or metadata_of(item).namespace)
        return decode(await self._transport.call("POST", path, content=encode(item)), type(item))

    async def replace(self, item: T, *, subresource: str = "") -> T:
        """Replace the object; Conflict when `item` carries a resourceVersion that is not the newest."""
        key = key_of(item)
        path = path_of(type(item), key.namespace, key.name, subresource)
        return decode(await self._transport.call("PUT", path, content=encode(item)), type(item))

    async def patch(
        self,
        resource: type[T],
        name: str,
        patch: Mapping[str, object] | Sequence[Mapping[str, object]],
        *,
        namespace: str | None = None,
        subresource: str = "",
        kind: PatchKind = PatchKind.MERGE,
    ) -> T:
        """Change the object, or its `subresource` ("status"). NotFound, Conflict, KubernetesError."""
        path = path_of(resource, namespace, name, subresource)
        content = msgspec.json.encode(patch)
        return decode(
            await self._transport.call("PATCH", path, content=content, content_type=kind.value),
            resource,
        )

    async def delete(
        self,
        resource: type[Resource],
        name: str,
        *,
        namespace: str | None = None,
        grace_period_s: int | None = None,
        uid: str | None = None,
        foreground: bool = False,
    ) -> None:
        """Ask for the deletion; 0 as grace period removes a pod at once. Conflict: `uid` is no longer the object's.

        In the `foreground` the object stays until what it owns is gone.
        """
        options: dict[str, object] = {"apiVersion": "v1", "kind": "DeleteOptions"}
        if grace_period_s is not None:
            options["gracePeriodSeconds"] = grace_period_s
        if uid is not None:
            options["preconditions"] = {"uid": uid}
        if foreground:
            options["propagationPolicy"] = "Foreground"
        await self._transport.call("DELETE", path_of(resource, namespace, name), content=msgspec.json.encode(options))

    async def delete_all(self, resource: type[Resource], namespace: str) -> None:
        """Ask for the deletion of all objects of one type in a namespace. KubernetesError."""
        await self._transport.call("DELETE", path_of(resource, namespace))

    async def bind(self, pod: ObjectKey, node: str) -> None:
        """Give a pod its node. Conflict: it has one; NotFound, KubernetesError."""
        target = {"apiVersion": "v1", "kind": "Node", "name": node}
        binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": pod.name}, "target": target}
        path = path_of(Pod, pod.namespace, pod.name, "binding")
        await self._transport.call("POST", path, content=msgspec.json.encode(binding))

    async def finalize(self, namespace: str) -> None:
        """Let a namespace that is being deleted go. NotFound, KubernetesError."""
        body = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace}, "spec": {"finalizers": []}}
        path = path_of(Namespace, None, namespace, "finalize")
        await self._transport.call("PUT", path, content=msgspec.json.encode(body))

    async def create_token(self, namespace: str, account: str, lifetime_s: int = 365 * 86400) -> str:
        """A token that says that one is this service account. NotFound, KubernetesError."""
        body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest"}
        path = path_of(ServiceAccount, namespace, account, "token")
        content = msgspec.json.encode({**body, "spec": {"expirationSeconds": lifetime_s}})
        return decode_token(await self._transport.call("POST", path, content=content))

    async def create_event(
        self, namespace: str, involved: Resource, reason: str, message: str, component: str, *, warning: bool = True
    ) -> None:
        """Tell those who look at `involved` (kubectl describe, get events) what happened to it. KubernetesError.

        `namespace` is the object's own, or `default` for one that has none; an Event about a Namespace may lie in that
        namespace itself, where its people see it.
        """
        at = datetime.now(UTC).replace(microsecond=0)
        about = metadata_of(involved)
        inside = about.namespace or (namespace if isinstance(involved, Namespace) else None)
        event = Event(
            metadata=ObjectMeta(generateName=f"{about.name}.", namespace=namespace),
            involvedObject=reference_to(involved, inside),
            reason=reason,
            message=message,
            type="Warning" if warning else "Normal",
            count=1,
            firstTimestamp=at,
            lastTimestamp=at,
            source=EventSource(component=component),
            reportingComponent=component,
        )
        await self.create(event)

    def _watch(self, query: Query[T]) -> Watch[T]:
        return Watch(self._transport, query, self._statistics, self._timing, self._now, self._chance)
