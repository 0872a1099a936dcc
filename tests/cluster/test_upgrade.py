"""A node's agent is replaced by one of another release, with another pipeline, while pods send.

The release before is this tree with other numbers in its tables: every flow of it has to go, and none may be missed
for a moment. K8SOVS_EARLIER names the directory of a real one, to be taken instead.
"""

from __future__ import annotations

import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from flows.tables import RULE_VERSION
from tests.support.cast import Member, cast, create_namespaces
from tests.support.events import RUN_TIMEOUT_S, node_now, wait_ready
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node
from tests.support.traffic import Stream, Traffic, conclusive

log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(RUN_TIMEOUT_S)

LAB_OPTIONS = ("--nodes", "2")
ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "cni", "controller", "flows", "k8sovs")
OTHERWISE = {
    f"RULE_VERSION = {RULE_VERSION}": f"RULE_VERSION = {RULE_VERSION - 1}",
    "    MATCH = 300": "    MATCH = 310",
    "DELIVER = Table(\n    70,": "DELIVER = Table(\n    72,",
}
INSIDE = ("near", "out", "in", "tcp")
FORBIDDEN = ("spied near", "spied in")


@pytest.fixture(scope="module")
def people(lab: LabUnderTest) -> Iterator[Mapping[str, Member]]:
    create_namespaces(lab, "red", "blue", "green")
    where = {"node1": ["red/a", "red/b", "blue/spy"], "node2": ["red/there", "blue/spy2", "green/one", "green/two"]}
    with cast(lab, where) as members:
        yield members


@pytest.fixture
def streams(people: Mapping[str, Member]) -> dict[str, Stream]:
    """With controls that do not touch node1, whose every flow is exchanged."""
    return {
        "near": people["red/a"].to(people["red/b"]),
        "out": people["red/b"].to(people["red/there"]),
        "in": people["red/there"].to(people["red/a"]),
        "tcp": people["red/a"].to(people["red/there"], "tcp"),
        "control": people["green/one"].to(people["green/two"]),
        "control back": people["green/two"].to(people["green/one"]),
        "spied near": people["red/a"].towards(people["blue/spy"]),
        "spied in": people["blue/spy2"].towards(people["red/a"]),
    }


@pytest.fixture(scope="module")
def earlier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The code of the release before."""
    if "K8SOVS_EARLIER" in os.environ:
        return Path(os.environ["K8SOVS_EARLIER"])
    directory = tmp_path_factory.mktemp("earlier")
    for package in PACKAGES:
        shutil.copytree(ROOT / package, directory / package, ignore=shutil.ignore_patterns("__pycache__"))
    tables = directory / "flows" / "tables.py"
    text = tables.read_text()
    for present, before in OTHERWISE.items():
        assert text.count(present) == 1, f"{present!r} is no longer in flows/tables.py"
        text = text.replace(present, before)
    tables.write_text(text)
    return directory


@contextmanager
def agent_of(release: Path, node: Node, settings: Mapping[str, str]) -> Iterator[subprocess.Popen[bytes]]:
    """The node's agent, of another release; it ends as in an upgrade, by SIGTERM."""
    command = node.command(sys.executable, "-m", "k8sovs.cli", "agent")
    environment = {**os.environ, **settings, "PYTHONPATH": str(release)}
    process = subprocess.Popen(command, env=environment, cwd=release, stderr=subprocess.DEVNULL)
    try:
        wait_ready(node)
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(20)


def settings_of(pid: int) -> dict[str, str]:
    words = Path("/proc", str(pid), "environ").read_text().split("\0")
    return dict(word.split("=", 1) for word in words if word.startswith("K8SOVS_"))


def rule_version(node: Node) -> str:
    return node.execute("ovs-vsctl", "get", "Bridge", "br0", "external_ids:k8sovs-rule-version").strip('"\n')


def test_an_agent_of_another_release_exchanges_every_flow_and_costs_no_packet(
    lab: LabUnderTest, people: Mapping[str, Member], streams: dict[str, Stream], earlier: Path
) -> None:
    node = node_now(lab, "node1")
    settings, right, version = settings_of(node.agent_pid), node.flows(), rule_version(node)

    def upgrade() -> Traffic:
        lab("stop", "agent", "node1")
        with agent_of(earlier, node, settings):
            eventually(lambda: rule_version(node) != version, "the switch is as the release before makes it")
            former = node.flows()
            log.info("flows of the release before that are not of this one: %s", len(former - right))
            assert former - right
            traffic = Traffic(streams)
            traffic.__enter__()
        try:
            lab("start", "agent", "node1")
            wait_ready(node)
            eventually(lambda: node.flows() == right, "the flows are those of this release")
        finally:
            traffic.__exit__(None, None, None)
        assert traffic.crossed(FORBIDDEN) == []
        return traffic

    traffic = conclusive(upgrade)
    assert traffic.lossy(INSIDE) == []
    assert rule_version(node) == version
    with node.attached("red", "later") as (pod, _):
        assert pod.reaches(people["red/there"].address)
