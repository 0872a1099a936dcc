"""The scheduler: a pod without a node gets the Ready one with the fewest pods that its nodeSelector allows."""

from __future__ import annotations

from collections.abc import Iterator

from k8sovs.kubernetes import Node, Pod
from k8sovs.lab.apiserver.documents import section, text
from k8sovs.lab.controllers.world import Bind, World, is_finished, is_ready, selects


def plan(world: World) -> Iterator[Bind]:
    """A binding for every pod that waits for one and can have it."""
    nodes = {
        key.name: section(node, "metadata", "labels")
        for key, node in sorted(world.standing(Node))
        if is_ready(node) and not section(node, "spec").get("unschedulable")
    }
    load = dict.fromkeys(nodes, 0)
    for pod in world.of(Pod).values():
        node = text(pod, "spec", "nodeName")
        if node in load and not is_finished(pod):
            load[node] += 1
    for key, pod in sorted(world.standing(Pod), key=lambda entry: entry[0]):
        if text(pod, "spec", "nodeName") or is_finished(pod):
            continue
        wanted = section(pod, "spec", "nodeSelector")
        allowed = [name for name, labels in nodes.items() if selects(wanted, labels)]
        if allowed:
            chosen = min(allowed, key=lambda name: load[name])
            load[chosen] += 1
            yield Bind(key, chosen)
