"""The protobuf that kubectl posts to the embedded API server."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k8sovs.lab.apiserver import protobuf
from k8sovs.lab.apiserver.errors import ApiError

# What kubectl 1.32 posts for `kubectl create ns tenant1`.
NAMESPACE = bytes.fromhex(
    "6b3873000a0f0a02763112094e616d657370616365121f0a170a0774656e616e74311200"
    "1a0022002a003200380042001200"
    "1a020a001a002200"
)


def field(number: int, value: bytes) -> bytes:
    return bytes([number << 3 | 2, len(value)]) + value


def envelope(kind: bytes, raw: bytes) -> bytes:
    return b"k8s\0" + field(1, field(1, b"v1") + field(2, kind)) + field(2, raw)


def test_what_kubectl_posts_for_a_namespace_is_understood() -> None:
    document = protobuf.decode(NAMESPACE)
    assert (document["apiVersion"], document["kind"]) == ("v1", "Namespace")
    assert document["metadata"]["name"] == "tenant1"


def test_maps_and_repeated_fields_are_understood() -> None:
    metadata = field(1, b"x") + field(11, field(1, b"a") + field(2, b"b")) + field(11, field(1, b"c"))
    metadata += field(14, b"one") + field(14, b"two")
    document = protobuf.decode(envelope(b"ConfigMap", field(1, metadata) + field(2, field(1, b"k") + field(2, b"v"))))
    assert document["metadata"] == {"name": "x", "labels": {"a": "b", "c": ""}, "finalizers": ["one", "two"]}
    assert document["data"] == {"k": "v"}


def test_a_kind_that_is_not_known_is_refused_with_the_advice_to_send_json() -> None:
    with pytest.raises(ApiError, match="protobuf of a Pod; send JSON") as caught:
        protobuf.decode(envelope(b"Pod", b""))
    assert caught.value.code == 415


@given(
    st.binary()
    | st.binary().map(lambda junk: b"k8s\0" + junk)
    | st.binary().map(lambda raw: envelope(b"Namespace", raw[:80]))
)
@example(NAMESPACE[:-1])
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(protobuf.decode(body), dict)
