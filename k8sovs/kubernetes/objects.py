"""Typed objects: from and to JSON, their keys and paths. Others take the types from here."""

from __future__ import annotations

from collections.abc import Hashable
from functools import cache
from typing import Any, NamedTuple, TypeVar, cast
from urllib.parse import quote

import msgspec
from lightkube.core.decoders import decode_object
from lightkube.core.resource import NamespacedResource, Resource, api_info
from lightkube.models.core_v1 import EventSource, NodeStatus, ObjectReference, ServiceSpec
from lightkube.models.meta_v1 import ObjectMeta
from lightkube.resources.apps_v1 import Deployment, ReplicaSet
from lightkube.resources.coordination_v1 import Lease
from lightkube.resources.core_v1 import (
    ConfigMap,
    Endpoints,
    Event,
    Namespace,
    Node,
    Pod,
    Secret,
    Service,
    ServiceAccount,
)
from lightkube.resources.discovery_v1 import EndpointSlice
from lightkube.resources.rbac_authorization_v1 import ClusterRole, ClusterRoleBinding

from k8sovs.kubernetes.errors import UNDECODABLE, Unreadable

__all__ = [
    "ClusterRole",
    "ClusterRoleBinding",
    "ConfigMap",
    "Deployment",
    "EndpointSlice",
    "Endpoints",
    "Event",
    "EventSource",
    "Lease",
    "Metadata",
    "Namespace",
    "Node",
    "NodeStatus",
    "ObjectKey",
    "ObjectMeta",
    "ObjectReference",
    "Pod",
    "ReplicaSet",
    "Resource",
    "Secret",
    "Service",
    "ServiceAccount",
    "ServiceSpec",
    "decode",
    "decode_token",
    "encode",
    "from_document",
    "key_of",
    "metadata_of",
    "path_of",
    "read_metadata",
    "read_name",
    "reference_to",
    "to_document",
]

T = TypeVar("T", bound=Resource)


class ObjectKey(NamedTuple):
    """What an object is known by. `namespace` is empty for cluster-scoped ones."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


class Metadata(msgspec.Struct):
    """The part of an object's metadata without which it cannot be handled at all."""

    name: str = ""
    namespace: str = ""
    uid: str = ""
    resourceVersion: str = ""

    @property
    def key(self) -> ObjectKey:
        """The object's key."""
        return ObjectKey(self.namespace, self.name)


class _Envelope(msgspec.Struct):
    metadata: Metadata


def metadata_of(item: Resource) -> ObjectMeta:
    """The metadata of a decoded object; empty if it has none."""
    metadata: ObjectMeta | None = getattr(item, "metadata", None)
    return metadata or ObjectMeta()


def key_of(item: Resource) -> ObjectKey:
    """The key of a decoded object. ValueError: it has no name (the API never sends such a one)."""
    metadata = metadata_of(item)
    if not metadata.name:
        raise ValueError(f"{type(item).__name__} without a name")
    return ObjectKey(metadata.namespace or "", metadata.name)


def reference_to(item: Resource, namespace: str | None) -> ObjectReference:
    """A reference to `item`, as if it lay in `namespace`."""
    definition = api_info(item).resource
    metadata = metadata_of(item)
    return ObjectReference(
        apiVersion=definition.api_version,
        kind=definition.kind,
        name=metadata.name,
        namespace=namespace,
        uid=metadata.uid,
    )


def path_of(resource: type[Resource], namespace: str | None, name: str = "", subresource: str = "") -> str:
    """The path of a collection, an object or a subresource; namespace None is all namespaces."""
    definition = api_info(resource).resource
    parts = ["apis", definition.group] if definition.group else ["api"]
    parts.append(definition.version)
    if namespace and issubclass(resource, NamespacedResource):
        parts += ["namespaces", namespace]
    parts.append(api_info(resource).plural)
    parts += [part for part in (name, subresource) if part]
    return "/" + "/".join(quote(part, safe="") for part in parts)


def encode(item: Resource) -> bytes:
    """JSON, with apiVersion and kind."""
    definition = api_info(item).resource
    body = msgspec.to_builtins(item)
    return msgspec.json.encode({**body, "apiVersion": definition.api_version, "kind": definition.kind})


def to_document(item: Resource) -> dict[str, Any]:
    """The object as JSON has it, without what is not set."""
    document: dict[str, Any] = msgspec.to_builtins(item)
    return document


def from_document(document: dict[str, Any], resource: type[T]) -> T:
    """The typed form of a JSON object. Unreadable: it is not of this type."""
    return decode(msgspec.json.encode(document), resource)


def read_metadata(content: bytes | msgspec.Raw) -> Metadata:
    """The metadata of an object whose rest may be unreadable. Unreadable: this much is, too."""
    try:
        return msgspec.json.decode(content, type=_Envelope).metadata
    except UNDECODABLE as error:
        raise Unreadable(f"what the API sent is no object: {error}") from error


class _Name(msgspec.Struct):
    name: str
    namespace: str | None = None


class _Named(msgspec.Struct):
    metadata: _Name


def read_name(content: bytes | msgspec.Raw) -> Metadata:
    """The metadata, or its name alone if the rest of it is no metadata. Unreadable: the object has no name."""
    try:
        metadata = read_metadata(content)
    except Unreadable:
        metadata = _read_name_alone(content)
    if not metadata.name:
        raise Unreadable("what the API sent has no name")
    return metadata


def _read_name_alone(content: bytes | msgspec.Raw) -> Metadata:
    try:
        named = msgspec.json.decode(content, type=_Named).metadata
    except UNDECODABLE as error:
        raise Unreadable(f"what the API sent has no name: {error}") from error
    return Metadata(named.name, named.namespace or "")


class _TokenStatus(msgspec.Struct):
    token: str


class _TokenRequest(msgspec.Struct):
    status: _TokenStatus


def decode_token(content: bytes) -> str:
    """The token in the answer to a TokenRequest. Unreadable: there is none."""
    try:
        return msgspec.json.decode(content, type=_TokenRequest).status.token
    except UNDECODABLE as error:
        raise Unreadable(f"what the API sent has no token: {error}") from error


def decode(content: bytes | msgspec.Raw, resource: type[T]) -> T:
    """The object. Unreadable: it is not JSON, or not of this type."""
    try:
        item: T = decode_object(content, resource)
    except msgspec.ValidationError:
        item = _decode_leniently(content, resource)
    except UNDECODABLE as error:
        raise Unreadable(f"what the API sent is no {resource.__name__}: {error}") from error
    return item


def _decode_leniently(content: bytes | msgspec.Raw, resource: type[T]) -> T:
    """Servers written in Go send null for an empty list, also where a list is required."""
    try:
        return msgspec.convert(_filled(msgspec.json.decode(content), _type_info(cast(Hashable, resource))), resource)
    except UNDECODABLE as error:
        raise Unreadable(f"what the API sent is no {resource.__name__}: {error}") from error


@cache
def _type_info(resource: Hashable) -> msgspec.inspect.Type:
    """What msgspec knows of a type; costs 40 ms for a Pod, hence kept. (mypy takes no class for hashable.)"""
    return msgspec.inspect.type_info(resource)


def _filled(value: object, kind: msgspec.inspect.Type) -> object:
    """`value` with an empty list or map for every required one that is null."""
    match kind, value:
        case msgspec.inspect.UnionType(types=kinds), _:
            return _filled(value, next(one for one in kinds if not isinstance(one, msgspec.inspect.NoneType)))
        case msgspec.inspect.StructType(), dict():
            fields = {field.encode_name: field for field in kind.fields}
            return {
                name: _filled_field(inner, fields[name]) if name in fields else inner for name, inner in value.items()
            }
        case msgspec.inspect.ListType(item_type=item), list():
            return [_filled(inner, item) for inner in value]
        case _:
            return value


def _filled_field(value: object, field: msgspec.inspect.Field) -> object:
    match field.type, value, field.required:
        case msgspec.inspect.ListType(), None, True:
            return []
        case msgspec.inspect.DictType(), None, True:
            return {}
        case _:
            return _filled(value, field.type)
