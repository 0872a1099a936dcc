"""Edge hosts as records: added and removed with the command line and with etcdctl, answered by a real controller."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address, IPv4Network

import pytest

from k8sovs import edge
from k8sovs.etcd import Etcd, EtcdConfig, Put
from k8sovs.net import NetError
from k8sovs.records import NODE_MARK, Keys, NetworkConfig, SubnetRecord
from tests.support.apiserver import ApiServerProcess
from tests.support.controllers import KEYS, NETWORK, Site, eventually
from tests.support.etcd import EtcdServers

LB, LB_KEY = "192.0.2.199", f"{KEYS.subnets}192.0.2.199"
FIRST_SUBNET = "172.11.0.0/22"


@pytest.fixture(scope="module")
def etcd() -> Iterator[EtcdServers]:
    with EtcdServers() as servers:
        yield servers


@pytest.fixture(scope="module")
def cluster(etcd: EtcdServers, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    with ApiServerProcess(tmp_path_factory.mktemp("api")) as api:
        site = Site(etcd, api)
        with site.controller():
            yield site


@pytest.fixture
def site(cluster: Site) -> Iterator[Site]:
    """The cluster, without nodes and hosts."""
    yield cluster
    cluster.etcd.etcdctl("del", KEYS.subnets, "--prefix")


def listed(site: Site) -> list[dict[str, object]]:
    hosts: list[dict[str, object]] = json.loads(site.cli("edge", "ls", "--json").stdout)
    return hosts


def refused(site: Site, *arguments: str) -> str:
    """The one line with which a command fails."""
    done = site.cli(*arguments)
    assert (done.returncode, done.stdout) == (1, "")
    (line,) = done.stderr.splitlines()
    return line


def test_an_asking_record_that_etcdctl_puts_is_given_a_subnet(site: Site) -> None:
    site.etcd.put(LB_KEY, '{"Host":"sdn-test4","HostIP":"192.0.2.199","Subnet":"","Assign":true}')
    eventually(lambda: (site.json(LB_KEY) or {})["Subnet"])
    assert site.json(LB_KEY) == {"Host": "sdn-test4", "HostIP": LB, "Subnet": FIRST_SUBNET, "Assign": False}
    assert listed(site) == [{"name": "sdn-test4", "address": LB, "subnet": FIRST_SUBNET, "problem": ""}]


def test_add_waits_for_the_subnet_and_rm_takes_it_back(site: Site) -> None:
    added = site.cli("edge", "add", LB, "--name", "lb1", "--wait")
    assert (added.returncode, added.stderr) == (0, "")
    assert f"lb1 at {LB}: has subnet {FIRST_SUBNET}" in added.stdout
    assert site.cli("edge", "rm", LB).returncode == 0
    assert site.json(LB_KEY) is None
    assert listed(site) == []
    site.cli("edge", "add", "192.0.2.198", "--wait")
    assert listed(site) == [{"name": "192.0.2.198", "address": "192.0.2.198", "subnet": FIRST_SUBNET, "problem": ""}]


def test_records_that_cannot_be_served_are_listed_with_the_reason(site: Site) -> None:
    bad = {
        "172.11.5.5": ('{"Host":"a","HostIP":"172.11.5.5","Subnet":"","Assign":true}', "inside Network"),
        "192.0.2.200": ('{"Host":"b","HostIP":"192.0.2.201","Subnet":"","Assign":true}', "the key disagree"),
        "192.0.2.202": ('{"Host":"c","HostIP":"192.0.2.202","Assign":1}', "Assign must be true or false"),
        "192.0.2.203": ('{"Host":"d","Subnet":"172.12.0.0/22"}', "write Assign true to get one"),
        "../x": ('{"Host":"e","Assign":true}', "does not lie directly in subnets/"),
    }
    for key, (record, _) in bad.items():
        site.etcd.put(f"{KEYS.subnets}{key}", record)

    def problems() -> dict[str, str]:
        found = {str(host["address"]): str(host["problem"]) for host in listed(site) if host["subnet"] is None}
        return found if all(found.values()) else {}

    told = eventually(problems)
    assert told.keys() == bad.keys()
    assert [key for key, (_, reason) in bad.items() if reason not in told[key]] == []


def test_a_host_for_which_no_subnet_is_left_is_told_so_and_served_when_one_is_free(site: Site) -> None:
    for number in range(64):
        site.etcd.put(f"{KEYS.subnets}192.0.2.{number}", f'{{"Host":"h{number}","Subnet":"172.11.{4 * number}.0/22"}}')
    assert "no subnet is free" in refused(site, "edge", "add", LB, "--wait")
    assert site.cli("edge", "rm", "192.0.2.7").returncode == 0
    eventually(lambda: (site.json(LB_KEY) or {})["Subnet"] == "172.11.28.0/22")


OTHER = Keys("/no/controller/here", "k8ssdn")
NODE1 = SubnetRecord("node1", IPv4Address("192.0.2.11"), IPv4Network("172.11.0.0/22"), extra=(NODE_MARK,))
LB1 = SubnetRecord("lb1", IPv4Address(LB), IPv4Network("172.11.4.0/22"))


@pytest.fixture
async def store(etcd: EtcdServers) -> AsyncIterator[Etcd]:
    """The records of a node and of a host, which no controller sees."""
    etcd.etcdctl("del", OTHER.prefix, "--prefix")
    async with Etcd(EtcdConfig(etcd.endpoints)) as store:
        await store.transact([], [Put(OTHER.subnet(each.host_ip), each.encode()) for each in (NODE1, LB1)])
        yield store


@pytest.mark.parametrize(
    ("address", "name", "reason"),
    [
        (LB, "lb1", f"{LB} is host lb1 already, with subnet 172.11.4.0/22"),
        ("192.0.2.11", "lb2", "192.0.2.11 is node node1 of Kubernetes"),
        ("192.0.2.198", "lb1", f"the host at {LB} is called lb1 already"),
        ("192.0.2.198", "node1", "the host at 192.0.2.11 is called node1 already"),
        ("192.0.2.198", "a b", "cannot be the name of a host"),
        ("192.0.2.198", "", "cannot be the name of a host"),
        ("224.0.0.1", "lb2", "must be the address of a host, not '224.0.0.1'"),
        ("0.0.0.0", "lb2", "must be the address of a host, not '0.0.0.0'"),
        ("127.0.0.1", "lb2", "must be the address of a host, not '127.0.0.1'"),
        ("169.254.3.4", "lb2", "must be the address of a host, not '169.254.3.4'"),
        ("255.255.255.255", "lb2", "must be the address of a host, not '255.255.255.255'"),
        ("172.11.5.5", "lb2", "inside Network 172.11.0.0/16"),
        ("10.96.0.10", "lb2", "inside ServiceNetwork 10.96.0.0/12"),
    ],
)
async def test_what_would_be_refused_is_not_asked_for(store: Etcd, address: str, name: str, reason: str) -> None:
    config = NetworkConfig.parse("config", json.dumps(NETWORK).encode())
    before = await store.list(OTHER.subnets)
    with pytest.raises(NetError, match=reason):
        await edge.add(store, OTHER, config, IPv4Address(address), name)
    assert (await store.list(OTHER.subnets)).items == before.items


@pytest.mark.parametrize(
    ("address", "reason"),
    [
        ("192.0.2.11", "192.0.2.11 is node node1 of Kubernetes, no edge host"),
        ("192.0.2.198", "there is no host 192.0.2.198"),
    ],
)
async def test_only_an_edge_host_is_removed(store: Etcd, address: str, reason: str) -> None:
    with pytest.raises(NetError, match=reason):
        await edge.remove(store, OTHER, IPv4Address(address))
    assert (await store.list(OTHER.subnets)).items.keys() == {OTHER.subnet(each.host_ip) for each in (NODE1, LB1)}


def test_of_operators_who_add_one_host_at_once_one_is_answered_and_the_others_are_told(site: Site) -> None:
    names = ("lb1", "lb2", "lb3")
    with ThreadPoolExecutor(len(names)) as operators:
        done = dict(
            zip(names, operators.map(lambda name: site.cli("edge", "add", LB, "--name", name), names), strict=True)
        )
    (served,) = [name for name, one in done.items() if one.returncode == 0]
    for name, one in done.items():
        if name != served:
            assert len(one.stderr.splitlines()) == 1
            assert (
                "has been written by somebody else meanwhile" in one.stderr or f"is host {served} already" in one.stderr
            )
    eventually(lambda: [host["name"] for host in listed(site) if host["subnet"]] == [served])


def test_fields_that_nobody_knows_are_kept_in_the_record_of_a_host(site: Site) -> None:
    strange = {"Rack": {"row": "g\u00fc", "slots": [1, 2.5, None]}}
    asking = {"Host": "sdn-test4", "HostIP": LB, "Subnet": "", "Assign": True, **strange}
    site.etcd.put(LB_KEY, json.dumps(asking))
    eventually(lambda: (site.json(LB_KEY) or {})["Subnet"])
    assert site.json(LB_KEY) == {**asking, "Subnet": FIRST_SUBNET, "Assign": False}


async def test_a_node_is_not_listed_among_the_edge_hosts(store: Etcd) -> None:
    assert [host.host for host in await edge.hosts(store, OTHER)] == ["lb1"]
