"""deploy/kustomize, applied by kubectl to an API server as an operator applies it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.support.apiserver import ApiServer

KUSTOMIZE = str(Path(__file__).parents[2] / "deploy" / "kustomize")
OBJECTS = {
    "serviceaccount/k8s-ovs-agent",
    "serviceaccount/k8s-ovs-controller",
    "clusterrole.rbac.authorization.k8s.io/k8s-ovs-agent",
    "clusterrole.rbac.authorization.k8s.io/k8s-ovs-controller",
    "clusterrolebinding.rbac.authorization.k8s.io/k8s-ovs-agent",
    "clusterrolebinding.rbac.authorization.k8s.io/k8s-ovs-controller",
    "configmap/k8s-ovs",
    "deployment.apps/k8s-ovs-controller",
    "daemonset.apps/k8s-ovs-agent",
    "daemonset.apps/k8s-ovs-openvswitch",
}


def outcomes(said: str) -> dict[str, str]:
    """What kubectl says that became of each object."""
    words = [line.split() for line in said.splitlines()]
    return {name: outcome for name, outcome, *_ in words}


def test_an_operator_applies_them_twice_and_removes_them(api: ApiServer) -> None:
    first = outcomes(api.kubectl("apply", "--kustomize", KUSTOMIZE))
    assert first == dict.fromkeys(OBJECTS, "created")
    again = outcomes(api.kubectl("apply", "--kustomize", KUSTOMIZE))
    assert again == dict.fromkeys(OBJECTS, "unchanged")
    deployment = json.loads(api.kubectl("get", "deployment", "-n", "kube-system", "k8s-ovs-controller", "-o", "json"))
    assert deployment["spec"]["replicas"] == 2
    api.kubectl("delete", "--kustomize", KUSTOMIZE)
    assert api.kubectl("get", "all,clusterroles", "-n", "kube-system", "-l", "app.kubernetes.io/name=k8s-ovs") == ""
