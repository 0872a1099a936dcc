"""The little of Kubernetes' protobuf that kubectl insists on. Pure.

`kubectl create namespace` and its likes post protobuf and do not fall back to JSON; the messages of a few small kinds
are decoded here, everything else is refused. Answers are always JSON, which every client accepts. Field numbers are
those of k8s.io/api and k8s.io/apimachinery, `generated.proto`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Final, TypeAlias

from k8sovs.lab.apiserver.documents import Document
from k8sovs.lab.apiserver.errors import bad_request, unsupported_media_type

CONTENT_TYPE: Final = "application/vnd.kubernetes.protobuf"
OPENAPI_CONTENT_TYPE: Final = "application/com.github.proto-openapi.spec.v2.v1.0+protobuf"
OPENAPI: Final = bytes.fromhex("0a03322e3012060a01781201794200")
"""openapi.v2.Document of version 2.0 with an empty title: kubectl asks for a schema and is content with none."""

_MAGIC: Final = b"k8s\0"


class _Form(Enum):
    """What the bytes of a field are, when they are no message."""

    TEXT = "text"
    BYTES = "bytes"
    PAIRS = "a map from string to string: messages with key 1 and value 2"


@dataclass(frozen=True, slots=True)
class _Field:
    name: str
    form: _Form | Mapping[int, _Field]
    repeated: bool = False


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
_MESSAGES: Final[Mapping[tuple[str, str], _Message]] = {
    ("v1", "Namespace"): _METADATA_ONLY,
    ("v1", "ServiceAccount"): _METADATA_ONLY,
    ("v1", "ConfigMap"): {**_METADATA_ONLY, 2: _Field("data", _Form.PAIRS)},
}
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
        return kind | _decode(memoryview(envelope["raw"]), message)
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
        if field.form is _Form.PAIRS:
            document.setdefault(field.name, {}).update(decoded)
        elif field.repeated:
            document.setdefault(field.name, []).append(decoded)
        elif decoded:
            document[field.name] = decoded
    return document


def _value(field: _Field, value: bytes) -> object:
    match field.form:
        case _Form.TEXT:
            return value.decode()
        case _Form.BYTES:
            return value
        case _Form.PAIRS:
            parts = dict(_fields(memoryview(value)))
            return {parts.get(1, b"").decode(): parts.get(2, b"").decode()}
        case message:
            return _decode(memoryview(value), message)


def _fields(data: memoryview) -> Iterator[tuple[int, bytes]]:
    """Number and value of each length-delimited field; the other wire types are stepped over."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                _, position = _varint(data, position)
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
