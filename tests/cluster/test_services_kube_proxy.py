"""Services that something like kube-proxy handles: nftables rules on each node that do what it does."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.lab import LabUnderTest, eventually
from tests.support.sockets import Inside

LAB_OPTIONS = ("--nodes", "2", "--service-proxy", "kube-proxy")
PODS = {"red/a": "node1", "red/b": "node1", "red/c": "node2", "blue/x": "node1"}
VIP, TRICK = "10.96.1.1", "10.96.1.2"


@pytest.fixture(scope="module")
def pods(lab: LabUnderTest) -> Iterator[tuple[Inside, dict[str, str]]]:
    with Inside() as inside:
        netns, address = {}, {}
        for pod, node in PODS.items():
            added = lab.add_pod(pod, node)
            netns[pod], address[pod] = added["netns"], added["ip"]
            inside.serve(netns[pod], pod, 8080)
        endpoints = [address["red/b"], address["red/c"]]
        for namespace, name, vip in (("red", "web", VIP), ("blue", "trick", TRICK)):
            _make(lab, namespace, name, vip, endpoints)
        rules = "".join(
            f"ip daddr {vip} tcp dport 80 dnat to numgen inc mod 2 map "
            f"{{ 0 : {endpoints[0]}, 1 : {endpoints[1]} }}:8080; "
            for vip in (VIP, TRICK)
        )
        chain = f"table ip kube {{ chain translate {{ type nat hook prerouting priority -100; {rules} }}; }}"
        for node in ("node1", "node2"):
            lab("exec", node, "--", "nft", chain)
        yield inside, netns


def _make(lab: LabUnderTest, namespace: str, name: str, vip: str, endpoints: list[str]) -> None:
    meta = {"name": name, "namespace": namespace}
    port = {"name": "p", "port": 80, "targetPort": 8080}
    service = {"apiVersion": "v1", "kind": "Service", "metadata": meta, "spec": {"clusterIP": vip, "ports": [port]}}
    slices = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {**meta, "labels": {"kubernetes.io/service-name": name}},
        "addressType": "IPv4",
        "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in endpoints],
        "ports": [{"name": "p", "port": 8080, "protocol": "TCP"}],
    }
    for document in (service, slices):
        command = ["kubectl", "apply", "--validate=false", "-f", "-"]
        subprocess.run(command, input=json.dumps(document), text=True, check=True, capture_output=True, env=lab.env)


def answered(pods: tuple[Inside, dict[str, str]], who: str, vip: str, *, timeout_s: float = 1.0) -> set[str]:
    inside, netns = pods
    return {answer.split()[0] for answer in inside.ask(netns[who], vip, 80, 8, timeout_s=timeout_s)}


def test_pods_reach_a_service_on_their_own_node_and_on_another(pods: tuple[Inside, dict[str, str]]) -> None:
    for who in ("red/a", "red/c"):
        wanted = {"red/b", "red/c"} - {who}
        eventually(lambda who=who, wanted=wanted: wanted <= answered(pods, who, VIP), f"{who} gets {wanted}")  # type: ignore[misc]


def test_what_comes_back_from_the_node_keeps_its_tenant(pods: tuple[Inside, dict[str, str]]) -> None:
    eventually(lambda: {"red/b", "red/c"} <= answered(pods, "red/a", TRICK), "the endpoints' own tenant gets through")
    for vip in (VIP, TRICK):
        assert answered(pods, "blue/x", vip, timeout_s=0.7) == {"TimeoutError"}


def test_pods_still_reach_each_other_by_address(pods: tuple[Inside, dict[str, str]], lab: LabUnderTest) -> None:
    inside, netns = pods
    addresses = {f"{pod['namespace']}/{pod['name']}": pod["ip"] for pod in lab.pods()}
    for target in ("red/b", "red/c"):
        assert {one.split()[0] for one in inside.ask(netns["red/a"], addresses[target], 8080, 4)} == {target}
