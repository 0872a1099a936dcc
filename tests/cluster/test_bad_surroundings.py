"""Settings that clash, an API server that hangs, no switch: what is said, what goes on, and that nothing is touched."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.support.lab import LabUnderTest, eventually, k8sovs
from tests.support.processes import hanging
from tests.support.runtime import Node
from tests.support.traces import traces

LAB_OPTIONS = ("--nodes", "1")

NOT_AVAILABLE, TRY_AGAIN_LATER = 50, 11
NETWORK = {
    "Name": "bad",
    "Network": "172.11.0.0/16",
    "HostSubnetLength": 10,
    "ServiceNetwork": "10.96.0.0/12",
    "PluginName": "k8s-ovs-multitenant",
}


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Node:
    lab.run("kubectl", "create", "namespace", "red")
    return Node(lab.status()["nodes"][0])


def start_agent(node: Node, directory: Path, *flags: str, **settings: str) -> subprocess.Popen[str]:
    """A second agent on the node, with a configuration of its own in etcd; it should not get as far as the switch."""
    environment = {
        "K8SOVS_CONFIG": "/dev/null",
        "K8SOVS_NODE_NAME": node.name,
        "K8SOVS_ETCD_ENDPOINTS": "http://192.0.2.2:2379",
        "K8SOVS_PREFIX": "/bad",
        "K8SOVS_OVS_RUNDIR": str(node.ovs_rundir),
        "K8SOVS_CNI_SOCKET": str(directory / "cni.sock"),
        "K8SOVS_CNI_CONF_DIR": str(directory),
        "K8SOVS_CNI_BIN_DIR": str(directory),
        "K8SOVS_STATE_DIR": str(directory),
        **settings,
    }
    command = ["nsenter", f"--net={node.netns}", "--", sys.executable, "-m", "k8sovs.cli", "agent", *flags]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=os.environ | environment
    )


def configure(lab: LabUnderTest, network: Mapping[str, object], subnet: str) -> None:
    record = {"Host": "node1", "HostIP": "192.0.2.11", "Subnet": subnet}
    lab.run("etcdctl", "put", "/bad/config", json.dumps(NETWORK | dict(network)))
    lab.run("etcdctl", "put", "/bad/bad/subnets/192.0.2.11", json.dumps(record))


@pytest.mark.parametrize(
    ("network", "subnet", "settings", "named"),
    [
        ({"Network": "192.0.0.0/16"}, "192.0.4.0/22", {}, ("node-address 192.0.2.11", "Network 192.0.0.0/16")),
        ({"ServiceNetwork": "192.0.2.0/24"}, "172.11.0.0/22", {}, ("node-address 192.0.2.11", "ServiceNetwork")),
        ({}, "172.12.0.0/22", {}, ("subnet 172.12.0.0/22", "Network 172.11.0.0/16", "HostSubnetLength 10")),
        ({}, "172.11.0.0/22", {"K8SOVS_NODE_ADDRESS": "192.0.2.77"}, ("node-address", "192.0.2.77")),
        ({}, "172.11.0.0/22", {"K8SOVS_MTU": "9000"}, ("mtu 9000", "underlay")),
    ],
    ids=[
        "address-in-network",
        "address-in-services",
        "subnet-outside",
        "address-of-nobody",
        "mtu",
    ],
)
@pytest.mark.parametrize("flags", [(), ("--edge",)], ids=["node", "edge"])
def test_an_agent_names_the_settings_that_clash_and_touches_nothing(
    lab: LabUnderTest,
    node: Node,
    tmp_path: Path,
    network: Mapping[str, object],
    subnet: str,
    settings: Mapping[str, str],
    named: tuple[str, ...],
    flags: tuple[str, ...],
) -> None:
    before = traces(node)
    configure(lab, network, subnet)
    told = {"K8SOVS_NODE_ADDRESS": node.address} if flags else {}
    with start_agent(node, tmp_path, *flags, **told | dict(settings)) as agent:
        said, _ = agent.communicate(timeout=30)
    assert agent.returncode == 2
    last = said.splitlines()[-1]
    assert last.startswith(f"{' '.join(('k8sovs agent', *flags))}: ")
    assert [name for name in named if name not in last] == []
    assert traces(node) == before
    assert list(tmp_path.glob("*.conflist")) == []


def test_a_controller_refuses_networks_that_overlap_by_their_names() -> None:
    network = json.dumps(NETWORK | {"ServiceNetwork": "172.11.128.0/20"})
    done = k8sovs("controller", "--identity", "c", "--network", network, env={"K8SOVS_CONFIG": "/dev/null"})
    assert done.returncode == 2
    assert "Network 172.11.0.0/16 and ServiceNetwork 172.11.128.0/20 overlap" in done.stderr


def test_an_agent_waits_while_the_configured_networks_overlap_and_says_so(
    lab: LabUnderTest, node: Node, tmp_path: Path
) -> None:
    before = traces(node)
    configure(lab, {"ServiceNetwork": "172.11.128.0/20"}, "172.11.0.0/22")
    with start_agent(node, tmp_path) as agent:
        assert agent.stdout is not None
        assert any("Network 172.11.0.0/16 and ServiceNetwork 172.11.128.0/20 overlap" in line for line in agent.stdout)
        assert agent.poll() is None
        agent.terminate()
    assert traces(node) == before


def test_pods_and_verbs_need_no_api_server(lab: LabUnderTest, node: Node) -> None:
    with node.attached("red", "before") as (before, _), hanging(lab.status()["apiserver"]["pid"]):
        with node.attached("red", "meanwhile") as (pod, answer):
            assert before.reaches(answer.address)
            done = k8sovs("net", "global", "red", "--wait", env=lab.env)
            assert (done.returncode, done.stderr) == (0, "")
            assert pod.reaches(node.address)
        assert k8sovs("net", "isolate", "red", "--wait", env=lab.env).returncode == 0
    lab.run("kubectl", "create", "namespace", "later")
    eventually(lambda: "later" in k8sovs("net", "ls", env=lab.env).stdout, "the controllers go on")


@pytest.fixture
def log(lab: LabUnderTest, node: Node) -> Path:
    return Path(lab.status()["directory"], "logs", f"agent-{node.name}.log")


@pytest.mark.parametrize(
    ("missing", "named"), [(("vswitchd",), "br0.mgmt"), (("vswitchd", "ovsdb"), "db.sock")], ids=["switch", "database"]
)
def test_an_agent_waits_for_the_switch_says_so_and_goes_on_when_it_comes(
    lab: LabUnderTest, node: Node, log: Path, missing: tuple[str, ...], named: str
) -> None:
    lab("stop", "agent", node.name)
    for process in missing:
        lab("stop", process, node.name)
    said = len(log.read_text())
    lab("start", "agent", node.name)
    try:
        eventually(lambda: f"{named}: No such file" in log.read_text()[said:], "it says what it waits for")
        assert "event='ready'" not in log.read_text()[said:]
        with node.pod("red") as pod:
            assert node.status() == NOT_AVAILABLE
            refused = node.call("ADD", pod)
            assert refused.code == TRY_AGAIN_LATER
            assert f"the k8s-ovs agent is not running: nobody answers at {node.conf()['socket']}" in refused.said["msg"]
            assert not pod.has_interface
    finally:
        for process in reversed(missing):
            lab("start", process, node.name)
    eventually(lambda: node.status() == 0, "it goes on")
    with node.attached("red") as (pod, _):
        assert pod.reaches(node.address)
    assert log.read_text()[said:].count(f"{named}: No such file") == 1, "it says so once"


@pytest.mark.timeout(150)  # the insertion is given 20 s, its undoing as much
def test_an_add_that_the_database_never_answers_leaves_no_link(lab: LabUnderTest, node: Node) -> None:
    before = traces(node)
    with node.pod("red") as pod:
        lab("stop", "ovsdb", node.name)
        try:
            assert node.start("ADD", pod).wait(60) == 1
            eventually(lambda: not pod.has_interface, "the link is gone")
        finally:
            lab("start", "ovsdb", node.name)
        eventually(lambda: node.status() == 0, "it goes on")
    eventually(lambda: traces(node) == before, "nothing is left")
