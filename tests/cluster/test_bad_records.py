"""What anybody with access to etcd may write: nobody crashes, nothing moves, and what is ours is put right again."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import pytest

from k8sovs.records import Keys
from tests.support.lab import K8SOVS, LabUnderTest, eventually
from tests.support.runtime import Node
from tests.support.traces import traces

LAB_OPTIONS = ("--nodes", "2")

KEYS = Keys("/k8s.ovs.com/ovs/network", "k8ssdn")
HUGE, LONG = "x" * 1_000_000, "x" * 15_000  # above and below what a record may have


class Cluster:
    """A lab's records, its processes, and what its nodes forward by."""

    def __init__(self, lab: LabUnderTest) -> None:
        status = lab.status()
        self._env = lab.env
        self._processes = [one["pid"] for one in status["controllers"]] + [one["agent_pid"] for one in status["nodes"]]
        self.nodes = [Node(one) for one in status["nodes"]]

    def etcdctl(self, *argv: str, stdin: str | None = None) -> str:
        done = subprocess.run(
            ["etcdctl", *argv], input=stdin, capture_output=True, text=True, timeout=20, env=self._env, check=True
        )
        return done.stdout

    def put(self, key: str, value: str) -> None:
        """Whatever it is: by standard input, because it may be longer than an argument can be."""
        self.etcdctl("put", key, stdin=value or "\0")

    def get(self, key: str) -> str:
        return self.etcdctl("get", key, "--print-value-only").rstrip("\n")

    def record(self, key: str) -> dict[str, object]:
        found: dict[str, object] = json.loads(self.get(key))
        return found

    def records(self) -> dict[str, str]:
        """All keys but those of the election, whose name is a lease."""
        lines = self.etcdctl("get", KEYS.config.removesuffix("config"), "--prefix", "--order=ASCEND").splitlines()
        pairs = dict(zip(lines[::2], lines[1::2], strict=True))
        return {key: value for key, value in pairs.items() if not key.startswith(KEYS.leader)}

    def state(self) -> tuple[object, ...]:
        """Records, what the nodes forward by, and the processes of ours that run."""
        records = {key: value for key, value in self.records().items() if key != KEYS.netnamespace("red")}
        return (
            [pid for pid in self._processes if Path("/proc", str(pid)).exists()],
            records,
            [traces(node) for node in self.nodes],
        )

    def cli(self, *argv: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run([K8SOVS, *argv], capture_output=True, text=True, timeout=30, env=self._env, check=False)


@pytest.fixture(scope="module")
def cluster(lab: LabUnderTest) -> Iterator[Cluster]:
    """Two namespaces with a pod on each node."""
    for namespace in ("red", "blue"):
        lab.run("kubectl", "create", "namespace", namespace)
    cluster = Cluster(lab)
    first, second = cluster.nodes
    with first.attached("red"), first.attached("blue"), second.attached("red"), second.attached("blue"):
        yield cluster


@pytest.fixture(scope="module")
def before(cluster: Cluster) -> tuple[object, ...]:
    return cluster.state()


@pytest.fixture
def kept(cluster: Cluster, before: tuple[object, ...]) -> Iterator[None]:
    """Everything is the same afterwards, and no process had to start again."""
    yield
    with suppress(AssertionError):
        eventually(lambda: cluster.state() == before, "everything is as it was", deadline_s=5)
    assert cluster.state() == before


JUNK = {
    "empty": "",
    "no-json": "not json",
    "list": "[]",
    "deep": "[" * 50_000,
    "huge": HUGE,
    "half-a-character": '{"NetName": "\\ud800", "Host": "\\ud800", "Send": "\\ud800", "Name": "\\ud800"}',
}
NAMESPACE_RECORDS = JUNK | {
    "long-name": json.dumps({"NetName": LONG}),
    "long-action": json.dumps({"NetName": "red", "Action": LONG}),
    "id-below-zero": '{"NetName": "red", "NetID": -1}',
    "reserved-id": '{"NetName": "red", "NetID": 5}',
    "id-too-large": '{"NetName": "red", "NetID": 16777216}',
    "id-of-another": '{"NetName": "red", "NetID": 11}',
    "id-in-words": '{"NetName": "red", "NetID": "ten"}',
    "endless-id": '{"NetName": "red", "NetID": 1e999}',
    "name-of-another": '{"NetName": "blue", "NetID": 10}',
    "unknown-action": '{"NetName": "red", "Action": "explode"}',
    "action-of-a-kind": '{"NetName": "red", "Action": {"join": "blue"}}',
    "join-nobody": '{"NetName": "red", "Action": "join"}',
    "join-a-path": '{"NetName": "red", "Action": "join", "Namespace": "../vnids/blue"}',
    "join-itself": '{"NetName": "red", "Action": "join", "Namespace": "red"}',
}
NODE_RECORDS = JUNK | {
    "outside-the-network": '{"Host": "node1", "HostIP": "192.0.2.11", "Subnet": "10.1.0.0/22"}',
    "another-nodes": '{"Host": "node1", "HostIP": "192.0.2.11", "Subnet": "172.11.4.0/22"}',
    "the-whole-network": '{"Host": "node1", "HostIP": "192.0.2.11", "Subnet": "172.11.0.0/16"}',
    "host-bits": '{"Host": "node1", "HostIP": "192.0.2.11", "Subnet": "172.11.0.1/22"}',
    "none": '{"Host": "node1", "HostIP": "192.0.2.11", "Subnet": ""}',
    "ipv6": '{"Host": "node1", "HostIP": "192.0.2.11", "Subnet": "2001:db8::/64"}',
}
STRANGERS_RECORDS = {
    "a-nodes-subnet": '{"Host": "evil", "HostIP": "192.0.2.99", "Subnet": "172.11.4.0/22"}',
    "the-whole-network": '{"Host": "evil", "HostIP": "192.0.2.99", "Subnet": "172.11.0.0/16"}',
    "everything": '{"Host": "evil", "HostIP": "192.0.2.99", "Subnet": "0.0.0.0/0"}',
    "a-nodes-name": '{"Host": "node1", "HostIP": "192.0.2.99", "Subnet": "172.11.0.0/22"}',
    "a-nodes-address": '{"Host": "evil", "HostIP": "192.0.2.11", "Subnet": "172.11.16.0/22"}',
    "no-json": "not json",
    "huge": HUGE,
}
MISPLACED = (
    "netnamespaces/",
    "netnamespaces/red/x",
    "netnamespaces/RED",
    "vnids/../red",
    "vnids/",
    "subnets/node1",
    "x",
)


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("value", NAMESPACE_RECORDS.values(), ids=NAMESPACE_RECORDS)
def test_a_namespaces_record_is_put_right_whatever_is_written(cluster: Cluster, value: str) -> None:
    key, send = KEYS.netnamespace("red"), cluster.record(KEYS.vnid("red"))["Send"]
    cluster.put(key, value)
    eventually(lambda: cluster.get(key).startswith(f'{{"NetName":"red","NetID":{send},"Action":""'), "it is put right")
    assert len(cluster.get(key)) < 1000


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("value", JUNK.values(), ids=JUNK)
def test_what_the_controller_owns_is_put_right(cluster: Cluster, value: str) -> None:
    keys = (KEYS.vnid("red"), KEYS.vnid("default"), KEYS.config, KEYS.vni_cursor)
    before = [cluster.get(key) for key in keys]
    for key in keys:
        cluster.put(key, value)
    eventually(lambda: [cluster.get(key) for key in keys] == before, "it is as it was")


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("value", NODE_RECORDS.values(), ids=NODE_RECORDS)
def test_a_nodes_record_is_put_right_and_its_pods_notice_nothing(cluster: Cluster, value: str) -> None:
    key = KEYS.subnet("192.0.2.11")
    before = cluster.record(key)
    cluster.put(key, value)
    eventually(lambda: cluster.get(key).startswith('{"Host":') and cluster.record(key) == before, "it is as it was")


@pytest.mark.usefixtures("kept")
@pytest.mark.parametrize("value", STRANGERS_RECORDS.values(), ids=STRANGERS_RECORDS)
def test_a_strangers_record_takes_no_nodes_place(cluster: Cluster, value: str) -> None:
    key, nodes = KEYS.subnet("192.0.2.99"), [cluster.record(KEYS.subnet(node.address)) for node in cluster.nodes]
    cluster.put(key, value)
    try:
        eventually(lambda: _problem(cluster, "192.0.2.99"), "status says what is wrong with it")
        assert [cluster.record(KEYS.subnet(node.address)) for node in cluster.nodes] == nodes
    finally:
        cluster.etcdctl("del", key)


def _problem(cluster: Cluster, address: str) -> str | None:
    """What `k8sovs status` says of the host at `address`."""
    hosts = json.loads(cluster.cli("status", "--json").stdout)["nodes"]
    return next((host["problem"] for host in hosts if host["address"] == address), None)


@pytest.mark.usefixtures("kept")
def test_keys_that_mean_nothing_do_no_harm(cluster: Cluster) -> None:
    keys = [f"{KEYS.network}{name}" for name in MISPLACED]
    for key in keys:
        cluster.put(key, '{"NetName": "red", "NetID": 12, "Action": "global", "Send": 0, "Accept": [0]}')
    try:
        done = cluster.cli("net", "join", "red", "red", "--wait")
        assert done.returncode == 1
        assert "cannot join itself" in done.stderr
    finally:
        for key in keys:
            cluster.etcdctl("del", key)


def test_fields_that_nobody_knows_are_kept(cluster: Cluster, lab: LabUnderTest) -> None:
    lab.run("kubectl", "create", "namespace", "green")
    eventually(lambda: cluster.get(KEYS.vnid("green")), "it has an id")
    key = KEYS.netnamespace("green")
    strange = {"Team": {"name": "g\u00fcte", "size": [1, 2.5, None]}}
    for fields in ({"NetID": 5}, {"Action": "join", "Namespace": "nobody"}, {"Action": "isolate"}):
        cluster.put(key, json.dumps({"NetName": "green", **strange, **fields}))
        eventually(lambda: cluster.record(key).get("NetID", 5) != 5 and not cluster.record(key)["Action"], "it is done")
        assert strange.items() <= cluster.record(key).items()


def test_of_operators_who_write_one_record_at_once_each_gets_an_answer_that_is_true(
    cluster: Cluster, lab: LabUnderTest
) -> None:
    lab.run("kubectl", "create", "namespace", "many")
    eventually(lambda: cluster.get(KEYS.vnid("many")), "it has an id")
    asked = [("join", "many", "red"), ("isolate", "many"), ("global", "many")]
    with ThreadPoolExecutor(len(asked)) as operators:
        done = list(operators.map(lambda words: cluster.cli("net", *words, "--wait"), asked))
    assert [(one.returncode, one.stderr) for one in done] == [(0, "")] * len(asked)
    assert all("complete, NetID" in one.stdout for one in done)
    record, tenancy = cluster.record(KEYS.netnamespace("many")), cluster.record(KEYS.vnid("many"))
    assert (record["NetID"], record["Action"]) == (tenancy["Send"], "")
    assert tenancy["Accept"] == [tenancy["Send"]]
    assert any(f"NetID {tenancy['Send']} " in one.stdout for one in done)


def test_writes_over_each_other_end_in_one_of_them(cluster: Cluster, lab: LabUnderTest) -> None:
    lab.run("kubectl", "create", "namespace", "torn")
    eventually(lambda: cluster.get(KEYS.vnid("torn")), "it has an id")
    key = KEYS.netnamespace("torn")
    actions = [("join", "red"), ("global", ""), ("isolate", ""), ("join", "nobody"), ("join", "blue")] * 4

    def write(action: tuple[str, str]) -> None:
        cluster.put(key, json.dumps({"NetName": "torn", "Action": action[0], "Namespace": action[1]}))

    with ThreadPoolExecutor(5) as operators:
        list(operators.map(write, actions))
    cluster.put(key, json.dumps({"NetName": "torn", "Action": "join", "Namespace": "blue"}))  # the last word
    blue = cluster.record(KEYS.vnid("blue"))
    eventually(lambda: cluster.record(KEYS.vnid("torn")) == blue, "the last word holds")
    assert (cluster.record(key)["NetID"], cluster.record(key)["Action"]) == (blue["Send"], "")
