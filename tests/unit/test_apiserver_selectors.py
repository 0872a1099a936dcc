"""Label and field selectors of the embedded API server."""

from __future__ import annotations

import pytest

from k8sovs.lab.apiserver.errors import ApiError
from k8sovs.lab.apiserver.selectors import matches_fields, matches_labels

SELECTABLE = ("metadata.name", "spec.nodeName", "spec.on", "spec.hostNetwork")
POD = {"metadata": {"name": "p", "labels": {"app": "web", "tier": "front", "example.com/x": ""}}, "spec": {"on": True}}


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("app=web", True),
        ("app==web", True),
        ("app = web", True),
        ("app=db", False),
        ("app!=db", True),
        ("none!=db", True),
        ("app!=web", False),
        ("app in (web, db)", True),
        ("app in (db)", False),
        ("app notin (db,cache)", True),
        ("none notin (db)", True),
        ("app notin (web)", False),
        ("app", True),
        ("!app", False),
        ("!none", True),
        ("example.com/x", True),
        ("example.com/x=", True),
        ("app=web,tier in (front,back),!none", True),
        ("app=web,tier=back", False),
    ],
)
def test_a_label_selector_chooses_as_kubernetes_does(selector: str, matches: bool) -> None:
    assert matches_labels(selector)(POD) is matches


@pytest.mark.parametrize("selector", ["app=web=db", "app in web", "a b", "in (x)", "app in (x", "=x"])
def test_a_label_selector_that_makes_no_sense_is_refused(selector: str) -> None:
    with pytest.raises(ApiError) as caught:
        matches_labels(selector)
    assert caught.value.code == 400


@pytest.mark.parametrize(
    ("selector", "matches"),
    [
        ("", True),
        ("metadata.name=p", True),
        ("metadata.name==p", True),
        ("metadata.name!=p", False),
        ("metadata.name=q", False),
        ("spec.nodeName=", True),
        ("spec.nodeName!=", False),
        ("spec.on=true", True),
        ("spec.hostNetwork=false", True),
        ("spec.hostNetwork=true", False),
        ("metadata.name=p,spec.nodeName=node1", False),
    ],
)
def test_a_field_selector_chooses_by_path(selector: str, matches: bool) -> None:
    assert matches_fields(selector, SELECTABLE)(POD) is matches


@pytest.mark.parametrize("selector", ["metadata.name", "=x", "metadata.name~p", "spec.foo=x"])
def test_a_field_selector_that_makes_no_sense_is_refused(selector: str) -> None:
    with pytest.raises(ApiError) as caught:
        matches_fields(selector, SELECTABLE)
    assert caught.value.code == 400
