"""From the old k8s-ovs: records written through a real etcd's v2 API, dumped, migrated, and taken over."""

from __future__ import annotations

import json
import os
import subprocess
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.etcd import EtcdServers
from tests.support.lab import K8SOVS, LabUnderTest, eventually
from tests.support.runtime import Node

LAB_OPTIONS = ("--nodes", "2")
PREFIX = "/k8s.ovs.com/ovs/network"
NETWORK = f"{PREFIX}/k8ssdn"
CONFIG = (
    '{"Name":"k8ssdn","Network":"172.11.0.0/16","HostSubnetLength":10,"ServiceNetwork":"10.96.0.0/12",'
    '"PluginName":"k8s-ovs-multitenant"}'
)
OLD = {
    f"{PREFIX}/config": CONFIG,
    f"{NETWORK}/subnets/192.0.2.11": '{"Host":"node1","HostIP":"192.0.2.11","Subnet":"172.11.40.0/22","Assign":false}',
    f"{NETWORK}/subnets/192.0.2.12": '{"Host":"node2","HostIP":"192.0.2.12","Subnet":"172.11.80.0/22","Assign":false}',
    f"{NETWORK}/subnets/192.0.2.99": '{"Host":"lvs1","HostIP":"192.0.2.99","Subnet":"172.11.96.0/22","Assign":false}',
    f"{NETWORK}/netnamespaces/default": '{"NetName":"default","NetID":0,"Action":"","Namespace":""}',
    f"{NETWORK}/netnamespaces/red": '{"NetName":"red","NetID":300924,"Action":"","Namespace":""}',
    f"{NETWORK}/netnamespaces/crimson": '{"NetName":"crimson","NetID":300924,"Action":"","Namespace":""}',
    f"{NETWORK}/netnamespaces/blue": '{"NetName":"blue","NetID":3831805,"Action":"","Namespace":""}',
}


@pytest.fixture(scope="module")
def old() -> Iterator[EtcdServers]:
    """An etcd with a v2 store."""
    with EtcdServers(arguments=("--enable-v2",)) as etcd:
        yield etcd


def dump(old: EtcdServers, records: dict[str, str]) -> str:
    """What the v2 API answers for `records`, written through etcdctl of that API."""
    environment = os.environ | {"ETCDCTL_API": "2"}
    command = ("etcdctl", "--endpoints", old.endpoints[0])
    subprocess.run([*command, "rm", "--recursive", "/k8s.ovs.com"], env=environment, capture_output=True, timeout=30)
    for key, value in records.items():
        subprocess.run([*command, "set", key, value], env=environment, check=True, capture_output=True, timeout=30)
    with urllib.request.urlopen(f"{old.endpoints[0]}/v2/keys/k8s.ovs.com?recursive=true", timeout=30) as answer:
        text: str = answer.read().decode()
    return text


@pytest.fixture(scope="module")
def new_etcd() -> Iterator[EtcdServers]:
    with EtcdServers() as etcd:
        yield etcd


@pytest.fixture
def new(new_etcd: EtcdServers) -> EtcdServers:
    """An empty etcd to migrate to."""
    new_etcd.clear()
    return new_etcd


def migrate(endpoint: str, text: str, *flags: str) -> subprocess.CompletedProcess[str]:
    command = [K8SOVS, "migrate-etcd2", "-", "--etcd-endpoints", endpoint, *flags]
    return subprocess.run(command, input=text, capture_output=True, text=True, timeout=60)


def stored(etcd: EtcdServers) -> dict[str, str]:
    lines = etcdctl_lines(etcd)
    return dict(zip(lines[::2], lines[1::2], strict=True))


def etcdctl_lines(etcd: EtcdServers) -> list[str]:
    return etcd.etcdctl("get", "", "--prefix").splitlines()


def test_every_record_arrives_as_it_was(old: EtcdServers, new: EtcdServers) -> None:
    done = migrate(new.endpoints[0], dump(old, OLD))
    assert done.returncode == 0, done.stderr
    assert stored(new) == OLD
    assert f"{len(OLD)} keys written" in done.stdout


def test_what_etcdctl_of_the_old_api_prints_is_a_dump_too(old: EtcdServers, new: EtcdServers) -> None:
    dump(old, OLD)
    command = ("etcdctl", "--endpoints", old.endpoints[0], "--output", "json", "ls", "--recursive", "/k8s.ovs.com")
    printed = subprocess.run(
        command, env=os.environ | {"ETCDCTL_API": "2"}, capture_output=True, text=True, check=True, timeout=30
    ).stdout
    assert migrate(new.endpoints[0], printed).returncode == 0
    assert stored(new) == OLD


def test_a_dry_run_judges_and_writes_nothing(old: EtcdServers, new: EtcdServers) -> None:
    done = migrate(new.endpoints[0], dump(old, OLD), "--dry-run")
    assert done.returncode == 0
    assert f"{len(OLD)} keys would be written" in done.stdout
    assert stored(new) == {}


def test_more_records_than_a_transaction_takes_arrive_all(old: EtcdServers, new: EtcdServers) -> None:
    names = [f"team-{number}" for number in range(300)]
    nodes = [
        {"key": f"{NETWORK}/netnamespaces/{name}", "value": json.dumps({"NetName": name, "NetID": 100 + number})}
        for number, name in enumerate(names)
    ]
    text = json.dumps({"action": "get", "node": {"key": "/", "dir": True, "nodes": nodes}}) + dump(old, OLD)
    done = migrate(new.endpoints[0], text)
    assert done.returncode == 0, done.stderr
    assert len(stored(new)) == 300 + len(OLD)


def test_nothing_is_overwritten_and_the_key_is_named(old: EtcdServers, new: EtcdServers) -> None:
    other = '{"NetName":"red","NetID":77,"Action":"","Namespace":""}'
    new.put(f"{NETWORK}/netnamespaces/red", other)
    done = migrate(new.endpoints[0], dump(old, OLD))
    assert done.returncode == 1
    assert f"{NETWORK}/netnamespaces/red" in done.stderr
    assert stored(new) == {f"{NETWORK}/netnamespaces/red": other}


def test_a_store_on_which_a_controller_has_run_is_refused(old: EtcdServers, new: EtcdServers) -> None:
    new.put(f"{NETWORK}/vnids/red", '{"Send":10,"Accept":[10]}')
    assert migrate(new.endpoints[0], dump(old, OLD)).returncode == 1
    assert len(stored(new)) == 1


def test_a_run_that_was_interrupted_is_completed_by_the_next(old: EtcdServers, new: EtcdServers) -> None:
    key = f"{NETWORK}/netnamespaces/red"
    new.put(key, OLD[key])
    done = migrate(new.endpoints[0], dump(old, OLD))
    assert done.returncode == 0
    assert f"{len(OLD) - 1} keys written, 1 were there already" in done.stdout
    assert stored(new) == OLD
    again = migrate(new.endpoints[0], dump(old, OLD))
    assert "0 keys written" in again.stdout


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        (f"{NETWORK}/netnamespaces/green", "junk", "not JSON"),
        (f"{NETWORK}/subnets/192.0.2.13", '{"Host":"n","HostIP":"192.0.2.14","Subnet":"172.11.4.0/22"}', "disagree"),
        (f"{NETWORK}/subnets/192.0.2.13", '{"Host":"n","HostIP":"192.0.2.13","Subnet":"172.12.4.0/22"}', "none of"),
        (f"{NETWORK}/subnets/192.0.2.13", '{"Host":"n","HostIP":"192.0.2.13","Subnet":"172.11.40.0/22"}', "the same"),
    ],
)
def test_a_record_that_cannot_be_used_stops_all_until_it_is_given_up(
    old: EtcdServers, new: EtcdServers, key: str, value: str, said: str
) -> None:
    text = dump(old, OLD | {key: value})
    refused = migrate(new.endpoints[0], text)
    assert refused.returncode == 1
    assert key in refused.stderr
    assert said in refused.stderr
    assert stored(new) == {}
    done = migrate(new.endpoints[0], text, "--leave-out", key)
    assert done.returncode == 0
    assert f"left out: {key}" in done.stdout
    assert stored(new) == OLD


def test_keys_of_others_are_left_out_and_named(old: EtcdServers, new: EtcdServers) -> None:
    done = migrate(new.endpoints[0], dump(old, OLD | {"/k8s.ovs.com/other": "x"}))
    assert done.returncode == 0
    assert "left out: /k8s.ovs.com/other" in done.stdout
    assert stored(new) == OLD


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "has no"),
        ("no json", "not JSON"),
        ('{"errorCode":100,"message":"Key not found","cause":"/k8s.ovs.com"}', "Key not found"),
        ('{"node":{"key":"/k8s.ovs.com","dir":true,"nodes":[7]}}', "without a key"),
    ],
)
def test_what_is_no_dump_is_said_in_one_line(new: EtcdServers, text: str, said: str) -> None:
    done = migrate(new.endpoints[0], text)
    assert done.returncode == 1
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_controller_and_agents_take_over_ids_and_subnets(lab: LabUnderTest, old: EtcdServers) -> None:
    text = dump(old, OLD)
    for process in (("controller", "1"), ("controller", "2"), ("agent", "node1"), ("agent", "node2")):
        lab("stop", *process)
    lab.run("etcdctl", "del", "--prefix", "/k8s.ovs.com/")
    for state in Path("/run/k8sovs-lab", lab.name).glob("node*/state/cluster.json"):
        state.unlink()
    for namespace in ("red", "crimson", "blue"):
        lab.run("kubectl", "create", "namespace", namespace)

    done = migrate(lab.env["ETCDCTL_ENDPOINTS"], text)
    assert done.returncode == 0, done.stderr
    for process in (("controller", "1"), ("controller", "2"), ("agent", "node1"), ("agent", "node2")):
        lab("start", *process)
    nodes = [Node(status) for status in lab.status()["nodes"]]
    for node in nodes:
        eventually(lambda node=node: node.status() == 0, "the agent is ready", deadline_s=40)

    listed = {each["namespace"]: each["netid"] for each in json.loads(lab_net_ls(lab))}
    assert {name: listed[name] for name in ("red", "crimson", "blue", "default")} == {
        "red": 300924,
        "crimson": 300924,
        "blue": 3831805,
        "default": 0,
    }
    with nodes[0].attached("red") as (red, answer), nodes[1].attached("crimson") as (_, joined):
        assert answer.address.startswith("172.11.40.")
        assert joined.address.startswith("172.11.80.")
        eventually(lambda: red.reaches(joined.address), "one tenant, as before")
        with nodes[1].attached("blue") as (_, apart):
            assert not red.reaches(apart.address)
    edge = json.loads(lab.run("etcdctl", "get", "--print-value-only", f"{NETWORK}/subnets/192.0.2.99"))
    assert edge["Subnet"] == "172.11.96.0/22"


def lab_net_ls(lab: LabUnderTest) -> str:
    return subprocess.run(
        [K8SOVS, "net", "ls", "--json"], capture_output=True, text=True, check=True, env=lab.env
    ).stdout
