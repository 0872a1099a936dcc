"""The little of Kubernetes' protobuf that kubectl insists on. Pure.

`kubectl create namespace` and its likes post protobuf and do not fall back to JSON; the messages of a few small kinds
are decoded here, everything else is refused. Answers are always JSON, which every client accepts. Field numbers are
those of k8s.io/api and k8s.io/apimachinery, `generated.proto`.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Any, Final, TypeAlias

from k8sovs.lab.apiserver.documents import Document
from k8sovs.lab.apiserver.errors import bad_request, unsupported_media_type

CONTENT_TYPE: Final = "application/vnd.kubernetes.protobuf"

_MAGIC: Final = b"k8s\0"


class _Form(Enum):
    """What the bytes of a field are, when they are no message."""

    TEXT = "text"
    BYTES = "bytes"
    NUMBER = "a varint"
    PAIRS = "a map from string to string: messages with key 1 and value 2"
    SECRETS = "likewise, with bytes as values: base64 in JSON"
    NUMBER_OR_NAME = "an IntOrString: its type 1, 0 for a number 2, 1 for a string 3"


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    form: _Form | Mapping[int, _Field]
    repeated: bool = False
    zero_counts: bool = False
    """0 is written, not left out: in Go the field is a pointer"""


_Message: TypeAlias = Mapping[int, _Field]

_METADATA: Final[_Message] = {
    1: _Field("name", _Form.TEXT),
    2: _Field("generateName", _Form.TEXT),
    3: _Field("namespace", _Form.TEXT),
    11: _Field("labels", _Form.PAIRS),
    12: _Field("annotations", _Form.PAIRS),
    14: _Field("finalizers", _Form.TEXT, repeated=True),
}
_METADATA_ONLY: Final[_Message] = {1: _Field("metadata", _METADATA)}
_SERVICE_SPEC: Final[_Message] = {
    1: _Field(
        "ports",
        {
            1: _Field("name", _Form.TEXT),
            2: _Field("protocol", _Form.TEXT),
            3: _Field("port", _Form.NUMBER),
            4: _Field("targetPort", _Form.NUMBER_OR_NAME),
            5: _Field("nodePort", _Form.NUMBER),
        },
        repeated=True,
    ),
    2: _Field("selector", _Form.PAIRS),
    3: _Field("clusterIP", _Form.TEXT),
    4: _Field("type", _Form.TEXT),
    10: _Field("externalName", _Form.TEXT),
}
_CONTAINER: Final[_Message] = {
    1: _Field("name", _Form.TEXT),
    2: _Field("image", _Form.TEXT),
    3: _Field("command", _Form.TEXT, repeated=True),
    4: _Field("args", _Form.TEXT, repeated=True),
    6: _Field(
        "ports",
        {
            1: _Field("name", _Form.TEXT),
            3: _Field("containerPort", _Form.NUMBER),
            4: _Field("protocol", _Form.TEXT),
        },
        repeated=True,
    ),
}
_DEPLOYMENT_SPEC: Final[_Message] = {
    1: _Field("replicas", _Form.NUMBER, zero_counts=True),
    2: _Field("selector", {1: _Field("matchLabels", _Form.PAIRS)}),
    3: _Field("template", {**_METADATA_ONLY, 2: _Field("spec", {2: _Field("containers", _CONTAINER, repeated=True)})}),
}
_MESSAGES: Final[Mapping[tuple[str, str], _Message]] = {
    ("v1", "Namespace"): _METADATA_ONLY,
    ("v1", "ServiceAccount"): _METADATA_ONLY,
    ("v1", "ConfigMap"): {**_METADATA_ONLY, 2: _Field("data", _Form.PAIRS)},
    ("v1", "Secret"): {**_METADATA_ONLY, 2: _Field("data", _Form.SECRETS), 3: _Field("type", _Form.TEXT)},
    ("v1", "Service"): {**_METADATA_ONLY, 2: _Field("spec", _SERVICE_SPEC)},
    ("v1", "DeleteOptions"): {
        1: _Field("gracePeriodSeconds", _Form.NUMBER, zero_counts=True),
        2: _Field("preconditions", {1: _Field("uid", _Form.TEXT), 2: _Field("resourceVersion", _Form.TEXT)}),
        4: _Field("propagationPolicy", _Form.TEXT),
    },
    ("apps/v1", "Deployment"): {**_METADATA_ONLY, 2: _Field("spec", _DEPLOYMENT_SPEC)},
}
_INT_OR_STRING: Final[_Message] = {
    1: _Field("type", _Form.NUMBER),
    2: _Field("number", _Form.NUMBER),
    3: _Field("string", _Form.TEXT),
}
_TEXT_VALUE: Final[_Message] = {1: _Field("key", _Form.TEXT), 2: _Field("value", _Form.TEXT)}
_BYTES_VALUE: Final[_Message] = {1: _Field("key", _Form.TEXT), 2: _Field("value", _Form.BYTES)}
_UNKNOWN: Final[_Message] = {
    1: _Field("typeMeta", {1: _Field("apiVersion", _Form.TEXT), 2: _Field("kind", _Form.TEXT)}),
    2: _Field("raw", _Form.BYTES),
}


def decode(body: bytes) -> Document:
    """The object in a protobuf envelope. ApiError: 415 for a kind not known here, 400 for bytes that are none."""
    if not body.startswith(_MAGIC):
        raise bad_request("the body has not the prefix of a Kubernetes protobuf message")
    try:
        envelope = _decode(memoryview(body)[len(_MAGIC) :], _UNKNOWN)
        kind: dict[str, str] = envelope["typeMeta"]
        message = _MESSAGES.get((kind["apiVersion"], kind["kind"]))
        if message is None:
            raise unsupported_media_type(f"protobuf of a {kind['kind']}; send JSON")
        return kind | _decode(memoryview(envelope.get("raw", b"")), message)
    except (IndexError, KeyError, UnicodeDecodeError) as error:
        raise bad_request(f"the body is no Kubernetes protobuf message: {error!r}") from error


def is_protobuf(content_type: str) -> bool:
    """Whether a body of this content type is for `decode`."""
    return content_type.startswith(CONTENT_TYPE)


def _decode(data: memoryview, message: _Message) -> Document:
    document: Document = {}
    for number, value in _fields(data):
        field = message.get(number)
        if field is None:
            continue
        decoded = _value(field, value)
        if field.form in (_Form.PAIRS, _Form.SECRETS):
            document.setdefault(field.name, {}).update(decoded)
        elif field.repeated:
            document.setdefault(field.name, []).append(decoded)
        elif decoded or field.zero_counts:
            document[field.name] = decoded
    return document


def _value(field: _Field, value: bytes | int) -> Any:  # noqa: ANN401 - what JSON can hold
    match field.form:
        case _Form.NUMBER if isinstance(value, int):
            return value
        case _ if isinstance(value, int):
            raise IndexError(f"a number for {field.name}")
        case _Form.NUMBER:
            raise IndexError(f"no number for {field.name}")
        case _Form.TEXT:
            return value.decode()
        case _Form.BYTES:
            return value
        case _Form.PAIRS:
            return _decode_pair(value, _TEXT_VALUE)
        case _Form.SECRETS:
            pair = _decode_pair(value, _BYTES_VALUE)
            return {name: base64.b64encode(secret or b"").decode() for name, secret in pair.items()}
        case _Form.NUMBER_OR_NAME:
            given = _decode(memoryview(value), _INT_OR_STRING)
            return given.get("string" if given.get("type") else "number")
        case message:
            return _decode(memoryview(value), message)


def _decode_pair(data: bytes, message: _Message) -> Document:
    pair = _decode(memoryview(data), message)
    return {pair.get("key", ""): pair.get("value", "")}


def _fields(data: memoryview) -> Iterator[tuple[int, bytes | int]]:
    """Number and value of each field; the wire types of fixed length are stepped over."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                number, position = _varint(data, position)
                yield tag >> 3, number
            case 1:
                position += 8
            case 2:
                length, position = _varint(data, position)
                if position + length > len(data):
                    raise IndexError("a field is longer than the message")
                yield tag >> 3, bytes(data[position : position + length])
                position += length
            case 5:
                position += 4
            case other:
                raise IndexError(f"wire type {other}")


def _varint(data: memoryview, position: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        byte = data[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, position
        shift += 7
        if shift > 63:
            raise IndexError("a varint of more than ten bytes")
