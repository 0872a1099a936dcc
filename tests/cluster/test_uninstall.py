"""`k8sovs uninstall` leaves a node as it was. What it was is judged by the node's own tools alone."""

from __future__ import annotations

import json
from collections.abc import Mapping

import pytest

from tests.support.lab import LabUnderTest, eventually, k8sovs
from tests.support.namespaces import Sandbox
from tests.support.removal import uninstall
from tests.support.runtime import Node, Pod

pytestmark = pytest.mark.timeout(120)

LAB_OPTIONS = ("--nodes", "1")
ORIGINAL = {"net.ipv4.ip_forward": "0", "net.ipv4.conf.all.send_redirects": "1"}
SETTINGS = ("net.ipv4.ip_forward", "net.ipv4.conf.all", "net.ipv4.conf.default", "net.ipv4.conf.br-phy")
REFUSED = 2


def condition(node: Node) -> Mapping[str, object]:
    """All that we could have touched."""
    directory = node.ovs_rundir.parent
    rows = ("Bridge", "Port", "Interface")
    return {
        "links": sorted(link["ifname"] for link in json.loads(node.execute("ip", "-json", "link"))),
        "addresses": node.execute("ip", "-4", "-o", "address"),
        "routes": sorted(node.execute("ip", "-4", "route", "show", "table", "all").splitlines()),
        "rules": node.execute("ip", "rule"),
        "neighbours": [line for line in node.execute("ip", "neighbour").splitlines() if "PERMANENT" in line],
        "qdiscs": sorted(node.execute("tc", "qdisc").splitlines()),
        "filters": node.execute("nft", "--stateless", "list", "ruleset"),
        "database": {
            **{table: node.execute("ovs-vsctl", "--bare", "--columns=name", "list", table).split() for table in rows},
            "root": node.execute("ovs-vsctl", "--columns=other_config,external_ids", "list", "Open_vSwitch"),
        },
        "settings": [line for line in node.execute("sysctl", "-a").splitlines() if line.startswith(tuple(SETTINGS))],
        "files": sorted(str(path) for path in directory.rglob("*") if path.parent != node.ovs_rundir),
    }


def node_now(lab: LabUnderTest) -> Node:
    (status,) = lab.status()["nodes"]
    return Node({**status, "cni_conf": status["cni_conf"] or "/none"})


@pytest.fixture(scope="module")
def untouched(lab: LabUnderTest) -> Mapping[str, object]:
    """The node as it is before an agent starts: after the removal of what the lab's own start brought."""
    lab.run("kubectl", "create", "namespace", "red")
    lab("stop", "agent", "node1")
    node = node_now(lab)
    node.execute("nft", "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; }")
    assert uninstall(node).returncode == 0
    for name, value in ORIGINAL.items():
        node.execute("sysctl", "-w", f"{name}={value}")
    found = condition(node)
    assert found["links"] in (["br-phy", "eth0", "lo", "ovs-netdev"], ["eth0", "lo"])
    assert 'k8sovs"' not in str(found["filters"])
    assert "table inet" not in str(found["filters"])
    assert not any("k8s-ovs" in path or "cni.sock" in path or "cluster.json" in path for path in found["files"])
    return found


@pytest.fixture
def node(lab: LabUnderTest, untouched: Mapping[str, object]) -> Node:
    """With an agent, and a pod that has limits."""
    lab("start", "agent", "node1")
    eventually(lambda: lab.status()["nodes"][0]["cni_conf"], "the agent is ready")
    eventually(lambda: node_now(lab).status() == 0, "it says so")
    lab("pod", "add", "red/a", "--node", "node1", "--annotation", "kubernetes.io/ingress-bandwidth=10M")
    return node_now(lab)


@pytest.fixture(autouse=True)
def no_pods(lab: LabUnderTest) -> object:
    yield
    for process in ("vswitchd", "agent"):
        lab("start", process, "node1")
    eventually(lambda: lab.status()["nodes"][0]["cni_conf"], "the agent is ready")
    for pod in lab.pods():
        lab("pod", "del", f"{pod['namespace']}/{pod['name']}")


def test_it_refuses_while_an_agent_runs_and_while_pods_are_attached(lab: LabUnderTest, node: Node) -> None:
    refused = uninstall(node)
    assert refused.returncode == REFUSED
    assert "the agent of this host runs" in refused.stderr
    lab("stop", "agent", "node1")
    before = condition(node)
    refused = uninstall(node)
    assert refused.returncode == REFUSED
    assert "red/a" in refused.stderr
    assert "kubectl drain" in refused.stderr
    assert condition(node) == before
    assert node.flows()


def test_a_dry_run_tells_everything_and_changes_nothing(lab: LabUnderTest, node: Node) -> None:
    lab("stop", "agent", "node1")
    before = condition(node)
    done = uninstall(node, "--force", "--dry-run")
    assert done.returncode == 0
    for part in (
        "conflist",
        "bridge br0",
        "links of pods",
        "table inet k8sovs",
        "ip_forward",
        "cluster.json",
        "k8s-ovs",
    ):
        assert part in done.stdout
    assert condition(node) == before


def test_the_node_is_as_it_was(lab: LabUnderTest, node: Node, untouched: Mapping[str, object]) -> None:
    lab("stop", "agent", "node1")
    done = uninstall(node, "--force")
    assert done.returncode == 0, done.stdout
    assert condition(node) == untouched
    assert uninstall(node).stdout == "nothing of k8s-ovs is left here\n"


def test_it_is_so_with_agent_and_switch_dead_and_a_removal_in_the_spool(
    lab: LabUnderTest, node: Node, untouched: Mapping[str, object]
) -> None:
    lab("stop", "agent", "node1")
    with Sandbox() as sandbox:
        node.delete(Pod("red", "late", sandbox))
    lab("stop", "vswitchd", "node1")
    done = uninstall(node, "--force")
    assert done.returncode == 0, done.stdout
    assert "spool" in done.stdout
    lab("start", "vswitchd", "node1")
    eventually(lambda: condition(node) == untouched, "the node is as it was")


def test_what_it_cannot_remove_it_says_and_goes_on(lab: LabUnderTest, node: Node) -> None:
    lab("stop", "agent", "node1")
    node.executable.unlink()
    (node.executable / "in the way").mkdir(parents=True)
    done = uninstall(node, "--force")
    assert done.returncode == 1
    assert f"NOT removed: {node.executable}" in done.stdout
    assert "removed: " + str(node.ovs_rundir.parent / "state" / "cluster.json") in done.stdout
    (node.executable / "in the way").rmdir()
    node.executable.rmdir()


def test_unusable_flags_are_refused_in_a_line() -> None:
    done = k8sovs("uninstall", "--config", "/dev/none")
    assert (done.returncode, len(done.stderr.splitlines())) == (REFUSED, 1)
