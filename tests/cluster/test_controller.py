"""The controller as a process, on a real etcd and the embedded API server; operators use etcdctl and kubectl."""

from __future__ import annotations

import asyncio
import base64
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import aclosing
from pathlib import Path

import pytest

from controller.leadership import Seat, lead
from k8sovs.etcd import Etcd, EtcdConfig, Put
from k8sovs.kubernetes import Kubernetes, Namespace, ObjectMeta
from tests.support.apiserver import ApiServerProcess
from tests.support.controllers import KEYS, NETWORK, Site, eventually
from tests.support.etcd import EtcdServers


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServers]:
    with EtcdServers() as servers:
        yield servers


@pytest.fixture
def site(etcd: EtcdServers, tmp_path: Path) -> Iterator[Site]:
    etcd.clear()
    with ApiServerProcess(tmp_path) as api:
        yield Site(etcd, api)


def put_node(site: Site, name: str, address: str) -> None:
    """A Node as a kubelet registers it."""
    exists = name in site.api.kubectl("get", "nodes", "-o", "name")
    if not exists:
        node = {"apiVersion": "v1", "kind": "Node", "metadata": {"name": name}}
        site.api.kubectl("create", "--validate=false", "-f", "-", stdin=json.dumps(node))
    known = json.loads(site.api.kubectl("get", "node", name, "-o", "json"))
    known["status"] = {"addresses": [{"type": "InternalIP", "address": address}]}
    site.api.kubectl("replace", "--raw", f"/api/v1/nodes/{name}/status", "-f", "-", stdin=json.dumps(known))


def test_a_first_start_writes_the_network_and_gives_every_namespace_an_id(site: Site) -> None:
    with site.controller():
        site.create_namespace("a")
        assert site.json(KEYS.config) == NETWORK
        assert site.vnid("default") == site.vnid("kube-system") == (0, [0])
        assert site.vnid("a") == (10, [10])
        assert site.record("a")["NetID"] == 10


def test_the_three_verbs_are_carried_out_and_cleared_within_a_second(site: Site) -> None:
    with site.controller():
        site.create_namespace("a")
        site.create_namespace("b")
        site.act("a", "join", "b")
        assert site.record("a")["NetID"] == 11
        site.act("a", "isolate")  # while the join is still draining
        assert site.record("a")["NetID"] == 12
        site.settled("a")
        site.act("a", "global")
        assert site.settled("a") == 0
        assert site.settled("b") == 11


def test_a_refused_action_says_the_same_in_the_record_in_an_event_in_the_log_and_in_net_ls(site: Site) -> None:
    with site.controller() as controller:
        site.create_namespace("a")
        site.act("a", "join", "nobody")
        message = str(site.record("a")["message"])
        assert "nobody" in message
        assert site.record("a")["NetID"] == 10

        def event() -> dict[str, object] | None:
            events = json.loads(site.api.kubectl("get", "events", "--all-namespaces", "-o", "json"))["items"]
            return next((each for each in events if each["reason"] == "ActionRefused"), None)

        found = eventually(event)
        assert found is not None
        assert found["message"] == message
        involved = found["involvedObject"]
        assert isinstance(involved, dict)
        assert (involved["kind"], involved["name"]) == ("Namespace", "a")
        assert sum("action-refused" in line and message in line for line in controller.log.splitlines()) == 1
        listed = json.loads(site.cli("net", "ls", "--json").stdout)
        assert [each["message"] for each in listed if each["namespace"] == "a"] == [message]


def test_a_namespace_deleted_and_created_again_around_a_restart_gets_a_new_id(site: Site) -> None:
    with site.controller() as controller:
        site.create_namespace("a")
        before = site.settled("a")
        site.api.kubectl("delete", "namespace", "a")
        eventually(lambda: site.vnid("a") is None)
        assert controller.stop() == 0
        controller.start()
        site.create_namespace("a")
        assert site.settled("a") != before
        controller.stop()
        last = site.settled("a")
        site.api.kubectl("delete", "namespace", "a")
        site.api.kubectl("create", "namespace", "a")
        controller.start()
        eventually(lambda: site.vnid("a") not in (None, (last, [last])))


def test_an_api_server_that_goes_away_takes_no_namespace_along(site: Site) -> None:
    with site.controller() as controller:
        site.create_namespace("a")
        site.create_namespace("b")
        controller.stop()
        site.api.kill()
        controller.start()
        controller.wait_leading()
        site.act("a", "join", "b")  # a change that needs etcd alone
        assert site.settled("a") == site.settled("b") == 11


def test_a_namespace_that_a_new_leader_cannot_read_keeps_its_record(site: Site) -> None:
    with site.controller() as controller:
        site.create_namespace("a")
        before = site.record("a")
        controller.stop()
        merge = {"Content-Type": "application/merge-patch+json"}
        unreadable = {"status": {"conditions": 7}}
        assert site.api.request("PATCH", "/api/v1/namespaces/a/status", unreadable, **merge)[0] == 200
        controller.start()
        site.create_namespace("b")  # the new leader has heard of all namespaces
        assert "kubernetes-object-undecodable" in controller.log
        assert (site.record("a"), site.vnid("a")) == (before, (10, [10]))


def test_a_leader_that_stops_is_followed_at_once_and_one_that_dies_after_its_lease(site: Site) -> None:
    with site.controller("c1") as first, site.controller("c2") as second:
        eventually(lambda: len(site.values(KEYS.leader)) == 2)
        leading, standing = (first, second) if site.leader() == "c1" else (second, first)
        leading.wait_leading()
        assert leading.stop() == 0
        eventually(lambda: site.leader() == standing.identity, within=1)
        leading.start()
        eventually(lambda: len(site.values(KEYS.leader)) == 2)
        standing.kill()
        eventually(lambda: site.leader() == leading.identity, within=5)
        site.create_namespace("a")


def test_a_leader_that_was_asleep_writes_nothing_after_it_was_replaced(site: Site) -> None:
    with site.controller("c1") as first:
        first.wait_leading()
        site.create_namespace("a")
        site.create_namespace("b")
        with site.controller("c2") as second:
            eventually(lambda: len(site.values(KEYS.leader)) == 2)
            # It falls asleep in the first phase: when it wakes up, the second is long overdue.
            record = {"NetName": "a", "NetID": 1, "Action": "join", "Namespace": "b"}
            site.etcd.put(KEYS.netnamespace("a"), json.dumps(record))
            eventually(lambda: site.vnid("a") == (10, [10, 11]))
            first.pause()
            second.wait_leading()
            assert site.settled("a") == 11
            site.act("a", "isolate")
            alone = site.settled("a")
            first.resume()
            eventually(lambda: "leadership-lost" in first.log)
            eventually(lambda: len(site.values(KEYS.leader)) == 2)
            assert site.settled("a") == alone
            assert site.leader() == "c2"


def test_a_leader_that_overslept_its_lease_writes_again_only_when_it_is_elected_anew(site: Site) -> None:
    with site.controller() as controller:
        controller.wait_leading()
        site.create_namespace("a")
        record = {"NetName": "a", "NetID": 1, "Action": "global", "Namespace": ""}
        site.etcd.put(KEYS.netnamespace("a"), json.dumps(record))
        eventually(lambda: site.vnid("a") == (10, [0, 10]))
        controller.pause()  # when it wakes up, the second phase is long overdue
        eventually(lambda: site.leader() is None)
        controller.resume()
        controller.wait_leading()
        assert site.settled("a") == 0
        (seat,) = site.values(KEYS.leader)
        assert site.revision(KEYS.netnamespace("a")) > site.revision(f"{KEYS.leader}{seat}")


def test_an_action_whose_leader_is_killed_in_the_middle_is_done_once_by_the_next(site: Site) -> None:
    with site.controller("c1", K8SOVS_PHASE_DELAY_S="1") as first, site.controller("c2") as second:
        eventually(lambda: len(site.values(KEYS.leader)) == 2)
        leading = first if site.leader() == "c1" else second
        site.create_namespace("a")
        site.create_namespace("b")
        site.act("a", "join", "b", within=5)
        old = site.settled("a")
        before = site.revision(KEYS.vnid("a"))
        cursor = int(site.value(KEYS.vni_cursor) or 0)
        site.etcd.put(KEYS.netnamespace("a"), json.dumps({"NetName": "a", "NetID": 0, "Action": "isolate"}))
        eventually(lambda: site.vnid("a") == (old, [old, cursor]))
        leading.kill()
        assert site.settled("a") == cursor
        assert int(site.value(KEYS.vni_cursor) or 0) == cursor + 1, "one id was used up"
        assert history(site, KEYS.vnid("a"), before) == [
            (old, [old, cursor]),
            (cursor, [old, cursor]),
            (cursor, [cursor]),
        ]
        assert site.record("a") == {"NetName": "a", "NetID": cursor, "Action": "", "Namespace": ""}


def history(site: Site, key: str, after: int) -> list[tuple[int, list[int]]]:
    """All forms that a record of `vnids` has had after a revision, the oldest first."""
    found = []
    revision = site.revision(key)
    while True:
        fields = json.loads(site.etcd.etcdctl("get", key, f"--rev={revision}", "--write-out=json"))["kvs"][0]
        if fields["mod_revision"] <= after:
            return found
        value = json.loads(base64.b64decode(fields["value"]))
        found.insert(0, (value["Send"], value["Accept"]))
        revision = fields["mod_revision"] - 1


def test_a_leader_whose_key_is_taken_away_stands_for_election_again(site: Site) -> None:
    with site.controller() as controller:
        controller.wait_leading()
        site.etcd.etcdctl("del", KEYS.leader, "--prefix")
        eventually(lambda: controller.log.count("leadership-won") == 2)
        site.create_namespace("a")


def test_changes_go_on_after_etcd_was_away_and_after_a_compaction(site: Site) -> None:
    with site.controller() as controller:
        controller.wait_leading()
        site.create_namespace("a")
        site.create_namespace("b")
        site.etcd.restart()
        site.etcd.compact()
        eventually(lambda: site.leader() == "c1", within=15)
        site.act("a", "join", "b", within=15)
        assert site.settled("a") == 11


def test_nodes_and_edge_hosts_get_subnets_and_nodes_that_swap_addresses_keep_them(site: Site) -> None:
    with site.controller():
        put_node(site, "node1", "192.0.2.11")
        eventually(lambda: len(site.values(KEYS.subnets)) == 1)
        put_node(site, "node2", "192.0.2.12")
        eventually(lambda: len(site.values(KEYS.subnets)) == 2)
        edge = {"Host": "lb", "HostIP": "192.0.2.90", "Assign": True}
        site.etcd.put(f"{KEYS.subnets}192.0.2.90", json.dumps(edge))

        def subnets() -> dict[str, tuple[str, str]]:
            found = [json.loads(value) for value in site.values(KEYS.subnets).values()]
            return {each["Host"]: (each["HostIP"], each["Subnet"]) for each in found if not each["Assign"]}

        expected = {"node1": "172.11.0.0/22", "node2": "172.11.4.0/22", "lb": "172.11.8.0/22"}
        eventually(lambda: {host: subnet for host, (_, subnet) in subnets().items()} == expected)
        put_node(site, "node1", "192.0.2.12")
        put_node(site, "node2", "192.0.2.11")
        eventually(lambda: subnets()["node1"] == ("192.0.2.12", "172.11.0.0/22"))
        assert subnets()["node2"] == ("192.0.2.11", "172.11.4.0/22")
        site.api.kubectl("delete", "node", "node2")
        eventually(lambda: subnets().keys() == {"node1", "lb"})


def test_a_record_that_takes_a_live_nodes_name_is_seen_in_the_status_and_in_an_event_on_the_node(site: Site) -> None:
    with site.controller():
        put_node(site, "node2", "192.0.2.12")
        eventually(lambda: site.values(KEYS.subnets))
        claim = {"Host": "node2", "HostIP": "192.0.2.10", "Subnet": "172.11.0.0/22", "Assign": False}
        site.etcd.put(f"{KEYS.subnets}192.0.2.10", json.dumps(claim))

        def problems() -> dict[str, str]:
            hosts = json.loads(site.cli("status", "--json").stdout)["nodes"]
            return {host["address"]: host["problem"] for host in hosts if host["problem"]}

        assert "names node node2" in eventually(problems)["192.0.2.10"]

        def events() -> list[dict[str, object]]:
            found = json.loads(site.api.kubectl("get", "events", "--all-namespaces", "-o", "json"))["items"]
            return [each for each in found if each["reason"] == "SubnetRefused"]

        (event,) = eventually(events)
        assert event["involvedObject"]["name"] == "node2"  # type: ignore[index]
        assert "192.0.2.10" in str(event["message"])


def test_another_network_in_the_settings_is_refused_and_logged(site: Site) -> None:
    with site.controller() as controller:
        controller.wait_leading()
        controller.stop()
    with site.controller("c2", K8SOVS_NETWORK=json.dumps(NETWORK | {"Network": "172.16.0.0/16"})) as other:
        other.wait_leading()
        assert "network-config-change-refused" in other.log
        assert site.json(KEYS.config) == NETWORK


def test_the_verbs_of_the_command_line_wait_for_the_last_phase_and_say_why_not(site: Site) -> None:
    with site.controller():
        site.create_namespace("a")
        site.create_namespace("b")
        joined = site.cli("net", "join", "a", "b", "--wait")
        assert (joined.returncode, joined.stdout) == (
            0,
            "join a b: complete, NetID 11 (nodes cut off from etcd are not included)\n",
        )
        assert site.vnid("a") == (11, [11])
        refused = site.cli("net", "isolate", "kube-system", "--wait")
        assert refused.returncode == 1
        assert "cannot be isolated" in refused.stderr.splitlines()[-1]
        unknown = site.cli("net", "global", "nobody")
        assert unknown.returncode == 1
        assert "nobody" in unknown.stderr.splitlines()[-1]
        asked = site.cli("net", "global", "a")
        assert asked.returncode == 0
        assert site.settled("a") in (0, 11)
        eventually(lambda: site.settled("a") == 0)
        status = json.loads(site.cli("status", "--json").stdout)
        assert (status["leader"], status["mode"], status["namespaces"]) == ("c1", "multitenant", 4)
        table = site.cli("net", "ls").stdout
        assert [line.split()[:2] for line in table.splitlines()[1:3]] == [["a", "0"], ["b", "11"]]
        assert "NAMESPACE" in table


@pytest.mark.parametrize("setting", ["kubeconfig", "etcd_ca"])
def test_a_controller_whose_setting_is_of_no_use_names_it_and_its_source_in_one_line(site: Site, setting: str) -> None:
    variable = f"K8SOVS_{setting.upper()}"
    environment = site.environment("c1", {variable: "/nonexistent", "K8SOVS_ETCD_ENDPOINTS": "https://127.0.0.1:1"})
    command = [sys.executable, "-m", "k8sovs.cli", "controller"]
    result = subprocess.run(command, capture_output=True, text=True, timeout=30, env=environment, check=False)
    assert result.returncode == 2
    (line,) = result.stderr.splitlines()
    assert line.startswith(f"k8sovs controller: {setting.replace('_', '-')}: ")
    assert "/nonexistent" in line
    assert line.endswith(f" (from environment variable {variable})")


def test_a_command_without_etcd_says_so_in_one_line(site: Site) -> None:
    result = site.cli("status", "--etcd-endpoints", "http://127.0.0.1:1")
    assert result.returncode == 1
    assert "127.0.0.1:1" in result.stderr
    assert len(result.stderr.splitlines()) == 1


def test_a_thousand_lives_of_namespaces_with_a_restart_between_repeat_no_id(site: Site) -> None:
    names = [f"n{number}" for number in range(100)]
    seen: list[int] = []
    with site.controller() as controller:
        for cycle in range(10):
            asyncio.run(for_each(site, names, create))
            eventually(lambda: len(site.values(KEYS.vnids)) == len(names) + 2)
            seen += [json.loads(value)["Send"] for name, value in site.values(KEYS.vnids).items() if name in names]
            asyncio.run(for_each(site, names, delete))
            if cycle == 5:
                controller.stop()
                controller.start()
            eventually(lambda: len(site.values(KEYS.vnids)) == 2)
    assert len(set(seen)) == len(seen) == 1000


async def for_each(site: Site, names: list[str], do: Callable[[Kubernetes, str], Awaitable[object]]) -> None:
    async with Kubernetes(str(site.api.kubeconfig)) as kubernetes:
        await asyncio.gather(*(do(kubernetes, name) for name in names))


async def create(kubernetes: Kubernetes, name: str) -> None:
    await kubernetes.create(Namespace(metadata=ObjectMeta(name=name)))


async def delete(kubernetes: Kubernetes, name: str) -> None:
    await kubernetes.delete(Namespace, name)


async def test_who_has_lost_the_seat_cannot_write_and_the_next_can(site: Site) -> None:
    seats: list[bool] = []

    async def reign(seat: Seat) -> None:
        before = await etcd.transact([seat.fence], [Put("/written", b"in office")])
        site.etcd.etcdctl("del", seat.key)
        after = await etcd.transact([seat.fence], [Put("/written", b"out of office")])
        seats.extend((before.succeeded, after.succeeded))

    async with Etcd(EtcdConfig(site.etcd.endpoints)) as etcd:
        await lead(etcd, KEYS, "one", 5, reign)
        await lead(etcd, KEYS, "two", 5, reign)
        assert (await etcd.list(KEYS.leader)).items == {}
    assert seats == [True, False, True, False]
    assert site.value("/written") == "in office"


async def test_who_stands_by_is_elected_when_the_one_before_has_ended(site: Site) -> None:
    order: list[str] = []
    told_to_end = asyncio.Event()

    async def first_reign(seat: Seat) -> None:
        order.append("first")
        standing.set()
        await told_to_end.wait()
        order.append("first has ended")

    async def second_reign(seat: Seat) -> None:
        order.append("second")

    standing = asyncio.Event()
    async with Etcd(EtcdConfig(site.etcd.endpoints)) as etcd, asyncio.TaskGroup() as group:
        group.create_task(lead(etcd, KEYS, "first", 5, first_reign))
        await standing.wait()
        group.create_task(lead(etcd, KEYS, "second", 5, second_reign))
        async with asyncio.timeout(10), aclosing(etcd.watch(KEYS.leader)) as updates:
            async for _ in updates:
                if len((await etcd.list(KEYS.leader)).items) == 2:
                    break
        told_to_end.set()
    assert order == ["first", "first has ended", "second"]
