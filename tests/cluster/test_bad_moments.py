"""What goes away in the middle of a call, or before it: the call is answered truly, and nothing half-made stays.

Who repeats a call gets a new chance; but nothing that is left depends on that somebody does.
"""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack

import pytest

from tests.support.lab import LabUnderTest, eventually
from tests.support.processes import hanging
from tests.support.runtime import Node, Pod
from tests.support.traces import traces

LAB_OPTIONS = ("--nodes", "1", "--host-subnet-length", "3")

PODS_THAT_FIT = 5  # of 8 addresses: not the network's, the gateway's, the broadcast
UNKNOWN_CONTAINER, TRY_AGAIN_LATER = 3, 11
GIVES_UP_S = 60.0
"""An ADD waits 20 s for the database, and as long again while it undoes itself; a DEL waits 20 s."""


@pytest.fixture(scope="module")
def first(lab: LabUnderTest) -> Mapping[str, object]:
    lab.run("kubectl", "create", "namespace", "red")
    return traces(Node(lab.status()["nodes"][0]))


@pytest.fixture
def node(lab: LabUnderTest, first: Mapping[str, object]) -> Iterator[Node]:
    """The node as it is now; afterwards it has to be as it was at first."""
    node = Node(lab.status()["nodes"][0])
    yield node
    eventually(lambda: node.status() == 0, "the agent goes on")
    eventually(lambda: traces(node) == first, "nothing is left")
    with ExitStack() as pods:
        for number in range(PODS_THAT_FIT):
            pods.enter_context(node.attached("red", f"all{number}"))
    eventually(lambda: traces(node) == first, "nothing is left")


def ended(
    call: Node, command: str, pod: Pod, conf: Mapping[str, object] | None = None
) -> tuple[int, Mapping[str, object]]:
    """Exit status and error of a call that takes its time."""
    process = call.start(command, pod, conf)
    said, _ = process.communicate(timeout=GIVES_UP_S)
    return process.returncode, json.loads(said or b"{}")


def test_a_sandbox_that_goes_while_the_switch_looks_is_unknown_and_leaves_nothing(
    node: Node, first: Mapping[str, object]
) -> None:
    with node.pod("red") as pod:
        with hanging(node.vswitchd_pid):
            adding = node.start("ADD", pod)
            eventually(lambda: pod.has_interface, "the link is there")
            pod.sandbox.vanish()
            eventually(lambda: not node.links(), "the kernel has taken it")
        said, _ = adding.communicate(timeout=GIVES_UP_S)
        assert (adding.returncode, json.loads(said)["code"]) == (1, UNKNOWN_CONTAINER)
        assert f"{pod.container_id}/eth0: no network namespace at {pod.sandbox.path}" in json.loads(said)["msg"]
        assert "no DEL is needed" in json.loads(said)["details"]
        # Before any DEL: the code says that none is needed.
        eventually(lambda: traces(node) == first, "nothing is left")


@pytest.mark.parametrize("after_ms", [0, 1, 2, 4, 6, 8, 12, 16, 24])
def test_a_sandbox_that_goes_at_any_moment_of_an_add_leaves_nothing_after_its_del(node: Node, after_ms: int) -> None:
    with node.pod("red") as pod:
        adding = node.start("ADD", pod)
        time.sleep(after_ms / 1000)  # any moment will do
        pod.sandbox.vanish()
        said, _ = adding.communicate(timeout=GIVES_UP_S)
        assert json.loads(said).get("code", 0) in {0, UNKNOWN_CONTAINER}


@pytest.mark.parametrize("harm", ["stopped", "hanging"])
def test_an_add_is_given_up_when_the_switch_stays_away_and_leaves_nothing(
    lab: LabUnderTest, node: Node, harm: str
) -> None:
    before = traces(node)
    with ExitStack() as outage:
        if harm == "hanging":
            outage.enter_context(hanging(node.vswitchd_pid))
        else:
            lab("stop", "vswitchd", node.name)
            outage.callback(lab, "start", "vswitchd", node.name)
        pod = outage.enter_context(node.pod("red"))
        status, said = ended(node, "ADD", pod)
        assert (status, said["code"]) == (1, TRY_AGAIN_LATER)
        assert f"{pod.container_id}/eth0: " in str(said["msg"])
        assert "is ovs-vswitchd running?" in str(said["msg"])
        assert "ADD again" in str(said["details"])
        assert not pod.has_interface
    eventually(lambda: node.status() == 0, "the agent goes on")
    eventually(lambda: traces(node) == before, "nothing is left")


@pytest.mark.timeout(150)
def test_a_del_that_the_database_does_not_answer_is_kept_and_done_when_it_does(node: Node) -> None:
    before = traces(node)
    with node.attached("red") as (pod, _):
        with hanging(node.ovsdb_pid):
            assert ended(node, "DEL", pod) == (0, {})
            assert len(traces_of_spool(node)) == 1
        eventually(lambda: traces(node) == before, "the agent has done it by itself", deadline_s=40)


@pytest.mark.timeout(150)
def test_a_del_that_was_kept_is_done_by_an_agent_that_starts_later(lab: LabUnderTest, node: Node) -> None:
    before = traces(node)
    with node.attached("red") as (pod, _):
        with hanging(node.ovsdb_pid):
            assert ended(node, "DEL", pod) == (0, {})
            os.kill(node.agent_pid, signal.SIGKILL)
        eventually(lambda: Node(lab.status()["nodes"][0]).agent_pid not in (None, node.agent_pid), "another agent")
        eventually(lambda: traces(node) == before, "it has done it", deadline_s=40)


@pytest.mark.timeout(150)
def test_a_gc_that_the_database_does_not_answer_is_carried_out_when_it_does(node: Node) -> None:
    before = traces(node)
    with node.attached("red") as (pod, _):
        with hanging(node.ovsdb_pid):
            status, said = ended(node, "GC", pod, {"cniVersion": "1.1.0", "cni.dev/valid-attachments": []})
        assert (status, said["code"]) == (1, TRY_AGAIN_LATER)
        eventually(lambda: traces(node) == before, "the agent has done it by itself", deadline_s=40)


@pytest.mark.timeout(200)
def test_an_add_that_the_database_does_not_answer_holds_no_address_although_nobody_sends_a_del(node: Node) -> None:
    before = traces(node)
    with ExitStack() as pods:
        lost = pods.enter_context(node.pod("red", "lost"))
        with hanging(node.ovsdb_pid):
            status, said = ended(node, "ADD", lost)
        assert (status, said["code"]) == (1, TRY_AGAIN_LATER)
        assert f"{lost.container_id}/eth0: adding k8o" in str(said["msg"])
        assert "db.sock" in str(said["msg"])
        eventually(lambda: traces(node) == before, "it is undone", deadline_s=40)
        eventually(lambda: node.status() == 0, "the agent goes on")
        added = [
            node.call("ADD", pods.enter_context(node.pod("red", f"web{number}"))) for number in range(PODS_THAT_FIT)
        ]
        assert [answer.code for answer in added] == [0] * PODS_THAT_FIT


def traces_of_spool(node: Node) -> list[str]:
    """The DELs that wait."""
    return sorted(str(path) for path in (node.ovs_rundir.parent / "spool").iterdir())
