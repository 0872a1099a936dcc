"""What Kubernetes says of Services and their endpoints, in the terms of the switch.

Nothing is taken away before both have been heard: until then what the switch holds stays. The addresses of one Service
are computed anew when it or one of its slices changes, and no other.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncGenerator, Callable, Mapping
from contextlib import aclosing
from pathlib import Path
from types import MappingProxyType
from typing import TypeVar

from agent.service_objects import service_of
from agent.signal import Signal
from flows.service import Service
from k8sovs import kubernetes as k8s
from k8sovs.kubernetes import (
    EndpointSlice,
    Gone,
    Kubernetes,
    KubernetesError,
    Listed,
    ObjectKey,
    Put,
    Statistics,
    key_of,
)
from k8sovs.logs import get_logger

log = get_logger(__name__)

SERVICE_LABEL = "kubernetes.io/service-name"

T = TypeVar("T", k8s.Service, EndpointSlice)


class Services:
    """The Services of the cluster. `changed` counts what the watches brought; `current` is a new mapping each time."""

    def __init__(self, kubeconfig: Path | None, node: str, statistics: Statistics) -> None:
        self.changed = Signal()
        self.current: Mapping[str, Service] = MappingProxyType({})
        self._kubeconfig = kubeconfig
        self._statistics = statistics
        self._node = node
        self._objects: dict[ObjectKey, k8s.Service] = {}
        self._slices: dict[ObjectKey, EndpointSlice] = {}
        self._by_service: dict[ObjectKey, dict[ObjectKey, EndpointSlice]] = defaultdict(dict)
        self._heard: set[str] = set()

    @property
    def synced(self) -> bool:
        """Whether both Services and EndpointSlices have been heard completely."""
        return len(self._heard) == 2

    async def run(self) -> None:
        """Follow both for ever; without a way to Kubernetes, never bring anything."""
        try:
            path = None if self._kubeconfig is None else str(self._kubeconfig)
            kubernetes = Kubernetes(path, statistics=self._statistics)
        except KubernetesError as error:
            log.warning("services-not-watched", error=str(error), consequence="no Service of the cluster can be used")
            return
        async with kubernetes, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow("services", kubernetes.watch(k8s.Service), self._objects, self._put_service))
            tasks.create_task(self._follow("slices", kubernetes.watch(EndpointSlice), self._slices, self._put_slice))

    async def _follow(
        self,
        name: str,
        changes: AsyncGenerator[Listed[T] | Put[T] | Gone[T], None],
        known: dict[ObjectKey, T],
        put: Callable[[ObjectKey, T | None], ObjectKey | None],
    ) -> None:
        async with aclosing(changes):
            async for change in changes:
                touched: set[ObjectKey | None] = set()
                match change:
                    case Listed(items=items):
                        listed = {key_of(item): item for item in items}
                        touched |= {put(key, None) for key in known.keys() - listed.keys()}
                        touched |= {put(key, item) for key, item in listed.items()}
                        self._heard.add(name)
                    case Gone(key=key):
                        touched.add(put(key, None))
                    case Put(key=key, item=item):
                        touched.add(put(key, item))
                self._publish({key for key in touched if key is not None})

    def _put_service(self, key: ObjectKey, service: k8s.Service | None) -> ObjectKey:
        if service is None:
            self._objects.pop(key, None)
        else:
            self._objects[key] = service
        return key

    def _put_slice(self, key: ObjectKey, new: EndpointSlice | None) -> ObjectKey | None:
        """Keep a slice under the Service that it is of: a label that cannot change without the slice being another."""
        old = self._slices.pop(key, None)
        owner = _owner(key, new or old)
        if owner is None:
            return None
        if new is None:
            self._by_service[owner].pop(key, None)
            if not self._by_service[owner]:
                del self._by_service[owner]
        else:
            self._slices[key] = new
            self._by_service[owner][key] = new
        return owner

    def _publish(self, touched: set[ObjectKey]) -> None:
        """Compute the Services concerned anew; nothing is told before both kinds are known, or if nothing differs."""
        if not self.synced:
            return
        # The first time everything is concerned.
        if not self.changed.count:
            touched = set(self._objects)
        current = dict(self.current)
        for key in touched:
            known = self._objects.get(key)
            slices = self._by_service.get(key, {}).values()
            service = None if known is None else service_of(known, tuple(slices), self._node)
            if service is None:
                current.pop(str(key), None)
            elif current.get(str(key)) != service:
                current[str(key)] = service
        if not self.changed.count or any(current.get(key) is not self.current.get(key) for key in map(str, touched)):
            self.current = MappingProxyType(current)
            self.changed.notify()


def _owner(key: ObjectKey, slice_: EndpointSlice | None) -> ObjectKey | None:
    labels = (slice_.metadata.labels if slice_ is not None and slice_.metadata else None) or {}
    name = labels.get(SERVICE_LABEL)
    return None if name is None else ObjectKey(key.namespace, name)
