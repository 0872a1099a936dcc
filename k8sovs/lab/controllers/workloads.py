"""Deployments and ReplicaSets: as many pods of the newest template as were asked for.

A new template gets all its pods first; when they are ready, those of the old ones go.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count, islice
from typing import Final

from k8sovs.kubernetes import Deployment, ObjectKey, Pod, ReplicaSet, Resource
from k8sovs.lab.apiserver.documents import Document, section, text
from k8sovs.lab.controllers.world import (
    Create,
    Delete,
    Patch,
    World,
    controlled_by,
    is_finished,
    is_leaving,
    is_ready,
    owned_by,
    suffix,
    uid_of,
)

_HASH: Final = "pod-template-hash"


def plan(world: World) -> Iterator[Create | Patch | Delete]:
    """The writes after which Deployments have their ReplicaSets and those their pods, and both say so."""
    for key, deployment in world.standing(Deployment):
        sets = [body for _, body in world.standing(ReplicaSet) if owned_by(deployment, body)]
        yield from _replica_sets(key, deployment, sets)
        yield from _status(Deployment, key, deployment, _deployment_status(deployment, sets))
    for key, replica_set in world.standing(ReplicaSet):
        pods = {pod_key.name: pod for pod_key, pod in world.of(Pod).items() if owned_by(replica_set, pod)}
        running = {name: pod for name, pod in pods.items() if not is_leaving(pod) and not is_finished(pod)}
        yield from _pods(key, replica_set, pods, running)
        yield from _status(ReplicaSet, key, replica_set, _replica_set_status(replica_set, running))


def replicas(body: Document) -> int:
    """How many pods a Deployment or ReplicaSet is to have."""
    wanted = section(body, "spec").get("replicas")
    return wanted if isinstance(wanted, int) else 1


def _replica_sets(key: ObjectKey, deployment: Document, sets: list[Document]) -> Iterator[Create | Patch | Delete]:
    newest = _replica_set(key, deployment)
    name = text(newest, "metadata", "name")
    current = next((body for body in sets if text(body, "metadata", "name") == name), None)
    if current is None:
        yield Create(ReplicaSet, newest)
        return
    if replicas(current) != replicas(deployment):
        yield Patch(ReplicaSet, key._replace(name=name), {"spec": {"replicas": replicas(deployment)}})
    if section(current, "status").get("readyReplicas", 0) >= replicas(deployment):
        for old in sets:
            if old is not current:
                yield Delete(ReplicaSet, key._replace(name=text(old, "metadata", "name")), uid_of(old))


def _replica_set(key: ObjectKey, deployment: Document) -> Document:
    """The ReplicaSet of a Deployment's template."""
    template = section(deployment, "spec", "template")
    mark = {_HASH: suffix(template, length=10)}
    labels = section(template, "metadata", "labels") | mark
    selector = section(deployment, "spec", "selector")
    return {
        "metadata": {
            "name": f"{key.name}-{mark[_HASH]}",
            "namespace": key.namespace,
            "labels": labels,
            "ownerReferences": controlled_by("apps/v1", "Deployment", deployment),
        },
        "spec": {
            "replicas": replicas(deployment),
            "selector": selector | {"matchLabels": section(selector, "matchLabels") | mark},
            "template": template | {"metadata": section(template, "metadata") | {"labels": labels}},
        },
    }


def _pods(
    key: ObjectKey, replica_set: Document, pods: dict[str, Document], running: dict[str, Document]
) -> Iterator[Create | Delete]:
    template = section(replica_set, "spec", "template")
    missing = replicas(replica_set) - len(running)
    names = (f"{key.name}-{suffix(uid_of(replica_set), number)}" for number in count())
    for name in islice((name for name in names if name not in pods), max(missing, 0)):
        metadata = section(template, "metadata") | {
            "name": name,
            "namespace": key.namespace,
            "ownerReferences": controlled_by("apps/v1", "ReplicaSet", replica_set),
        }
        yield Create(Pod, {"metadata": metadata, "spec": section(template, "spec")})
    # Those that serve nobody yet go first.
    expendable = sorted(running.items(), key=lambda entry: (is_ready(entry[1]), entry[0]))
    for name, pod in expendable[: max(-missing, 0)]:
        yield Delete(Pod, key._replace(name=name), uid_of(pod))


def _replica_set_status(replica_set: Document, running: dict[str, Document]) -> Document:
    ready = sum(is_ready(pod) for pod in running.values())
    return {
        "observedGeneration": section(replica_set, "metadata").get("generation", 0),
        "replicas": len(running),
        "fullyLabeledReplicas": len(running),
        "readyReplicas": ready,
        "availableReplicas": ready,
    }


def _deployment_status(deployment: Document, sets: list[Document]) -> Document:
    newest = suffix(section(deployment, "spec", "template"), length=10)

    def total(field: str) -> int:
        return sum(section(body, "status").get(field, 0) for body in sets)

    updated = sum(
        section(body, "status").get("replicas", 0)
        for body in sets
        if section(body, "metadata", "labels").get(_HASH) == newest
    )
    ready, wanted = total("readyReplicas"), replicas(deployment)
    return {
        "observedGeneration": section(deployment, "metadata").get("generation", 0),
        "replicas": total("replicas"),
        "updatedReplicas": updated,
        "readyReplicas": ready,
        "availableReplicas": ready,
        "unavailableReplicas": max(wanted - ready, 0),
        "conditions": [
            {
                "type": "Available",
                "status": "True" if ready >= wanted else "False",
                "reason": "MinimumReplicasAvailable" if ready >= wanted else "MinimumReplicasUnavailable",
                "message": f"{ready} of {wanted} pods are ready",
            }
        ],
    }


def _status(resource: type[Resource], key: ObjectKey, body: Document, status: Document) -> Iterator[Patch]:
    # What is not in the status and should be 0 need not be written.
    told = section(body, "status")
    if any(told.get(name, 0) != value for name, value in status.items()):
        yield Patch(resource, key, {"status": status}, "status")
