"""What the verbs of the embedded API server mean."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable
from datetime import UTC, datetime
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

import pytest

from k8sovs.lab.apiserver import resources
from k8sovs.lab.apiserver.addresses import ServiceAddresses
from k8sovs.lab.apiserver.errors import ApiError
from k8sovs.lab.apiserver.registry import DeleteOptions, Registry
from k8sovs.lab.apiserver.resources import EVENTS, NAMESPACES, NODES, PODS, SERVICES
from k8sovs.lab.apiserver.store import ChangeKind, Key, Store

RECORDED = Path(__file__).parent.parent / "recorded" / "kubernetes"
NOW = datetime(2026, 11, 22, 13, 0, 0, tzinfo=UTC)
CONTAINERS = [{"name": "c", "image": "i"}]
AT_ONCE = DeleteOptions(grace_period_s=0)
T = Key("", "t")
P = Key("t", "p")


@pytest.fixture
def registry() -> Registry:
    uids, suffixes = itertools.count(1), itertools.count(1)
    made = Registry(
        Store(),
        ServiceAddresses(IPv4Network("10.96.0.0/24")),
        now=lambda: NOW,
        new_uid=lambda: f"uid-{next(uids)}",
        name_suffix=lambda: f"s{next(suffixes)}",
    )
    made.create(NAMESPACES, "", {"metadata": {"name": "t"}})
    return made


def pod(name: str = "p", node: str = "", **metadata: object) -> dict[str, Any]:
    spec = {"containers": CONTAINERS} | ({"nodeName": node} if node else {})
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name, **metadata}, "spec": spec}


def service(name: str, **spec: object) -> dict[str, Any]:
    return {"metadata": {"name": name}, "spec": {"ports": [{"port": 80}], **spec}}


def history(registry: Registry, resource: resources.Resource) -> list[tuple[str, str]]:
    changes = registry.store.collection(resource).since(1)
    return [(change.kind.value, change.after.body["metadata"]["name"]) for change in changes]


def refusal(error: ApiError) -> tuple[int, str]:
    return error.code, error.reason


def test_a_new_object_gets_identity_time_and_version(registry: Registry) -> None:
    made = registry.create(PODS, "t", pod(uid="mine", resourceVersion="99", creationTimestamp="never")).body
    assert made["metadata"]["uid"].startswith("uid-")
    assert made["metadata"]["creationTimestamp"] == "2026-11-22T13:00:00Z"
    assert made["metadata"]["resourceVersion"] == str(registry.store.revision)
    assert made["metadata"]["namespace"] == "t"
    assert made["status"]["phase"] == "Pending"


def test_an_object_recreated_under_its_name_gets_a_new_uid(registry: Registry) -> None:
    first = registry.create(PODS, "t", pod())
    registry.delete(PODS, P)
    assert registry.create(PODS, "t", pod()).body["metadata"]["uid"] != first.body["metadata"]["uid"]


def test_the_caller_s_document_is_not_touched(registry: Registry) -> None:
    mine = pod()
    before = json.dumps(mine)
    registry.create(PODS, "t", mine)
    assert json.dumps(mine) == before


def test_a_name_is_generated_from_its_beginning(registry: Registry) -> None:
    made = registry.create(EVENTS, "t", {"metadata": {"generateName": "x."}})
    assert made.body["metadata"]["name"] == "x.s1"


def test_a_generated_name_is_a_label_however_long_its_beginning(registry: Registry) -> None:
    made = registry.create(NAMESPACES, "", {"metadata": {"generateName": "n" * 63}})
    assert made.body["metadata"]["name"] == "n" * 58 + "s1"


def test_a_create_into_no_namespace_or_a_foreign_one_is_refused(registry: Registry) -> None:
    with pytest.raises(ApiError) as nowhere:
        registry.create(PODS, "nowhere", pod())
    assert refusal(nowhere.value) == (404, "NotFound")
    with pytest.raises(ApiError) as foreign:
        registry.create(PODS, "t", pod(namespace="other"))
    assert refusal(foreign.value) == (400, "BadRequest")


@pytest.mark.parametrize(
    ("recorded", "provoke"),
    [
        ("error-404.json", lambda registry: registry.get(NAMESPACES, Key("", "nope"))),
        ("error-409-exists.json", lambda registry: registry.create(NAMESPACES, "", {"metadata": {"name": "tenant2"}})),
        (
            "error-409-conflict.json",
            lambda registry: registry.update(
                SERVICES, Key("t", "web"), service("web") | {"metadata": {"name": "web", "resourceVersion": "1"}}
            ),
        ),
        ("error-422.json", lambda registry: registry.create(PODS, "t", {"metadata": {"name": "Bad_Name"}})),
    ],
)
def test_a_refusal_is_word_for_word_that_of_a_real_server(
    registry: Registry, recorded: str, provoke: Callable[[Registry], object]
) -> None:
    registry.create(NAMESPACES, "", {"metadata": {"name": "tenant2"}})
    registry.create(SERVICES, "t", service("web"))
    with pytest.raises(ApiError) as caught:
        provoke(registry)
    assert caught.value.status() == json.loads((RECORDED / recorded).read_text())


@pytest.mark.parametrize(
    ("recorded", "resource"),
    [("api_v1_namespaces_tenant1.json", NAMESPACES), ("api_v1_namespaces_tenant1_services_web.json", SERVICES)],
)
def test_an_object_has_the_fields_that_a_real_server_gives_it(
    registry: Registry, recorded: str, resource: resources.Resource
) -> None:
    real = json.loads((RECORDED / recorded).read_text())
    del real["metadata"]["managedFields"]
    if resource is SERVICES:
        registry.create(NAMESPACES, "", {"metadata": {"name": "tenant1"}})
        given = {"metadata": {"name": "web"}, "spec": {"ports": [{"name": "http", "port": 80, "targetPort": "http"}]}}
        given["spec"]["selector"] = {"app": "web"}
        made = registry.create(SERVICES, "tenant1", given).body
        del real["metadata"]["annotations"]
    else:
        made = registry.create(NAMESPACES, "", {"metadata": {"name": "tenant1"}}).body
    assert made["metadata"].keys() == real["metadata"].keys()
    assert made["spec"].keys() == real["spec"].keys()
    assert made["status"] == real["status"]


def test_an_update_on_an_old_version_is_a_conflict_and_one_without_version_is_not(registry: Registry) -> None:
    old = registry.create(PODS, "t", pod())
    registry.update(PODS, P, pod(labels={"a": "b"}))
    with pytest.raises(ApiError) as caught:
        registry.update(PODS, P, old.body)
    assert refusal(caught.value) == (409, "Conflict")


def test_a_write_that_changes_nothing_makes_no_version(registry: Registry) -> None:
    old = registry.create(PODS, "t", pod())
    assert registry.patch(PODS, P, lambda document: document).revision == old.revision


def test_the_status_changes_only_through_its_subresource_and_nothing_else_does(registry: Registry) -> None:
    registry.create(PODS, "t", pod())
    running: dict[str, Any] = {"metadata": {}, "spec": {"containers": []}, "status": {"phase": "Running"}}
    by_status = registry.update(PODS, P, running, "status").body
    assert by_status["status"] == {"phase": "Running"}
    assert by_status["spec"]["containers"]
    by_main = registry.update(PODS, P, pod(labels={"a": "b"}) | {"status": {"phase": "Failed"}}).body
    assert by_main["status"] == {"phase": "Running"}
    assert by_main["metadata"]["labels"] == {"a": "b"}


def test_a_generation_counts_changes_of_the_spec_alone(registry: Registry) -> None:
    registry.create(PODS, "t", pod())
    by_status = registry.update(PODS, P, {"metadata": {}, "status": {"phase": "Running"}}, "status")
    assert by_status.body["metadata"]["generation"] == 1
    relabelled = registry.update(PODS, P, pod(labels={"a": "b"}, generation=9))
    assert relabelled.body["metadata"]["generation"] == 1
    assert registry.update(PODS, P, pod(node="node1")).body["metadata"]["generation"] == 2


def test_a_node_brings_its_status_along_and_a_pod_does_not(registry: Registry) -> None:
    status = {"phase": "Running"}
    assert registry.create(NODES, "", {"metadata": {"name": "n"}, "status": status}).body["status"] == status
    assert registry.create(PODS, "t", pod() | {"status": status}).body["status"]["phase"] == "Pending"


def test_a_service_written_again_as_it_was_first_makes_no_version(registry: Registry) -> None:
    made = registry.create(SERVICES, "t", service("a", type="NodePort"))
    assert registry.update(SERVICES, Key("t", "a"), service("a", type="NodePort")) is made


def test_a_pod_without_a_node_is_deleted_at_once(registry: Registry) -> None:
    registry.create(PODS, "t", pod())
    assert registry.delete(PODS, P).removed
    assert registry.store.get(PODS, P) is None


def test_a_pod_on_a_node_is_marked_and_goes_when_the_kubelet_says_so(registry: Registry) -> None:
    registry.create(PODS, "t", pod(node="node1"))
    marked = registry.delete(PODS, P)
    assert not marked.removed
    assert marked.last.body["metadata"]["deletionTimestamp"] == "2026-11-22T13:00:30Z"
    assert marked.last.body["metadata"]["deletionGracePeriodSeconds"] == 30
    assert registry.delete(PODS, P, AT_ONCE).removed


def test_a_second_deletion_shortens_the_grace_and_never_extends_it(registry: Registry) -> None:
    registry.create(PODS, "t", pod(node="node1"))
    registry.delete(PODS, P, DeleteOptions(grace_period_s=10))
    longer = registry.delete(PODS, P, DeleteOptions(grace_period_s=60)).last.body["metadata"]
    assert longer["deletionGracePeriodSeconds"] == 10
    shorter = registry.delete(PODS, P, DeleteOptions(grace_period_s=5)).last.body["metadata"]
    assert shorter["deletionTimestamp"] == "2026-11-22T13:00:05Z"


def test_a_finished_pod_is_deleted_at_once(registry: Registry) -> None:
    registry.create(PODS, "t", pod(node="node1"))
    registry.update(PODS, P, {"status": {"phase": "Succeeded"}}, "status")
    assert registry.delete(PODS, P).removed


def test_a_deletion_with_another_uid_is_a_conflict(registry: Registry) -> None:
    registry.create(PODS, "t", pod())
    with pytest.raises(ApiError) as caught:
        registry.delete(PODS, P, DeleteOptions(uid="of the one before"))
    assert refusal(caught.value) == (409, "Conflict")


def test_an_object_with_finalizers_goes_when_the_last_is_taken_away(registry: Registry) -> None:
    registry.create(NODES, "", {"metadata": {"name": "n", "finalizers": ["a.b/c"]}})
    assert not registry.delete(NODES, Key("", "n")).removed
    registry.patch(
        NODES, Key("", "n"), lambda document: document | {"metadata": document["metadata"] | {"finalizers": []}}
    )
    assert registry.store.get(NODES, Key("", "n")) is None


def test_a_deleted_namespace_takes_its_contents_along(registry: Registry) -> None:
    registry.create(PODS, "t", pod())
    registry.create(SERVICES, "t", service("web"))
    registry.create(PODS, "default", pod("other"))
    registry.delete(NAMESPACES, T)
    assert registry.store.get(NAMESPACES, T) is None
    assert registry.store.list(SERVICES) == []
    assert [stored.body["metadata"]["name"] for stored in registry.store.list(PODS)] == ["other"]


def test_a_deleted_namespace_waits_for_its_last_pod(registry: Registry) -> None:
    registry.create(PODS, "t", pod(node="node1"))
    registry.delete(NAMESPACES, T)
    waiting = registry.get(NAMESPACES, T).body
    assert waiting["status"]["phase"] == "Terminating"
    registry.delete(PODS, P, AT_ONCE)
    assert registry.store.get(NAMESPACES, T) is None


def test_watchers_see_a_namespace_terminating_before_it_is_gone(registry: Registry) -> None:
    registry.delete(NAMESPACES, T)
    told = [kind for kind, name in history(registry, NAMESPACES) if name == "t"]
    assert told == ["ADDED", "MODIFIED", "DELETED"]


def test_a_namespace_that_is_going_takes_nothing_new(registry: Registry) -> None:
    registry.create(PODS, "t", pod(node="node1"))
    registry.delete(NAMESPACES, T)
    with pytest.raises(ApiError) as caught:
        registry.create(PODS, "t", pod("late"))
    assert refusal(caught.value) == (403, "Forbidden")


def test_the_namespaces_of_the_system_cannot_be_deleted(registry: Registry) -> None:
    with pytest.raises(ApiError) as caught:
        registry.delete(NAMESPACES, Key("", "kube-system"))
    assert refusal(caught.value) == (403, "Forbidden")


def test_a_dry_run_changes_nothing(registry: Registry) -> None:
    revision = registry.store.revision
    registry.create(PODS, "t", pod(), dry_run=True)
    registry.delete(NAMESPACES, T, dry_run=True)
    registry.update(NAMESPACES, T, {"metadata": {"labels": {"a": "b"}}}, dry_run=True)
    assert registry.store.revision == revision


def test_a_pod_is_bound_to_a_node_once(registry: Registry) -> None:
    registry.create(PODS, "t", pod())
    registry.bind(P, "node1")
    assert registry.get(PODS, P).body["spec"]["nodeName"] == "node1"
    with pytest.raises(ApiError) as caught:
        registry.bind(P, "node2")
    assert refusal(caught.value) == (409, "Conflict")


def test_services_get_different_addresses_and_keep_them(registry: Registry) -> None:
    first = registry.create(SERVICES, "t", service("a")).body["spec"]["clusterIP"]
    second = registry.create(SERVICES, "t", service("b")).body["spec"]["clusterIP"]
    assert first != second
    registry.delete(SERVICES, Key("t", "a"))
    written = registry.update(SERVICES, Key("t", "b"), service("b", selector={"x": "y"})).body
    assert written["spec"]["clusterIP"] == second


@pytest.mark.parametrize("address", ["None", "10.96.0.99"])
def test_a_service_cannot_change_its_address(registry: Registry, address: str) -> None:
    registry.create(SERVICES, "t", service("a"))
    with pytest.raises(ApiError, match=r"spec.clusterIPs\[0\]: Invalid value: .*: may not change once set"):
        registry.update(SERVICES, Key("t", "a"), service("a", clusterIP=address))


def test_a_service_that_becomes_external_gives_its_address_back(registry: Registry) -> None:
    first = registry.create(SERVICES, "t", service("a")).body
    external = first | {"spec": first["spec"] | {"type": "ExternalName", "externalName": "a.example"}}
    written = registry.update(SERVICES, Key("t", "a"), external).body
    assert not {"clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"} & written["spec"].keys()
    assert registry.create(SERVICES, "t", service("b")).body["spec"]["clusterIP"] == first["spec"]["clusterIP"]
    assert registry.update(SERVICES, Key("t", "a"), service("a", type="ClusterIP")).body["spec"]["clusterIP"]


def test_a_service_that_is_no_longer_reached_by_nodes_gives_its_port_back(registry: Registry) -> None:
    first = registry.create(SERVICES, "t", service("a", type="NodePort")).body
    inside = first | {"spec": first["spec"] | {"type": "ClusterIP"}}
    written = registry.update(SERVICES, Key("t", "a"), inside).body
    assert "nodePort" not in written["spec"]["ports"][0]


@pytest.mark.parametrize(
    "spec",
    [{"clusterIPs": ["None"]}, {"clusterIPs": ["10.96.0.50"]}, {"clusterIP": "None", "type": "NodePort"}],
)
def test_addresses_of_a_service_that_contradict_each_other_are_refused(
    registry: Registry, spec: dict[str, Any]
) -> None:
    with pytest.raises(ApiError) as caught:
        registry.create(SERVICES, "t", service("a", **spec))
    assert refusal(caught.value) == (422, "Invalid")


def test_a_node_port_is_kept_by_a_write_that_does_not_name_it(registry: Registry) -> None:
    registry.create(SERVICES, "t", service("a", type="NodePort"))
    registry.create(SERVICES, "t", service("b", type="NodePort"))
    registry.delete(SERVICES, Key("t", "a"))
    written = registry.update(SERVICES, Key("t", "b"), service("b", type="NodePort", selector={"x": "y"})).body
    assert written["spec"]["ports"][0]["nodePort"] == 30001


@pytest.mark.parametrize("address", ["10.96.0.77", "10.97.0.1", "10.96.0.0", "10.96.0.255", "nonsense"])
def test_a_service_address_that_is_taken_or_outside_is_refused(registry: Registry, address: str) -> None:
    registry.create(SERVICES, "t", service("a", clusterIP="10.96.0.77"))
    with pytest.raises(ApiError) as caught:
        registry.create(SERVICES, "t", service("b", clusterIP=address))
    assert refusal(caught.value) == (422, "Invalid")


def test_running_out_of_service_addresses_is_said(registry: Registry) -> None:
    for number in range(256 - 16 - 1):
        registry.create(SERVICES, "t", service(f"s{number}"))
    with pytest.raises(ApiError, match=r"no free address in 10\.96\.0\.0/24"):
        registry.create(SERVICES, "t", service("late"))


def test_a_headless_service_has_no_address_and_a_node_port_service_gets_a_port(registry: Registry) -> None:
    assert registry.create(SERVICES, "t", service("a", clusterIP="None")).body["spec"]["clusterIPs"] == ["None"]
    ported = registry.create(SERVICES, "t", service("b", type="NodePort"))
    assert ported.body["spec"]["ports"][0]["nodePort"] == 30000


def test_history_reaches_back_as_far_as_its_length_and_says_when_it_does_not() -> None:
    store = Store(revision=10, history_length=2)
    for number in range(3):
        store.put(NODES, Key("", f"n{number}"), {"metadata": {}})
    collection = store.collection(NODES)
    assert [change.revision for change in collection.since(11)] == [12, 13]
    assert [change.kind for change in collection.since(12)] == [ChangeKind.ADDED]
    with pytest.raises(ApiError, match=r"too old resource version: 10 \(11\)"):
        collection.since(10)


def test_a_namespace_keeps_the_label_with_its_name_whatever_is_written(registry: Registry) -> None:
    written = registry.update(NAMESPACES, T, {"metadata": {"labels": {"a": "b"}}}).body
    assert written["metadata"]["labels"] == {"a": "b", "kubernetes.io/metadata.name": "t"}
