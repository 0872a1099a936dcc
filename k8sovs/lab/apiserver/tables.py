"""Objects as the rows that `kubectl get` prints (meta.k8s.io/v1 Table). Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from k8sovs.lab.apiserver.documents import Document, entries, section, text, words
from k8sovs.lab.apiserver.resources import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    ENDPOINTS,
    EVENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICES,
    Resource,
)
from k8sovs.lab.apiserver.store import Stored

_NONE: Final = "<none>"
_MINUTE, _HOUR, _DAY = 60, 3600, 86400
_AGES: Final = (
    (2 * _MINUTE, 1, "s", 0, 1, ""),
    (3 * _HOUR, _MINUTE, "m", 10 * _MINUTE, 1, "s"),
    (2 * _DAY, _HOUR, "h", 8 * _HOUR, _MINUTE, "m"),
    (730 * _DAY, _DAY, "d", 8 * _DAY, _HOUR, "h"),
)
"""Below so many seconds: the unit and its letter; below so many: with the rest in that unit."""


@dataclass(frozen=True, slots=True)
class Column:
    """One column; a `wide` one is shown with -o wide only. `cell` takes an object and the time."""

    name: str
    cell: Callable[[Document, datetime], object]
    wide: bool = False

    def definition(self) -> Document:
        """The entry of columnDefinitions."""
        form = "name" if self.name == "Name" else ""
        return {
            "name": self.name,
            "type": "string",
            "format": form,
            "description": "",
            "priority": 1 if self.wide else 0,
        }


def render(resource: Resource, rows: Iterable[Stored], now: datetime, list_metadata: Document) -> Document:
    """A Table of `rows`; `now` is the time in UTC, from which ages are counted."""
    columns = _COLUMNS.get(resource, _PLAIN)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": list_metadata,
        "columnDefinitions": [column.definition() for column in columns],
        "rows": [
            {
                "cells": [column.cell(row.body, now) for column in columns],
                "object": {
                    "kind": "PartialObjectMetadata",
                    "apiVersion": "meta.k8s.io/v1",
                    "metadata": row.body["metadata"],
                },
            }
            for row in rows
        ],
    }


def _at(*path: str, default: str = _NONE) -> Callable[[Document, datetime], object]:
    return lambda document, _: text(document, *path) or default


def age(since: str, now: datetime) -> str:
    """As Kubernetes' HumanDuration writes it: `18s`, `3m5s`, `4h10m`, `12d`."""
    try:
        then = datetime.fromisoformat(since)
    except ValueError:
        return "<unknown>"
    if then.tzinfo is None:
        then = then.replace(tzinfo=UTC)
    seconds = max(int((now - then).total_seconds()), 0)
    for limit, unit, letter, rest_limit, rest_unit, rest_letter in _AGES:
        if seconds < limit:
            rest = seconds % unit // rest_unit
            return f"{seconds // unit}{letter}" + (f"{rest}{rest_letter}" if rest and seconds < rest_limit else "")
    return f"{seconds // _DAY}d"


def _age(document: Document, now: datetime) -> str:
    return age(text(document, "metadata", "creationTimestamp"), now)


def _pod_ready(pod: Document, _: datetime) -> str:
    statuses = entries(pod, "status", "containerStatuses")
    ready = sum(status.get("ready") is True and "running" in section(status, "state") for status in statuses)
    return f"{ready}/{len(entries(pod, 'spec', 'containers'))}"


def _pod_status(pod: Document, _: datetime) -> str:
    if text(pod, "metadata", "deletionTimestamp"):
        return "Terminating"
    for status in entries(pod, "status", "containerStatuses"):
        for state in ("waiting", "terminated"):
            if reason := text(status, "state", state, "reason"):
                return reason
    return text(pod, "status", "reason") or text(pod, "status", "phase") or "Unknown"


def _pod_restarts(pod: Document, _: datetime) -> str:
    counts = (status.get("restartCount", 0) for status in entries(pod, "status", "containerStatuses"))
    return str(sum(count for count in counts if isinstance(count, int)))


def _node_status(node: Document, _: datetime) -> str:
    told = {entry.get("type"): entry.get("status") for entry in entries(node, "status", "conditions")}
    state = {"True": "Ready", "False": "NotReady"}.get(str(told.get("Ready")), "Unknown")
    return f"{state},SchedulingDisabled" if section(node, "spec").get("unschedulable") else state


def _node_roles(node: Document, _: datetime) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = section(node, "metadata", "labels")
    return ",".join(sorted(name.removeprefix(prefix) for name in labels if name.startswith(prefix))) or _NONE


def _node_address(kind: str) -> Callable[[Document, datetime], object]:
    def cell(node: Document, _: datetime) -> str:
        addresses = (entry for entry in entries(node, "status", "addresses") if entry.get("type") == kind)
        return next((str(entry.get("address")) for entry in addresses), _NONE)

    return cell


def _external_address(service: Document, _: datetime) -> str:
    addresses = [text(entry, "ip") or text(entry, "hostname") for entry in _ingress(service)]
    addresses += words(service, "spec", "externalIPs")
    if not addresses and text(service, "spec", "type") == "LoadBalancer":
        return "<pending>"
    return ",".join(addresses) or text(service, "spec", "externalName") or _NONE


def _ingress(service: Document) -> list[Document]:
    return entries(service, "status", "loadBalancer", "ingress")


def _service_ports(service: Document, _: datetime) -> str:
    def told(port: Document) -> str:
        number = f"{port.get('port')}:{port['nodePort']}" if port.get("nodePort") else str(port.get("port"))
        return f"{number}/{port.get('protocol', 'TCP')}"

    return ",".join(told(port) for port in entries(service, "spec", "ports")) or _NONE


def _selector(service: Document, _: datetime) -> str:
    selector: Mapping[str, object] = section(service, "spec", "selector")
    return ",".join(f"{name}={value}" for name, value in sorted(selector.items())) or _NONE


def _template_containers(name: str) -> Callable[[Document, datetime], object]:
    def cell(workload: Document, _: datetime) -> str:
        return ",".join(text(entry, name) for entry in entries(workload, "spec", "template", "spec", "containers"))

    return cell


def _match_labels(workload: Document, now: datetime) -> str:
    return _selector({"spec": {"selector": section(workload, "spec", "selector", "matchLabels")}}, now)


def _number(*path: str) -> Callable[[Document, datetime], object]:
    return lambda document, _: section(document, *path[:-1]).get(path[-1], 0)


def _deployment_ready(deployment: Document, _: datetime) -> str:
    ready = section(deployment, "status").get("readyReplicas", 0)
    return f"{ready}/{section(deployment, 'spec').get('replicas', 0)}"


def _slice_ports(endpoint_slice: Document, _: datetime) -> str:
    return ",".join(str(port.get("port")) for port in entries(endpoint_slice, "ports")) or "<unset>"


def _slice_endpoints(endpoint_slice: Document, _: datetime) -> str:
    addresses = [
        address for endpoint in entries(endpoint_slice, "endpoints") for address in words(endpoint, "addresses")
    ]
    if not addresses:
        return "<unset>"
    more = f" + {len(addresses) - 3} more..." if len(addresses) > 3 else ""
    return ",".join(addresses[:3]) + more


def _endpoints(body: Document, _: datetime) -> str:
    told = [
        f"{text(address, 'ip')}:{port['port']}" if port else text(address, "ip")
        for subset in entries(body, "subsets")
        for port in entries(subset, "ports") or [{}]
        for address in entries(subset, "addresses")
    ]
    more = f" + {len(told) - 3} more..." if len(told) > 3 else ""
    return ",".join(told[:3]) + more if told else _NONE


def _event_age(event: Document, now: datetime) -> str:
    last = text(event, "lastTimestamp") or text(event, "eventTime") or text(event, "metadata", "creationTimestamp")
    return age(last, now)


def _event_object(event: Document, _: datetime) -> str:
    return f"{text(event, 'involvedObject', 'kind').lower()}/{text(event, 'involvedObject', 'name')}"


_NAME: Final = Column("Name", _at("metadata", "name"))
_AGE: Final = Column("Age", _age)
_PLAIN: Final = (_NAME, _AGE)
_TEMPLATE: Final = (
    Column("Containers", _template_containers("name"), wide=True),
    Column("Images", _template_containers("image"), wide=True),
    Column("Selector", _match_labels, wide=True),
)

_COLUMNS: Final[Mapping[Resource, tuple[Column, ...]]] = {
    NAMESPACES: (_NAME, Column("Status", _at("status", "phase")), _AGE),
    NODES: (
        _NAME,
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        _AGE,
        Column("Version", _at("status", "nodeInfo", "kubeletVersion", default="")),
        Column("Internal-IP", _node_address("InternalIP"), wide=True),
        Column("External-IP", _node_address("ExternalIP"), wide=True),
        Column("OS-Image", _at("status", "nodeInfo", "osImage", default="<unknown>"), wide=True),
        Column("Kernel-Version", _at("status", "nodeInfo", "kernelVersion", default="<unknown>"), wide=True),
        Column(
            "Container-Runtime", _at("status", "nodeInfo", "containerRuntimeVersion", default="<unknown>"), wide=True
        ),
    ),
    PODS: (
        _NAME,
        Column("Ready", _pod_ready),
        Column("Status", _pod_status),
        Column("Restarts", _pod_restarts),
        _AGE,
        Column("IP", _at("status", "podIP"), wide=True),
        Column("Node", _at("spec", "nodeName"), wide=True),
        Column("Nominated Node", _at("status", "nominatedNodeName"), wide=True),
        Column("Readiness Gates", lambda _pod, _now: _NONE, wide=True),
    ),
    SERVICES: (
        _NAME,
        Column("Type", _at("spec", "type")),
        Column("Cluster-IP", _at("spec", "clusterIP")),
        Column("External-IP", _external_address),
        Column("Port(s)", _service_ports),
        _AGE,
        Column("Selector", _selector, wide=True),
    ),
    DEPLOYMENTS: (
        _NAME,
        Column("Ready", _deployment_ready),
        Column("Up-to-date", _number("status", "updatedReplicas")),
        Column("Available", _number("status", "availableReplicas")),
        _AGE,
        *_TEMPLATE,
    ),
    REPLICA_SETS: (
        _NAME,
        Column("Desired", _number("spec", "replicas")),
        Column("Current", _number("status", "replicas")),
        Column("Ready", _number("status", "readyReplicas")),
        _AGE,
        *_TEMPLATE,
    ),
    ENDPOINT_SLICES: (
        _NAME,
        Column("AddressType", _at("addressType")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
        _AGE,
    ),
    ENDPOINTS: (_NAME, Column("Endpoints", _endpoints), _AGE),
    EVENTS: (
        Column("Last Seen", _event_age),
        Column("Type", _at("type")),
        Column("Reason", _at("reason")),
        Column("Object", _event_object),
        Column("Message", _at("message", default="")),
        Column("Source", _at("source", "component", default=""), wide=True),
        Column("Name", _at("metadata", "name"), wide=True),
    ),
}
