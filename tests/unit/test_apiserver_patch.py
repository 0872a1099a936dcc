"""Patches of the embedded API server."""

from __future__ import annotations

import contextlib
import copy
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from k8sovs.lab.apiserver.errors import ApiError
from k8sovs.lab.apiserver.patch import apply_operations, merge, strategic

# The examples of RFC 7386, appendix A, whose target and result are both objects.
MERGE_EXAMPLES: list[tuple[dict[str, Any], dict[str, Any], dict[str, Any]]] = [
    ({"a": "b"}, {"a": "c"}, {"a": "c"}),
    ({"a": "b"}, {"b": "c"}, {"a": "b", "b": "c"}),
    ({"a": "b"}, {"a": None}, {}),
    ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
    ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
    ({"a": "c"}, {"a": ["b"]}, {"a": ["b"]}),
    ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
    ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
    ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
    ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
]


@pytest.mark.parametrize(("target", "patch", "result"), MERGE_EXAMPLES)
def test_a_merge_patch_does_what_the_rfc_says(
    target: dict[str, Any], patch: dict[str, Any], result: dict[str, Any]
) -> None:
    assert merge(target, patch) == result


def test_a_strategic_patch_merges_containers_by_name() -> None:
    target = {"containers": [{"name": "a", "image": "1"}, {"name": "b", "image": "2"}]}
    patch = {"containers": [{"name": "b", "image": "3"}, {"name": "c", "image": "4"}]}
    assert strategic(target, patch)["containers"] == [
        {"name": "a", "image": "1"},
        {"name": "b", "image": "3"},
        {"name": "c", "image": "4"},
    ]


def test_a_strategic_patch_deletes_an_entry_by_directive() -> None:
    target = {"conditions": [{"type": "Ready", "status": "True"}, {"type": "Other"}]}
    assert strategic(target, {"conditions": [{"type": "Other", "$patch": "delete"}]}) == {
        "conditions": [{"type": "Ready", "status": "True"}]
    }


def test_a_strategic_patch_orders_entries_as_it_is_told() -> None:
    target = {"containers": [{"name": "a"}, {"name": "b"}]}
    patch = {
        "$setElementOrder/containers": [{"name": "c"}, {"name": "b"}, {"name": "a"}],
        "containers": [{"name": "c"}],
    }
    assert [entry["name"] for entry in strategic(target, patch)["containers"]] == ["c", "b", "a"]


def test_a_strategic_patch_orders_entries_even_if_it_changes_none() -> None:
    target = {"containers": [{"name": "a"}, {"name": "b"}]}
    patch = {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}
    assert [entry["name"] for entry in strategic(target, patch)["containers"]] == ["b", "a"]


def test_a_strategic_patch_tells_the_ports_of_containers_and_services_apart() -> None:
    container = {"ports": [{"containerPort": 80, "name": "x"}]}
    service = {"ports": [{"port": 80, "name": "x"}]}
    assert len(strategic(container, {"ports": [{"containerPort": 81}]})["ports"]) == 2
    assert strategic(service, {"ports": [{"port": 80, "name": "y"}]})["ports"] == [{"port": 80, "name": "y"}]


def test_a_strategic_patch_replaces_the_ports_of_an_endpoint_slice() -> None:
    target = {"kind": "EndpointSlice", "ports": [{"name": "", "port": 80}]}
    assert strategic(target, {"ports": [{"name": "", "port": 81}]})["ports"] == [{"name": "", "port": 81}]


def test_a_strategic_patch_replaces_a_list_that_has_no_key() -> None:
    assert strategic({"args": ["a", "b"]}, {"args": ["c"]}) == {"args": ["c"]}
    assert strategic({"tolerations": [{"key": "a"}]}, {"tolerations": [{"key": "b"}]}) == {
        "tolerations": [{"key": "b"}]
    }


def test_a_strategic_patch_adds_finalizers_and_takes_them_away() -> None:
    assert strategic({"finalizers": ["a"]}, {"finalizers": ["b"]}) == {"finalizers": ["a", "b"]}
    assert strategic({"finalizers": ["a", "b"]}, {"$deleteFromPrimitiveList/finalizers": ["a"]}) == {
        "finalizers": ["b"]
    }


def test_a_strategic_patch_replaces_a_map_or_keeps_named_keys_by_directive() -> None:
    assert strategic({"labels": {"a": "1"}}, {"labels": {"$patch": "replace", "b": "2"}}) == {"labels": {"b": "2"}}
    assert strategic({"a": 1, "b": 2}, {"$retainKeys": ["b", "c"], "c": 3}) == {"b": 2, "c": 3}


def test_a_strategic_patch_stores_no_directive() -> None:
    added = {"containers": [{"name": "a", "ports": [{"containerPort": 80}], "$setElementOrder/ports": []}]}
    assert "$setElementOrder/ports" not in strategic({}, added)["containers"][0]


@pytest.mark.parametrize(
    ("operation", "result"),
    [
        ({"op": "add", "path": "/a/x~1y", "value": 1}, {"a": {"b": 1, "x/y": 1}, "l": [1, 2]}),
        ({"op": "add", "path": "/l/0", "value": 0}, {"a": {"b": 1}, "l": [0, 1, 2]}),
        ({"op": "add", "path": "/l/-", "value": 3}, {"a": {"b": 1}, "l": [1, 2, 3]}),
        ({"op": "remove", "path": "/l/0"}, {"a": {"b": 1}, "l": [2]}),
        ({"op": "replace", "path": "/a/b", "value": 2}, {"a": {"b": 2}, "l": [1, 2]}),
        ({"op": "move", "from": "/a/b", "path": "/c"}, {"a": {}, "l": [1, 2], "c": 1}),
        ({"op": "copy", "from": "/a", "path": "/c"}, {"a": {"b": 1}, "l": [1, 2], "c": {"b": 1}}),
        ({"op": "test", "path": "/a/b", "value": 1}, {"a": {"b": 1}, "l": [1, 2]}),
    ],
)
def test_a_json_patch_does_what_the_rfc_says(operation: dict[str, Any], result: dict[str, Any]) -> None:
    assert apply_operations({"a": {"b": 1}, "l": [1, 2]}, [operation]) == result


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "test", "path": "/a/b", "value": 2},
        {"op": "remove", "path": "/nowhere"},
        {"op": "replace", "path": "/l/2", "value": 0},
        {"op": "add", "path": "/l/9", "value": 0},
        {"op": "add", "path": "/l/\u00b2", "value": 0},
        {"op": "add", "path": "/nowhere/x", "value": 0},
        {"op": "move", "from": "/nowhere", "path": "/c"},
        {"op": "add", "path": "a", "value": 0},
        {"op": "jump", "path": "/a"},
        {"op": "replace", "path": "", "value": 7},
        {"op": "remove", "path": ""},
        {"op": "add"},
        "add",
    ],
)
def test_a_json_patch_that_cannot_be_applied_is_refused(operation: object) -> None:
    target: dict[str, Any] = {"a": {"b": 1}, "l": [1, 2]}
    with pytest.raises(ApiError):
        apply_operations(copy.deepcopy(target), [operation])


FIELDS = ["containers", "finalizers", "name", "ports", "containerPort", "$patch", "$retainKeys"]
FIELDS += ["$setElementOrder/containers", "$deleteFromPrimitiveList/finalizers"]
VALUES = st.recursive(
    st.sampled_from([None, True, 7, "delete", "replace", "a", "b"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(FIELDS), inner, max_size=3),
    max_leaves=8,
)
DOCUMENTS = st.dictionaries(st.sampled_from(FIELDS), VALUES, max_size=4)


@example({"containers": [{"name": [], "$patch": None}]}, {"containers": []})
@example({}, {"containers": [{"name": [], "$patch": None}]})
@given(target=DOCUMENTS, patch=DOCUMENTS)
def test_a_strategic_patch_of_any_shape_is_applied_or_refused(target: dict[str, Any], patch: dict[str, Any]) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(strategic(copy.deepcopy(target), copy.deepcopy(patch)), dict)


OPERATIONS = st.fixed_dictionaries(
    {"op": st.sampled_from(["add", "remove", "replace", "move", "copy", "test"])},
    optional={
        "path": st.sampled_from(["", "/a", "/a/0", "/a/-", "/a/b", "/b/a", "x"]),
        "from": st.sampled_from(["", "/a", "/a/0", "/b"]),
        "value": VALUES,
    },
)


@given(target=st.dictionaries(st.sampled_from(["a", "b"]), VALUES), operations=st.lists(OPERATIONS, max_size=4))
def test_a_json_patch_of_any_shape_is_applied_or_refused(
    target: dict[str, Any], operations: list[dict[str, Any]]
) -> None:
    with contextlib.suppress(ApiError):
        assert isinstance(apply_operations(copy.deepcopy(target), operations), dict)
