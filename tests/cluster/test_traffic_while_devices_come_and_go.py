"""Links are made and deleted on both nodes, as pods start and end: traffic between others' pods does not notice."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.support.cast import Member, cast, create_namespaces
from tests.support.events import node_now
from tests.support.lab import LabUnderTest
from tests.support.runtime import Node
from tests.support.traffic import Stream, Traffic, conclusive

pytestmark = pytest.mark.timeout(200)

LAB_OPTIONS = ("--nodes", "2")
NODES = ("node1", "node2")
LINKS = 150
ACROSS = ("there", "back")


@pytest.fixture(scope="module")
def people(lab: LabUnderTest) -> Iterator[dict[str, Member]]:
    create_namespaces(lab, "red", "green")
    where = {"node1": ["red/a", "green/one", "green/two"], "node2": ["red/b", "green/three", "green/four"]}
    with cast(lab, where) as members:
        yield members


@pytest.fixture
def streams(people: dict[str, Member]) -> dict[str, Stream]:
    return {
        "there": people["red/a"].to(people["red/b"]),
        "back": people["red/b"].to(people["red/a"]),
        "control one": people["green/one"].to(people["green/two"]),
        "control two": people["green/three"].to(people["green/four"]),
    }


def churn(node: Node) -> None:
    """Make links and delete them, one after another, that no switch has a port for."""
    lines = (f"link add t{i} up type veth peer name u{i}\nlink set u{i} up\nlink del t{i}\n" for i in range(LINKS))
    subprocess.run(node.command("ip", "-batch", "-"), input="".join(lines), text=True, check=True)


def test_pods_of_two_nodes_lose_nothing_while_links_come_and_go(lab: LabUnderTest, streams: dict[str, Stream]) -> None:
    def measure() -> Traffic:
        with Traffic(streams) as traffic:
            for name in NODES:
                churn(node_now(lab, name))
        return traffic

    assert conclusive(measure).lossy(ACROSS) == []
