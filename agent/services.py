"""What Kubernetes says of Services and their endpoints, in the terms of the switch.

Nothing is taken away before both have been heard: until then what the switch holds stays, and what a file remembers of
the last time is there as well. What exists and cannot be read is as the file says. A Service is computed anew when it
or one of its slices changes, and no other.
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
from agent.services_file import Remembered, ServicesFile
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

BATCH = 200
"""How many Services are computed before others have their turn: some 20 ms."""

SAVE_INTERVAL_S = 5.0
"""Changes that follow each other within this time share one write of the file."""

SERVICE_LABEL = "kubernetes.io/service-name"

T = TypeVar("T", k8s.Service, EndpointSlice)


class Services:
    """The Services of the cluster. `changed` counts what the watches brought; `current` is a new mapping each time."""

    def __init__(self, kubeconfig: Path | None, node: str, statistics: Statistics, file: ServicesFile) -> None:
        self.changed = Signal()
        self.current: Mapping[str, Service] = MappingProxyType({})
        self.synced = False
        """Whether all that Services and EndpointSlices say is in `current`."""
        self._kubeconfig = kubeconfig
        self._statistics = statistics
        self._node = node
        self._file = file
        self._objects: dict[ObjectKey, k8s.Service] = {}
        self._slices: dict[ObjectKey, EndpointSlice] = {}
        self._by_service: dict[ObjectKey, dict[ObjectKey, EndpointSlice]] = defaultdict(dict)
        self._heard: set[str] = set()
        self._unreadable: dict[str, set[ObjectKey]] = {}
        self._remembered: dict[str, tuple[str, ...]] = {}
        self._stale: dict[ObjectKey, None] = {}
        self._touched = Signal()

    def restore(self) -> None:
        """Take up the Services that the file remembers. They may be added, and lead to no removal."""
        remembered = self._file.load()
        self._remembered = {key: one.slices for key, one in remembered.items()}
        if remembered:
            self.current = MappingProxyType({key: one.service for key, one in remembered.items()})
            self.changed.notify()

    async def run(self) -> None:
        """Follow both for ever; without a way to Kubernetes, never bring anything."""
        try:
            kubernetes = Kubernetes(
                None if self._kubeconfig is None else str(self._kubeconfig), statistics=self._statistics
            )
        except KubernetesError as error:
            log.warning("services-not-watched", error=str(error), consequence="Services stay as they are remembered")
            return
        async with kubernetes, asyncio.TaskGroup() as tasks:
            tasks.create_task(self._follow("services", kubernetes.watch(k8s.Service), self._objects, self._put_service))
            tasks.create_task(self._follow("slices", kubernetes.watch(EndpointSlice), self._slices, self._put_slice))
            tasks.create_task(self._compute())
            tasks.create_task(self._keep_saved())

    async def _follow(
        self,
        name: str,
        changes: AsyncGenerator[Listed[T] | Put[T] | Gone[T], None],
        known: dict[ObjectKey, T],
        put: Callable[[ObjectKey, T | None], ObjectKey | None],
    ) -> None:
        unreadable = self._unreadable[name] = set()
        async with aclosing(changes):
            async for change in changes:
                touched: list[ObjectKey | None] = []
                match change:
                    case Listed(items=items, unreadable=keys):
                        listed = {key_of(item): item for item in items}
                        touched += [put(key, None) for key in known.keys() - listed.keys()]
                        touched += [put(key, item) for key, item in listed.items()]
                        unreadable.clear()
                        unreadable.update(keys)
                        self._heard.add(name)
                    case Gone(key=key):
                        unreadable.discard(key)
                        touched.append(put(key, None))
                    case Put(key=key, item=item):
                        unreadable.discard(key)
                        touched.append(put(key, item))
                self._stale |= {key: None for key in touched if key is not None}
                self._touched.notify()

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

    async def _compute(self) -> None:
        """Compute anew what is stale, for ever; nothing is told before both kinds are known, or if nothing differs.

        Thousands come at once at the start, or after an outage; in between, others have their turn.
        """
        seen = 0
        while True:
            seen = await self._touched.wait_beyond(seen)
            if len(self._heard) < 2:
                continue
            if not self.synced:
                # What only the file knows is gone by now.
                self._stale |= {ObjectKey(*key.split("/", 1)): None for key in self.current}
            current = dict(self.current)
            while self._stale:
                for key in list(self._stale)[:BATCH]:
                    del self._stale[key]
                    self._take(key, current)
                await asyncio.sleep(0)
            self._publish(current)

    def _take(self, key: ObjectKey, current: dict[str, Service]) -> None:
        """Put one Service as it is now into `current`, or take it out."""
        if self._is_hidden(key):
            return
        known = self._objects.get(key)
        slices = self._by_service.get(key, {}).values()
        service = None if known is None else service_of(known, tuple(slices), self._node)
        if service is None:
            current.pop(str(key), None)
        elif current.get(str(key)) != service:
            current[str(key)] = service

    def _is_hidden(self, key: ObjectKey) -> bool:
        """Whether a part of a Service exists that cannot be read, so that it stays as it was."""
        slices = self._unreadable["slices"]
        return key in self._unreadable["services"] or (
            bool(slices) and any((key.namespace, name) in slices for name in self._remembered.get(str(key), ()))
        )

    def _publish(self, current: Mapping[str, Service]) -> None:
        before = self.current
        if self.synced and len(before) == len(current) and all(before.get(key) is one for key, one in current.items()):
            return
        self.synced = True
        self.current = MappingProxyType(current)
        self.changed.notify()

    async def _keep_saved(self) -> None:
        """Keep the file up to date, not more often than a large cluster's changes would have it."""
        seen = 0
        while True:
            seen = await self.changed.wait_beyond(seen)
            await asyncio.sleep(SAVE_INTERVAL_S)  # not a guess at readiness: it is what coalesces the writes
            seen = self.changed.count
            if not self.synced:
                continue
            services, owned = self.current, self._slices_by_service()
            try:
                await asyncio.to_thread(self._save, services, owned)
            except OSError as error:
                log.warning(
                    "services-file-not-written", error=str(error), consequence="a restart without Kubernetes has others"
                )

    def _slices_by_service(self) -> dict[str, tuple[str, ...]]:
        """The names of each Service's slices, also of those that cannot be read now."""
        read = {str(key): tuple(sorted(one.name for one in slices)) for key, slices in self._by_service.items()}
        hidden = {(one.namespace, one.name) for one in self._unreadable["slices"]}
        for key, names in self._remembered.items():
            namespace = key.partition("/")[0]
            kept = {name for name in names if (namespace, name) in hidden}
            if kept:
                read[key] = tuple(sorted({*read.get(key, ()), *kept}))
        return read

    def _save(self, services: Mapping[str, Service], slices: Mapping[str, tuple[str, ...]]) -> None:
        self._file.save({key: Remembered(service, slices.get(key, ())) for key, service in services.items()})


def _owner(key: ObjectKey, slice_: EndpointSlice | None) -> ObjectKey | None:
    labels = (slice_.metadata.labels if slice_ is not None and slice_.metadata else None) or {}
    name = labels.get(SERVICE_LABEL)
    return None if name is None else ObjectKey(key.namespace, name)
