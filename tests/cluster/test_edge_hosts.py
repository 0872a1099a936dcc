"""haproxy and nginx on a host outside Kubernetes, in front of pods of three isolated tenants, for a client outside."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import product
from pathlib import Path

import pytest

from k8sovs.lab.reach import Place, judge
from tests.support.balancers import HAPROXY_HTTP, PORTS, Balancers
from tests.support.lab import LabUnderTest, eventually, k8sovs
from tests.support.web import Asking, start_server

LAB_OPTIONS = ("--nodes", "3", "--edge", "1")

REQUESTS = 300
FAIR = range(int(0.20 * REQUESTS), int(0.47 * REQUESTS) + 1)
TENANTS = {"red": "node1", "blue": "node2", "green": "node3"}
PORT = 8080


@dataclass
class Site:
    """A lab with a web server in a pod of each tenant, balancers before them, and a client."""

    lab: LabUnderTest
    stack: ExitStack
    directory: Path
    servers: dict[str, subprocess.Popen[str]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        status = self.lab.status()
        (self.edge,) = status["edges"]
        self.client = Place("client", status["client"]["netns"], status["client"]["ip"])
        addresses = {}
        for tenant in TENANTS:
            pod = self.lab.add_pod(f"{tenant}/web", TENANTS[tenant] if len(status["nodes"]) > 1 else "node1")
            self.servers[tenant] = start_server(pod["netns"], PORT, tenant)
            self.stack.callback(self.servers[tenant].kill)
            addresses[tenant] = f"{pod['ip']}:{PORT}"
        self.stack.enter_context(Balancers(self.lab, self.edge["name"], addresses, self.directory))

    def ask(self, port: int, count: int = REQUESTS) -> Asking:
        return Asking(self.client.netns, f"http://{self.edge['client_ip']}:{port}/", count)

    def answers(self, port: int = HAPROXY_HTTP, count: int = 3) -> dict[str, int]:
        """Who answers; empty if not every request was answered."""
        answers, failures = self.ask(port, count).ended()
        return {} if failures else answers

    def nodes(self) -> list[str]:
        return [node["name"] for node in self.lab.status()["nodes"]]

    def flows(self, host: str) -> str:
        return self.lab("exec", host, "--", "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br0")

    def gateway(self) -> str:
        return self.lab("exec", "edge1", "--", "ip", "-4", "-brief", "address", "show", "tun0")

    def edge_log(self) -> str:
        return Path(self.lab.status()["directory"], "logs", "agent-edge1.log").read_text()


@pytest.fixture(scope="module")
def site(lab: LabUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(lab, stack, tmp_path_factory.mktemp("edge"))


def assert_fair(answers: dict[str, int], failures: list[str]) -> None:
    assert failures == []
    assert answers.keys() == TENANTS.keys()
    assert [f"{name}: {count}" for name, count in answers.items() if count not in FAIR] == []


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_a_client_outside_is_answered_by_every_tenant_in_fair_shares(site: Site, port: int) -> None:
    assert_fair(*site.ask(port).ended())


def test_tenants_stay_apart_while_the_edge_host_reaches_all_of_them(site: Site) -> None:
    asking = [site.ask(port) for port in PORTS.values()]
    pods = site.lab.pod_places()
    reach, _ = judge([pair for pair in product(pods, pods) if pair[0] != pair[1]], lambda *_: False)
    assert [f"{sender.name} to {target.name}" for (sender, target), reached in reach.items() if reached] == []
    for each in asking:
        assert_fair(*each.ended())


def test_a_client_that_routes_by_the_edge_host_does_not_get_into_the_pod_network(site: Site) -> None:
    pods = site.lab.pod_places()
    route = ["nsenter", f"--net={site.client.netns}", "--", "ip", "route"]
    way = ["172.11.0.0/16", "via", site.edge["client_ip"]]
    subprocess.run([*route, "add", *way], check=True)
    try:
        reach, _ = judge([(site.client, pod) for pod in pods], lambda *_: False)
    finally:
        subprocess.run([*route, "del", *way], check=True)
    assert [pod.name for (_, pod), reached in reach.items() if reached] == []


def test_an_agent_that_restarts_costs_the_load_balancer_no_request(site: Site) -> None:
    asking = site.ask(HAPROXY_HTTP, 5 * REQUESTS)
    restarts = site.edge_log().count("event='ready'")
    site.lab("stop", "agent", "edge1")
    site.lab("start", "agent", "edge1")
    eventually(lambda: site.edge_log().count("event='ready'") > restarts, "the agent is ready again")
    answers, failures = asking.ended()
    assert failures == []
    assert sum(answers.values()) == 5 * REQUESTS


def test_the_edge_host_comes_back_when_all_of_it_restarts_while_etcd_is_away(site: Site) -> None:
    site.lab("stop", "etcd")
    try:
        site.lab("stop", "agent", "edge1")
        site.lab("stop", "vswitchd", "edge1")
        assert site.answers() == {}
        site.lab("start", "vswitchd", "edge1")
        site.lab("start", "agent", "edge1")
        eventually(lambda: site.answers().keys() == TENANTS.keys(), "every tenant answers again")
    finally:
        site.lab("start", "etcd")
    eventually(lambda: "leads" in site.lab("status"), "a controller leads again")


def test_every_node_closes_to_a_host_that_is_removed_and_opens_when_it_is_added_again(site: Site) -> None:
    address, env = site.edge["ip"], site.lab.env
    assert k8sovs("edge", "rm", address, env=env).returncode == 0
    eventually(lambda: [node for node in site.nodes() if address in site.flows(node)] == [], "no node knows it")
    assert site.answers(count=1) == {}
    # Somebody else takes its subnet meanwhile, so that it comes back with another one.
    before = site.gateway()
    assert k8sovs("edge", "add", "192.0.2.250", "--wait", env=env).returncode == 0
    added = k8sovs("edge", "add", address, "--name", "edge1", "--wait", env=env)
    assert added.returncode == 0, added.stderr
    eventually(lambda: site.answers().keys() == TENANTS.keys(), "every tenant answers again")
    assert site.gateway() != before
    assert all(address in site.flows(node) for node in site.nodes())


@pytest.mark.parametrize("port", PORTS.values(), ids=PORTS)
def test_a_dead_pod_is_left_out(site: Site, port: int) -> None:
    if any(pod["namespace"] == "green" for pod in site.lab.pods()):
        site.lab("pod", "del", "green/web")
    eventually(lambda: site.answers(port, 10).keys() == {"red", "blue"}, "the others answer")
    answers, failures = site.ask(port, 100).ended()
    assert failures == []
    assert answers.keys() == {"red", "blue"}
