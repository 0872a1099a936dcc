"""The embedded API server beside what a real Kubernetes 1.36 answered: errors, watches, objects, lists."""

from __future__ import annotations

import http.client
import json
import re
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from k8sovs.kubernetes import EndpointSlice, Event, Kubernetes, KubernetesError, Namespace, Node, Pod, Resource
from tests.support.apiserver import ApiServerProcess
from tests.support.scripted_api import Answer, ScriptedApi

RECORDED = Path(__file__).parent.parent / "recorded" / "kubernetes"
LEFT_OUT = re.compile(r"((items\[\]|object)\.)?metadata\.(managedFields.*|selfLink)|object\.status\.conditions.*")
"""Field ownership, and what the real namespace controller reports while it empties a namespace."""


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServerProcess]:
    with ApiServerProcess(tmp_path_factory.mktemp("api")) as process:
        yield process


def recorded(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((RECORDED / name).read_text())
    return found


def answer_of(file: str) -> tuple[int, Any]:
    """Code and JSON of a recorded HTTP answer."""
    head, _, body = (RECORDED / file).read_text().replace("\r\n", "\n").partition("\n\n")
    return int(head.split()[1]), json.loads(body)


def fields(value: object, path: str = "") -> set[str]:
    """The paths of all fields that are not null; entries of a list are one."""
    if isinstance(value, dict):
        inner = {f"{path}.{name}".lstrip("."): given for name, given in value.items() if given is not None}
        opaque = path.endswith(("labels", "annotations"))
        return set(inner) if opaque else set(inner).union(*(fields(given, name) for name, given in inner.items()))
    if isinstance(value, list):
        return set().union(*(fields(given, f"{path}[]") for given in value))
    return set()


def missing(real: object, ours: object) -> list[str]:
    return sorted(name for name in fields(real) - fields(ours) if not LEFT_OUT.fullmatch(name))


def test_a_list_of_a_version_long_gone_is_refused_in_the_same_words(api: ApiServerProcess) -> None:
    path = "/api/v1/namespaces?resourceVersion=5&resourceVersionMatch=Exact"
    assert api.request("GET", path) == answer_of("list-410.http")


def test_a_watch_from_a_version_long_gone_is_refused_in_the_same_words(api: ApiServerProcess) -> None:
    code, event = api.request("GET", "/api/v1/namespaces?watch=true&resourceVersion=5")
    event["object"]["message"] = re.sub(r"\(\d+\)", "(693)", event["object"]["message"])
    assert (code, event) == answer_of("watch-410.http")


def test_the_life_of_a_namespace_is_told_by_a_watch_as_by_the_real_one(api: ApiServerProcess) -> None:
    real = [json.loads(line) for line in (RECORDED / "watch-namespaces.ndjson").read_text().splitlines()]
    version = api.request("GET", "/api/v1/namespaces")[1]["metadata"]["resourceVersion"]
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "tenant3"}})
    api.request("POST", "/api/v1/namespaces/tenant3/pods", {"metadata": {"name": "p", "finalizers": ["a.com/b"]}} | POD)
    api.request("DELETE", "/api/v1/namespaces/tenant3")
    merge = {"Content-Type": "application/merge-patch+json"}
    api.request("PATCH", "/api/v1/namespaces/tenant3/pods/p", {"metadata": {"finalizers": None}}, **merge)
    with closing(http.client.HTTPConnection(api.address, timeout=20)) as connection:
        connection.request("GET", f"/api/v1/namespaces?watch=true&resourceVersion={version}")
        answer = connection.getresponse()
        told = [json.loads(answer.readline()) for _ in range(3)]
    assert [(event["type"], event["object"]["status"]["phase"]) for event in told] == [
        ("ADDED", "Active"),
        ("MODIFIED", "Terminating"),
        ("DELETED", "Terminating"),
    ]
    for ours, theirs in zip(told, (real[0], real[1], real[4]), strict=True):
        assert missing(theirs, ours) == []


def test_a_bookmark_tells_a_version_and_the_kind_as_that_of_the_real_one(tmp_path: Path) -> None:
    lines = (RECORDED / "watch-services.ndjson").read_text().splitlines()
    real = next(event for event in map(json.loads, lines) if event["type"] == "BOOKMARK")
    with (
        ApiServerProcess(tmp_path, "--bookmark-interval", "0.1") as api,
        closing(http.client.HTTPConnection(api.address, timeout=20)) as connection,
    ):
        connection.request("GET", "/api/v1/services?watch=true&allowWatchBookmarks=true")
        ours = json.loads(connection.getresponse().readline())
    assert ours["type"] == "BOOKMARK"
    assert {name: ours["object"][name] for name in ("kind", "apiVersion")} == {"kind": "Service", "apiVersion": "v1"}
    assert ours["object"]["metadata"].keys() <= real["object"]["metadata"].keys()


POD = {"spec": {"containers": [{"name": "c", "image": "i"}]}}


@pytest.mark.parametrize(
    ("file", "collection"),
    [
        ("api_v1_nodes_node1.json", "/api/v1/nodes"),
        ("api_v1_namespaces_tenant1_pods.json", "/api/v1/namespaces/tenant1/pods"),
        ("api_v1_namespaces_tenant1_events.json", "/api/v1/namespaces/tenant1/events"),
        ("api_v1_namespaces_tenant1_services_web.json", "/api/v1/namespaces/tenant1/services"),
        (
            "apis_discovery.k8s.io_v1_namespaces_tenant1_endpointslices.json",
            "/apis/discovery.k8s.io/v1/namespaces/tenant1/endpointslices",
        ),
    ],
)
def test_recorded_objects_come_back_as_they_were_and_in_lists_of_the_same_shape(
    api: ApiServerProcess, file: str, collection: str
) -> None:
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "tenant1"}})
    given = recorded(file)
    items = given.get("items", [given])
    for item in items:
        name = item["metadata"]["name"]
        body = item | {"metadata": item["metadata"] | {"resourceVersion": "", "uid": ""}}
        assert api.request("POST", collection, body)[0] == 201
        if "status" in item:
            assert api.request("PUT", f"{collection}/{name}/status", body)[0] == 200
        assert missing(item, api.request("GET", f"{collection}/{name}")[1]) == []
    listed = api.request("GET", collection)[1]
    assert {item["metadata"]["name"] for item in listed["items"]} >= {item["metadata"]["name"] for item in items}
    if "items" in given:
        assert {name: listed[name] for name in ("kind", "apiVersion")} == {
            name: given[name] for name in ("kind", "apiVersion")
        }
        assert missing(given, listed) == []


@pytest.mark.parametrize(
    ("file", "kind", "count"),
    [
        ("api_v1_namespaces_tenant1_pods.json", Pod, 3),
        ("api_v1_namespaces_tenant1_events.json", Event, 18),
        ("apis_discovery.k8s.io_v1_namespaces_tenant1_endpointslices.json", EndpointSlice, 1),
        ("apis_discovery.k8s.io_v1_namespaces_default_endpointslices.json", EndpointSlice, 1),
    ],
)
async def test_our_client_understands_every_object_of_a_recorded_list(
    tmp_path: Path, file: str, kind: type[Resource], count: int
) -> None:
    async with ScriptedApi(tmp_path, [Answer(recorded(file))]) as api, Kubernetes(str(api.kubeconfig)) as kubernetes:
        assert len(await kubernetes.list(kind)) == count
        assert kubernetes.statistics().undecodable == 0


async def test_our_client_understands_a_recorded_node(tmp_path: Path) -> None:
    answer = Answer(recorded("api_v1_nodes_node1.json"))
    async with ScriptedApi(tmp_path, [answer]) as api, Kubernetes(str(api.kubeconfig)) as kubernetes:
        node = await kubernetes.get(Node, "node1")
    assert node.status is not None
    assert "InternalIP" in {each.type for each in node.status.addresses or []}


async def test_our_client_says_that_it_is_not_let_in(tmp_path: Path) -> None:
    answer = Answer(recorded("error-401.json"), 401)
    async with ScriptedApi(tmp_path, [answer]) as api, Kubernetes(str(api.kubeconfig)) as kubernetes:
        with pytest.raises(KubernetesError, match="GET /api/v1/namespaces/a: 401 Unauthorized: Unauthorized") as caught:
            await kubernetes.get(Namespace, "a")
    assert caught.value.code == 401
