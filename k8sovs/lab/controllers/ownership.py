"""Owner references: what is left without any of its owners goes, and what owners that are being deleted wait for.

An owner that is deleted in the foreground waits, by a finalizer, until its dependents are gone; one that orphans them,
until they no longer name it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from k8sovs.kubernetes import Deployment, Endpoints, Namespace, Node, ObjectKey, Pod, ReplicaSet, Resource, Service
from k8sovs.lab.apiserver.documents import Document, entries, text, words
from k8sovs.lab.controllers.world import WATCHED, Delete, Owner, Patch, World, is_leaving, uid_of

_OWNERS: Final[dict[tuple[object, object], type[Resource]]] = {
    ("v1", "Namespace"): Namespace,
    ("v1", "Node"): Node,
    ("v1", "Pod"): Pod,
    ("v1", "Service"): Service,
    ("v1", "Endpoints"): Endpoints,
    ("apps/v1", "ReplicaSet"): ReplicaSet,
    ("apps/v1", "Deployment"): Deployment,
}
_FOREGROUND: Final = "foregroundDeletion"
_ORPHAN: Final = "orphan"


def plan(world: World) -> Iterator[Delete | Patch]:
    """A deletion for every object whose owners are all of watched kinds and all gone, and the end of waiting owners."""
    present = {uid_of(body) for resource in WATCHED for body in world.of(resource).values()}
    for resource in WATCHED:
        for key, body in world.standing(resource):
            owners = _owners(key, body)
            if owners and None not in owners and present.isdisjoint(owner.uid for owner in owners if owner):
                yield Delete(resource, key, uid_of(body), tuple(owner for owner in owners if owner))
        for key, body in world.of(resource).items():
            if is_leaving(body):
                yield from _end_of_owner(world, resource, key, body)


def _end_of_owner(world: World, resource: type[Resource], key: ObjectKey, owner: Document) -> Iterator[Delete | Patch]:
    """What an owner that is being deleted waits for, or its release."""
    finalizers = words(owner, "metadata", "finalizers")
    for finalizer in (_FOREGROUND, _ORPHAN):
        if finalizer not in finalizers:
            continue
        dependents = [
            (kind, inner, body)
            for kind in WATCHED
            for inner, body in world.of(kind).items()
            if uid_of(owner) in _owner_uids(body)
        ]
        if not dependents:
            left = [other for other in finalizers if other != finalizer]
            yield Patch(resource, key, _if_unchanged(owner, {"finalizers": left}))
        for kind, inner, body in dependents:
            if finalizer == _ORPHAN:
                references = entries(body, "metadata", "ownerReferences")
                kept = [reference for reference in references if reference.get("uid") != uid_of(owner)]
                yield Patch(kind, inner, _if_unchanged(body, {"ownerReferences": kept}))
            elif not is_leaving(body):
                yield Delete(kind, inner, uid_of(body), foreground=True)


def _if_unchanged(body: Document, metadata: Document) -> Document:
    """A patch of metadata that is refused if the object is no longer what was seen."""
    return {"metadata": metadata | {"resourceVersion": text(body, "metadata", "resourceVersion")}}


def _owner_uids(body: Document) -> set[str]:
    return {str(reference.get("uid")) for reference in entries(body, "metadata", "ownerReferences")}


def _owners(key: ObjectKey, body: Document) -> list[Owner | None]:
    """Those that the object names; None stands for one of a kind that is not watched."""
    found: list[Owner | None] = []
    for reference in entries(body, "metadata", "ownerReferences"):
        resource = _OWNERS.get((reference.get("apiVersion"), reference.get("kind")))
        if resource is None:
            found.append(None)
        else:
            namespace = "" if resource in (Namespace, Node) else key.namespace
            found.append(Owner(resource, ObjectKey(namespace, str(reference.get("name"))), str(reference.get("uid"))))
    return found
