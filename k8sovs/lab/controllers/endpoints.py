"""EndpointSlices of Services with a selector: which pods serve, on which ports, and in what state."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping
from typing import Final

from k8sovs.kubernetes import EndpointSlice, ObjectKey, Pod, Service
from k8sovs.lab.apiserver.documents import Document, entries, section, text
from k8sovs.lab.controllers.world import (
    Create,
    Delete,
    Patch,
    World,
    controlled_by,
    is_finished,
    is_leaving,
    is_ready,
    selects,
    suffix,
    uid_of,
)

MAX_ENDPOINTS: Final = 100
"""In one slice, as in the real one."""

_SERVICE: Final = "kubernetes.io/service-name"
_MANAGED_BY: Final = "endpointslice.kubernetes.io/managed-by"
_OURS: Final = "endpointslice-controller.k8s.io"
_CONTENT: Final = ("endpoints", "ports")


def plan(world: World) -> Iterator[Create | Patch | Delete]:
    """The writes after which every such Service has its slices. Those of a Service that is gone go as what it owns."""
    pods = pods_by_namespace(world)
    present = present_slices(world, _OURS)
    for key, service in world.standing(Service):
        yield from difference(key, slices(service, pods[key.namespace]), present[key])


def pods_by_namespace(world: World) -> Mapping[str, list[Document]]:
    """All pods, in the order of their names."""
    pods: dict[str, list[Document]] = defaultdict(list)
    for key, pod in sorted(world.of(Pod).items()):
        pods[key.namespace].append(pod)
    return pods


def present_slices(world: World, manager: str) -> Mapping[ObjectKey, dict[str, Document]]:
    """The slices that one controller has made, by their Service and their name."""
    present: dict[ObjectKey, dict[str, Document]] = defaultdict(dict)
    for key, body in world.standing(EndpointSlice):
        labels = section(body, "metadata", "labels")
        if labels.get(_MANAGED_BY) == manager:
            present[key._replace(name=labels.get(_SERVICE, ""))][key.name] = body
    return present


def difference(
    service: ObjectKey, slices: Iterable[Document], present: Mapping[str, Document]
) -> Iterator[Create | Patch | Delete]:
    """The writes that make the slices of one Service what they should be."""
    wanted = {text(body, "metadata", "name"): body for body in slices}
    for name, body in wanted.items():
        if name not in present:
            yield Create(EndpointSlice, body)
        elif any((present[name].get(part) or []) != body[part] for part in _CONTENT):
            yield Patch(EndpointSlice, service._replace(name=name), {part: body[part] for part in _CONTENT})
    for name in present.keys() - wanted.keys():
        yield Delete(EndpointSlice, service._replace(name=name), uid_of(present[name]))


def slices(service: Document, pods: Iterable[Document]) -> list[Document]:
    """The slices of one Service, out of the pods of its namespace; none if it has no selector.

    Pods that resolve a named port differently are in different slices; a Service without pods has one that is empty.
    """
    selector = section(service, "spec", "selector")
    if not selector or text(service, "spec", "type") == "ExternalName":
        return []
    ports_of: dict[str, list[Document]] = {}
    groups: dict[str, list[Document]] = defaultdict(list)
    for pod in pods:
        if (
            selects(selector, section(pod, "metadata", "labels"))
            and text(pod, "status", "podIP")
            and not is_finished(pod)
        ):
            ports = [_resolved(port, pod) for port in entries(service, "spec", "ports")]
            found = [port for port in ports if port]
            ports_of[str(found)] = found
            groups[str(found)].append(_endpoint(service, pod))
    if not groups:
        return [_slice(service, 0, [], [])]
    chunks = [
        (ports_of[name], endpoints[first : first + MAX_ENDPOINTS])
        for name, endpoints in sorted(groups.items())
        for first in range(0, len(endpoints), MAX_ENDPOINTS)
    ]
    return [_slice(service, number, endpoints, ports) for number, (ports, endpoints) in enumerate(chunks)]


def _resolved(port: Document, pod: Document) -> Document | None:
    """A port of the Service as this pod has it; None if the pod has none of that name."""
    protocol = port.get("protocol", "TCP")
    target = port.get("targetPort") or port.get("port")
    if isinstance(target, str):
        named = (
            candidate.get("containerPort")
            for container in entries(pod, "spec", "containers")
            for candidate in entries(container, "ports")
            if candidate.get("name") == target and candidate.get("protocol", "TCP") == protocol
        )
        target = next(named, None)
    return None if target is None else {"name": port.get("name", ""), "protocol": protocol, "port": target}


def _endpoint(service: Document, pod: Document) -> Document:
    terminating = is_leaving(pod)
    serving = is_ready(pod) or section(service, "spec").get("publishNotReadyAddresses") is True
    metadata = section(pod, "metadata")
    reference = {name: metadata.get(name) for name in ("namespace", "name", "uid")}
    return {
        "addresses": [text(pod, "status", "podIP")],
        "conditions": {"ready": serving and not terminating, "serving": serving, "terminating": terminating},
        "targetRef": {"kind": "Pod", **reference},
        "nodeName": text(pod, "spec", "nodeName"),
    }


def _slice(service: Document, number: int, endpoints: list[Document], ports: list[Document]) -> Document:
    return endpoint_slice(service, number, endpoints, ports, controlled_by("v1", "Service", service), _OURS)


def endpoint_slice(
    named: Document,
    number: int,
    endpoints: list[Document],
    ports: list[Document],
    owners: list[Document],
    manager: str,
) -> Document:
    """Slice `number` of the Service that has the same name as `named`."""
    name = text(named, "metadata", "name")
    return {
        "metadata": {
            "name": f"{name}-{suffix(uid_of(named), number)}",
            "namespace": text(named, "metadata", "namespace"),
            "labels": {_SERVICE: name, _MANAGED_BY: manager},
            "ownerReferences": owners,
        },
        "addressType": "IPv4",
        "endpoints": endpoints,
        "ports": ports,
    }
