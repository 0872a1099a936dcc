"""`k8sovs lab` while it is up: what it answers, and what it keeps running."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.lab import LabUnderTest, eventually, k8sovs

LAB_OPTIONS = ("--nodes", "2")


def refused(lab: LabUnderTest, *argv: str) -> str:
    """The last line on stderr of a lab command that must fail."""
    verb = 2 if argv[0] == "pod" else 1
    done = k8sovs("lab", *argv[:verb], "--name", lab.name, *argv[verb:])
    assert done.returncode != 0
    return done.stderr.splitlines()[-1]


def node_status(lab: LabUnderTest, name: str) -> dict[str, Any]:
    return next(node for node in lab.status()["nodes"] if node["name"] == name)


def test_status_names_what_one_needs_to_script_against_a_node(lab: LabUnderTest) -> None:
    node = node_status(lab, "node2")
    assert node["ip"] == "192.0.2.12"
    assert Path(node["netns"]).exists()
    assert Path(node["ovs_rundir"], "br0.mgmt").exists()
    assert os.access(node["cni_bin"], os.X_OK)
    assert json.loads(Path(node["cni_conf"]).read_text())["name"]
    assert Path(f"/proc/{node['agent_pid']}/ns/net").stat().st_ino == Path(node["netns"]).stat().st_ino


def test_status_shows_one_leader_among_the_controllers(lab: LabUnderTest) -> None:
    controllers = lab.status()["controllers"]
    assert [controller["name"] for controller in controllers] == ["controller-1", "controller-2"]
    assert [controller["leader"] for controller in controllers].count(True) == 1
    assert all(Path(f"/proc/{controller['pid']}").exists() for controller in controllers)


def test_etcdctl_works_from_the_machine_with_the_environment_that_env_prints(lab: LabUnderTest) -> None:
    config = json.loads(lab.run("etcdctl", "get", "--print-value-only", "/k8s.ovs.com/ovs/network/config"))
    assert config["Name"] == "k8ssdn"
    assert config["Network"] == "172.11.0.0/16"
    assert config["HostSubnetLength"] == 10
    assert config["ServiceNetwork"] == "10.96.0.0/12"


def test_kubectl_works_from_the_machine_with_the_environment_that_env_prints(lab: LabUnderTest) -> None:
    nodes = json.loads(lab.run("kubectl", "get", "nodes", "-o", "json"))["items"]
    addresses = {node["metadata"]["name"]: node["status"]["addresses"][0]["address"] for node in nodes}
    assert addresses == {"node1": "192.0.2.11", "node2": "192.0.2.12"}


def test_a_deployment_that_kubectl_creates_and_exposes_runs_on_the_nodes_and_has_endpoints(lab: LabUnderTest) -> None:
    lab.run("kubectl", "create", "namespace", "deployed")

    def kubectl(*argv: str) -> str:
        return lab.run("kubectl", "-n", "deployed", *argv)

    kubectl("create", "deployment", "web", "--image=none", "--replicas=2")
    kubectl("expose", "deployment", "web", "--port=80")
    kubectl("rollout", "status", "deployment", "web", "--timeout=20s")
    first, second = (pod for pod in lab.pods() if pod["namespace"] == "deployed")
    assert {first["node"], second["node"]} == {"node1", "node2"}
    subprocess.run(["nsenter", f"--net={first['netns']}", "ping", "-c1", "-W2", second["ip"]], check=True)

    def addresses_in_endpoints() -> set[str]:
        subsets = json.loads(kubectl("get", "endpoints", "web", "-o", "json")).get("subsets") or []
        return {address["ip"] for subset in subsets for address in subset.get("addresses") or []}

    def addresses_in_slices() -> set[str]:
        slices = json.loads(kubectl("get", "endpointslices", "-o", "json"))["items"]
        return {entry["addresses"][0] for body in slices for entry in body.get("endpoints") or []}

    both = {first["ip"], second["ip"]}
    eventually(lambda: addresses_in_endpoints() == both, "both pods are endpoints")
    if "discovery.k8s.io/v1" in kubectl("api-versions").splitlines():  # Kubernetes 1.20 has only a beta of it
        eventually(lambda: addresses_in_slices() == both, "both pods are in EndpointSlices")


def test_a_pod_is_listed_with_a_namespace_to_enter_that_has_its_address(lab: LabUnderTest) -> None:
    added = lab.add_pod("listed/web", "node2")
    listed = next(pod for pod in lab.pods() if pod["namespace"] == "listed")
    assert listed == added
    assert (listed["name"], listed["node"]) == ("web", "node2")
    addresses = subprocess.check_output(["nsenter", f"--net={listed['netns']}", "ip", "-br", "addr", "show", "eth0"])
    assert f" {listed['ip']}/" in addresses.decode()


def test_annotations_and_labels_given_to_pod_add_are_the_pods(lab: LabUnderTest) -> None:
    lab.add_pod("marked/web", "node1", "--annotation", "example.com/a=b=c", "--label", "app=web")
    metadata = json.loads(lab.run("kubectl", "-n", "marked", "get", "pod", "web", "-o", "json"))["metadata"]
    assert metadata["annotations"]["example.com/a"] == "b=c"
    assert metadata["labels"]["app"] == "web"


def test_the_daemons_may_do_all_that_they_ask_the_api_for(lab: LabUnderTest) -> None:
    """Only the real API server (KUBEBUILDER_ASSETS) enforces the roles that we ship; the embedded one lets all pass."""
    lab.add_pod("asked/web", "node1", "--annotation", "kubernetes.io/ingress-bandwidth=10M")
    k8sovs("net", "join", "asked", "nobody", env=lab.env)
    eventually(lambda: "ActionRefused" in lab.run("kubectl", "-n", "asked", "get", "events"), "the refusal is told")
    logs = Path(lab.status()["directory"], "logs")
    told = [line for name in ("agent", "controller") for log in logs.glob(f"{name}-*") for line in log.open()]
    assert told
    assert [line for line in told if "forbidden" in line.lower()] == []


def test_pod_del_takes_the_network_namespace_and_the_object_along(lab: LabUnderTest) -> None:
    pod = lab.add_pod("brief/web", "node1")
    lab("pod", "del", "brief/web")
    assert not Path(pod["netns"]).exists()
    assert lab.run("kubectl", "-n", "brief", "get", "pods", "-o", "name") == ""


def test_deleting_a_namespace_with_kubectl_takes_its_pods_along(lab: LabUnderTest) -> None:
    pod = lab.add_pod("doomed/web", "node2")
    lab.run("kubectl", "delete", "namespace", "doomed")
    eventually(lambda: not Path(pod["netns"]).exists(), "the pod's network namespace is gone")
    assert "doomed" not in {entry["namespace"] for entry in lab.pods()}


def test_exec_in_a_pod_passes_output_and_exit_status_on(lab: LabUnderTest) -> None:
    lab.add_pod("inside/web", "node1")
    assert "lo" in lab("exec", "inside/web", "--", "ip", "-br", "link")
    done = k8sovs("lab", "exec", "--name", lab.name, "inside/web", "--", "sh", "-c", "exit 7")
    assert done.returncode == 7


def test_the_name_of_the_lab_may_stand_anywhere_before_the_command(lab: LabUnderTest) -> None:
    echo = ("--", "echo", "--name", "mine")
    for argv in (("--name", lab.name, "node1"), ("node1", "--name", lab.name), ("node1", f"--name={lab.name}")):
        assert k8sovs("lab", "exec", *argv, *echo).stdout == "--name mine\n"


def test_commands_without_words_tell_their_outcome_as_json(lab: LabUnderTest) -> None:
    lab.add_pod("talkative/web", "node1")
    deleted = {"namespace": "talkative", "name": "web", "deleted": True}
    assert json.loads(lab("pod", "del", "talkative/web", "--json")) == deleted
    assert json.loads(lab("start", "agent", "node1", "--json")) == {"process": "agent-node1", "started": True}
    assert json.loads(lab("env", "--json"))["ETCDCTL_ENDPOINTS"] == lab.status()["etcd"]["endpoints"][0]
    assert json.loads(k8sovs("lab", "down", "--name", "neverwas", "--json").stdout)["removed"] is False


@pytest.mark.parametrize("pod", ["left/b/c", "left/B", "left/-b", "left/b_c", "left/b.", f"left/{'x' * 254}"])
def test_a_name_that_no_pod_can_have_creates_no_namespace(lab: LabUnderTest, pod: str) -> None:
    assert pod in refused(lab, "pod", "add", pod)
    assert "left" not in lab.run("kubectl", "get", "namespaces", "-o", "name")


def test_a_pod_cannot_reach_etcd_which_its_node_can(lab: LabUnderTest) -> None:
    lab.add_pod("curious/web", "node1")
    connect = ("--", "timeout", "1", "bash", "-c", "</dev/tcp/192.0.2.2/2379")
    assert k8sovs("lab", "exec", "--name", lab.name, "node1", *connect).returncode == 0
    assert k8sovs("lab", "exec", "--name", lab.name, "curious/web", *connect).returncode != 0
    assert "1 received" in lab("exec", "curious/web", "--", "ping", "-c", "1", "-W", "2", "192.0.2.2")


def test_exec_on_a_node_finds_that_nodes_own_switch(lab: LabUnderTest) -> None:
    assert lab("exec", "node2", "--", "ovs-vsctl", "get", "Open_vSwitch", ".", "external_ids:system-id") == "node2\n"


def test_an_agent_that_is_killed_runs_again_within_five_seconds(lab: LabUnderTest) -> None:
    killed = node_status(lab, "node1")["agent_pid"]
    os.kill(killed, signal.SIGKILL)
    eventually(lambda: node_status(lab, "node1")["agent_pid"] not in (killed, None), "a new agent", deadline_s=5)


def test_a_stopped_agent_stays_away_until_it_is_started(lab: LabUnderTest) -> None:
    lab("stop", "agent", "node2")
    assert node_status(lab, "node2")["agent_pid"] is None
    lab("start", "agent", "node2")
    assert Path(f"/proc/{node_status(lab, 'node2')['agent_pid']}").exists()


def test_the_other_controller_leads_when_the_leader_is_stopped(lab: LabUnderTest) -> None:
    def leader() -> str | None:
        return next((entry["name"] for entry in lab.status()["controllers"] if entry["leader"]), None)

    first = leader()
    assert first is not None
    lab("stop", "controller", first.removeprefix("controller-"))
    try:
        eventually(lambda: leader() not in (first, None), "the other controller leads")
    finally:
        lab("start", "controller", first.removeprefix("controller-"))


@pytest.mark.parametrize(
    ("argv", "reason"),
    [
        (("exec", "nobody/web", "--", "true"), "nobody/web"),
        (("exec", "node9", "--", "true"), "node9"),
        (("pod", "del", "nobody/web"), "nobody/web"),
        (("pod", "add", "tenant/web", "--node", "node9"), "node9"),
        (("pod", "add", "Upper/web"), "Upper"),
        (("stop", "agent", "node9"), "agent node9"),
        (("stop", "agent"), "agent needs the name of a node"),
        (("stop", "controller"), "controller needs a number"),
        (("start", "etcd", "2"), "no 'etcd 2'"),
    ],
    ids=lambda value: value if isinstance(value, str) else " ".join(value),
)
def test_a_request_for_what_is_not_there_is_refused_by_its_name(
    lab: LabUnderTest, argv: tuple[str, ...], reason: str
) -> None:
    assert reason in refused(lab, *argv)


@pytest.mark.parametrize(
    "argv", [("--name", "{}", "pod", "ls"), ("pod", "--name", "{}", "ls"), ("pod", "ls", "--name", "{}")]
)
def test_a_lab_may_be_named_before_and_after_the_command(lab: LabUnderTest, argv: tuple[str, ...]) -> None:
    assert k8sovs("lab", *(word.format(lab.name) for word in argv)).stderr == ""


@pytest.mark.parametrize("address", ["172.11.0.5", "10.96.0.10", "198.51.100.10"])
def test_the_machine_itself_has_no_way_to_the_labs_prefixes(lab: LabUnderTest, address: str) -> None:
    assert subprocess.run(["ip", "route", "get", address], capture_output=True).returncode != 0


@pytest.mark.parametrize("part", ["fabric", "control", "outside", "node1", "node2"])
def test_no_namespace_of_the_lab_has_a_route_to_the_uplink(lab: LabUnderTest, part: str) -> None:
    """Every link leads to another namespace of the lab, and nothing of it is in the machine's own."""
    inside = ["ip", "-netns", f"{lab.name}-{part}", "-json", "-details", "link"]
    machine = {link["address"] for link in json.loads(subprocess.check_output(["ip", "-json", "link"]))}
    veths = [
        link
        for link in json.loads(subprocess.check_output(inside))
        if link.get("linkinfo", {}).get("info_kind") == "veth"
    ]
    assert veths
    assert machine.isdisjoint({link["address"] for link in veths} - {"00:00:00:00:00:00"})
    assert all("link_netnsid" in link for link in veths)
