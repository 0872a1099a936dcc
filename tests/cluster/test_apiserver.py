"""The embedded API server as a process, judged by kubectl, by the official client and by our own."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import aclosing, closing
from pathlib import Path

import pytest
import yaml
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
from tests.support.apiserver import ApiServer, ApiServerProcess

QUICK = Timing(first_delay_s=0.01, longest_delay_s=0.05)
MERGE = {"Content-Type": "application/merge-patch+json"}
POD = {
    "apiVersion": "v1",
    "kind": "Pod",
    "metadata": {"name": "p", "namespace": "t", "labels": {"app": "x"}},
    "spec": {"containers": [{"name": "c", "image": "i"}]},
}
SERVICE = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {"name": "web", "namespace": "t"},
    "spec": {"selector": {"app": "x"}, "ports": [{"port": 80}]},
}


@pytest.fixture
def embedded(tmp_path: Path) -> Iterator[ApiServerProcess]:
    with ApiServerProcess(tmp_path, "--bookmark-interval", "0.2") as process:
        yield process


@pytest.fixture(params=["embedded", "real_api"])
def api(request: pytest.FixtureRequest) -> ApiServer:
    """One after the other: the embedded server is right where the real one passes the same test."""
    server: ApiServer = request.getfixturevalue(request.param)
    return server


@pytest.fixture
def tenant(api: ApiServer) -> ApiServer:
    """With a namespace `t`."""
    api.request("POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
    return api


@pytest.fixture(scope="module")
def unchanged(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServerProcess]:
    """With a namespace `t`, for all tests that leave nothing behind."""
    with ApiServerProcess(tmp_path_factory.mktemp("api")) as process:
        process.request("POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
        yield process


@pytest.fixture(params=["unchanged", "real_api"])
def refusing(request: pytest.FixtureRequest) -> ApiServer:
    """With a namespace `t`, for tests of what is refused."""
    server: ApiServer = request.getfixturevalue(request.param)
    server.request("POST", "/api/v1/namespaces", {"metadata": {"name": "t"}})
    return server


def create_pod(api: ApiServer, name: str = "p", node: str = "", **labels: str) -> None:
    spec = {**POD["spec"], **({"nodeName": node} if node else {})}  # type: ignore[dict-item]
    body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
    assert api.request("POST", "/api/v1/namespaces/t/pods", body)[0] == 201


def refusal_of(error: subprocess.CalledProcessError) -> str:
    return str(error.stderr).strip()


def test_kubectl_creates_a_namespace_and_lists_it(api: ApiServer) -> None:
    assert api.kubectl("create", "ns", "t") == "namespace/t created\n"
    header, *rows = [line.split()[:2] for line in api.kubectl("get", "ns").splitlines()]
    assert header == ["NAME", "STATUS"]
    assert [row for row in rows if row[0] in ("default", "kube-system", "t")] == [
        ["default", "Active"],
        ["kube-system", "Active"],
        ["t", "Active"],
    ]
    assert json.loads(api.kubectl("get", "ns", "t", "-o", "json"))["metadata"]["name"] == "t"


def test_kubectl_applies_annotates_labels_patches_and_describes(tenant: ApiServer) -> None:
    def kubectl(*arguments: str, stdin: str | None = None) -> str:
        return tenant.kubectl("-n", "t", *arguments, stdin=stdin)

    assert kubectl("apply", "-f", "-", stdin=json.dumps(POD)) == "pod/p created\n"
    assert kubectl("apply", "-f", "-", stdin=json.dumps(POD)) == "pod/p unchanged\n"
    changed = json.dumps(POD).replace('"x"', '"y"')
    assert kubectl("apply", "-f", "-", stdin=changed) == "pod/p configured\n"
    kubectl("annotate", "pod", "p", "kubernetes.io/ingress-bandwidth=50M")
    kubectl("label", "pod", "p", "tier=front")
    kubectl("patch", "pod", "p", "--type=json", "-p", '[{"op":"add","path":"/metadata/annotations/z","value":"1"}]')
    metadata = json.loads(kubectl("get", "pod", "p", "-o", "json"))["metadata"]
    assert metadata["labels"] == {"app": "y", "tier": "front"}
    assert metadata["annotations"]["kubernetes.io/ingress-bandwidth"] == "50M"
    assert metadata["annotations"]["z"] == "1"
    assert "ingress-bandwidth: 50M" in kubectl("describe", "pod", "p")
    assert kubectl("get", "pods", "-l", "tier=front", "-o", "name") == "pod/p\n"
    assert kubectl("get", "pods", "-l", "tier=back", "-o", "name") == ""


def test_kubectl_prints_tables(tenant: ApiServer) -> None:
    create_pod(tenant, node="node1")
    container = {"name": "c", "image": "i", "imageID": "", "ready": True, "restartCount": 0, "state": {"running": {}}}
    status = {"phase": "Running", "podIP": "172.11.0.2", "containerStatuses": [container]}
    tenant.request("PATCH", "/api/v1/namespaces/t/pods/p/status", {"status": status}, **MERGE)
    row = tenant.kubectl("-n", "t", "get", "pods", "-o", "wide", "--no-headers").split()
    assert row[:4] == ["p", "1/1", "Running", "0"]
    assert row[5:7] == ["172.11.0.2", "node1"]
    tenant.kubectl("apply", "-f", "-", stdin=json.dumps(SERVICE))
    service = tenant.kubectl("-n", "t", "get", "svc", "--no-headers").split()
    assert service[:2] + service[3:5] == ["web", "ClusterIP", "<none>", "80/TCP"]


def test_kubectl_applies_on_the_server_what_is_not_there_and_what_is(tenant: ApiServer) -> None:
    def apply(value: str) -> str:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": value}}
        return tenant.kubectl("-n", "t", "apply", "--server-side", "-f", "-", stdin=json.dumps(body))

    for value in ("one", "two"):
        assert apply(value) == "configmap/x serverside-applied\n"
        assert json.loads(tenant.kubectl("-n", "t", "get", "cm", "x", "-o", "json"))["data"] == {"a": value}


def test_kubectl_scales_a_deployment(tenant: ApiServer) -> None:
    tenant.kubectl("-n", "t", "create", "deployment", "web", "--image=i", "--port=80", "--replicas=2")
    assert tenant.kubectl("-n", "t", "scale", "deploy", "web", "--replicas=3") == "deployment.apps/web scaled\n"
    deployment = json.loads(tenant.kubectl("-n", "t", "get", "deploy", "web", "-o", "json"))
    assert (deployment["spec"]["replicas"], deployment["metadata"]["generation"]) == (3, 2)
    row = tenant.kubectl("-n", "t", "get", "deploy", "-o", "wide", "--no-headers").split()
    assert row[:4] + row[5:] == ["web", "0/3", "0", "0", "i", "i", "app=web"]
    scale = tenant.request("GET", "/apis/apps/v1/namespaces/t/deployments/web/scale")[1]
    assert (scale["kind"], scale["status"]["selector"]) == ("Scale", "app=web")


def test_a_deployment_whose_selector_misses_its_own_pods_is_refused(tenant: ApiServer) -> None:
    template = {"metadata": {"labels": {"app": "x"}}, "spec": POD["spec"]}
    body = {"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "y"}}, "template": template}}
    code, answer = tenant.request("POST", "/apis/apps/v1/namespaces/t/deployments", body)
    assert (code, answer["details"]["causes"][0]["field"]) == (422, "spec.template.metadata.labels")


def test_kubectl_creates_services_and_secrets(tenant: ApiServer) -> None:
    tenant.kubectl("-n", "t", "create", "service", "clusterip", "web", "--tcp=80:http")
    service = json.loads(tenant.kubectl("-n", "t", "get", "service", "web", "-o", "json"))
    assert [(port["port"], port["targetPort"]) for port in service["spec"]["ports"]] == [(80, "http")]
    tenant.kubectl("-n", "t", "create", "secret", "generic", "s", "--from-literal=a=b")
    assert json.loads(tenant.kubectl("-n", "t", "get", "secret", "s", "-o", "json"))["data"] == {"a": "Yg=="}


def test_kubectl_patches_in_three_ways(tenant: ApiServer) -> None:
    tenant.kubectl("-n", "t", "create", "cm", "x", "--from-literal=a=b")

    def patch(kind: str, body: object) -> dict[str, object]:
        tenant.kubectl("-n", "t", "patch", "cm", "x", f"--type={kind}", "-p", json.dumps(body))
        data: dict[str, object] = json.loads(tenant.kubectl("-n", "t", "get", "cm", "x", "-o", "json"))["data"]
        return data

    assert patch("strategic", {"data": {"c": "d"}}) == {"a": "b", "c": "d"}
    assert patch("merge", {"data": {"c": None, "e": "f"}}) == {"a": "b", "e": "f"}
    assert patch("json", [{"op": "replace", "path": "/data/a", "value": "z"}]) == {"a": "z", "e": "f"}


def test_kubectl_prints_in_every_form(tenant: ApiServer) -> None:
    tenant.kubectl("-n", "t", "create", "-f", "-", stdin=json.dumps(SERVICE))

    def get(form: str) -> str:
        return tenant.kubectl("-n", "t", "get", "svc", "web", "-o", form)

    assert get("name") == "service/web\n"
    assert get("jsonpath={.spec.ports[0].port}") == "80"
    assert get("custom-columns=N:.metadata.name,S:.spec.selector.app").split() == ["N", "S", "web", "x"]
    assert yaml.safe_load(get("yaml"))["kind"] == json.loads(get("json"))["kind"] == "Service"
    assert get("wide").splitlines()[1].split()[-1] == "app=x"
    everywhere = tenant.kubectl("get", "svc", "-A", "--sort-by=.metadata.name", "--field-selector=metadata.name=web")
    assert everywhere.splitlines()[1].split()[:2] == ["t", "web"]
    assert tenant.kubectl("get", "ns", "t", "--show-labels", "--no-headers").split()[1] == "Active"


def test_kubectl_shows_what_an_apply_would_change_and_changes_nothing(tenant: ApiServer) -> None:
    body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "x"}, "data": {"a": "b"}}
    dry = tenant.kubectl("-n", "t", "apply", "--dry-run=server", "-f", "-", stdin=json.dumps(body))
    assert dry == "configmap/x created (server dry run)\n"
    assert tenant.kubectl("-n", "t", "get", "cm", "x", "--ignore-not-found") == ""
    tenant.kubectl("-n", "t", "apply", "-f", "-", stdin=json.dumps(body))
    changed = json.dumps(body | {"data": {"a": "c"}})
    difference = tenant.kubectl("-n", "t", "diff", "-f", "-", stdin=changed, check=False)
    assert [line for line in difference.splitlines() if line[1:].startswith("  a: ")] == ["-  a: b", "+  a: c"]
    assert tenant.kubectl("-n", "t", "get", "cm", "x", "-o", "jsonpath={.data.a}") == "b"


def test_kubectl_edits(tenant: ApiServer) -> None:
    tenant.kubectl("-n", "t", "create", "cm", "x", "--from-literal=a=before")
    edited = tenant.kubectl("-n", "t", "edit", "cm", "x", KUBE_EDITOR="sed -i s/before/after/")
    assert edited == "configmap/x edited\n"
    assert tenant.kubectl("-n", "t", "get", "cm", "x", "-o", "jsonpath={.data.a}") == "after"


def test_kubectl_waits_for_a_condition(tenant: ApiServer) -> None:
    create_pod(tenant)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        tenant.kubectl("-n", "t", "wait", "--for=condition=Ready", "pod/p", "--timeout=1s")
    assert "timed out waiting for the condition" in refusal_of(caught.value)
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    tenant.request("PATCH", "/api/v1/namespaces/t/pods/p/status", ready, **MERGE)
    waited = tenant.kubectl("-n", "t", "wait", "--for=condition=Ready", "pod/p", "--timeout=20s")
    assert waited == "pod/p condition met\n"


def test_kubectl_deletes_all_of_a_kind_at_once(tenant: ApiServer) -> None:
    create_pod(tenant, "a", node="node1")
    create_pod(tenant, "b", node="node1")
    tenant.kubectl("-n", "t", "delete", "pods", "--all", "--grace-period=0", "--force")
    assert tenant.kubectl("-n", "t", "get", "pods", "-o", "name") == ""


def test_kubectl_drains_a_node(tenant: ApiServer) -> None:
    tenant.request("POST", "/api/v1/nodes", {"metadata": {"name": "node1"}})
    create_pod(tenant, node="node1")
    tenant.kubectl("cordon", "node1")
    drained = tenant.kubectl("drain", "node1", "--force", "--grace-period=0", "--disable-eviction", "--timeout=20s")
    assert "node1 " in drained
    assert tenant.kubectl("-n", "t", "get", "pods", "-o", "name") == ""
    assert "SchedulingDisabled" in tenant.kubectl("get", "nodes", "--no-headers")


@pytest.mark.parametrize("command", [("logs", "p"), ("exec", "p", "--", "ls"), ("port-forward", "p", "8080:80")])
def test_kubectl_is_told_what_to_use_where_a_pod_would_need_a_process(
    unchanged: ApiServer, command: tuple[str, ...]
) -> None:
    create_pod(unchanged, "p", node="node1")
    running = {"status": {"phase": "Running", "containerStatuses": []}}
    unchanged.request("PATCH", "/api/v1/namespaces/t/pods/p/status", running, **MERGE)
    with pytest.raises(subprocess.CalledProcessError) as caught:
        unchanged.kubectl("-n", "t", *command)
    unchanged.request("DELETE", "/api/v1/namespaces/t/pods/p?gracePeriodSeconds=0")
    assert "use `k8sovs lab exec t/p -- COMMAND`" in refusal_of(caught.value)


def test_kubectl_is_told_that_everybody_may_do_everything(unchanged: ApiServer) -> None:
    assert unchanged.kubectl("auth", "can-i", "create", "pods").startswith("yes")
    assert "*.*" in unchanged.kubectl("auth", "can-i", "--list")


def test_kubectl_watches(tenant: ApiServer) -> None:
    command = ["kubectl", f"--kubeconfig={tenant.kubeconfig}", "-n", "t", "get", "pods", "-w", "--no-headers"]
    create_pod(tenant, "first")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as watching:
        assert watching.stdout is not None
        guard = threading.Timer(20, watching.kill)
        guard.start()
        try:
            assert watching.stdout.readline().split()[0] == "first"
            create_pod(tenant, "second")
            assert watching.stdout.readline().split()[0] == "second"
        finally:
            guard.cancel()
            watching.kill()


def test_kubectl_deletes_and_waits_until_the_object_is_gone(tenant: ApiServer) -> None:
    create_pod(tenant)
    assert tenant.kubectl("-n", "t", "delete", "pod", "p") == 'pod "p" deleted\n'
    assert tenant.kubectl("delete", "ns", "t") == 'namespace "t" deleted\n'
    with pytest.raises(subprocess.CalledProcessError) as caught:
        tenant.kubectl("get", "ns", "t")
    assert refusal_of(caught.value) == 'Error from server (NotFound): namespaces "t" not found'


def test_kubectl_creates_config_maps_and_service_accounts(tenant: ApiServer) -> None:
    tenant.kubectl("-n", "t", "create", "cm", "x", "--from-literal=a=b")
    assert json.loads(tenant.kubectl("-n", "t", "get", "cm", "x", "-o", "json"))["data"] == {"a": "b"}
    assert tenant.kubectl("-n", "t", "create", "sa", "me") == "serviceaccount/me created\n"


def test_discovery_names_what_is_there(unchanged: ApiServer) -> None:
    listed = {line.split()[0] for line in unchanged.kubectl("api-resources", "--no-headers").splitlines()}
    assert listed >= {"namespaces", "nodes", "pods", "services", "events", "endpointslices", "leases", "configmaps"}
    assert unchanged.request("GET", "/apis/nothing.example.com/v1")[0] == 404
    assert unchanged.request("GET", "/api/v1/nothings")[0] == 404
    assert unchanged.request("GET", "/version")[1]["major"] == "1"


@pytest.mark.parametrize(
    ("method", "path", "body", "headers", "code"),
    [
        ("POST", "/api/v1/namespaces", {"kind": "Pod"}, {}, 400),
        ("POST", "/api/v1/namespaces", [], {}, 400),
        ("POST", "/api/v1/namespaces", {"metadata": 7}, {}, 400),
        ("POST", "/api/v1/namespaces", {}, {}, 422),
        ("POST", "/api/v1/namespaces", {}, {"Content-Type": "application/vnd.kubernetes.protobuf"}, 400),
        ("POST", "/api/v1/pods", {}, {}, 405),
        ("POST", "/api/v1/namespaces", b'{"metadata": {"name": "u"}, "x": NaN}', {}, 400),
        ("POST", "/api/v1/namespaces", b"[" * 100_000, {}, 400),
        ("POST", "/api/v1/namespaces", b"a: 2026-11-22", {"Content-Type": "application/yaml"}, 400),
        ("POST", "/api/v1/namespaces", b" " * 4_000_000, {}, 413),
        ("PATCH", "/api/v1/namespaces/t", {}, {"Content-Type": "text/plain"}, 415),
        ("PATCH", "/api/v1/namespaces/t", {}, {"Content-Type": "application/json-patch+json"}, 400),
        ("PATCH", "/api/v1/namespaces/t", {"metadata": {"labels": 7}}, MERGE, 422),
        ("PATCH", "/api/v1/namespaces/t", {"metadata": {"labels": {"a": 7}}}, MERGE, 422),
        ("PATCH", "/api/v1/namespaces/t", {"metadata": {"finalizers": "a"}}, MERGE, 422),
        ("POST", "/api/v1/namespaces/t/pods", {"metadata": {"name": "p"}, "spec": "a"}, {}, 400),
        ("POST", "/api/v1/namespaces/t/pods", {"metadata": {"name": 7}}, {}, 400),
        ("GET", "/api/v1/namespaces?labelSelector=a=b=c", None, {}, 400),
        ("GET", "/api/v1/namespaces?limit=some", None, {}, 400),
        ("GET", "/api/v1/namespaces?continue=long-ago", None, {}, 400),
        ("GET", "/api/v1/namespaces?continue=eyJzdGFydCI6ImEifQ==", None, {}, 410),
        ("GET", "/api/v1/namespaces?resourceVersion=x", None, {}, 400),
        ("GET", "/api/v1/namespaces?resourceVersion=999999999999999", None, {}, 504),
        ("GET", "/api/v1/namespaces?resourceVersion=1&resourceVersionMatch=Exact", None, {}, 410),
        ("GET", "/api/v1/namespaces?resourceVersion=1&resourceVersionMatch=exact", None, {}, 422),
        ("GET", "/api/v1/namespaces?watch=true&timeoutSeconds=x", None, {}, 400),
        ("GET", "/api/v1/namespaces?fieldSelector=spec.colour=red", None, {}, 400),
        ("POST", "/api/v1/namespaces", b"metadata: {name: u", {"Content-Type": "application/yaml"}, 400),
        ("POST", "/api/v1/namespaces?dryRun=yes", {"metadata": {"name": "u"}}, {}, 422),
        ("POST", "/api/v1/namespaces/t/configmaps", {"metadata": {"name": "c"}, "data": {"a": 7}}, {}, 400),
        ("DELETE", "/api/v1/namespaces/t?propagationPolicy=Sideways", None, {}, 422),
        ("GET", "/api/v1/namespaces?watch=true&resourceVersion=x", None, {}, 400),
        ("PUT", "/api/v1/namespaces/t", {"metadata": {"name": "u"}}, {}, 400),
        ("DELETE", "/api/v1/namespaces/default", None, {}, 403),
        ("DELETE", "/api/v1/namespaces", None, {}, 405),
    ],
)
def test_a_bad_request_is_refused_with_a_status(
    unchanged: ApiServer, method: str, path: str, body: object, headers: dict[str, str], code: int
) -> None:
    answer = unchanged.request(method, path, body, **headers)
    assert answer[0] == code, answer[1]


@pytest.mark.parametrize(
    ("collection", "body", "field", "told"),
    [
        ("", {"metadata": {"name": "A"}}, "metadata.name", "a lowercase RFC 1123 label must consist of"),
        ("", {"metadata": {"name": "x" * 64}}, "metadata.name", "must be no more than 63 characters"),
        ("", {"metadata": {"generateName": "A"}}, "metadata.generateName", "a lowercase RFC 1123 label"),
        ("", {"metadata": {"name": "u", "labels": {"a b": ""}}}, "metadata.labels", "name part must consist of"),
        ("", {"metadata": {"name": "u", "labels": {"/a": ""}}}, "metadata.labels", "prefix part must be non-empty"),
        ("", {"metadata": {"name": "u", "labels": {"a/": ""}}}, "metadata.labels", "name part must be non-empty"),
        ("", {"metadata": {"name": "u", "labels": {"a/b/c": ""}}}, "metadata.labels", "a qualified name must"),
        ("", {"metadata": {"name": "u", "labels": {"A_/b": ""}}}, "metadata.labels", "prefix part a lowercase RFC"),
        ("", {"metadata": {"name": "u", "labels": {"a": "b c"}}}, "metadata.labels", "a valid label must be an empty"),
        ("", {"metadata": {"name": "u", "labels": {"a": "x" * 64}}}, "metadata.labels", "must be no more than 63"),
        ("", {"metadata": {"name": "u", "annotations": {"a b": ""}}}, "metadata.annotations", "name part must consist"),
        ("", {"metadata": {"name": "u", "annotations": {"a": "x" * 262145}}}, "metadata.annotations", "Too long: "),
        ("", {"metadata": {"name": "u", "finalizers": ["a"]}}, "metadata.finalizers[0]", "name is neither a standard"),
        ("/t/configmaps", {"metadata": {"name": "a_b"}}, "metadata.name", "a lowercase RFC 1123 subdomain must"),
        ("/t/services", {**SERVICE, "metadata": {"name": "1a"}}, "metadata.name", "a DNS-1035 label must consist of"),
        ("/t/services", {"metadata": {"name": "a"}}, "spec.ports", "Required value"),
        ("/t/services", {"metadata": {"name": "a"}, "spec": {"ports": [{"port": 0}]}}, "spec.ports[0].port", "must be"),
        ("/t/pods", {**POD, "spec": {"containers": [{"image": "i"}]}}, "spec.containers[0].name", "Required value"),
        ("/t/pods", {**POD, "spec": {}}, "spec.containers", "Required value"),
    ],
)
def test_what_breaks_a_rule_is_refused_with_the_field_and_the_rule(
    refusing: ApiServer, collection: str, body: object, field: str, told: str
) -> None:
    code, answer = refusing.request("POST", f"/api/v1/namespaces{collection}", body)
    assert (code, answer["reason"]) == (422, "Invalid"), answer
    causes = [cause for cause in answer["details"]["causes"] if cause["field"] == field]
    assert any(told in cause["message"] for cause in causes), answer
    assert f"is invalid: {'[' * (len(answer['details']['causes']) > 1)}" in answer["message"]


def test_a_patch_may_not_break_a_rule_either(tenant: ApiServer) -> None:
    code, answer = tenant.request("PATCH", "/api/v1/namespaces/t", {"metadata": {"labels": {"a": "b c"}}}, **MERGE)
    assert (code, answer["details"]["causes"][0]["field"]) == (422, "metadata.labels")
    with pytest.raises(subprocess.CalledProcessError) as caught:
        tenant.kubectl("create", "ns", "a_b")
    assert refusal_of(caught.value).startswith('The Namespace "a_b" is invalid: metadata.name: Invalid value: "a_b": ')


def test_half_a_surrogate_pair_becomes_a_replacement_character(tenant: ApiServer) -> None:
    body = b'{"metadata": {"name": "half"}, "data": {"a": "\\ud800", "b": "\\ud83d\\ude00"}}'
    code, made = tenant.request("POST", "/api/v1/namespaces/t/configmaps", body)
    assert (code, made["data"]) == (201, {"a": "\ufffd", "b": "\U0001f600"})


def test_a_body_may_be_yaml(tenant: ApiServer) -> None:
    body = b"metadata:\n  name: said-in-yaml\ndata: {a: b}\n"
    path = "/api/v1/namespaces/t/configmaps"
    code, made = tenant.request("POST", path, body, **{"Content-Type": "application/yaml"})
    assert (code, made["data"]) == (201, {"a": "b"})


def test_a_list_of_an_earlier_moment_shows_that_moment(tenant: ApiServer) -> None:
    create_pod(tenant, "a", colour="red")
    version = tenant.request("GET", "/api/v1/namespaces/t/pods")[1]["metadata"]["resourceVersion"]
    create_pod(tenant, "b")
    tenant.request("PATCH", "/api/v1/namespaces/t/pods/a", {"metadata": {"labels": {"colour": "blue"}}}, **MERGE)
    path = f"/api/v1/namespaces/t/pods?resourceVersion={version}&resourceVersionMatch=Exact"
    listed = tenant.request("GET", path)[1]
    assert [pod["metadata"]["labels"] for pod in listed["items"]] == [{"colour": "red"}]
    assert listed["metadata"]["resourceVersion"] == version


@pytest.mark.parametrize("version", ["1", "999999999999999999"])
def test_a_watch_from_a_version_that_is_not_in_history_is_told_so(unchanged: ApiServer, version: str) -> None:
    code, event = unchanged.request("GET", f"/api/v1/namespaces?watch=true&resourceVersion={version}")
    assert code == 200
    assert (event["type"], event["object"]["code"], event["object"]["reason"]) == ("ERROR", 410, "Expired")


def test_a_version_that_history_has_left_behind_is_refused_to_lists_and_watches(tmp_path: Path) -> None:
    with ApiServerProcess(tmp_path, "--history", "3") as api:
        version = api.request("GET", "/api/v1/namespaces")[1]["metadata"]["resourceVersion"]
        for name in ("a", "b", "c", "d"):
            api.request("POST", "/api/v1/namespaces", {"metadata": {"name": name}})
        event = api.request("GET", f"/api/v1/namespaces?watch=true&resourceVersion={version}")[1]
        assert (event["type"], event["object"]["code"]) == ("ERROR", 410)
        exact = f"/api/v1/namespaces?resourceVersion={version}&resourceVersionMatch=Exact"
        assert api.request("GET", exact)[0] == 410


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


async def test_describe_shows_the_events_of_a_pod(tenant: ApiServer) -> None:
    create_pod(tenant)
    async with Kubernetes(str(tenant.kubeconfig)) as kubernetes:
        pod = await kubernetes.get(Pod, "p", "t")
        await kubernetes.create_event("t", pod, "BandwidthNotLimited", "told by a test", "k8s-ovs-agent")
    assert "BandwidthNotLimited" in tenant.kubectl("-n", "t", "describe", "pod", "p")


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
