"""The embedded API server as a process, judged by the official client, by our own and by Kubernetes' own server."""

from __future__ import annotations

import asyncio
import http.client
import socket
import subprocess
import sys
from contextlib import aclosing, closing

import pytest
from lightkube.models.coordination_v1 import LeaseSpec

from k8sovs.kubernetes import (
    AlreadyExists,
    Conflict,
    Event,
    Gone,
    Kubernetes,
    KubernetesError,
    Lease,
    Listed,
    Namespace,
    Node,
    NotFound,
    ObjectMeta,
    Pod,
    Put,
    Timing,
    key_of,
)
from tests.support.apiobjects import MERGE, POD, create_pod
from tests.support.apiserver import ApiServer, ApiServerProcess

QUICK = Timing(first_delay_s=0.01, longest_delay_s=0.05)


def test_discovery_names_what_is_there(unchanged: ApiServer) -> None:
    listed = {line.split()[0] for line in unchanged.kubectl("api-resources", "--no-headers").splitlines()}
    assert listed >= {"namespaces", "nodes", "pods", "services", "events", "endpointslices", "leases", "configmaps"}
    assert unchanged.request("GET", "/apis/nothing.example.com/v1")[0] == 404
    assert unchanged.request("GET", "/api/v1/nothings")[0] == 404
    assert unchanged.request("GET", "/version")[1]["major"] == "1"


def test_a_list_of_an_earlier_moment_shows_that_moment(tenant: ApiServer) -> None:
    create_pod(tenant, "a", colour="red")
    version = tenant.request("GET", "/api/v1/namespaces/t/pods")[1]["metadata"]["resourceVersion"]
    create_pod(tenant, "b")
    tenant.request("PATCH", "/api/v1/namespaces/t/pods/a", {"metadata": {"labels": {"colour": "blue"}}}, **MERGE)
    path = f"/api/v1/namespaces/t/pods?resourceVersion={version}&resourceVersionMatch=Exact"
    listed = tenant.request("GET", path)[1]
    assert [pod["metadata"]["labels"] for pod in listed["items"]] == [{"colour": "red"}]
    assert listed["metadata"]["resourceVersion"] == version


def test_pages_show_one_moment_even_if_objects_come_and_go_between(tenant: ApiServer) -> None:
    for name in ("a", "b", "c"):
        create_pod(tenant, name)
    first = tenant.request("GET", "/api/v1/namespaces/t/pods?limit=2")[1]
    assert first["metadata"]["remainingItemCount"] == 1
    create_pod(tenant, "d")
    tenant.request("DELETE", "/api/v1/namespaces/t/pods/c")
    rest = tenant.request("GET", f"/api/v1/namespaces/t/pods?limit=2&continue={first['metadata']['continue']}")[1]
    assert [pod["metadata"]["name"] for pod in rest["items"]] == ["c"]
    assert rest["metadata"] == {"resourceVersion": first["metadata"]["resourceVersion"]}


async def test_our_client_creates_reads_changes_and_deletes(tenant: ApiServer) -> None:
    async with Kubernetes(str(tenant.kubeconfig)) as kubernetes:
        node = await kubernetes.create(Node(metadata=ObjectMeta(name="node1")))
        with pytest.raises(AlreadyExists):
            await kubernetes.create(Node(metadata=ObjectMeta(name="node1")))
        address = {"addresses": [{"type": "InternalIP", "address": "192.0.2.11"}]}
        await kubernetes.patch(Node, "node1", {"status": address}, subresource="status")
        read = await kubernetes.get(Node, "node1")
        assert read.status is not None
        assert read.status.addresses is not None
        assert read.status.addresses[0].address == "192.0.2.11"
        with pytest.raises(Conflict):
            await kubernetes.replace(node)
        with pytest.raises(Conflict):
            await kubernetes.delete(Node, "node1", uid="of the one before")
        await kubernetes.delete(Node, "node1")
        with pytest.raises(NotFound):
            await kubernetes.get(Node, "node1")


async def test_a_lease_is_taken_by_the_one_who_saw_its_last_version(tenant: ApiServer) -> None:
    async with Kubernetes(str(tenant.kubeconfig)) as kubernetes:
        seen = await kubernetes.create(
            Lease(metadata=ObjectMeta(name="leader", namespace="t"), spec=LeaseSpec(holderIdentity="a"))
        )
        assert seen.spec is not None
        seen.spec.holderIdentity = "b"
        taken = await kubernetes.replace(seen)
        assert taken.spec is not None
        assert taken.spec.holderIdentity == "b"
        with pytest.raises(Conflict):
            await kubernetes.replace(seen)


def test_a_generated_name_begins_as_it_was_asked_and_differs_each_time(tenant: ApiServer) -> None:
    body = {"metadata": {"generateName": "some-"}}
    made = [tenant.request("POST", "/api/v1/namespaces/t/configmaps", body)[1]["metadata"]["name"] for _ in range(2)]
    assert all(name.startswith("some-") and len(name) == 10 for name in made)
    assert made[0] != made[1]


async def test_an_event_about_a_namespace_is_found_in_it(tenant: ApiServer) -> None:
    async with Kubernetes(str(tenant.kubeconfig)) as kubernetes:
        namespace = await kubernetes.get(Namespace, "t")
        await kubernetes.create_event("t", namespace, "ActionRefused", "no such namespace: u", "k8sovs-controller")
        (event,) = await kubernetes.list(Event, namespace="t")
    assert (event.reason, event.message, event.type) == ("ActionRefused", "no such namespace: u", "Warning")
    listed = tenant.kubectl("-n", "t", "get", "events", "--no-headers").split()
    assert listed[1:4] == ["Warning", "ActionRefused", "namespace/t"]


async def test_our_watch_follows_a_pod_through_its_life(tenant: ApiServer) -> None:
    async with (
        asyncio.timeout(10),
        Kubernetes(str(tenant.kubeconfig), timing=QUICK) as kubernetes,
        aclosing(kubernetes.watch(Pod, field_selector="spec.nodeName=node1")) as changes,
    ):
        assert await anext(changes) == Listed(())
        create_pod(tenant, "elsewhere", node="node2")
        create_pod(tenant, node="node1")
        first = await anext(changes)
        assert isinstance(first, Put)
        assert first.key == ("t", "p")
        await kubernetes.delete(Pod, "p", namespace="t")
        marked = await anext(changes)
        assert isinstance(marked, Put)
        assert marked.item.metadata is not None
        assert marked.item.metadata.deletionTimestamp is not None
        await kubernetes.delete(Pod, "p", namespace="t", grace_period_s=0)
        assert [type(await anext(changes)), type(await anext(changes))] == [Put, Gone]


async def test_a_pod_that_leaves_or_joins_the_selection_is_told_as_gone_or_new(tenant: ApiServer) -> None:
    create_pod(tenant, app="x")
    async with (
        asyncio.timeout(10),
        Kubernetes(str(tenant.kubeconfig), timing=QUICK) as kubernetes,
        aclosing(kubernetes.watch(Pod, namespace="t", label_selector="app=x")) as changes,
    ):
        listed = await anext(changes)
        assert isinstance(listed, Listed)
        assert [key_of(pod).name for pod in listed.items] == ["p"]
        await kubernetes.patch(Pod, "p", {"metadata": {"labels": {"app": "y"}}}, namespace="t")
        assert isinstance(await anext(changes), Gone)
        await kubernetes.patch(Pod, "p", {"metadata": {"labels": {"app": "x"}}}, namespace="t")
        assert isinstance(await anext(changes), Put)


async def test_a_server_started_anew_makes_clients_list_again(embedded: ApiServerProcess) -> None:
    async with (
        asyncio.timeout(20),
        Kubernetes(str(embedded.kubeconfig), timing=QUICK) as kubernetes,
        aclosing(kubernetes.watch(Namespace)) as changes,
    ):
        await anext(changes)
        await kubernetes.create(Namespace(metadata=ObjectMeta(name="t")))
        assert isinstance(await anext(changes), Put)
        await asyncio.to_thread(embedded.stop)
        await asyncio.to_thread(embedded.start)
        again = await anext(changes)
        assert isinstance(again, Listed)
        assert {key_of(item).name for item in again.items} == {"default", "kube-system"}


async def test_a_silent_server_is_given_up_and_found_again(embedded: ApiServerProcess) -> None:
    impatient = Timing(request_s=0.5, inactivity_s=0.5, first_delay_s=0.01, longest_delay_s=0.05)
    async with (
        asyncio.timeout(20),
        Kubernetes(str(embedded.kubeconfig), timing=impatient) as kubernetes,
        aclosing(kubernetes.watch(Namespace)) as changes,
    ):
        await anext(changes)
        embedded.pause()
        waiting = asyncio.ensure_future(anext(changes))
        with pytest.raises(KubernetesError):
            await kubernetes.get(Namespace, "default")
        embedded.resume()
        await asyncio.to_thread(embedded.request, "POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
        told = await waiting
        assert isinstance(told, Put)
        assert told.key.name == "t"


async def test_bookmarks_keep_a_quiet_watch_alive(embedded: ApiServerProcess) -> None:
    patient_for_less = Timing(inactivity_s=0.6)
    async with Kubernetes(str(embedded.kubeconfig), timing=patient_for_less) as kubernetes:
        async with aclosing(kubernetes.watch(Namespace)) as changes:
            await anext(changes)
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(anext(changes), 1.5)
        assert kubernetes.statistics().errors == 0


async def test_changes_that_a_watch_does_not_select_keep_no_bookmark_away(embedded: ApiServerProcess) -> None:
    embedded.request("POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
    create_pod(embedded)
    patient_for_less = Timing(inactivity_s=0.6)
    async with Kubernetes(str(embedded.kubeconfig), timing=patient_for_less) as kubernetes:
        async with aclosing(kubernetes.watch(Pod, field_selector="spec.nodeName=node1")) as changes:
            await anext(changes)
            waiting = asyncio.ensure_future(anext(changes))
            for number in range(30):
                await kubernetes.patch(Pod, "p", {"metadata": {"labels": {"n": str(number)}}}, namespace="t")
                await asyncio.wait([waiting], timeout=0.05)
            waiting.cancel()
            await asyncio.gather(waiting, return_exceptions=True)
        assert kubernetes.statistics().errors == 0


def test_the_process_ends_cleanly_with_a_watch_open(embedded: ApiServerProcess) -> None:
    with closing(http.client.HTTPConnection(embedded.address, timeout=10)) as connection:
        connection.request("GET", "/api/v1/namespaces?watch=true&allowWatchBookmarks=true")
        assert connection.getresponse().readline()
        assert embedded.stop() == 0


def test_it_serves_on_a_socket_that_it_was_handed() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        host, port = listening.getsockname()
        command = [sys.executable, "-m", "k8sovs.lab.apiserver", "--listen-fd", str(listening.fileno())]
        with (
            subprocess.Popen(command, stdout=subprocess.PIPE, text=True, pass_fds=(listening.fileno(),)) as process,
            closing(http.client.HTTPConnection(host, port, timeout=10)) as connection,
        ):
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == f"listening {host}:{port}\n"
                connection.request("GET", "/readyz")
                assert connection.getresponse().read() == b"ok"
            finally:
                process.terminate()


@pytest.mark.parametrize("address", ["nowhere", "127.0.0.1:x", "127.0.0.1:65536", "192.0.2.250:0"])
def test_an_address_that_cannot_be_had_is_said(address: str) -> None:
    command = [sys.executable, "-m", "k8sovs.lab.apiserver", "--listen", address]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=20, check=False)
    assert ended.returncode == 1
    assert ended.stderr.startswith(f"the API server cannot listen: --listen {address}: ")


def test_the_official_client_agrees(tenant: ApiServer) -> None:
    from kubernetes import client, config, watch

    core = client.CoreV1Api(config.new_client_from_config(str(tenant.kubeconfig)))
    core.create_namespaced_pod("t", POD)
    assert [pod.metadata.name for pod in core.list_namespaced_pod("t", label_selector="app=x").items] == ["p"]
    core.patch_namespaced_pod("p", "t", {"metadata": {"annotations": {"a": "b"}}})
    core.replace_namespaced_pod_status("p", "t", {"metadata": {"name": "p"}, "status": {"phase": "Running"}})
    assert core.read_namespaced_pod("p", "t").status.phase == "Running"
    core.delete_namespaced_pod("p", "t")
    version = core.list_namespaced_pod("t").metadata.resource_version
    core.create_namespaced_pod("t", POD)
    stream = watch.Watch().stream(core.list_namespaced_pod, "t", resource_version=version, timeout_seconds=10)
    assert next(stream)["type"] == "ADDED"
    core.delete_namespace("t")
