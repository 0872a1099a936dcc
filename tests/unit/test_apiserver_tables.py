"""Tables of the embedded API server, compared with a real one's."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from k8sovs.lab.apiserver import tables
from k8sovs.lab.apiserver.resources import NODES, PODS, RESOURCES, Resource
from k8sovs.lab.apiserver.store import Stored

RECORDED = Path(__file__).parent.parent / "recorded" / "kubernetes"
NOW = datetime(2026, 11, 22, 13, 0, 0, tzinfo=UTC)


@pytest.mark.parametrize(
    ("seconds", "told"),
    [
        (-5, "0s"),
        (0, "0s"),
        (119, "119s"),
        (120, "2m"),
        (185, "3m5s"),
        (600, "10m"),
        (10_799, "179m"),
        (10_800, "3h"),
        (11_100, "3h5m"),
        (8 * 3600 + 300, "8h"),
        (47 * 3600, "47h"),
        (49 * 3600, "2d1h"),
        (9 * 86400 + 3600, "9d"),
        (800 * 86400, "800d"),
    ],
)
def test_an_age_is_told_as_kubectl_does(seconds: int, told: str) -> None:
    since = (NOW - timedelta(seconds=seconds)).strftime("%Y-%m-%dT%H:%M:%SZ")
    assert tables.age(since, NOW) == told


def test_a_missing_time_has_no_age() -> None:
    assert tables.age("", NOW) == "<unknown>"


def test_the_columns_of_pods_are_those_of_a_real_server() -> None:
    real = json.loads((RECORDED / "table-pods.json").read_text())
    ours = tables.render(PODS, [], NOW, {})
    names = [(column["name"], column["priority"]) for column in ours["columnDefinitions"]]
    assert names == [(column["name"], column["priority"]) for column in real["columnDefinitions"]]


def test_a_pod_of_a_real_server_becomes_the_row_of_a_real_server() -> None:
    real = json.loads((RECORDED / "table-pods.json").read_text())["rows"][0]
    last = None
    for line in (RECORDED / "watch-pods.ndjson").read_text().splitlines():
        event = json.loads(line)
        if event["type"] == "MODIFIED" and event["object"]["metadata"]["name"] == "hp":
            pod = event["object"]
            last = pod if pod["status"]["phase"] == "Running" and "deletionTimestamp" not in pod["metadata"] else last
    assert last is not None
    row = tables.render(PODS, [Stored.at(1, last)], NOW, {})["rows"][0]
    age_and_address = (4, 5)
    assert [cell for index, cell in enumerate(row["cells"]) if index not in age_and_address] == [
        cell for index, cell in enumerate(real["cells"]) if index not in age_and_address
    ]
    assert row["object"].keys() == real["object"].keys()


@pytest.mark.parametrize("resource", RESOURCES, ids=lambda resource: resource.plural)
def test_an_empty_object_of_any_kind_has_a_row(resource: Resource) -> None:
    empty = Stored.at(1, {"metadata": {"name": "x"}})
    table = tables.render(resource, [empty], NOW, {})
    assert len(table["rows"][0]["cells"]) == len(table["columnDefinitions"])


@pytest.mark.parametrize(("ready", "told"), [("True", "Ready"), ("False", "NotReady"), ("Unknown", "Unknown")])
def test_a_node_is_as_ready_as_its_condition(ready: str, told: str) -> None:
    node = {"metadata": {"name": "n"}, "status": {"conditions": [{"type": "Ready", "status": ready}]}}
    assert tables.render(NODES, [Stored.at(1, node)], NOW, {})["rows"][0]["cells"][1] == told
