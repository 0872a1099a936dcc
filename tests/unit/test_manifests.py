"""deploy/chart and deploy/kustomize: one source, every setting, and nothing that Kubernetes does not know."""

from __future__ import annotations

import argparse
import dataclasses
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import kubernetes.client.models
import pytest
import yaml

from k8sovs.config import AgentSettings, ControllerSettings, StoreSettings, load

ROOT = Path(__file__).parents[2]
KUSTOMIZE = ROOT / "deploy" / "kustomize"
HELM = Path(sys.executable).parent / "helm"
FROM_THE_POD = {AgentSettings: "node_name", ControllerSettings: "identity"}
"""Each pod's own, hence in its environment."""

CHOSEN = {"log-format", "metrics-address"}
"""What has another default in a cluster: somebody collects the logs, and asks for metrics."""

needs_helm = pytest.mark.skipif(not HELM.exists(), reason="no helm here: scripts/install-helm could not bring one")

Document = dict[str, Any]


def rendered(*options: str) -> list[Document]:
    """What helm makes of the chart."""
    command = [HELM, "template", "k8s-ovs", ROOT / "deploy" / "chart", "--namespace", "kube-system", *options]
    return list(yaml.safe_load_all(subprocess.run(command, capture_output=True, text=True, check=True).stdout))


def shipped() -> list[Document]:
    """What lies in deploy/kustomize, before kubectl does anything with it."""
    files = yaml.safe_load((KUSTOMIZE / "kustomization.yaml").read_text())["resources"]
    return [document for file in files for document in yaml.safe_load_all((KUSTOMIZE / file).read_text())]


def settings(daemon: str) -> Document:
    """The settings file of a daemon in the shipped ConfigMap."""
    (found,) = (document for document in shipped() if document["kind"] == "ConfigMap")
    return tomllib.loads(found["data"][f"{daemon}.toml"])


def by_name(documents: list[Document]) -> dict[tuple[str, str], Document]:
    return {(document["kind"], document["metadata"]["name"]): document for document in documents}


@needs_helm
def test_the_kustomization_is_what_helm_makes_of_the_chart() -> None:
    assert by_name(shipped()) == by_name(rendered()), "run 'make manifests'"


def test_kubectl_makes_of_the_kustomization_what_lies_there() -> None:
    done = subprocess.run(["kubectl", "kustomize", KUSTOMIZE], capture_output=True, text=True, check=True)
    assert by_name(list(yaml.safe_load_all(done.stdout))) == by_name(shipped())


@needs_helm
def test_helm_finds_no_fault_with_the_chart() -> None:
    done = subprocess.run([HELM, "lint", "--strict", ROOT / "deploy" / "chart"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


KINDS = [("agent", AgentSettings), ("controller", ControllerSettings)]


@pytest.mark.parametrize(("daemon", "kind"), KINDS)
def test_the_config_map_has_every_setting_with_its_default(daemon: str, kind: type[StoreSettings]) -> None:
    names = {field.name.replace("_", "-") for field in dataclasses.fields(kind) if field.name != FROM_THE_POD[kind]}
    assert settings(daemon).keys() == names
    variables = {
        f"K8SOVS_{name.replace('-', '_').upper()}": ",".join(value) if isinstance(value, list) else str(value)
        for name, value in settings(daemon).items()
        if name not in CHOSEN
    }
    own = {f"K8SOVS_{FROM_THE_POD[kind].upper()}": "n", "K8SOVS_CONFIG": "/dev/null"}
    assert load(kind, argparse.Namespace(), variables | own) == load(kind, argparse.Namespace(), own)


@pytest.mark.parametrize(("daemon", "kind"), KINDS)
def test_a_daemon_takes_its_settings_file(daemon: str, kind: type[StoreSettings], tmp_path: Path) -> None:
    (found,) = (document for document in shipped() if document["kind"] == "ConfigMap")
    (tmp_path / "settings.toml").write_text(found["data"][f"{daemon}.toml"])
    own = {f"K8SOVS_{FROM_THE_POD[kind].upper()}": "n", "K8SOVS_CONFIG": str(tmp_path / "settings.toml")}
    assert load(kind, argparse.Namespace(), own).log_format.value == "json"


VARIANTS = [
    (),
    ("--set", "createNamespace=true"),
    ("--set", "openvswitch.enabled=false"),
    ("--set", "apiServer.host=192.0.2.2"),
    ("--set", "uninstall.enabled=true"),
    ("--set", "settings.agent.metrics-address=,settings.controller.metrics-address="),
]


@needs_helm
@pytest.mark.parametrize("options", VARIANTS, ids=" ".join)
def test_kubernetes_knows_every_field_whatever_is_chosen(options: tuple[str, ...]) -> None:
    documents = rendered(*options)
    faults = [fault for one in documents for fault in unknown(one, model(one["kind"]), one["kind"])]
    assert documents
    assert faults == []


def model(kind: str) -> str:
    """The class of a kind in Kubernetes' own Python client, which is generated from its OpenAPI document."""
    return f"V1{kind}"


def unknown(value: object, kind: str, where: str) -> Iterator[str]:
    """The fields of `value` that the type `kind` has not, and the values of another type."""
    if kind.startswith("List["):
        if not isinstance(value, list):
            yield f"{where} is no list"
            return
        for number, one in enumerate(value):
            yield from unknown(one, kind[len("List[") : -1], f"{where}[{number}]")
    elif kind.startswith("Dict["):
        if not (isinstance(value, dict) and all(isinstance(one, str) for one in value.values())):
            yield f"{where} is no map of strings"
    elif hasattr(kubernetes.client.models, kind):
        known = getattr(kubernetes.client.models, kind)
        names = {known.attribute_map[name]: known.openapi_types[name] for name in known.openapi_types}
        if not isinstance(value, dict):
            yield f"{where} is no object"
            return
        for name, one in value.items():
            if name not in names:
                yield f"{where} has no {name}"
            else:
                yield from unknown(one, names[name], f"{where}.{name}")
    else:
        types = {"str": str, "int": int, "bool": bool, "object": (int, str)}
        if not isinstance(value, types[kind]):
            yield f"{where} is no {kind}: {value!r}"


def test_the_judge_of_fields_finds_a_misspelt_one_and_a_number_for_a_text() -> None:
    (pod,) = [{"metadata": {"name": 1}, "spec": {"containers": [{"name": "c", "imagePullPolice": "Always"}]}}]
    assert list(unknown(pod, "V1Pod", "Pod")) == [
        "Pod.metadata.name is no str: 1",
        "Pod.spec.containers[0] has no imagePullPolice",
    ]
