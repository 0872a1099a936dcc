"""The kinds that the server keeps, and what discovery says about them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from k8sovs.lab.apiserver.documents import Document

_VERBS: Final = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")


@dataclass(frozen=True, slots=True)
class Resource:
    """One kind of object."""

    group: str
    """empty for the core group"""
    version: str
    kind: str
    plural: str
    namespaced: bool = True
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    subresources: tuple[str, ...] = ()
    """`status` among them: then only writes to it change the status"""
    counts_generations: bool = False
    """metadata.generation goes up when anything but metadata and status changes"""
    answers_deletion_with_object: bool = False
    goes_one_by_one: bool = False
    """no verb deletes the whole collection"""
    fields: tuple[str, ...] = ()
    """what a field selector may name beside name and namespace"""

    @property
    def singular(self) -> str:
        """As in `kubectl get pod`."""
        return self.kind.lower()

    @property
    def selectable(self) -> frozenset[str]:
        """What a field selector may name."""
        return frozenset({"metadata.name", "metadata.namespace", *self.fields})

    @property
    def list_kind(self) -> str:
        """The kind of a list of them."""
        return f"{self.kind}List"

    @property
    def group_version(self) -> str:
        """As in apiVersion."""
        return f"{self.group}/{self.version}" if self.group else self.version

    def discovery(self) -> list[Document]:
        """The entries of an APIResourceList."""
        entry: Document = {
            "name": self.plural,
            "singularName": self.singular,
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": [verb for verb in _VERBS if not (self.goes_one_by_one and verb == "deletecollection")],
        }
        if self.short_names:
            entry["shortNames"] = list(self.short_names)
        if self.categories:
            entry["categories"] = list(self.categories)
        return [entry, *(self._subresource(name) for name in self.subresources)]

    def _subresource(self, name: str) -> Document:
        entry: Document = {
            "name": f"{self.plural}/{name}",
            "singularName": "",
            "namespaced": self.namespaced,
            "kind": self.kind,
            "verbs": ["get", "patch", "update"],
        }
        if name == "binding":
            entry |= {"kind": "Binding", "verbs": ["create"]}
        elif name == "scale":
            entry |= {"group": "autoscaling", "version": "v1", "kind": "Scale"}
        return entry


NAMESPACES: Final = Resource(
    "",
    "v1",
    "Namespace",
    "namespaces",
    namespaced=False,
    short_names=("ns",),
    subresources=("status",),
    answers_deletion_with_object=True,
    goes_one_by_one=True,
    fields=("status.phase",),
)
NODES: Final = Resource(
    "",
    "v1",
    "Node",
    "nodes",
    namespaced=False,
    short_names=("no",),
    subresources=("status",),
    fields=("spec.unschedulable",),
)
PODS: Final = Resource(
    "",
    "v1",
    "Pod",
    "pods",
    short_names=("po",),
    categories=("all",),
    subresources=("binding", "status"),
    counts_generations=True,
    answers_deletion_with_object=True,
    fields=(
        *("spec.nodeName", "spec.restartPolicy", "spec.schedulerName", "spec.serviceAccountName", "spec.hostNetwork"),
        *("status.phase", "status.podIP", "status.nominatedNodeName"),
    ),
)
SERVICES: Final = Resource(
    "",
    "v1",
    "Service",
    "services",
    short_names=("svc",),
    categories=("all",),
    subresources=("status",),
    answers_deletion_with_object=True,
    fields=("spec.clusterIP", "spec.type"),
)
ENDPOINTS: Final = Resource("", "v1", "Endpoints", "endpoints", short_names=("ep",))
EVENTS: Final = Resource(
    "",
    "v1",
    "Event",
    "events",
    short_names=("ev",),
    fields=(
        *("involvedObject.kind", "involvedObject.namespace", "involvedObject.name", "involvedObject.uid"),
        *("involvedObject.apiVersion", "involvedObject.resourceVersion", "involvedObject.fieldPath"),
        *("reason", "reportingComponent", "type"),
    ),
)
CLUSTER_ROLES: Final = Resource("rbac.authorization.k8s.io", "v1", "ClusterRole", "clusterroles", namespaced=False)
CLUSTER_ROLE_BINDINGS: Final = Resource(
    "rbac.authorization.k8s.io", "v1", "ClusterRoleBinding", "clusterrolebindings", namespaced=False
)
ENDPOINT_SLICES: Final = Resource("discovery.k8s.io", "v1", "EndpointSlice", "endpointslices", counts_generations=True)
DEPLOYMENTS: Final = Resource(
    "apps",
    "v1",
    "Deployment",
    "deployments",
    short_names=("deploy",),
    categories=("all",),
    subresources=("scale", "status"),
    counts_generations=True,
)
REPLICA_SETS: Final = Resource(
    "apps",
    "v1",
    "ReplicaSet",
    "replicasets",
    short_names=("rs",),
    categories=("all",),
    subresources=("scale", "status"),
    counts_generations=True,
)

RESOURCES: Final = (
    NAMESPACES,
    NODES,
    PODS,
    SERVICES,
    ENDPOINTS,
    EVENTS,
    Resource("", "v1", "ConfigMap", "configmaps", short_names=("cm",)),
    Resource("", "v1", "Secret", "secrets", fields=("type",)),
    Resource("", "v1", "ServiceAccount", "serviceaccounts", short_names=("sa",), answers_deletion_with_object=True),
    DEPLOYMENTS,
    REPLICA_SETS,
    Resource(
        "apps",
        "v1",
        "DaemonSet",
        "daemonsets",
        short_names=("ds",),
        categories=("all",),
        subresources=("status",),
        counts_generations=True,
    ),
    CLUSTER_ROLES,
    CLUSTER_ROLE_BINDINGS,
    ENDPOINT_SLICES,
    Resource("coordination.k8s.io", "v1", "Lease", "leases"),
)


def group_versions() -> tuple[tuple[str, str], ...]:
    """Every (group, version) in use, the core group first."""
    return tuple(dict.fromkeys((resource.group, resource.version) for resource in RESOURCES))


def find(group: str, version: str, plural: str) -> Resource | None:
    """The resource of a path."""
    for resource in RESOURCES:
        if (resource.group, resource.version, resource.plural) == (group, version, plural):
            return resource
    return None


def api_versions(address: str) -> Document:
    """The answer to GET /api."""
    return {
        "kind": "APIVersions",
        "versions": ["v1"],
        "serverAddressByClientCIDRs": [{"clientCIDR": "0.0.0.0/0", "serverAddress": address}],
    }


def api_group(group: str, version: str) -> Document:
    """The answer to GET /apis/GROUP."""
    this: Document = {"groupVersion": f"{group}/{version}", "version": version}
    return {"kind": "APIGroup", "apiVersion": "v1", "name": group, "versions": [this], "preferredVersion": this}


def api_group_list() -> Document:
    """The answer to GET /apis."""
    groups = [api_group(group, version) for group, version in group_versions() if group]
    for group in groups:
        del group["kind"], group["apiVersion"]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def api_resource_list(group: str, version: str) -> Document | None:
    """The answer to GET /apis/GROUP/VERSION and /api/v1; None if there is none."""
    here = [resource for resource in RESOURCES if (resource.group, resource.version) == (group, version)]
    if not here:
        return None
    entries = [entry for resource in here for entry in resource.discovery()]
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": here[0].group_version,
        "resources": entries,
    }


def version() -> Document:
    """The answer to GET /version: the API that this server follows."""
    return {
        "major": "1",
        "minor": "32",
        "gitVersion": "v1.32.0-k8sovs-lab",
        "gitCommit": "",
        "gitTreeState": "",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": "",
        "platform": "linux/amd64",
    }
