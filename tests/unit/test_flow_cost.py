"""The number of flows of a node follows the formula in docs/performance.md, for any world."""

from __future__ import annotations

import re
from pathlib import Path

from hypothesis import given, settings

from flows.desired import desired_flows
from flows.snapshot import VNI_GLOBAL, Attachment, Mode, Snapshot
from tests.support.worlds import World, worlds

DOCUMENT = Path(__file__).parents[2] / "docs" / "performance.md"
FORMULA = re.compile(r"flows = (\d+) \+ (\d+) \* other nodes \+ the sum over local pods of \((\d+) \+ senders\)")


def senders(pod: Attachment, mode: Mode) -> int:
    """VNIs that a pod is reached from, as far as the switch tells them apart."""
    if mode is Mode.SUBNET or VNI_GLOBAL in pod.tenancy.accept:
        return 1
    return len(pod.tenancy.accept | {VNI_GLOBAL})


def by_the_document() -> tuple[int, ...]:
    """What the node itself costs, each other node, and a pod but for its senders."""
    written = FORMULA.search(DOCUMENT.read_text())
    assert written, f"{DOCUMENT.name} has no line that reads {FORMULA.pattern}"
    return tuple(map(int, written.groups()))


def by_the_formula(snapshot: Snapshot) -> int:
    base, node, pod = by_the_document()
    pods = sum(pod + senders(one, snapshot.mode) for one in snapshot.attachments)
    return base + node * len(snapshot.peers) + pods


def test_a_pod_costs_at_most_8_flows_and_a_node_3() -> None:
    """A pod whose namespace changes accepts two VNIs, and VNI 0."""
    _, node, pod = by_the_document()
    assert node <= 3
    assert pod + 3 <= 8


@settings(max_examples=40, deadline=None, database=None)
@given(worlds(nodes=4, pods_per_node=4))
def test_a_node_has_as_many_flows_as_the_formula_says(world: World) -> None:
    for node in range(world.nodes):
        snapshot = world.snapshot(node)
        assert len(desired_flows(snapshot)) == by_the_formula(snapshot)
