"""What the agent makes of the cluster's records: from a real etcd, from its file, and from values that are nonsense."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from agent.cluster import ClusterSource, ClusterView
from agent.identity import NodeMoved, wait_identity, watch_identity
from agent.snapshot import Identity, peers
from agent.snapshot_file import SnapshotFile
from agent.tenancy import NoTenancy, wait_tenancy
from flows.snapshot import Tenancy
from k8sovs.config import AgentSettings, Name
from k8sovs.etcd import Etcd, EtcdConfig
from k8sovs.records import VnidRecord
from tests.support.etcd import EtcdServers

DEADLINE_S = 20.0
PREFIX = "/subnets/vnids/test"  # words that the records' own keys have too
NETWORK = {
    "Name": "k8ssdn",
    "Network": "172.11.0.0/16",
    "HostSubnetLength": 10,
    "ServiceNetwork": "10.96.0.0/12",
    "PluginName": "k8s-ovs-multitenant",
}
CONFIG = f"{PREFIX}/config"
SUBNETS = f"{PREFIX}/k8ssdn/subnets"
VNIDS = f"{PREFIX}/k8ssdn/vnids"
NODE1 = {"Host": "node1", "HostIP": "192.0.2.11", "Subnet": "172.11.0.0/22", "Assign": False}
NODE2 = {"Host": "node2", "HostIP": "192.0.2.12", "Subnet": "172.11.4.0/22", "Assign": False}
RED = {"Send": 10, "Accept": [10]}


@pytest.fixture(scope="module")
def one_server() -> Iterator[EtcdServers]:
    with EtcdServers() as running:
        yield running


@pytest.fixture
def etcd(one_server: EtcdServers) -> EtcdServers:
    """An etcd with the records of two nodes and one namespace."""
    one_server.clear()
    put(one_server, CONFIG, NETWORK)
    put(one_server, f"{SUBNETS}/192.0.2.11", NODE1)
    put(one_server, f"{SUBNETS}/192.0.2.12", NODE2)
    put(one_server, f"{VNIDS}/red", RED)
    return one_server


def put(etcd: EtcdServers, key: str, value: object) -> None:
    etcd.put(key, json.dumps(value))


class Agent:
    """The part of an agent that follows the records."""

    def __init__(self, cluster: ClusterSource, malformed: list[str]) -> None:
        self.cluster = cluster
        self.malformed = malformed

    @property
    def view(self) -> ClusterView:
        assert self.cluster.view is not None
        return self.cluster.view

    async def until(self, condition: Callable[[ClusterView], object]) -> ClusterView:
        """The first view of which `condition` holds."""
        async with asyncio.timeout(DEADLINE_S):
            while self.cluster.view is None or not condition(self.cluster.view):
                await self.cluster.changed.wait_beyond(self.cluster.changed.count)
        return self.view


@asynccontextmanager
async def following(endpoints: tuple[str, ...], file: Path) -> AsyncIterator[Agent]:
    malformed: list[str] = []
    async with Etcd(EtcdConfig(endpoints), timeout=1.0) as store:
        cluster = ClusterSource(store, PREFIX, SnapshotFile(file), malformed.append, save_interval_s=0.01)
        cluster.restore()
        running = asyncio.create_task(cluster.run())
        try:
            yield Agent(cluster, malformed)
        finally:
            running.cancel()
            await asyncio.wait({running})


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "cluster.json"


@pytest.fixture
async def agent(etcd: EtcdServers, file: Path) -> AsyncIterator[Agent]:
    async with following(etcd.endpoints, file) as agent:
        await agent.until(lambda view: view.live)
        yield agent


def content(file: Path) -> str:
    return file.read_text() if file.exists() else ""


async def saved(file: Path, condition: Callable[[str], object]) -> None:
    """Wait until `condition` holds of the file's text."""
    async with asyncio.timeout(DEADLINE_S):
        while not condition(content(file)):  # noqa: ASYNC110 - nobody tells when it is written
            await asyncio.sleep(0.01)


@pytest.fixture
async def remembered(etcd: EtcdServers, file: Path) -> Path:
    """The file of an agent that knew everything."""
    async with following(etcd.endpoints, file):
        await saved(file, lambda text: "vnids/red" in text)
    return file


def settings(address: IPv4Address | None = None) -> AgentSettings:
    return AgentSettings(node_name=Name("node1"), node_address=address)


async def test_the_view_has_what_etcd_has(agent: Agent) -> None:
    assert {record.host for record in agent.view.subnets.values()} == {"node1", "node2"}
    assert agent.view.tenancies == {"red": VnidRecord(10, frozenset({10}))}
    assert agent.view.config.network == IPv4Network("172.11.0.0/16")


async def test_a_change_and_a_deletion_arrive(agent: Agent, etcd: EtcdServers) -> None:
    put(etcd, f"{VNIDS}/red", {"Send": 10, "Accept": [10, 11]})
    view = await agent.until(lambda view: view.tenancies["red"].accept != {10})
    assert view.tenancies["red"].accept == {10, 11}
    etcd.etcdctl("del", f"{SUBNETS}/192.0.2.12")
    await agent.until(lambda view: view.subnet_of("node2") is None)


@pytest.mark.parametrize(
    ("key", "value", "kind"),
    [
        (f"{VNIDS}/red", " ", "vnid"),
        (f"{VNIDS}/red", "not json", "vnid"),
        (f"{VNIDS}/red", '{"Send": true, "Accept": [10]}', "vnid"),
        (f"{VNIDS}/red", '{"Send": 16777216, "Accept": [10]}', "vnid"),
        (f"{VNIDS}/red", "[" * 100_000, "vnid"),
        (f"{SUBNETS}/192.0.2.12", "x" * 1_000_000, "subnet"),
        (f"{SUBNETS}/192.0.2.12", json.dumps({**NODE2, "HostIP": "192.0.2.99"}), "subnet"),
        (CONFIG, "{}", "config"),
    ],
    ids=["empty", "no-json", "boolean", "out-of-range", "deep", "long", "misplaced", "config"],
)
async def test_a_malformed_record_is_counted_and_leaves_the_last_good_one(
    agent: Agent, etcd: EtcdServers, key: str, value: str, kind: str
) -> None:
    before = agent.view
    etcd.put(key, value)
    view = await agent.until(lambda _: agent.malformed)
    assert agent.malformed == [kind]
    assert (view.config, view.subnets, view.tenancies["red"]) == (
        before.config,
        before.subnets,
        before.tenancies["red"],
    )


async def test_a_malformed_record_at_the_start_leaves_the_last_good_one_of_the_file(
    etcd: EtcdServers, remembered: Path
) -> None:
    etcd.put(f"{VNIDS}/red", "not json")
    async with following(etcd.endpoints, remembered) as agent:
        view = await agent.until(lambda view: view.live)
        assert view.tenancies["red"] == VnidRecord(10, frozenset({10}))
        assert agent.malformed == ["vnid"]


async def test_a_record_that_claims_the_subnet_of_a_node_pushes_nobody_aside(
    agent: Agent, etcd: EtcdServers, tmp_path: Path
) -> None:
    stranger, moved = f"{SUBNETS}/192.0.2.9", f"{SUBNETS}/192.0.2.11"
    put(etcd, stranger, {"Host": "stranger", "HostIP": "192.0.2.9", "Subnet": "172.11.4.0/22", "Assign": False})
    put(etcd, moved, NODE1 | {"Subnet": "172.11.4.0/22"})
    elsewhere = Identity(IPv4Address("192.0.2.13"), IPv4Network("172.11.8.0/22"), 4789)
    view = await agent.until(lambda view: view.subnets[moved].subnet == IPv4Network("172.11.4.0/22"))
    assert {peer.address for peer in peers(view, elsewhere)} == {IPv4Address("192.0.2.12")}
    async with following(etcd.endpoints, tmp_path / "of another agent") as later:
        view = await later.until(lambda view: view.live)
        assert {peer.address for peer in peers(view, elsewhere)} == {IPv4Address("192.0.2.12")}


async def test_what_was_deleted_while_no_agent_ran_is_gone(etcd: EtcdServers, remembered: Path) -> None:
    etcd.etcdctl("del", f"{VNIDS}/red")
    async with following(etcd.endpoints, remembered) as agent:
        assert "red" in agent.view.tenancies
        view = await agent.until(lambda view: view.live)
        assert "red" not in view.tenancies
        assert set(view.subnets) == {f"{SUBNETS}/192.0.2.11", f"{SUBNETS}/192.0.2.12"}


async def test_without_etcd_the_last_good_records_are_known_and_not_called_live(
    etcd: EtcdServers, remembered: Path
) -> None:
    with etcd.frozen():
        async with following(etcd.endpoints, remembered) as agent:
            assert agent.view.subnet_of("node2") is not None
            assert "red" in agent.view.tenancies
            assert not agent.view.live


async def test_the_file_never_loses_what_etcd_has_not_been_heard_of(etcd: EtcdServers, remembered: Path) -> None:
    before = content(remembered)
    put(etcd, f"{VNIDS}/blue", {"Send": 12, "Accept": [12]})
    async with following(etcd.endpoints, remembered):
        await saved(remembered, lambda text: text != before)
        after = content(remembered)
    assert all(name in after for name in ("config", "192.0.2.11", "192.0.2.12", "vnids/red", "vnids/blue"))


async def test_the_network_configuration_is_waited_for(etcd: EtcdServers, file: Path) -> None:
    etcd.etcdctl("del", CONFIG)
    async with following(etcd.endpoints, file) as agent:
        etcd.put(CONFIG, "nonsense")
        put(etcd, CONFIG, NETWORK)
        view = await agent.until(lambda view: view.live)
        assert "red" in view.tenancies


async def test_the_network_configuration_of_a_running_node_stays(agent: Agent, etcd: EtcdServers) -> None:
    put(etcd, CONFIG, {**NETWORK, "Network": "172.16.0.0/16"})
    etcd.etcdctl("del", CONFIG)
    etcd.put(CONFIG, "nonsense")  # written last: when it has been counted, the others have been seen
    view = await agent.until(lambda _: agent.malformed)
    assert view.config.network == IPv4Network("172.11.0.0/16")


async def test_a_node_is_who_its_record_says(agent: Agent) -> None:
    view, identity = await wait_identity(agent.cluster, settings())
    assert identity == Identity(IPv4Address("192.0.2.11"), IPv4Network("172.11.0.0/22"), 4789)
    assert view is agent.view


async def test_of_several_records_with_a_nodes_name_the_one_with_its_address_is_its_own(
    agent: Agent, etcd: EtcdServers
) -> None:
    put(etcd, f"{SUBNETS}/192.0.2.99", {**NODE1, "HostIP": "192.0.2.99", "Subnet": "172.11.8.0/22"})
    await agent.until(lambda view: f"{SUBNETS}/192.0.2.99" in view.subnets)
    for address, subnet in (("192.0.2.11", "172.11.0.0/22"), ("192.0.2.99", "172.11.8.0/22")):
        _, identity = await wait_identity(agent.cluster, settings(IPv4Address(address)))
        assert (identity.address, identity.subnet) == (IPv4Address(address), IPv4Network(subnet))


async def test_a_node_without_a_subnet_waits_for_one(agent: Agent, etcd: EtcdServers) -> None:
    put(etcd, f"{SUBNETS}/192.0.2.11", {**NODE1, "Subnet": "", "Assign": True})
    await agent.until(lambda view: view.subnet_of("node1") is None)
    waiting = asyncio.create_task(wait_identity(agent.cluster, settings()))
    put(etcd, f"{SUBNETS}/192.0.2.11", {**NODE1, "Subnet": "172.11.8.0/22"})
    async with asyncio.timeout(DEADLINE_S):
        _, identity = await waiting
    assert identity.subnet == IPv4Network("172.11.8.0/22")


async def test_a_node_that_moved_while_no_agent_ran_is_not_who_its_file_says(
    etcd: EtcdServers, remembered: Path
) -> None:
    put(etcd, f"{SUBNETS}/192.0.2.11", {**NODE1, "Subnet": "172.11.8.0/22"})
    async with following(etcd.endpoints, remembered) as agent:
        _, identity = await wait_identity(agent.cluster, settings())
    assert identity.subnet == IPv4Network("172.11.8.0/22")


async def test_without_etcd_a_node_is_who_its_file_says(etcd: EtcdServers, remembered: Path) -> None:
    with etcd.frozen():
        async with following(etcd.endpoints, remembered) as agent, asyncio.timeout(DEADLINE_S):
            _, identity = await wait_identity(agent.cluster, settings())
    assert identity.subnet == IPv4Network("172.11.0.0/22")


async def test_a_node_that_moves_has_to_start_anew(agent: Agent, etcd: EtcdServers) -> None:
    _, identity = await wait_identity(agent.cluster, settings())
    watching = asyncio.create_task(watch_identity(agent.cluster, settings(), identity))
    etcd.etcdctl("del", f"{SUBNETS}/192.0.2.11")
    await agent.until(lambda view: view.subnet_of("node1") is None)
    assert not watching.done(), "a record that is gone is no other record"
    put(etcd, f"{SUBNETS}/192.0.2.11", {**NODE1, "Subnet": "172.11.8.0/22"})
    with pytest.raises(NodeMoved, match=r"172\.11\.8\.0/22"):
        async with asyncio.timeout(DEADLINE_S):
            await watching


async def test_the_tenancy_of_a_namespace_that_the_watch_has_brought_needs_no_etcd(
    agent: Agent, etcd: EtcdServers
) -> None:
    with etcd.frozen():
        assert await wait_tenancy(agent.cluster, "red", DEADLINE_S) == Tenancy(10, frozenset({10}))


async def test_the_tenancy_of_a_namespace_that_the_watch_has_not_brought_is_read(
    etcd: EtcdServers, remembered: Path
) -> None:
    put(etcd, f"{VNIDS}/blue", {"Send": 0, "Accept": [0]})
    async with Etcd(EtcdConfig(etcd.endpoints)) as store:
        cluster = ClusterSource(store, PREFIX, SnapshotFile(remembered), print)  # it never runs, so nothing arrives
        cluster.restore()
        assert await wait_tenancy(cluster, "blue", DEADLINE_S) == Tenancy(0, frozenset({0}))


async def test_the_tenancy_of_a_namespace_that_is_being_made_is_waited_for(agent: Agent, etcd: EtcdServers) -> None:
    waiting = asyncio.create_task(wait_tenancy(agent.cluster, "blue", DEADLINE_S))
    await asyncio.sleep(0)
    put(etcd, f"{VNIDS}/blue", {"Send": 12, "Accept": [12]})
    assert await waiting == Tenancy(12, frozenset({12}))


async def test_a_namespace_that_gets_no_vni_is_told_after_the_deadline(agent: Agent) -> None:
    with pytest.raises(NoTenancy, match=r"namespace nobody got no VNI within 0\.05 s: is a controller leading\?"):
        await wait_tenancy(agent.cluster, "nobody", 0.05)


async def test_a_namespace_nobody_knows_is_told_at_once_when_etcd_is_away(agent: Agent, etcd: EtcdServers) -> None:
    with etcd.frozen(), pytest.raises(NoTenancy, match="namespace nobody is not known here, and etcd cannot be asked"):
        async with asyncio.timeout(DEADLINE_S):
            await wait_tenancy(agent.cluster, "nobody", 3600.0)
