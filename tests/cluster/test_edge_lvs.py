"""LVS in NAT mode on an edge host, in front of pods of three isolated tenants, for a client outside."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from itertools import product

import pytest

from k8sovs.lab.reach import judge
from k8sovs.lab.waiting import PATIENCE
from tests.support.edge import Site, assert_fair
from tests.support.lab import LabUnderTest, eventually

pytestmark = [pytest.mark.kernel, pytest.mark.ipvs]

LAB_OPTIONS = ("--nodes", "1", "--edge", "1")
VIRTUAL = 80


@pytest.fixture(scope="module")
def site(lab: LabUnderTest) -> Iterator[Site]:
    with ExitStack() as stack:
        site = Site(lab, stack)
        service = f"{site.edge['client_ip']}:{VIRTUAL}"
        ipvsadm(site, "-A", "-t", service, "-s", "rr")
        for address in site.addresses.values():
            ipvsadm(site, "-a", "-t", service, "-r", address, "-m")
        yield site


def ipvsadm(site: Site, *argv: str) -> str:
    return site.lab("exec", "edge1", "--", "ipvsadm", *argv)


def curl(site: Site, *options: str) -> str:
    url = f"http://{site.edge['client_ip']}:{VIRTUAL}/"
    ask = ["nsenter", f"--net={site.client.netns}", "--", "curl", "--silent", "--noproxy", "*", *options, url]
    return subprocess.run(ask, capture_output=True, text=True, check=True, timeout=60 * PATIENCE).stdout


def test_the_agent_lets_lvs_use_connection_tracking(site: Site) -> None:
    setting = ("exec", "edge1", "--", "sysctl", "-n", "net.ipv4.vs.conntrack")
    eventually(lambda: site.lab(*setting) == "1\n", "the setting is made")


def test_a_client_outside_is_answered_by_every_tenant_in_fair_shares(site: Site) -> None:
    assert_fair(*site.ask(VIRTUAL).ended())


def test_a_pod_sees_the_edge_host_as_its_client(site: Site) -> None:
    """Else it would answer by its own node's way out, past the edge host."""
    answer = curl(site, "--include")
    gateway = site.gateway().split()[2].removesuffix("/32")
    assert f"X-Client: {gateway}" in answer


def test_what_a_client_sends_in_packets_too_large_for_the_tunnel_arrives(site: Site) -> None:
    assert curl(site, "--data-binary", "x" * 100_000) == "100000"


def test_tenants_stay_apart_and_a_client_that_routes_by_the_edge_host_does_not_get_in(site: Site) -> None:
    asking = site.ask(VIRTUAL)
    pods = site.lab.pod_places()
    way = ["ip", "route", "add", "172.11.0.0/16", "via", site.edge["client_ip"]]
    subprocess.run(["nsenter", f"--net={site.client.netns}", "--", *way], check=True)
    pairs = [pair for pair in product([*pods, site.client], pods) if pair[0] != pair[1]]
    reach, _ = judge(pairs, lambda *_: False)
    assert [f"{sender.name} to {target.name}" for (sender, target), reached in reach.items() if reached] == []
    assert_fair(*asking.ended())
