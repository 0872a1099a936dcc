"""The metrics and probes of a running lab, beside what ovs-ofctl, ovs-vsctl and etcdctl say, and beside counting."""

from __future__ import annotations

import json
import re
from collections import Counter
from pathlib import Path

import pytest

from tests.support.lab import LabUnderTest, eventually
from tests.support.metrics import Endpoint, Scrape
from tests.support.runtime import Node

LAB_OPTIONS = ("--nodes", "1", "--edge", "1")
PREFIX = "/k8s.ovs.com/ovs/network/k8ssdn"
DOCUMENT = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text()


@pytest.fixture(scope="module")
def agent(lab: LabUnderTest) -> Endpoint:
    return Endpoint(lab.status()["nodes"][0]["netns"])


@pytest.fixture(scope="module")
def edge(lab: LabUnderTest) -> Endpoint:
    return Endpoint(f"/run/netns/{lab.name}-edge1")


@pytest.fixture(scope="module")
def controllers(lab: LabUnderTest) -> list[Endpoint]:
    return [Endpoint(f"/run/netns/{lab.name}-control", 9441 + number) for number in (1, 2)]


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Node:
    return Node(lab.status()["nodes"][0])


def leading(controllers: list[Endpoint]) -> Scrape:
    scrapes = [controller.scrape() for controller in controllers]
    (leader,) = [scrape for scrape in scrapes if scrape.value("k8sovs_leader") == 1]
    return leader


def dumped(node: Node) -> tuple[Counter[str], Counter[str]]:
    """By the names of tables, as ovs-ofctl has it: flows, and packets that flows without any action have seen."""
    flows: Counter[str] = Counter()
    dropped: Counter[str] = Counter()
    for line in node.execute("ovs-ofctl", "-OOpenFlow15", "--no-names", "dump-flows", "br0").splitlines():
        found = re.search(r"table=(\d+), n_packets=(\d+),", line)
        if found:
            flows[found[1]] += 1
            dropped[found[1]] += int(found[2]) if line.endswith("actions=drop") else 0
    return flows, dropped


def by_number(figures: dict[str, float]) -> Counter[str]:
    """By the numbers of tables that docs/pipeline.md gives."""
    text = (Path(__file__).parents[2] / "docs" / "pipeline.md").read_text()
    numbers = {name: number for number, name in re.findall(r"^## Table (\d+): (\w+)", text, re.MULTILINE)}
    return Counter({numbers[name]: int(value) for name, value in figures.items() if value})


def test_flows_and_drops_are_those_that_the_switch_shows(lab: LabUnderTest, agent: Endpoint, node: Node) -> None:
    lab.add_pod("red/a", "node1")
    blue = lab.add_pod("blue/b", "node1")
    before = agent.scrape().by("table", "k8sovs_dropped_packets_total")["deliver"]
    lab("exec", "red/a", "--", "sh", "-c", f"ping -c 7 -i 0.05 -W 1 {blue['ip']} || test $? = 1")

    def agreed() -> bool:
        flows, dropped = dumped(node)
        scrape = agent.scrape()
        said_flows = by_number(scrape.by("table", "k8sovs_flows"))
        said_dropped = by_number(scrape.by("table", "k8sovs_dropped_packets_total"))
        return (+flows, +dropped) == (+said_flows, +said_dropped)

    eventually(agreed, "both say the same")  # the userspace datapath tells its counters now and then
    eventually(
        lambda: agent.scrape().by("table", "k8sovs_dropped_packets_total")["deliver"] == before + 7,
        "seven packets were dropped by tenancy",
    )


def test_pods_and_addresses_are_those_on_the_switch(lab: LabUnderTest, agent: Endpoint, node: Node) -> None:
    lab.add_pod("red/counted", "node1")
    listed = node.execute("ovs-vsctl", "--format=json", "--columns=external_ids", "list", "Interface")
    pods = [ids for [[_, ids]] in json.loads(listed)["data"] if dict(ids).get("k8sovs-container-id")]
    scrape = agent.scrape()
    assert scrape.value("k8sovs_pods") == len(pods) > 0
    assert scrape.value("k8sovs_pod_addresses_used") == len(pods)
    assert scrape.value("k8sovs_pod_addresses_free") == 1024 - 3 - len(pods)  # network, gateway, broadcast


def test_ids_and_subnets_are_those_in_etcd(lab: LabUnderTest, agent: Endpoint, controllers: list[Endpoint]) -> None:
    lab.add_pod("green/a", "node1")
    values = lab.run("etcdctl", "get", "--print-value-only", "--prefix", f"{PREFIX}/netnamespaces/").split("\n")
    ids = [json.loads(value)["NetID"] for value in values if value]
    subnets = lab.run("etcdctl", "get", "--keys-only", "--prefix", f"{PREFIX}/subnets/").split()
    leader = leading(controllers)
    assert leader.value("k8sovs_namespaces") == agent.scrape().value("k8sovs_namespaces") == len(ids)
    assert leader.value("k8sovs_vnis_in_use") == len(set(ids))
    assert leader.value("k8sovs_subnets") == 64
    assert leader.value("k8sovs_subnets_free") == 64 - len(subnets)


def test_an_action_that_is_refused_is_counted(lab: LabUnderTest, controllers: list[Endpoint]) -> None:
    def refused() -> float:
        return leading(controllers).value("k8sovs_namespace_steps_total", outcome="action-refused") or 0

    lab.add_pod("grey/a", "node1")
    before = refused()
    lab.run("etcdctl", "put", f"{PREFIX}/netnamespaces/grey", '{"NetName":"grey","NetID":0,"Action":"frobnicate"}')
    eventually(lambda: refused() == before + 1, "one more")


def test_a_record_that_cannot_be_read_is_counted(lab: LabUnderTest, agent: Endpoint) -> None:
    def unreadable() -> float:
        return agent.scrape().value("k8sovs_malformed_records_total", kind="subnet") or 0

    before = unreadable()
    lab.run("etcdctl", "put", f"{PREFIX}/subnets/192.0.2.77", "junk")
    eventually(lambda: unreadable() == before + 1, "one more")
    lab.run("etcdctl", "del", f"{PREFIX}/subnets/192.0.2.77")


def test_calls_are_counted_by_verb_and_errors_by_code(agent: Endpoint, node: Node) -> None:
    def count(scrape: Scrape, verb: str) -> float:
        return scrape.value("k8sovs_cni_call_duration_seconds_count", verb=verb) or 0

    before = agent.scrape()
    with node.attached("red", "one") as (pod, _), node.attached("red", "two"):
        assert node.call("ADD", pod).code == 100
    after = agent.scrape()
    assert count(after, "ADD") - count(before, "ADD") == 3
    assert count(after, "DEL") - count(before, "DEL") == 2
    errors = [scrape.value("k8sovs_cni_errors_total", verb="ADD", code="100") or 0 for scrape in (before, after)]
    assert errors[1] - errors[0] == 1


def test_what_is_away_is_told_and_nothing_old_is_shown(lab: LabUnderTest, agent: Endpoint) -> None:
    everything = {"etcd": 1, "kubernetes": 1, "ovsdb": 1, "switch": 1}
    eventually(lambda: agent.scrape().by("to", "k8sovs_connected") == everything, "all is there")
    assert agent.get("/readyz") == (200, "ok\n")
    lab("stop", "vswitchd", "node1")
    try:
        eventually(lambda: agent.get("/readyz")[0] == 503, "not ready")
        assert "ovs-vswitchd" in agent.get("/readyz")[1]
        assert agent.get("/livez") == (200, "ok\n")
        scrape = agent.scrape()
        assert scrape.by("to", "k8sovs_connected") == everything | {"switch": 0}
        assert scrape.value("k8sovs_flows_current") == 0
        assert not scrape.by("table", "k8sovs_flows")
    finally:
        lab("start", "vswitchd", "node1")
    eventually(lambda: agent.get("/readyz") == (200, "ok\n"), "ready again")


def test_etcd_that_is_away_makes_a_controller_unready_and_an_agent_not(
    lab: LabUnderTest, agent: Endpoint, controllers: list[Endpoint]
) -> None:
    lab("stop", "etcd")
    try:
        eventually(lambda: agent.scrape().by("to", "k8sovs_connected")["etcd"] == 0, "the agent knows", deadline_s=40)
        eventually(lambda: all(one.get("/readyz")[0] == 503 for one in controllers), "not ready", deadline_s=40)
        assert agent.get("/readyz") == (200, "ok\n")
        assert all(one.get("/livez") == (200, "ok\n") for one in controllers)
    finally:
        lab("start", "etcd")
    eventually(lambda: all(one.get("/readyz")[0] == 200 for one in controllers), "ready again", deadline_s=40)
    eventually(lambda: agent.scrape().by("to", "k8sovs_connected")["etcd"] == 1, "connected again", deadline_s=40)
    eventually(
        lambda: sum(one.scrape().value("k8sovs_leader") or 0 for one in controllers) == 1, "one leads", deadline_s=40
    )


def test_an_edge_host_is_ready_and_has_no_pods_to_show(lab: LabUnderTest, edge: Endpoint) -> None:
    eventually(lambda: edge.get("/readyz") == (200, "ok\n"), "ready")
    scrape = edge.scrape()
    assert scrape.by("to", "k8sovs_connected") == {"etcd": 1, "ovsdb": 1, "switch": 1}
    assert scrape.value("k8sovs_pods") is None


@pytest.mark.parametrize("where", ["agent", "edge", "controller"])
def test_the_document_has_every_metric_with_its_type_and_no_other(
    where: str, agent: Endpoint, edge: Endpoint, controllers: list[Endpoint]
) -> None:
    rows = re.findall(r"^\| `(k8sovs_\w+)` \| (\w+) \|[^|]*\| ([^|]*) \|", DOCUMENT, re.MULTILINE)
    documented = {name: kind for name, kind, places in rows if {"all", where} & set(places.split(", "))}
    scrape = {"agent": agent, "edge": edge, "controller": controllers[0]}[where].scrape()
    shown = {
        name: kind for name, kind in scrape.types.items() if name.startswith("k8sovs_") and name[-8:] != "_created"
    }
    for nothing_to_show in ("pods", "vnis_local", "pod_addresses_used", "pod_addresses_free"):
        if where == "edge":
            shown.pop(f"k8sovs_{nothing_to_show}", None)
    assert shown == documented
