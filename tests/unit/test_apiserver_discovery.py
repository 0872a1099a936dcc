"""What the embedded API server says of its kinds is what a real Kubernetes 1.36 said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from k8sovs.lab.apiserver import resources

RECORDED = Path(__file__).parent.parent / "recorded" / "kubernetes"


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / name).read_text())
    return found


@pytest.mark.parametrize(
    ("group", "file"),
    [
        ("", "api_v1.json"),
        ("coordination.k8s.io", "apis_coordination.k8s.io_v1.json"),
        ("discovery.k8s.io", "apis_discovery.k8s.io_v1.json"),
    ],
)
def test_every_kind_has_the_names_the_verbs_and_the_subresources_of_the_real_one(group: str, file: str) -> None:
    real = recorded(file)
    ours = resources.api_resource_list(group, "v1")
    assert ours is not None
    assert ours["groupVersion"] == real["groupVersion"]
    theirs = {entry["name"]: entry for entry in real["resources"]}
    for entry in ours["resources"]:
        known = {name: value for name, value in theirs[entry["name"]].items() if name != "storageVersionHash"}
        assert entry == known


def test_the_groups_are_told_as_by_the_real_one() -> None:
    real = {group["name"]: group for group in recorded("apis.json")["groups"]}
    ours = resources.api_group_list()
    assert {name: ours[name] for name in ("kind", "apiVersion")} == {"kind": "APIGroupList", "apiVersion": "v1"}
    assert [group["name"] for group in ours["groups"]] == [
        *("apps", "rbac.authorization.k8s.io", "discovery.k8s.io", "coordination.k8s.io")
    ]
    for group in ours["groups"]:
        assert group == real[group["name"]]


def test_versions_are_told_in_the_shape_of_the_real_one() -> None:
    assert resources.api_versions("192.0.2.2:16443") == recorded("api.json")
    assert resources.version().keys() <= recorded("version.json").keys()
