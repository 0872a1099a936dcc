"""The `scale` of a workload (autoscaling/v1 Scale): its number of pods, and nothing else of it. Pure."""

from __future__ import annotations

from k8sovs.lab.apiserver.documents import Document, section, text

_METADATA = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")


def scale_of(workload: Document) -> Document:
    """The Scale of a Deployment or ReplicaSet."""
    metadata = section(workload, "metadata")
    labels = section(workload, "spec", "selector", "matchLabels")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {name: metadata[name] for name in _METADATA if name in metadata},
        "spec": {"replicas": section(workload, "spec").get("replicas", 0)},
        "status": {
            "replicas": section(workload, "status").get("replicas", 0),
            "selector": ",".join(f"{name}={value}" for name, value in sorted(labels.items())),
        },
    }


def scaled(workload: Document, scale: Document) -> Document:
    """The workload with the number that `scale` asks for; the version that it names is the one to be changed."""
    metadata = section(workload, "metadata")
    version = text(scale, "metadata", "resourceVersion") or metadata["resourceVersion"]
    spec = section(workload, "spec") | {"replicas": section(scale, "spec").get("replicas", 0)}
    return workload | {"metadata": metadata | {"resourceVersion": version}, "spec": spec}
