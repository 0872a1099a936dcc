"""Nothing on the path of an ADD starts a process: a fork costs more than all the rest, and crashes beside gRPC."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node, Pod

LAB_OPTIONS = ("--nodes", "2")

FORKED = 86
HOOK = f"""
import os, sys
forbidden = {{"os.exec", "os.fork", "os.forkpty", "os.posix_spawn", "os.spawn", "os.system", "subprocess.Popen"}}
def refuse(event, arguments):
    if event in forbidden:
        print(event, arguments, file=sys.stderr, flush=True)
        os._exit({FORKED})  # an exception could be caught, and nobody would know
sys.addaudithook(refuse)
"""
AGENT = "from k8sovs.cli import main; sys.exit(main(['agent']))"


@pytest.mark.parametrize(
    "program",
    [
        "os.fork()",
        "os.posix_spawn('/bin/true', ['true'], {})",
        "os.execv('/bin/true', ['true'])",
        "os.system('true')",
        "import subprocess; subprocess.run('true')",
        "import asyncio; asyncio.run(asyncio.create_subprocess_exec('true'))",
        "import multiprocessing; multiprocessing.Process().start()",
    ],
)
def test_the_hook_notices_every_way_to_start_a_process(program: str) -> None:
    assert subprocess.run([sys.executable, "-c", HOOK + program], stderr=subprocess.DEVNULL).returncode == FORKED


@pytest.fixture
def node(lab: LabUnderTest, tmp_path: Path) -> Iterator[tuple[Node, subprocess.Popen[bytes], Path]]:
    """The first node, its agent replaced by one with the hook; the agent, and what it has logged."""
    lab.run("kubectl", "create", "namespace", "red")
    node = Node(lab.status()["nodes"][0])
    environment = dict(
        line.split("=", 1) for line in Path(f"/proc/{node.agent_pid}/environ").read_text().split("\0") if "=" in line
    )
    lab("stop", "agent", node.name)
    log = tmp_path / "agent.log"
    with log.open("wb") as output:
        command = ["nsenter", f"--net={node.netns}", "--", sys.executable, "-c", HOOK + AGENT]
        agent = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stdout=output, stderr=output)
    try:
        eventually(lambda: agent.poll() is not None or node.status() == 0, "the agent is ready")
        yield node, agent, log
    finally:
        agent.kill()
        agent.wait()


def test_an_agent_attaches_and_detaches_pods_without_starting_a_process(
    lab: LabUnderTest, node: tuple[Node, subprocess.Popen[bytes], Path]
) -> None:
    first, agent, log = node
    assert agent.poll() is None, log.read_text()
    with Node(lab.status()["nodes"][1]).attached("red", "far") as (_, far), ExitStack() as stack:
        pods = [stack.enter_context(first.pod("red", f"web{i}")) for i in range(10)]
        with ThreadPoolExecutor(5) as burst:
            answers = list(burst.map(lambda pod: first.call("ADD", pod).status, pods))
        assert answers == [0] * len(pods), log.read_text()
        assert all(pod.reaches(far.address) for pod in pods)
        assert first.call("ADD", pods[0]).code != 0
        assert first.call("ADD", Pod("red", "web", pods[0].sandbox), CNI_NETNS="/nowhere").code != 0
        assert first.status() == 0
    os.kill(agent.pid, signal.SIGTERM)
    assert agent.wait(20) == 0, log.read_text()
