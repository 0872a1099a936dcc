"""What people do with kubectl, on the embedded API server and on Kubernetes' own."""

from __future__ import annotations

import json
import subprocess
import threading

import pytest
import yaml

from k8sovs.kubernetes import (
    Kubernetes,
    Pod,
)
from tests.support.apiobjects import MERGE, POD, SERVICE, create_pod, refusal_of
from tests.support.apiserver import ApiServer


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


def test_kubectl_is_told_that_there_are_no_tokens(unchanged: ApiServer) -> None:
    with pytest.raises(subprocess.CalledProcessError) as caught:
        # As `kubectl create token default` asks, which kubectl has since 1.24.
        unchanged.kubectl(
            "create", "--raw", "/api/v1/namespaces/default/serviceaccounts/default/token", "-f", "-", stdin="{}"
        )
    assert "there are no tokens, and none is needed" in refusal_of(caught.value)


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


async def test_describe_shows_the_events_of_a_pod(tenant: ApiServer) -> None:
    create_pod(tenant)
    async with Kubernetes(str(tenant.kubeconfig)) as kubernetes:
        pod = await kubernetes.get(Pod, "p", "t")
        await kubernetes.create_event("t", pod, "BandwidthNotLimited", "told by a test", "k8s-ovs-agent")
    assert "BandwidthNotLimited" in tenant.kubectl("-n", "t", "describe", "pod", "p")
