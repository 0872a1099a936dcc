"""Objects that tests of API servers make, and what those say of them."""

from __future__ import annotations

import subprocess

from tests.support.apiserver import ApiServer

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


def create_pod(api: ApiServer, name: str = "p", node: str = "", **labels: str) -> None:
    spec = {**POD["spec"], **({"nodeName": node} if node else {})}  # type: ignore[dict-item]
    body = {"metadata": {"name": name, "labels": labels}, "spec": spec}
    assert api.request("POST", "/api/v1/namespaces/t/pods", body)[0] == 201


def refusal_of(error: subprocess.CalledProcessError) -> str:
    return str(error.stderr).strip()
