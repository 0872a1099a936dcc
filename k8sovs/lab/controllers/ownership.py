"""Owner references: what is left without any of its owners goes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from k8sovs.kubernetes import Deployment, Namespace, Node, ObjectKey, Pod, ReplicaSet, Resource, Service
from k8sovs.lab.apiserver.documents import Document, entries
from k8sovs.lab.controllers.world import WATCHED, Delete, Owner, World, uid_of

_OWNERS: Final[dict[tuple[object, object], type[Resource]]] = {
    ("v1", "Namespace"): Namespace,
    ("v1", "Node"): Node,
    ("v1", "Pod"): Pod,
    ("v1", "Service"): Service,
    ("apps/v1", "ReplicaSet"): ReplicaSet,
    ("apps/v1", "Deployment"): Deployment,
}


def plan(world: World) -> Iterator[Delete]:
    """A deletion for every object whose owners are all of watched kinds and all gone."""
    present = {uid_of(body) for resource in WATCHED for body in world.of(resource).values()}
    for resource in WATCHED:
        for key, body in world.standing(resource):
            owners = _owners(key, body)
            if owners and None not in owners and present.isdisjoint(owner.uid for owner in owners if owner):
                yield Delete(resource, key, uid_of(body), tuple(owner for owner in owners if owner))


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
