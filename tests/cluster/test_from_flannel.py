"""A cluster leaves another pod network node by node, as docs/from-flannel.md has it.

The other network is what Flannel makes with its host-gw backend: the reference `bridge` plugin with `host-local`, a
route to each other node's subnet, and masquerading towards everybody else.
"""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.support.cni import environment
from tests.support.events import wait_ready
from tests.support.lab import LabUnderTest, eventually
from tests.support.namespaces import Sandbox
from tests.support.removal import uninstall
from tests.support.runtime import Node, Pod

pytestmark = pytest.mark.timeout(120)

LAB_OPTIONS = ("--nodes", "2")
PLUGIN = Path("/usr/lib/cni/bridge")
FLANNEL = "10.244.0.0/16"
SUBNETS = {"node1": "10.244.1.0/24", "node2": "10.244.2.0/24"}


class Flannel:
    """The other network's part on one node."""

    def __init__(self, node: Node, other: Node, data: Path) -> None:
        self.node = node
        self._conf = {
            **{"cniVersion": "1.0.0", "name": "cbr0", "type": "bridge", "bridge": "cni0", "isGateway": True},
            "ipam": {
                **{"type": "host-local", "subnet": SUBNETS[node.name], "dataDir": str(data / node.name)},
                "routes": [{"dst": "0.0.0.0/0"}],
            },
        }
        node.execute("sysctl", "-w", "net.ipv4.ip_forward=1")
        node.execute("ip", "route", "add", SUBNETS[other.name], "via", other.address)
        chain = "table ip flannel { chain postrouting { type nat hook postrouting priority srcnat; "
        node.execute("nft", f"{chain} ip saddr {FLANNEL} ip daddr != {FLANNEL} masquerade; }}; }}")

    @contextmanager
    def pod(self) -> Iterator[tuple[Pod, str]]:
        """A pod, and its address."""
        with Sandbox() as sandbox:
            pod = Pod("red", "old", sandbox)
            added = json.loads(self._call("ADD", pod))
            try:
                yield pod, added["ips"][0]["address"].partition("/")[0]
            finally:
                self._call("DEL", pod)

    def leave(self) -> None:
        """What an operator does on a node that was drained; the way to the nodes that wait stays."""
        self.node.execute("ip", "link", "del", "cni0")
        self.node.execute("nft", "delete", "table", "ip", "flannel")

    def _call(self, command: str, pod: Pod) -> str:
        variables = {
            **environment(command, pod.container_id, CNI_NETNS=pod.sandbox.path),
            "CNI_PATH": str(PLUGIN.parent),
        }
        done = subprocess.run(
            self.node.command(str(PLUGIN)),
            **{"input": json.dumps(self._conf), "env": os.environ | variables},
            capture_output=True,
            text=True,
            timeout=30,
            check=False,
        )
        assert done.returncode == 0, done.stdout
        return done.stdout


def now(lab: LabUnderTest, name: str) -> Node:
    status = next(one for one in lab.status()["nodes"] if one["name"] == name)
    return Node({**status, "cni_conf": status["cni_conf"] or "/none"})


@pytest.fixture
def flannels(lab: LabUnderTest, tmp_path: Path) -> dict[str, Flannel]:
    """A cluster that has never seen us."""
    for namespace in ("red", "blue"):
        lab.run("kubectl", "create", "namespace", namespace)
    nodes = {name: now(lab, name) for name in SUBNETS}
    for name, node in nodes.items():
        lab("stop", "agent", name)
        assert uninstall(node).returncode == 0
    one, two = nodes.values()
    return {"node1": Flannel(one, two, tmp_path), "node2": Flannel(two, one, tmp_path)}


def move(lab: LabUnderTest, flannel: Flannel) -> Node:
    """One node, which was drained."""
    flannel.leave()
    lab("start", "agent", flannel.node.name)
    eventually(lambda: now(lab, flannel.node.name).executable.exists(), "the agent has installed itself")
    eventually(lambda: lab.status()["nodes"][int(flannel.node.name[-1]) - 1]["cni_conf"], "and its configuration")
    node = now(lab, flannel.node.name)
    wait_ready(node)
    return node


def test_a_cluster_moves_node_by_node_and_the_border_is_where_the_page_says(
    lab: LabUnderTest, flannels: dict[str, Flannel]
) -> None:
    first, second = flannels.values()
    with ExitStack() as waiting:
        old, old_address = waiting.enter_context(second.pod())
        with first.pod() as (drained, drained_address):
            assert old.reaches(drained_address), "it is one network before"
            assert drained.reaches(old_address)

        node1 = move(lab, first)
        with node1.attached("red", "a") as (moved, answer), node1.attached("blue", "b") as (stranger, _):
            eventually(lambda: moved.reaches(old_address), "out of the new network into the old one: as the node")
            assert stranger.reaches(old_address), "whoever it is: the old network has no tenants"
            assert not old.reaches(answer.address), "nothing leads from the old network into the new one"
            assert not stranger.reaches(answer.address, "-W0.3")
            assert old.reaches(node1.address)
            assert moved.reaches(second.node.address)

    node2 = move(lab, second)
    with node1.attached("red", "a") as (one, _), node2.attached("red", "c") as (_, there):
        eventually(lambda: one.reaches(there.address), "it is one network again")
        with node2.attached("blue", "d") as (stranger, _):
            assert not stranger.reaches(there.address, "-W0.3")
    for flannel in (first, second):
        assert "cni0" not in flannel.node.execute("ip", "link")
