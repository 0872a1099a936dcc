"""The controllers at work: watch, plan, write."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from k8sovs.kubernetes import (
    AlreadyExists,
    ConfigMap,
    Conflict,
    EndpointSlice,
    Event,
    Gone,
    Kubernetes,
    KubernetesError,
    Lease,
    Listed,
    Namespace,
    Node,
    NotFound,
    ObjectKey,
    Pod,
    Put,
    Resource,
    Secret,
    ServiceAccount,
    from_document,
    key_of,
    metadata_of,
    to_document,
)
from k8sovs.lab.apiserver.documents import Document
from k8sovs.lab.controllers import endpoints, namespaces, ownership, scheduling, subsets, workloads
from k8sovs.lab.controllers.world import (
    WATCHED,
    Bind,
    Create,
    Delete,
    Finalize,
    Owner,
    Patch,
    Plan,
    World,
    Write,
)
from k8sovs.logs import get_logger

RETRY_S: Final = 1.0


@dataclass(frozen=True, slots=True)
class Job:
    """Plans that are carried out together, and what they have to see."""

    name: str
    watched: tuple[type[Resource], ...]
    plans: tuple[Plan, ...]


SCHEDULER: Final = Job("scheduler", (Namespace, Node, Pod), (scheduling.plan,))
CONTROLLER_MANAGER: Final = Job(
    "manager", WATCHED, (workloads.plan, endpoints.plan, subsets.plan, subsets.mirror, ownership.plan)
)
NAMESPACE_CONTROLLER: Final = Job("namespaces", WATCHED, (namespaces.plan,))

_UNWATCHED: Final[tuple[type[Resource], ...]] = (ConfigMap, Event, Lease, Secret, ServiceAccount)
"""What may lie in a namespace beside the watched kinds."""
_NEW: Final[Mapping[type[Resource], tuple[Plan, str]]] = {
    EndpointSlice: (
        endpoints.plan,
        "this Kubernetes is older than 1.21: no Service has EndpointSlices of discovery.k8s.io/v1",
    )
}
"""Kinds that came late, which plan makes them, and what it means when they are not there."""

log = get_logger(__name__)


class ControllerLoop:
    """A job, done for ever by `run`."""

    def __init__(self, kubernetes: Kubernetes, job: Job) -> None:
        self._kubernetes = kubernetes
        self._job = job
        self._objects: dict[type[Resource], dict[ObjectKey, Document]] = {}
        self._changed = asyncio.Event()

    async def run(self) -> None:
        """Follow the API; nothing is planned before every list has been read."""
        watched = [resource for resource in self._job.watched if await self._is_offered(resource)]
        async with asyncio.TaskGroup() as tasks:
            for resource in watched:
                tasks.create_task(self._follow(resource), name=f"controllers-{resource.__name__}")
            while True:
                await self._changed.wait()
                self._changed.clear()
                if len(self._objects) == len(watched) and not await self._settle():
                    asyncio.get_running_loop().call_later(RETRY_S, self._changed.set)

    async def _is_offered(self, resource: type[Resource]) -> bool:
        """Whether the API has this kind, which old versions of it may not."""
        while resource in _NEW:
            try:
                await self._kubernetes.list(resource)
            except NotFound:
                maker, consequence = _NEW[resource]
                if maker in self._job.plans:
                    log.warning("kind-not-offered", kind=resource.__name__, consequence=consequence)
                return False
            except KubernetesError as error:
                log.warning("kind-unknown", kind=resource.__name__, error=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                break
        return True

    async def _follow(self, resource: type[Resource]) -> None:
        async with aclosing(self._kubernetes.watch(resource)) as events:
            async for event in events:
                match event:
                    case Listed(items=items):
                        self._objects[resource] = {key_of(item): to_document(item) for item in items}
                    case Put(key=key, item=item):
                        self._objects[resource][key] = to_document(item)
                    case Gone(key=key):
                        self._objects[resource].pop(key, None)
                self._changed.set()

    async def _settle(self) -> bool:
        """Ask every plan and carry it out; False if a write failed and has to be tried again."""
        done = True
        for plan in self._job.plans:
            for write in list(plan(World(self._objects))):
                if isinstance(write, Create) and write.resource not in self._objects:
                    continue  # the API does not have this kind
                try:
                    await self._carry_out(write)
                except (AlreadyExists, Conflict, NotFound) as error:
                    # The world has moved on; its watch will say so, and then it is planned anew.
                    log.debug("write-came-late", error=str(error))
                except KubernetesError as error:
                    log.warning("write-failed", error=str(error))
                    done = False
        return done

    async def _carry_out(self, write: Write) -> None:
        kubernetes = self._kubernetes
        match write:
            case Create(resource=resource, body=body):
                await kubernetes.create(from_document(body, resource))
            case Patch(resource=resource, key=key, body=body, subresource=part):
                await kubernetes.patch(resource, key.name, body, namespace=key.namespace, subresource=part)
            case Delete(resource=resource, key=key, uid=uid, owners=owners, foreground=foreground):
                for owner in owners:
                    if await self._exists(owner):
                        return
                await kubernetes.delete(resource, key.name, namespace=key.namespace, uid=uid, foreground=foreground)
            case Bind(pod=pod, node=node):
                await kubernetes.bind(pod, node)
                if bound := self._objects[Pod].get(pod):
                    bound["spec"]["nodeName"] = node  # the next pod is placed with this one in mind, watch or no watch
            case Finalize(namespace=namespace):
                for resource in _UNWATCHED:
                    await kubernetes.delete_all(resource, namespace)
                await kubernetes.finalize(namespace)

    async def _exists(self, owner: Owner) -> bool:
        """An owner may be new, and its watch behind that of what it owns."""
        try:
            found = await self._kubernetes.get(owner.resource, owner.key.name, owner.key.namespace)
        except NotFound:
            return False
        return metadata_of(found).uid == owner.uid
