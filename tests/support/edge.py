"""A lab with an edge host: web servers in pods of three tenants, load balancers before them, a client outside."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any, Self

from k8sovs.lab.reach import Place
from tests.support.balancers import HAPROXY_HTTP, Balancers
from tests.support.lab import LabUnderTest
from tests.support.web import Asking, start_server

REQUESTS = 300
FAIR = range(int(0.20 * REQUESTS), int(0.47 * REQUESTS) + 1)
TENANTS = {"red", "blue", "green"}
PORT = 8080


@dataclass
class Site:
    """A lab with a web server in a pod of each tenant, and a client. `addresses` are the servers', by tenant."""

    lab: LabUnderTest
    stack: ExitStack

    def __post_init__(self) -> None:
        status = self.lab.status()
        (self.edge,) = status["edges"]
        self.client = Place("client", status["client"]["netns"], status["client"]["ip"])
        self.addresses = {}
        for tenant, node in zip(sorted(TENANTS), cycle(status["nodes"]), strict=False):
            pod = self.lab.add_pod(f"{tenant}/web", node["name"])
            self.addresses[tenant] = self.serve(pod, tenant)

    def balance(self, directory: Path) -> Self:
        """Start haproxy and nginx, with their files in `directory`."""
        self.stack.enter_context(Balancers(self.lab, self.edge["name"], self.addresses, directory))
        return self

    def serve(self, pod: Mapping[str, Any], name: str) -> str:
        """Start a web server in a pod; where it listens."""
        server = start_server(pod["netns"], PORT, name)
        self.stack.callback(server.wait)
        self.stack.callback(server.kill)
        return f"{pod['ip']}:{PORT}"

    def ask(self, port: int, count: int = REQUESTS) -> Asking:
        """Requests of the client, under way."""
        return Asking(self.client.netns, f"http://{self.edge['client_ip']}:{port}/", count)

    def answers(self, port: int = HAPROXY_HTTP, count: int = 3) -> dict[str, int]:
        """Who answers; empty if not every request was answered."""
        answers, failures = self.ask(port, count).ended()
        return {} if failures else answers

    def nodes(self) -> list[str]:
        """The names of the nodes."""
        return [node["name"] for node in self.lab.status()["nodes"]]

    def flows(self, host: str) -> str:
        """What a node's or an edge host's switch holds."""
        return self.lab("exec", host, "--", "ovs-ofctl", "-O", "OpenFlow15", "dump-flows", "br0")

    def gateway(self) -> str:
        """The edge host's place in the pod network."""
        return self.lab("exec", "edge1", "--", "ip", "-4", "-brief", "address", "show", "tun0")

    def edge_log(self) -> str:
        """All that the edge host's agent has said."""
        return Path(self.lab.status()["directory"], "logs", "agent-edge1.log").read_text()


def assert_fair(answers: dict[str, int], failures: list[str]) -> None:
    """Every request was answered, and each tenant had its share: 20 to 47 % of them."""
    assert failures == []
    assert answers.keys() == TENANTS
    assert [f"{name}: {count}" for name, count in answers.items() if count not in FAIR] == []
