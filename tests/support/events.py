"""What happens to the processes of a lab's node, and how one sees that it is over."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from k8sovs.lab.waiting import PATIENCE
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node

OUTAGE_S = float(os.environ.get("K8SOVS_TEST_OUTAGE_S", "10"))
"""How long an outage is where its length is the point; `make test-long` has 60."""

RUN_TIMEOUT_S = 3 * (OUTAGE_S + 40 * PATIENCE)
"""For a test that measures three times at most."""


@contextmanager
def frozen(*pids: int) -> Iterator[None]:
    """Processes that neither answer nor go away while the block runs."""
    for pid in pids:
        os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        for pid in pids:
            os.kill(pid, signal.SIGCONT)


def node_now(lab: LabUnderTest, name: str) -> Node:
    """The node with the process ids that it has now."""
    return next(Node(entry) for entry in lab.status()["nodes"] if entry["name"] == name)


def wait_ready(node: Node) -> None:
    """Until the node's agent says that it can attach pods."""
    eventually(lambda: node.status() == 0, f"the agent of {node.name} is ready", deadline_s=30)


def kill_agent(node: Node) -> None:
    """SIGKILL; the lab starts it again. Returns when it is away."""
    os.kill(node.agent_pid, signal.SIGKILL)
    eventually(lambda: node.status() != 0, "nobody answers the runtime")


def kill_vswitchd(node: Node) -> float:
    """SIGKILL; the lab starts it again. Returns when another one has begun: that second of CLOCK_MONOTONIC."""
    pidfile = Path(node.ovs_rundir, "ovs-vswitchd.pid")
    os.kill(node.vswitchd_pid, signal.SIGKILL)
    eventually(lambda: pidfile.read_text().strip() not in ("", str(node.vswitchd_pid)), "another switch has begun")
    return time.monotonic()


def stay_away() -> None:
    """Let the outage last."""
    time.sleep(OUTAGE_S)
