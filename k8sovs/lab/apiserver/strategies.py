"""What is peculiar to single kinds: defaults, rules, and how long a deletion takes. Pure.

Only what clients of a network plugin can notice is here.
"""

from __future__ import annotations

import re
from typing import Final

from k8sovs.lab.apiserver.documents import Document, entries, section, text
from k8sovs.lab.apiserver.errors import Cause, bad_request
from k8sovs.lab.apiserver.resources import (
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICES,
    Resource,
)

_SUBDOMAIN_RULE: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?(\\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*"
_LABEL_RULE: Final = "[a-z0-9]([-a-z0-9]*[a-z0-9])?"
_SUBDOMAIN: Final = re.compile(_SUBDOMAIN_RULE)
_LABEL: Final = re.compile(_LABEL_RULE)
_DEFAULT_GRACE_S: Final = 30


def apply_defaults(resource: Resource, body: Document) -> None:
    """Fill in what a write leaves open, in place. Addresses are not given here."""
    if resource is NAMESPACES:
        _label_namespace(body["metadata"])
        body["spec"] = {"finalizers": ["kubernetes"]}
    elif resource is PODS:
        _default_pod(body)
    elif resource is SERVICES:
        _default_service(body)
    elif resource is NODES:
        body["spec"] = section(body, "spec")
    elif resource in (DEPLOYMENTS, REPLICA_SETS):
        spec = body["spec"] = section(body, "spec")
        spec.setdefault("replicas", 1)
        _default_pod(section(spec, "template"))


def first_status(resource: Resource, given: Document) -> Document:
    """The status of a new object. Only a node may bring one along, as kubelets do when they register."""
    if resource is NAMESPACES:
        return {"phase": "Active"}
    if resource is PODS:
        return {"phase": "Pending", "qosClass": "BestEffort"}
    if resource is SERVICES:
        return {"loadBalancer": {}}
    if resource is REPLICA_SETS:
        return {"replicas": 0}
    return given if resource is NODES else {}


def _label_namespace(metadata: Document) -> None:
    """Every namespace has its name as a label, whatever is written."""
    name_label = {"kubernetes.io/metadata.name": metadata["name"]}
    metadata["labels"] = section(metadata, "labels") | name_label


def _default_pod(body: Document) -> None:
    spec = body["spec"] = section(body, "spec")
    spec.setdefault("restartPolicy", "Always")
    spec.setdefault("terminationGracePeriodSeconds", _DEFAULT_GRACE_S)
    spec.setdefault("dnsPolicy", "ClusterFirst")
    spec.setdefault("schedulerName", "default-scheduler")
    spec.setdefault("enableServiceLinks", True)
    spec.setdefault("securityContext", {})
    for container in entries(body, "spec", "containers"):
        container.setdefault("imagePullPolicy", "IfNotPresent")
        container.setdefault("resources", {})
        for port in entries(container, "ports"):
            port.setdefault("protocol", "TCP")


def _default_service(body: Document) -> None:
    spec = body["spec"] = section(body, "spec")
    spec.setdefault("type", "ClusterIP")
    spec.setdefault("sessionAffinity", "None")
    for port in entries(body, "spec", "ports"):
        port.setdefault("protocol", "TCP")
        port.setdefault("targetPort", port.get("port"))
    if spec["type"] != "ExternalName":
        spec.setdefault("ipFamilies", ["IPv4"])
        spec.setdefault("ipFamilyPolicy", "SingleStack")
        spec.setdefault("internalTrafficPolicy", "Cluster")


def check_shape(body: Document) -> None:
    """Refuse what could not be an object of any kind. ApiError 400."""
    metadata = body.get("metadata", {})
    if not isinstance(metadata, dict):
        raise bad_request("metadata is no object")
    for name in ("name", "namespace", "generateName", "uid", "resourceVersion"):
        if not isinstance(metadata.get(name, ""), str | None):
            raise bad_request(f"metadata.{name} is no string")
    for name in ("labels", "annotations"):
        pairs = metadata.get(name) or {}
        if not isinstance(pairs, dict) or not all(isinstance(value, str) for value in pairs.values()):
            raise bad_request(f"metadata.{name} is no map from string to string")
    finalizers = metadata.get("finalizers") or []
    if not isinstance(finalizers, list) or not all(isinstance(entry, str) for entry in finalizers):
        raise bad_request("metadata.finalizers is no list of strings")
    for name in ("spec", "status"):
        if not isinstance(body.get(name), dict | None):
            raise bad_request(f"{name} is no object")


def faults(resource: Resource, body: Document) -> list[Cause]:
    """The rules that an object breaks."""
    found = _name_faults(resource, text(body, "metadata", "name"))
    if resource is PODS and not entries(body, "spec", "containers"):
        found.append(Cause("FieldValueRequired", "Required value", "spec.containers"))
    if resource is SERVICES and not entries(body, "spec", "ports") and not _portless(body):
        found.append(Cause("FieldValueRequired", "Required value", "spec.ports"))
    if resource in (DEPLOYMENTS, REPLICA_SETS):
        found += _workload_faults(body)
    return found


def _workload_faults(body: Document) -> list[Cause]:
    spec = section(body, "spec")
    found = []
    if not entries(spec, "template", "spec", "containers"):
        found.append(Cause("FieldValueRequired", "Required value", "spec.template.spec.containers"))
    replicas = spec.get("replicas", 1)
    if not isinstance(replicas, int) or replicas < 0:
        found.append(
            Cause("FieldValueInvalid", f"Invalid value: {replicas}: must be a number, 0 or more", "spec.replicas")
        )
    wanted, given = section(spec, "selector", "matchLabels"), section(spec, "template", "metadata", "labels")
    if not wanted:
        found.append(Cause("FieldValueRequired", "Required value", "spec.selector"))
    elif any(given.get(name) != value for name, value in wanted.items()):
        why = "Invalid value: `selector` does not match template `labels`"
        found.append(Cause("FieldValueInvalid", why, "spec.template.metadata.labels"))
    return found


def _portless(service: Document) -> bool:
    """Headless and external services need no port."""
    spec = section(service, "spec")
    return spec.get("clusterIP") == "None" or spec.get("type") == "ExternalName"


def _name_faults(resource: Resource, name: str) -> list[Cause]:
    if not name:
        return [Cause("FieldValueRequired", "Required value: name or generateName is required", "metadata.name")]
    if resource in (NAMESPACES, SERVICES):
        if _LABEL.fullmatch(name) and len(name) <= 63:
            return []
        rule = (
            "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and "
            f"end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is "
            f"'{_LABEL_RULE}')"
        )
    else:
        if _SUBDOMAIN.fullmatch(name) and len(name) <= 253:
            return []
        rule = (
            "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must "
            "start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is "
            f"'{_SUBDOMAIN_RULE}')"
        )
    return [Cause("FieldValueInvalid", f'Invalid value: "{name}": {rule}', "metadata.name")]


def grace_period_s(resource: Resource, body: Document, asked: int | None) -> int:
    """Seconds between the request to delete and the deletion; 0 is at once.

    Only a pod that a kubelet may be running takes its time: the kubelet ends it by deleting with 0.
    """
    if resource is not PODS or not text(body, "spec", "nodeName"):
        return 0
    if text(body, "status", "phase") in ("Succeeded", "Failed"):
        return 0
    if asked is not None:
        return max(asked, 0)
    given = section(body, "spec").get("terminationGracePeriodSeconds")
    return given if isinstance(given, int) else _DEFAULT_GRACE_S
