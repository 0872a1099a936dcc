"""The plans of the lab's small controllers: from the objects as they are to the writes that are missing."""

from __future__ import annotations

import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest

from k8sovs.kubernetes import (
    Deployment,
    EndpointSlice,
    Namespace,
    Node,
    ObjectKey,
    Pod,
    ReplicaSet,
    Resource,
    Service,
)
from k8sovs.lab.controllers import endpoints, namespaces, ownership, scheduling, workloads
from k8sovs.lab.controllers.world import Bind, Create, Delete, Finalize, Patch, World

RECORDED = Path(__file__).parent.parent / "recorded" / "kubernetes"
READY = {"conditions": [{"type": "Ready", "status": "True"}]}


def meta(name: str, namespace: str = "t", **more: Any) -> dict[str, Any]:  # noqa: ANN401 - JSON
    return {"name": name, "namespace": namespace, "uid": f"uid-{name}", **more}


def node(name: str, *, ready: bool = True, labels: dict[str, str] | None = None, **spec: object) -> dict[str, Any]:
    status = READY if ready else {}
    return {"metadata": meta(name, "", labels=labels or {}), "spec": spec, "status": status}


def pod(name: str, address: str = "", node: str = "", phase: str = "Running", **more: Any) -> dict[str, Any]:  # noqa: ANN401
    metadata = meta(name, labels={"app": "web"}, **more)
    status = {"phase": phase, **({"podIP": address, **READY} if address else {})}
    return {"metadata": metadata, "spec": {"nodeName": node, "containers": [{"name": "c"}]}, "status": status}


def deployment(replicas: int = 2, image: str = "one") -> dict[str, Any]:
    template = {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"name": "c", "image": image}]}}
    spec = {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}}, "template": template}
    return {"metadata": meta("web"), "spec": spec}


def service(**spec: object) -> dict[str, Any]:
    ports = [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": 8080}]
    return {"metadata": meta("web"), "spec": {"selector": {"app": "web"}, "ports": ports, **spec}}


def world(*objects: tuple[type[Resource], dict[str, Any]]) -> World:
    found: dict[type[Resource], dict[ObjectKey, dict[str, Any]]] = defaultdict(dict)
    for resource, body in objects:
        found[resource][ObjectKey(body["metadata"]["namespace"], body["metadata"]["name"])] = body
    return World(found)


def created(writes: list[Any], resource: type[Resource]) -> list[dict[str, Any]]:
    """What the plan creates, as the server would give it back."""
    bodies = [write.body for write in writes if isinstance(write, Create) and write.resource is resource]
    return [body | {"metadata": meta(**body["metadata"])} for body in bodies]


def test_pods_without_a_node_are_spread_over_the_nodes_with_the_fewest() -> None:
    there = world(
        *((Node, node(name)) for name in ("node1", "node2")),
        (Pod, pod("old", node="node1")),
        *((Pod, pod(name)) for name in ("a", "b", "c")),
    )
    assert [(write.pod.name, write.node) for write in scheduling.plan(there)] == [
        ("a", "node2"),
        ("b", "node1"),
        ("c", "node2"),
    ]


@pytest.mark.parametrize(
    "unfit", [node("n", ready=False), node("n", unschedulable=True), node("n", labels={"disk": "slow"})]
)
def test_no_pod_goes_to_a_node_that_is_not_ready_or_not_wanted(unfit: dict[str, Any]) -> None:
    waiting = pod("a")
    waiting["spec"]["nodeSelector"] = {"disk": "fast"}
    assert list(scheduling.plan(world((Node, unfit), (Pod, waiting)))) == []
    fit = node("m", labels={"disk": "fast"})
    assert list(scheduling.plan(world((Node, unfit), (Node, fit), (Pod, waiting)))) == [Bind(ObjectKey("t", "a"), "m")]


def recorded(name: str) -> list[dict[str, Any]]:
    lines = (RECORDED / f"watch-{name}.ndjson").read_text().splitlines()
    events = [json.loads(line) for line in lines]
    return [event for event in events if event["type"] in ("ADDED", "MODIFIED", "DELETED")]


def version(event: dict[str, Any]) -> int:
    return int(event["object"]["metadata"]["resourceVersion"])


def content(body: dict[str, Any]) -> tuple[list[Any], list[Any]]:
    return sorted(body["endpoints"] or [], key=lambda entry: str(entry["addresses"])), body["ports"] or []


def test_slices_are_those_that_a_real_cluster_made_of_the_same_pods() -> None:
    """Every version that Kubernetes 1.36 wrote is what we make of the pods as they were at some moment before."""
    (web,) = [event["object"] for event in recorded("services") if event["type"] == "ADDED"]
    pods: dict[str, dict[str, Any]] = {}
    moments: list[tuple[int, Any]] = [(0, content(endpoints.slices(web, [])[0]))]
    for event in sorted(recorded("pods"), key=version):
        body = event["object"]
        if body["metadata"]["namespace"] == web["metadata"]["namespace"]:
            pods[body["metadata"]["uid"]] = body
            if event["type"] == "DELETED":
                del pods[body["metadata"]["uid"]]
            (made,) = endpoints.slices(web, pods.values())
            moments.append((version(event), content(made)))
    written = [event for event in recorded("endpointslices") if event["type"] != "DELETED"]
    written = [
        event for event in written if event["object"]["metadata"]["labels"].get("kubernetes.io/service-name") == "web"
    ]
    assert len(written) > 5
    for event in written:
        before = [made for at, made in moments if at < version(event)]
        # A slice that lost its last endpoint keeps its ports.
        assert any(content(event["object"]) in (made, (made[0], content(event["object"])[1])) for made in before)


def test_a_slice_that_says_the_truth_is_left_alone() -> None:
    there = [(Service, service()), (Pod, pod("a", "172.11.0.2", "node1"))]
    (made,) = created(list(endpoints.plan(world(*there))), EndpointSlice)
    assert list(endpoints.plan(world(*there, (EndpointSlice, made)))) == []
    (patch,) = endpoints.plan(world(there[0], (EndpointSlice, made)))
    assert isinstance(patch, Patch)
    assert patch.body == {"endpoints": [], "ports": []}


def test_a_pod_that_is_leaving_still_serves_and_is_not_ready() -> None:
    leaving = pod("a", "172.11.0.2", deletionTimestamp="2026-11-22T13:00:00Z")
    (made,) = endpoints.slices(service(), [leaving])
    assert made["endpoints"][0]["conditions"] == {"ready": False, "serving": True, "terminating": True}


def test_a_named_port_is_the_one_that_each_pod_has_under_that_name() -> None:
    pods = [pod(name, f"172.11.0.{number}") for number, name in enumerate("ab", 2)]
    for number, body in enumerate(pods):
        body["spec"]["containers"][0]["ports"] = [{"name": "http", "containerPort": 8080 + number}]
    ports = [{"port": 80, "targetPort": "http"}]
    made = endpoints.slices(service(ports=ports), pods)
    assert [(body["ports"][0]["port"], body["endpoints"][0]["addresses"]) for body in made] == [
        (8080, ["172.11.0.2"]),
        (8081, ["172.11.0.3"]),
    ]


def test_a_service_with_many_pods_has_several_slices_of_different_names() -> None:
    pods = [pod(f"p{number}", f"172.11.{number // 250}.{number % 250 + 2}") for number in range(250)]
    made = endpoints.slices(service(), pods)
    assert [len(body["endpoints"]) for body in made] == [100, 100, 50]
    assert len({body["metadata"]["name"] for body in made}) == 3


def test_a_service_without_selector_gets_no_slice_and_hand_made_ones_are_left_alone() -> None:
    by_hand = {"metadata": meta("mine", labels={"kubernetes.io/service-name": "web"}), "endpoints": []}
    there = world((Service, service(selector={})), (EndpointSlice, by_hand), (Pod, pod("a", "172.11.0.2")))
    assert list(endpoints.plan(there)) == []


def test_a_deployment_becomes_a_replica_set_and_that_its_pods_whose_names_do_not_change_when_planned_again() -> None:
    there = [(Deployment, deployment(replicas=3))]
    (replica_set,) = created(list(workloads.plan(world(*there))), ReplicaSet)
    there.append((ReplicaSet, replica_set))
    first, again = (created(list(workloads.plan(world(*there))), Pod) for _ in range(2))
    assert len({body["metadata"]["name"] for body in first}) == 3
    assert first == again
    (rest, *_) = created(list(workloads.plan(world(*there, (Pod, first[0]), (Pod, first[2])))), Pod)
    assert rest["metadata"]["name"] == first[1]["metadata"]["name"]


def test_a_replica_set_that_is_too_large_loses_the_pods_that_are_not_ready() -> None:
    (replica_set,) = created(list(workloads.plan(world((Deployment, deployment())))), ReplicaSet)
    replica_set["spec"]["replicas"] = 1
    owner = [{"uid": replica_set["metadata"]["uid"], "controller": True}]
    pods = [pod("ready", "172.11.0.2", ownerReferences=owner), pod("new", ownerReferences=owner)]
    writes = workloads.plan(world((ReplicaSet, replica_set), *((Pod, body) for body in pods)))
    assert [write.key.name for write in writes if isinstance(write, Delete)] == ["new"]


def test_the_old_template_serves_until_the_pods_of_the_new_one_are_ready() -> None:
    (old,) = created(list(workloads.plan(world((Deployment, deployment())))), ReplicaSet)
    changed = (Deployment, deployment(image="two"))
    (new,) = created(list(workloads.plan(world(changed, (ReplicaSet, old)))), ReplicaSet)
    assert new["metadata"]["name"] != old["metadata"]["name"]

    def deleted() -> list[str]:
        writes = workloads.plan(world(changed, (ReplicaSet, old), (ReplicaSet, new)))
        return [write.key.name for write in writes if isinstance(write, Delete)]

    assert deleted() == []
    new["status"] = {"readyReplicas": 2}
    assert deleted() == [old["metadata"]["name"]]


def test_what_lost_its_last_owner_goes_and_what_has_one_or_names_a_stranger_stays() -> None:
    def owned(name: str, *owners: tuple[str, str, str]) -> dict[str, Any]:
        references = [
            {"apiVersion": version, "kind": kind, "name": owner, "uid": f"uid-{owner}"}
            for version, kind, owner in owners
        ]
        return pod(name, ownerReferences=references)

    here, gone = ("v1", "Service", "web"), ("apps/v1", "ReplicaSet", "gone")
    there = world(
        (Service, service()),
        (Pod, owned("both", here, gone)),
        (Pod, owned("stranger", ("example.com/v1", "Thing", "x"), gone)),
        (Pod, owned("orphan", gone)),
        (Pod, owned("nobodys")),
    )
    (write,) = ownership.plan(there)
    assert (write.key.name, [owner.key.name for owner in write.owners]) == ("orphan", ["gone"])


def test_a_namespace_is_let_go_only_when_its_contents_are_gone() -> None:
    going = {"metadata": meta("t", "", deletionTimestamp="2026-11-22T13:00:00Z")}
    assert list(namespaces.plan(world((Namespace, going), (Pod, pod("a"))))) == [
        Delete(Pod, ObjectKey("t", "a"), "uid-a")
    ]
    leaving = pod("a", deletionTimestamp="2026-11-22T13:00:00Z")
    assert list(namespaces.plan(world((Namespace, going), (Pod, leaving)))) == []
    assert list(namespaces.plan(world((Namespace, going)))) == [Finalize("t")]


def test_nothing_is_made_in_a_namespace_that_is_going() -> None:
    going = {"metadata": meta("t", "", deletionTimestamp="2026-11-22T13:00:00Z")}
    there = world((Namespace, going), (Deployment, deployment()), (Service, service()), (Pod, pod("a")))
    for plan in (workloads.plan, endpoints.plan, scheduling.plan):
        assert list(plan(there)) == []
