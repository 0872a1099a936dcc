"""The rules that objects have to keep, as far as clients of a network plugin can break them. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Final

from k8sovs.lab.apiserver.documents import Document, entries, section, text, words
from k8sovs.lab.apiserver.errors import Cause, bad_request
from k8sovs.lab.apiserver.names import (
    key_problems,
    label_problems,
    old_label_problems,
    subdomain_problems,
    value_problems,
)
from k8sovs.lab.apiserver.resources import DEPLOYMENTS, NAMESPACES, PODS, REPLICA_SETS, SERVICES, Resource

MAX_ANNOTATIONS: Final = 256 * 1024
"""Bytes of all keys and values of an object together."""

_STANDARD_FINALIZERS: Final = frozenset({"foregroundDeletion", "kubernetes", "orphan"})
_PROTOCOLS: Final = ("SCTP", "TCP", "UDP")
_SERVICE_TYPES: Final = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_NAME_RULES: Final[Mapping[Resource, Callable[[str], list[str]]]] = {
    NAMESPACES: label_problems,
    SERVICES: old_label_problems,
}
"""Other objects are named by subdomains."""


def check_shape(resource: Resource, body: Document) -> None:
    """Refuse what could not be an object of this kind. ApiError 400."""
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict):
        raise bad_request("metadata is no object")
    for name in ("name", "namespace", "generateName", "uid", "resourceVersion"):
        if not isinstance(metadata.get(name, ""), str | None):
            raise bad_request(f"metadata.{name} is no string")
    for name in ("labels", "annotations"):
        _check_pairs(metadata, name, f"metadata.{name}")
    finalizers = metadata.get("finalizers") or []
    if not isinstance(finalizers, list) or not all(isinstance(entry, str) for entry in finalizers):
        raise bad_request("metadata.finalizers is no list of strings")
    for name in ("spec", "status"):
        if not isinstance(body.get(name), dict | None):
            raise bad_request(f"{name} is no object")
    if resource.kind in ("ConfigMap", "Secret"):
        _check_pairs(body, "data", "data")


def _check_pairs(body: Document, name: str, told: str) -> None:
    pairs = body.get(name) or {}
    if not isinstance(pairs, dict) or not all(isinstance(value, str) for value in pairs.values()):
        raise bad_request(f"{told} is no map from string to string")


def faults(resource: Resource, body: Document) -> list[Cause]:
    """The rules that an object breaks."""
    found = [*_name_faults(resource, body), *_metadata_faults(section(body, "metadata"))]
    if resource is PODS:
        found += _container_faults(body, "spec")
    if resource is SERVICES:
        found += _service_faults(section(body, "spec"))
    if resource in (DEPLOYMENTS, REPLICA_SETS):
        found += _workload_faults(section(body, "spec"))
    return found


def _name_faults(resource: Resource, body: Document) -> Iterator[Cause]:
    name, prefix = text(body, "metadata", "name"), text(body, "metadata", "generateName")
    problems_of = _NAME_RULES.get(resource, subdomain_problems)
    if prefix:
        # What the server appends makes a good end, whatever stands before it.
        yield from _invalid("metadata.generateName", prefix, problems_of(prefix.rstrip("-.") or prefix))
    if not name:
        yield Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")
    else:
        yield from _invalid("metadata.name", name, problems_of(name))


def _metadata_faults(metadata: Document) -> Iterator[Cause]:
    yield from label_faults("metadata.labels", section(metadata, "labels"))
    annotations = section(metadata, "annotations")
    for key in annotations:
        yield from _invalid("metadata.annotations", key, key_problems(key.lower()))
    if sum(len(key.encode()) + len(value.encode()) for key, value in annotations.items()) > MAX_ANNOTATIONS:
        yield Cause(
            "FieldValueTooLong", f"Too long: may not be more than {MAX_ANNOTATIONS} bytes", "metadata.annotations"
        )
    for number, finalizer in enumerate(words(metadata, "finalizers")):
        yield from _invalid("metadata.finalizers", finalizer, key_problems(finalizer))
        if "/" not in finalizer and finalizer not in _STANDARD_FINALIZERS:
            told = ["name is neither a standard finalizer name nor is it fully qualified"]
            yield from _invalid(f"metadata.finalizers[{number}]", finalizer, told)


def label_faults(field: str, labels: Document) -> Iterator[Cause]:
    """What is wrong with labels, or with a selector of the same form."""
    for key, value in sorted(labels.items()):
        yield from _invalid(field, key, key_problems(key))
        yield from _invalid(field, str(value), value_problems(str(value)))


def _container_faults(body: Document, field: str) -> Iterator[Cause]:
    containers = entries(body, "spec", "containers")
    if not containers:
        yield Cause("FieldValueRequired", "Required value", f"{field}.containers")
    names = [text(container, "name") for container in containers]
    for number, name in enumerate(names):
        place = f"{field}.containers[{number}].name"
        if not name:
            yield Cause("FieldValueRequired", "Required value", place)
        elif name in names[:number]:
            yield Cause("FieldValueDuplicate", f'Duplicate value: "{name}"', place)
        else:
            yield from _invalid(place, name, label_problems(name))


def _service_faults(spec: Document) -> Iterator[Cause]:
    ports = entries(spec, "ports")
    kind = spec.get("type") or "ClusterIP"
    # Headless and external services need no port.
    if not ports and spec.get("clusterIP") != "None" and kind != "ExternalName":
        yield Cause("FieldValueRequired", "Required value", "spec.ports")
    if kind not in _SERVICE_TYPES:
        yield _unsupported("spec.type", kind, _SERVICE_TYPES)
    for number, port in enumerate(ports):
        place = f"spec.ports[{number}]"
        if len(ports) > 1 and not port.get("name"):
            yield Cause("FieldValueRequired", "Required value", f"{place}.name")
        yield from _number_faults(f"{place}.port", port.get("port"))
        if isinstance(port.get("targetPort"), int) and port["targetPort"]:
            yield from _number_faults(f"{place}.targetPort", port["targetPort"])
        if (port.get("protocol") or "TCP") not in _PROTOCOLS:
            yield _unsupported(f"{place}.protocol", port["protocol"], _PROTOCOLS)
    yield from label_faults("spec.selector", section(spec, "selector"))


def _number_faults(field: str, number: object) -> Iterator[Cause]:
    if not isinstance(number, int) or not 1 <= number <= 65535:
        told = f"Invalid value: {number or 0}: must be between 1 and 65535, inclusive"
        yield Cause("FieldValueInvalid", told, field)


def _workload_faults(spec: Document) -> Iterator[Cause]:
    replicas = spec.get("replicas", 1)
    if not isinstance(replicas, int) or replicas < 0:
        told = f"Invalid value: {replicas}: must be greater than or equal to 0"
        yield Cause("FieldValueInvalid", told, "spec.replicas")
    wanted, given = section(spec, "selector", "matchLabels"), section(spec, "template", "metadata", "labels")
    if not wanted:
        yield Cause("FieldValueRequired", "Required value", "spec.selector")
    elif any(given.get(name) != value for name, value in wanted.items()):
        told = "Invalid value: `selector` does not match template `labels`"
        yield Cause("FieldValueInvalid", told, "spec.template.metadata.labels")
    yield from label_faults("spec.template.labels", given)
    yield from _container_faults(section(spec, "template"), "spec.template.spec")


def _invalid(field: str, value: str, problems: list[str]) -> Iterator[Cause]:
    for problem in problems:
        yield Cause("FieldValueInvalid", f'Invalid value: "{value}": {problem}', field)


def _unsupported(field: str, value: object, supported: tuple[str, ...]) -> Cause:
    names = ", ".join(f'"{name}"' for name in supported)
    return Cause("FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {names}', field)
