"""A cluster whose etcd has TLS and users: everybody has exactly the rights that docs/security.md gives them."""

from __future__ import annotations

import json
import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from k8sovs.lab import cluster
from k8sovs.lab.daemon import Daemon
from k8sovs.lab.layout import CONTROL_ADDRESS, OWNER_VARIABLE, Datapath, directory_of, load
from k8sovs.records import Keys
from tests.support.etcd import CommandFailed, EtcdServers
from tests.support.lab import K8SOVS, LabUnderTest, eventually
from tests.support.runtime import Node

LAB_OPTIONS = ("--nodes", "2")
KEYS = Keys("/k8s.ovs.com/ovs/network", "k8ssdn")
DOCUMENT = Path(__file__).parents[2] / "docs" / "security.md"
ROLES = re.search(r"```sh\n(prefix=.*?)```", DOCUMENT.read_text(), re.DOTALL)


class Guarded:
    """The lab's nodes and API server, with another etcd, and our own processes on that."""

    def __init__(self, lab: LabUnderTest, etcd: EtcdServers, directory: Path) -> None:
        assert etcd.certificates is not None
        assert ROLES is not None, "docs/security.md has the commands"
        self._lab = lab
        self._etcd = etcd
        self._passwords = directory
        self._inside = ("nsenter", f"--net=/run/netns/{lab.name}-control", "--")
        self._certificates = {
            "CACERT": str(etcd.certificates.ca),
            "CERT": str(etcd.certificates.client),
            "KEY": str(etcd.certificates.client_key),
        }
        self.nodes = [Node(one) for one in lab.status()["nodes"]]
        for user in ("k8sovs-agent", "k8sovs-controller", "k8sovs-operator", "root"):
            (directory / f"{user}.password").write_text(f"secret-of-{user}\n")
        subprocess.run([*self._inside, "sh", "-euc", ROLES[1]], cwd=directory, env=self._environment(), check=True)

    def etcdctl(self, user: str, *arguments: str) -> str:
        """What a user sees; CommandFailed if it may not."""
        login = [f"--user={user}:{self._password(user)}"] if user else []
        done = subprocess.run(
            [*self._inside, "etcdctl", *login, *arguments], capture_output=True, text=True, env=self._environment()
        )
        if done.returncode:
            raise CommandFailed(done.stderr)
        return done.stdout

    def cli(self, *arguments: str) -> str:
        """`k8sovs` as an operator runs it."""
        environment = os.environ | self._settings("k8sovs-operator")
        done = subprocess.run([*self._inside, K8SOVS, *arguments], capture_output=True, text=True, env=environment)
        assert done.returncode == 0, done.stderr
        return done.stdout

    @contextmanager
    def processes(self) -> Iterator[None]:
        """Two controllers and all agents run while the block does, and the lab's own do not."""
        running = load(directory_of(self._lab.name))
        agents = [cluster.agent(running, node, Datapath.AUTO) for node in running.all_nodes()]
        controllers = cluster.controllers(running)
        for number in range(1, len(controllers) + 1):
            self._lab("stop", "controller", str(number))
        for node in running.all_nodes():
            self._lab("stop", "agent", node.name)
            for remembered in node.state_dir.iterdir():
                remembered.unlink()
        with ExitStack() as stack:
            for user, daemons in (("k8sovs-controller", controllers), ("k8sovs-agent", agents)):
                for daemon in daemons:
                    stack.enter_context(self._process(daemon, user))
            self.logs = [daemon.log_file for daemon in (*controllers, *agents)]
            yield

    @contextmanager
    def _process(self, daemon: Daemon, user: str) -> Iterator[None]:
        owner = {OWNER_VARIABLE: str(directory_of(self._lab.name))}
        environment = os.environ | owner | dict(daemon.env) | self._settings(user)
        with daemon.log_file.open("wb") as log:
            process = subprocess.Popen(daemon.argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=environment)
        try:
            yield
        finally:
            process.terminate()
            process.wait()

    def _settings(self, user: str) -> dict[str, str]:
        return {
            "K8SOVS_ETCD_ENDPOINTS": ",".join(self._etcd.endpoints),
            "K8SOVS_ETCD_CA": self._certificates["CACERT"],
            "K8SOVS_ETCD_CERT": self._certificates["CERT"],
            "K8SOVS_ETCD_KEY": self._certificates["KEY"],
            "K8SOVS_ETCD_USER": user,
            "K8SOVS_ETCD_PASSWORD_FILE": str(self._passwords / f"{user}.password"),
        }

    def _environment(self) -> Mapping[str, str]:
        options = {"ENDPOINTS": ",".join(self._etcd.endpoints), **self._certificates}
        return os.environ | {"ETCDCTL_API": "3"} | {f"ETCDCTL_{name}": value for name, value in options.items()}

    def _password(self, user: str) -> str:
        return (self._passwords / f"{user}.password").read_text().strip()


@pytest.fixture(scope="module")
def guarded(lab: LabUnderTest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Guarded]:
    inside = ("nsenter", f"--net=/run/netns/{lab.name}-control", "--")
    with EtcdServers(tls=True, address=str(CONTROL_ADDRESS), prefix=inside) as etcd:
        guarded = Guarded(lab, etcd, tmp_path_factory.mktemp("passwords"))
        with guarded.processes():
            for namespace in ("red", "blue"):
                lab.run("kubectl", "create", "namespace", namespace)
            for node in guarded.nodes:
                eventually(lambda node=node: node.status() == 0, f"the agent of {node.name} is ready", deadline_s=30)
            yield guarded


def test_pods_come_and_a_join_is_carried_out_with_these_rights_and_nobody_is_denied_anything(guarded: Guarded) -> None:
    here, there = guarded.nodes
    with here.attached("red") as (red, _), there.attached("red") as (_, comrade), there.attached("blue") as (_, blue):
        eventually(lambda: red.reaches(comrade.address), "pods of one namespace reach each other")
        assert not red.reaches(blue.address)
        guarded.cli("net", "join", "red", "blue", "--wait")
        eventually(lambda: red.reaches(blue.address), "the agents have heard of the join")
    said = "".join(log.read_text() for log in guarded.logs)
    assert "ready" in said
    assert not re.search("permission|denied|authenticat", said, re.IGNORECASE)


WRITES = {
    "k8sovs-agent": (KEYS.config, KEYS.vnid("red"), KEYS.netnamespace("red"), f"{KEYS.subnets}192.0.2.99", "/x"),
    "k8sovs-controller": ("/x", "/k8s.ovs.com/ovs/networks"),
    "k8sovs-operator": (KEYS.config, KEYS.vnid("red"), KEYS.leader, KEYS.vni_cursor, "/x"),
    "": (KEYS.netnamespace("red"),),
}
READS = {
    "k8sovs-agent": (KEYS.netnamespace("red"), KEYS.leader, KEYS.vni_cursor, "/x"),
    "k8sovs-controller": ("/x",),
    "": (KEYS.config,),
}


@pytest.mark.parametrize(("user", "key"), [(user, key) for user, keys in WRITES.items() for key in keys])
def test_nobody_writes_what_is_anothers(guarded: Guarded, user: str, key: str) -> None:
    with pytest.raises(CommandFailed, match=r"permission denied|user name is empty"):
        guarded.etcdctl(user, "put", key, "{}")


@pytest.mark.parametrize(("user", "key"), [(user, key) for user, keys in READS.items() for key in keys])
def test_nobody_reads_what_is_none_of_their_business(guarded: Guarded, user: str, key: str) -> None:
    with pytest.raises(CommandFailed, match=r"permission denied|user name is empty"):
        guarded.etcdctl(user, "get", key)


def test_an_operator_acts_with_etcdctl_too(guarded: Guarded) -> None:
    record = {"NetName": "blue", "NetID": 0, "Action": "global", "Namespace": ""}
    guarded.etcdctl("k8sovs-operator", "put", KEYS.netnamespace("blue"), json.dumps(record))

    def done() -> bool:
        found = json.loads(guarded.etcdctl("k8sovs-operator", "get", "--print-value-only", KEYS.netnamespace("blue")))
        return bool(found["Action"] == "" and found["NetID"] == 0)

    eventually(done, "blue is global")
