"""What API servers refuse, and in which words: the embedded one and Kubernetes' own."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from tests.support.apiobjects import MERGE, POD, SERVICE, refusal_of
from tests.support.apiserver import ApiServer, ApiServerProcess


def test_a_deployment_whose_selector_misses_its_own_pods_is_refused(tenant: ApiServer) -> None:
    template = {"metadata": {"labels": {"app": "x"}}, "spec": POD["spec"]}
    body = {"metadata": {"name": "web"}, "spec": {"selector": {"matchLabels": {"app": "y"}}, "template": template}}
    code, answer = tenant.request("POST", "/apis/apps/v1/namespaces/t/deployments", body)
    assert (code, answer["details"]["causes"][0]["field"]) == (422, "spec.template.metadata.labels")


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
