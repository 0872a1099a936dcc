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


def number(field: int, value: int) -> bytes:
    low, high = value & 0x7F, value >> 7
    return bytes([field << 3, low | 0x80, high] if high else [field << 3, low])


def envelope(kind: bytes, raw: bytes, version: bytes = b"v1") -> bytes:
    return b"k8s\0" + field(1, field(1, version) + field(2, kind)) + field(2, raw)


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


def test_numbers_and_nested_messages_are_understood() -> None:
    # The fields that kubectl 1.32 sets for `kubectl create deployment web --image=nginx --replicas=0 --port=8080`.
    port = field(1, b"") + number(2, 0) + number(3, 8080)
    container = field(1, b"nginx") + field(2, b"nginx") + field(6, port)
    template = field(1, b"") + field(2, field(2, container))
    spec = number(1, 0) + field(2, field(1, field(1, b"app") + field(2, b"web"))) + field(3, template)
    document = protobuf.decode(envelope(b"Deployment", field(1, field(1, b"web")) + field(2, spec), b"apps/v1"))
    assert document["spec"] == {
        "replicas": 0,
        "selector": {"matchLabels": {"app": "web"}},
        "template": {"spec": {"containers": [{"name": "nginx", "image": "nginx", "ports": [{"containerPort": 8080}]}]}},
    }


@pytest.mark.parametrize(
    ("target", "meant"), [(number(1, 0) + number(2, 80), 80), (number(1, 1) + field(3, b"http"), "http")]
)
def test_a_target_port_is_a_number_or_a_name(target: bytes, meant: object) -> None:
    document = protobuf.decode(envelope(b"Service", field(2, field(1, number(3, 80) + field(4, target)))))
    assert document["spec"]["ports"] == [{"port": 80, "targetPort": meant}]


def test_a_secret_is_base64_in_json() -> None:
    document = protobuf.decode(envelope(b"Secret", field(2, field(1, b"k") + field(2, b"\xff"))))
    assert document["data"] == {"k": "/w=="}


@pytest.mark.parametrize(
    ("raw", "meant"),
    [
        (b"", {}),
        (number(1, 0) + field(4, b"Orphan"), {"gracePeriodSeconds": 0, "propagationPolicy": "Orphan"}),
        (field(2, field(1, b"uid")), {"preconditions": {"uid": "uid"}}),
    ],
)
def test_what_a_deletion_asks_for_is_understood(raw: bytes, meant: object) -> None:
    document = protobuf.decode(envelope(b"DeleteOptions", raw))
    assert {name: value for name, value in document.items() if name not in ("apiVersion", "kind")} == meant


def test_an_envelope_with_nothing_in_it_is_an_empty_object() -> None:
    empty = b"k8s\0" + field(1, field(1, b"v1") + field(2, b"DeleteOptions"))
    assert protobuf.decode(empty) == {"apiVersion": "v1", "kind": "DeleteOptions"}


def test_a_kind_that_is_not_known_is_refused_with_the_advice_to_send_json() -> None:
    with pytest.raises(ApiError, match="protobuf of a Pod; send JSON") as caught:
        protobuf.decode(envelope(b"Pod", b""))
    assert caught.value.code == 415


@given(
    st.binary()
    | st.binary().map(lambda junk: b"k8s\0" + junk)
    | st.tuples(st.sampled_from([b"Namespace", b"Secret", b"Service"]), st.binary()).map(
        lambda given: envelope(given[0], given[1][:80])
    )
)
@example(NAMESPACE[:-1])
def test_any_bytes_are_decoded_or_refused(body: bytes) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(protobuf.decode(body), dict)
