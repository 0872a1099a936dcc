"""The Kubernetes API: typed objects, plain calls, and one list/watch loop that never ends.

`lightkube` gives the object types, reads kubeconfig files and makes the HTTP client; nothing outside this package
imports it. The watch loop is ours, see `watch`.
"""

from k8sovs.kubernetes.client import Kubernetes, PatchKind
from k8sovs.kubernetes.errors import AlreadyExists, Conflict, KubernetesError, KubernetesUnavailable, NotFound
from k8sovs.kubernetes.objects import (
    ClusterRole,
    ClusterRoleBinding,
    ConfigMap,
    Deployment,
    Endpoints,
    EndpointSlice,
    Event,
    Lease,
    Namespace,
    Node,
    NodeStatus,
    ObjectKey,
    ObjectMeta,
    Pod,
    ReplicaSet,
    Resource,
    Secret,
    Service,
    ServiceAccount,
    ServiceSpec,
    from_document,
    key_of,
    metadata_of,
    to_document,
)
from k8sovs.kubernetes.transport import Timing, server_of
from k8sovs.kubernetes.watch import Gone, Listed, Put, Statistics

__all__ = [
    "AlreadyExists",
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "Conflict",
    "Deployment",
    "EndpointSlice",
    "Endpoints",
    "Event",
    "Gone",
    "Kubernetes",
    "KubernetesError",
    "KubernetesUnavailable",
    "Lease",
    "Listed",
    "Namespace",
    "Node",
    "NodeStatus",
    "NotFound",
    "ObjectKey",
    "ObjectMeta",
    "PatchKind",
    "Pod",
    "Put",
    "ReplicaSet",
    "Resource",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServiceSpec",
    "Statistics",
    "Timing",
    "from_document",
    "key_of",
    "metadata_of",
    "server_of",
    "to_document",
]
