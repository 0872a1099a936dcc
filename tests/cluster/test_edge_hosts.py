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
from tests.support.lab import LabUnderTest
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

    def reaching_pods(self) -> set[str]:
        """The pairs of tenants whose pods reach each other."""
        pods = self.lab.pod_places()
        reach, _ = judge([pair for pair in product(pods, pods) if pair[0] != pair[1]], lambda *_: False)
        return {f"{sender.namespace} to {target.namespace}" for (sender, target), reached in reach.items() if reached}


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
    assert site.reaching_pods() == set()
    for each in asking:
        assert_fair(*each.ended())
