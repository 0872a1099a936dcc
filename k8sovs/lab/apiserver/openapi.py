"""The OpenAPI document that kubectl asks for. Pure.

kubectl wants it as protobuf (openapi.v2.Document of gnostic, whose field numbers these are) and checks objects against
the definitions in it: there are none, so it checks nothing and leaves that to the server. kubectl 1.20 also looks
whether the patch of a kind takes `dryRun`, before `diff` and `--dry-run=server`: that is all that the paths say.
"""

from __future__ import annotations

import json
from typing import Final

from k8sovs.lab.apiserver.documents import Document
from k8sovs.lab.apiserver.resources import RESOURCES, Resource

CONTENT_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"


def as_protobuf() -> bytes:
    """The document for kubectl."""
    info = _text(1, "Kubernetes") + _text(2, "v1")
    paths = b"".join(_message(2, _path(resource)) for resource in RESOURCES)
    return _text(1, "2.0") + _message(2, info) + _message(8, paths)


def as_json() -> Document:
    """The document for others, with nothing in it."""
    return {"swagger": "2.0", "info": {"title": "Kubernetes", "version": "v1"}, "paths": {}}


def _path(resource: Resource) -> bytes:
    """A NamedPathItem with the patch of one object."""
    root = f"/apis/{resource.group}" if resource.group else "/api"
    inside = "/namespaces/{namespace}" if resource.namespaced else ""
    query = _text(2, "query") + _text(4, "dryRun") + _text(6, "string")
    parameter = _message(1, _message(2, _message(3, query)))
    kind = {"group": resource.group, "version": resource.version, "kind": resource.kind}
    extension = _text(1, "x-kubernetes-group-version-kind") + _message(2, _text(2, json.dumps(kind)))
    patch = _message(8, parameter) + _message(13, extension)
    name = f"{root}/{resource.version}{inside}/{resource.plural}/{{name}}"
    return _text(1, name) + _message(2, _message(8, patch))


def _text(field: int, text: str) -> bytes:
    return _message(field, text.encode())


def _message(field: int, content: bytes) -> bytes:
    """A length-delimited field."""
    return _varint(field << 3 | 2) + _varint(len(content)) + content


def _varint(number: int) -> bytes:
    *low, last = [number >> shift & 0x7F for shift in range(0, max(number.bit_length(), 1), 7)]
    return bytes([*(part | 0x80 for part in low), last])
