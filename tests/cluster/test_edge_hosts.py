"""haproxy and nginx on a host outside Kubernetes, in front of pods of three isolated tenants, for a client outside."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest

from k8sovs.lab.reach import judge
from tests.support.balancers import HAPROXY_HTTP, PORTS
from tests.support.edge import REQUESTS, TENANTS, Site, assert_fair
from tests.support.lab import LabUnderTest, eventually, k8sovs

LAB_OPTIONS = ("--nodes", "3", "--edge", "1")


@pytest.fixture(scope="module")
def site(lab: LabUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ExitStack() as stack:
        yield Site(lab, stack).balance(tmp_path_factory.mktemp("edge"))


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
        eventually(lambda: site.answers().keys() == TENANTS, "every tenant answers again")
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
    eventually(lambda: site.answers().keys() == TENANTS, "every tenant answers again")
    assert site.gateway() != before
    assert all(address in site.flows(node) for node in site.nodes())


def test_a_dead_pod_is_left_out_by_every_load_balancer(site: Site) -> None:
    site.lab("pod", "del", "green/web")
    for name, port in PORTS.items():
        eventually(lambda port=port: site.answers(port, 10).keys() == {"red", "blue"}, f"{name}: the others answer")
    asking = {name: site.ask(port, 100) for name, port in PORTS.items()}
    outcomes = {name: each.ended() for name, each in asking.items()}
    assert {name: (set(answers), failures) for name, (answers, failures) in outcomes.items()} == dict.fromkeys(
        PORTS, ({"red", "blue"}, [])
    )
