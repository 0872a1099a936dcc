"""The end of namespaces, for a server that leaves it to a controller: contents first, then the namespace itself."""

from __future__ import annotations

from collections.abc import Iterator

from k8sovs.kubernetes import Namespace
from k8sovs.lab.controllers.world import WATCHED, Delete, Finalize, World, is_leaving, uid_of


def plan(world: World) -> Iterator[Delete | Finalize]:
    """What is still to be deleted in namespaces that are about to go, and those that nothing watched keeps."""
    for namespace, body in world.of(Namespace).items():
        if not is_leaving(body):
            continue
        contents = [
            (resource, key, inside)
            for resource in WATCHED
            for key, inside in world.of(resource).items()
            if key.namespace == namespace.name
        ]
        yield from (
            Delete(resource, key, uid_of(inside)) for resource, key, inside in contents if not is_leaving(inside)
        )
        if not contents:
            yield Finalize(namespace.name)
