"""Whatever an API server sends: an object is read, or refused as unreadable, and nothing else happens to its reader."""

from __future__ import annotations

import json
from contextlib import suppress
from ipaddress import IPv4Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.limits import limits_of
from controller.sources import address_of, uid_of
from k8sovs.kubernetes import Namespace, Node, ObjectKey, Pod
from k8sovs.kubernetes.errors import Unreadable
from k8sovs.kubernetes.objects import decode, key_of, read_metadata, read_name

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)
METADATA = {"name": "x", "namespace": "red", "uid": "u", "resourceVersion": "7", "annotations": {"a": "b"}}
OBJECTS = {
    Pod: {"metadata": METADATA, "spec": {"containers": [{"name": "c"}], "nodeName": "n"}, "status": {"podIP": "::1"}},
    Node: {"metadata": METADATA, "status": {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]}},
    Namespace: {"metadata": METADATA, "spec": {"finalizers": ["kubernetes"]}, "status": {"phase": "Active"}},
}
each_kind = pytest.mark.parametrize("kind", OBJECTS, ids=lambda kind: kind.__name__)


def places(value: object, path: tuple[object, ...] = ()) -> list[tuple[object, ...]]:
    """Every place in a document."""
    inner = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    return [path, *(place for key, below in inner for place in places(below, (*path, key)))]


def with_value(document: object, path: tuple[object, ...], value: object) -> object:
    """`document`, with another value at `path`."""
    if not path:
        return value
    copy = document.copy()  # type: ignore[attr-defined]
    copy[path[0]] = with_value(copy[path[0]], path[1:], value)
    return copy


def use(kind: type[Pod | Node | Namespace], content: bytes) -> None:
    """What the agent and the controller do with an object."""
    key = read_name(content).key
    item = decode(content, kind)
    assert key_of(item) == key
    match item:
        case Pod():
            limits_of(item.metadata.annotations or {})
        case Node():
            assert isinstance(address_of(item), IPv4Address | None)
        case _:
            assert uid_of(item)


@each_kind
@given(content=st.binary())
def test_junk_is_unreadable(kind: type[Pod | Node | Namespace], content: bytes) -> None:
    for read in (read_metadata, read_name, lambda content: decode(content, kind)):
        with pytest.raises(Unreadable):
            read(content)


@each_kind
@given(data=st.data())
def test_an_object_with_anything_in_any_place_is_used_or_unreadable(
    kind: type[Pod | Node | Namespace], data: st.DataObject
) -> None:
    document: object = OBJECTS[kind]
    for _ in range(data.draw(st.integers(1, 3))):
        document = with_value(document, data.draw(st.sampled_from(places(document))), data.draw(JSON))
    content = json.dumps(document).encode(errors="surrogatepass")
    with suppress(Unreadable):
        use(kind, content)


@pytest.mark.parametrize("metadata", [{}, {"name": ""}, {"uid": "u"}, {"name": None}, None, [], "x"])
def test_an_object_without_a_name_is_unreadable(metadata: object) -> None:
    with pytest.raises(Unreadable):
        read_name(json.dumps({"metadata": metadata}).encode())


def test_a_bookmark_needs_no_name() -> None:
    assert read_metadata(b'{"metadata": {"resourceVersion": "7"}}').resourceVersion == "7"
    assert read_metadata(b'{"metadata": {"resourceVersion": "7"}}').key == ObjectKey("", "")


@each_kind
@pytest.mark.parametrize(
    "content", [b"[" * 100_000, b'{"metadata":' * 50_000, b'{"metadata": {"name": "\\ud800"}}', b"9" * 10_000]
)
def test_a_document_made_to_break_its_reader_is_unreadable(kind: type[Pod | Node | Namespace], content: bytes) -> None:
    with pytest.raises(Unreadable):
        use(kind, content)


def test_a_nodes_addresses_of_ipv6_are_passed_over() -> None:
    addresses = [{"type": "InternalIP", "address": address} for address in ("2001:db8::11", "192.0.2.11", "192.0.2.12")]
    content = json.dumps({"metadata": {"name": "n"}, "status": {"addresses": addresses}}).encode()
    assert address_of(decode(content, Node)) == IPv4Address("192.0.2.11")
