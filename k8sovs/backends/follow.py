"""What Kubernetes says of the targets' namespaces, kept by watches.

Nothing is known until everything has been listed once, and what was known stays while the API is away: silence takes no
backend away.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from contextlib import aclosing
from typing import Generic, NoReturn, TypeVar

from k8sovs.backends.model import SERVICE_LABEL, BackendList, Target, by_name, is_of, port_name, resolve
from k8sovs.kubernetes import (
    EndpointSlice,
    Gone,
    Kubernetes,
    Listed,
    NotFound,
    ObjectKey,
    Pod,
    Put,
    Resource,
    Service,
    key_of,
)

T = TypeVar("T", bound=Resource)


class _Kept(Generic[T]):
    """The objects of one kind in one namespace; None until they have been listed."""

    def __init__(self) -> None:
        self.items: dict[ObjectKey, T] | None = None

    def take(self, change: Listed[T] | Put[T] | Gone[T]) -> None:
        match change:
            case Listed(items=items, unreadable=unreadable):
                # What exists and cannot be read stays as it was read last.
                kept = {key: item for key, item in (self.items or {}).items() if key in unreadable}
                self.items = kept | {key_of(item): item for item in items}
            case Put(key=key, item=item) if self.items is not None:
                self.items[key] = item
            case Gone(key=key) if self.items is not None:
                self.items.pop(key, None)

    @property
    def values(self) -> tuple[T, ...]:
        return tuple((self.items or {}).values())


class _Namespace:
    """All that is needed of one namespace."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.services = _Kept[Service]()
        self.slices = _Kept[EndpointSlice]()
        self.pods = _Kept[Pod]()

    @property
    def is_known(self) -> bool:
        return None not in (self.services.items, self.slices.items, self.pods.items)

    def resolved(self, target: Target) -> BackendList:
        service = (self.services.items or {}).get(ObjectKey(self.name, target.service))
        slices = [body for body in self.slices.values if is_of(body, target.service)]
        return resolve(target, service, slices, by_name(self.pods.values))


class BackendSource:
    """Follows the backends of `targets`."""

    def __init__(self, kubernetes: Kubernetes, targets: Sequence[Target]) -> None:
        self._kubernetes = kubernetes
        self._targets = tuple(targets)
        self._namespaces = {name: _Namespace(name) for name in dict.fromkeys(each.namespace for each in targets)}
        self._changed = asyncio.Event()

    async def run(self) -> NoReturn:
        """Follow for ever; an API that is away is waited for."""
        async with asyncio.TaskGroup() as tasks:
            for each in self._namespaces.values():
                services = ",".join(sorted({one.service for one in self._targets if one.namespace == each.name}))
                selector = f"{SERVICE_LABEL} in ({services})"
                tasks.create_task(self._follow(Service, each.name, each.services))
                tasks.create_task(self._follow(EndpointSlice, each.name, each.slices, selector))
                tasks.create_task(self._follow(Pod, each.name, each.pods))
        raise AssertionError("a watch never ends")

    async def wait_changed(self) -> tuple[BackendList, ...]:
        """The lists, once they are known and something has happened since the last call."""
        while True:
            await self._changed.wait()
            self._changed.clear()
            if all(each.is_known for each in self._namespaces.values()):
                return tuple(self._namespaces[target.namespace].resolved(target) for target in self._targets)

    async def _follow(self, kind: type[T], namespace: str, kept: _Kept[T], selector: str | None = None) -> None:
        watch = self._kubernetes.watch(kind, namespace=namespace, label_selector=selector)
        async with aclosing(watch) as changes:
            async for change in changes:
                kept.take(change)
                self._changed.set()


async def resolve_once(kubernetes: Kubernetes, targets: Sequence[Target]) -> tuple[BackendList, ...]:
    """The lists as they are now. Raises Unresolved for a target that is not there, KubernetesError."""
    return tuple([await _resolve_once(kubernetes, target) for target in targets])


async def _resolve_once(kubernetes: Kubernetes, target: Target) -> BackendList:
    namespace = target.namespace
    try:
        service = await kubernetes.get(Service, target.service, namespace)
    except NotFound:
        service = None
    port_name(target, service)
    selector = f"{SERVICE_LABEL}={target.service}"
    slices = await kubernetes.list(EndpointSlice, namespace=namespace, label_selector=selector)
    pods = await kubernetes.list(Pod, namespace=namespace)
    return resolve(target, service, slices, by_name(pods))
