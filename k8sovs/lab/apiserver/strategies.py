"""What is peculiar to single kinds: defaults, and how long a deletion takes. Pure.

Only what clients of a network plugin can notice is here.
"""

from __future__ import annotations

from typing import Final

from k8sovs.lab.apiserver.documents import Document, entries, section, text
from k8sovs.lab.apiserver.resources import (
    DEPLOYMENTS,
    NAMESPACES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICES,
    Resource,
)

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
        if resource is DEPLOYMENTS:
            _default_rollout(spec)
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


def _default_rollout(spec: Document) -> None:
    spec.setdefault("revisionHistoryLimit", 10)
    spec.setdefault("progressDeadlineSeconds", 600)
    strategy = spec["strategy"] = section(spec, "strategy")
    if strategy.setdefault("type", "RollingUpdate") == "RollingUpdate":
        strategy["rollingUpdate"] = {"maxSurge": "25%", "maxUnavailable": "25%"} | section(strategy, "rollingUpdate")


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
