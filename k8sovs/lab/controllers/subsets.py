"""Endpoints, the older form of EndpointSlices, both ways.

A Service with a selector gets its Endpoints from its pods. Endpoints that a person wrote for a Service without one are
mirrored into EndpointSlices, which is all that a network plugin reads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from k8sovs.kubernetes import Endpoints, Service
from k8sovs.lab.apiserver.documents import Document, entries, section, text
from k8sovs.lab.controllers.endpoints import (
    MAX_ENDPOINTS,
    difference,
    endpoint_slice,
    pods_by_namespace,
    present_slices,
    slices,
)
from k8sovs.lab.controllers.world import Create, Delete, Patch, World, controlled_by, uid_of

_MANAGED_BY: Final = "endpoints.kubernetes.io/managed-by"
_OURS: Final = "endpoint-controller"
_MIRRORS: Final = "endpointslicemirroring-controller.k8s.io"
_SKIP: Final = "endpointslice.kubernetes.io/skip-mirror"


def plan(world: World) -> Iterator[Create | Patch | Delete]:
    """The writes after which every Service with a selector has its Endpoints, and no other has any of ours."""
    pods = pods_by_namespace(world)
    present = world.of(Endpoints)
    wanted = {
        key: _endpoints(service, slices(service, pods[key.namespace]))
        for key, service in world.standing(Service)
        if section(service, "spec", "selector") and text(service, "spec", "type") != "ExternalName"
    }
    for key, body in wanted.items():
        if key not in present:
            yield Create(Endpoints, body)
        elif (present[key].get("subsets") or []) != body["subsets"]:
            yield Patch(Endpoints, key, {"subsets": body["subsets"]})
    for key, body in world.standing(Endpoints):
        if key not in wanted and section(body, "metadata", "labels").get(_MANAGED_BY) == _OURS:
            yield Delete(Endpoints, key, uid_of(body))


def mirror(world: World) -> Iterator[Create | Patch | Delete]:
    """The writes after which hand-made Endpoints of a Service without a selector have EndpointSlices."""
    services = dict(world.standing(Service))
    present = present_slices(world, _MIRRORS)
    for key, body in world.standing(Endpoints):
        labels = section(body, "metadata", "labels")
        is_wanted = key in services and not section(services[key], "spec", "selector")
        is_ours = labels.get(_MANAGED_BY) == _OURS or labels.get(_SKIP) == "true"
        yield from difference(key, _mirrored(body) if is_wanted and not is_ours else [], present[key])


def _endpoints(service: Document, of_slices: Iterable[Document]) -> Document:
    subsets: dict[str, Document] = {}
    for body in of_slices:
        for endpoint in body["endpoints"]:
            conditions = endpoint["conditions"]
            if conditions["terminating"]:
                continue
            # An unnamed port has no name here, and an empty one in a slice.
            ports = [{name: value for name, value in port.items() if value} for port in body["ports"]]
            subset = subsets.setdefault(str(ports), {"ports": ports} if ports else {})
            address = {"ip": endpoint["addresses"][0], "nodeName": endpoint["nodeName"]}
            address["targetRef"] = endpoint["targetRef"]
            subset.setdefault("addresses" if conditions["ready"] else "notReadyAddresses", []).append(address)
    metadata = section(service, "metadata")
    return {
        "metadata": {
            "name": metadata["name"],
            "namespace": metadata["namespace"],
            "labels": section(metadata, "labels") | {_MANAGED_BY: _OURS},
        },
        "subsets": list(subsets.values()),
    }


def _mirrored(endpoints: Document) -> list[Document]:
    chunks = []
    for subset in entries(endpoints, "subsets"):
        ports = [
            {"name": port.get("name", ""), "protocol": port.get("protocol", "TCP"), "port": port.get("port")}
            for port in entries(subset, "ports")
        ]
        told = [_endpoint(address, ready=True) for address in entries(subset, "addresses")]
        told += [_endpoint(address, ready=False) for address in entries(subset, "notReadyAddresses")]
        chunks += [(ports, told[first : first + MAX_ENDPOINTS]) for first in range(0, len(told), MAX_ENDPOINTS)]
    owners = controlled_by("v1", "Endpoints", endpoints)
    return [
        endpoint_slice(endpoints, number, told, ports, owners, _MIRRORS) for number, (ports, told) in enumerate(chunks)
    ]


def _endpoint(address: Document, *, ready: bool) -> Document:
    known = {name: address[name] for name in ("nodeName", "targetRef") if name in address}
    return {"addresses": [text(address, "ip")], "conditions": {"ready": ready}} | known
