"""Namespaces join, are isolated and become global while their pods send: nothing inside is lost, nothing crosses.

`yellow` has nothing to do with any of it, and nobody of it may be reached unless somebody is global.
"""

from __future__ import annotations

import logging
import os
import signal
import time
from collections.abc import Iterator
from functools import partial

import pytest

from tests.support.cast import Member, cast, create_namespaces
from tests.support.events import kill_agent, node_now, wait_ready
from tests.support.lab import LabUnderTest
from tests.support.tenants import Operator, each
from tests.support.traffic import Stream, Traffic, conclusive

log = logging.getLogger(__name__)

pytestmark = pytest.mark.timeout(150)

COMPLETE_WITHIN_S = 2.0
STEP_S = 0.2
SENT_S = 0.9
SENT_STEPS = 4


@pytest.fixture(scope="module")
def people(lab: LabUnderTest) -> Iterator[dict[str, Member]]:
    create_namespaces(lab, "red", "orange", "blue", "yellow", "green")
    where = {
        "node1": ["red/a", "red/b", "orange/m", "blue/c", "yellow/y", "green/one", "green/two"],
        "node2": ["red/d", "orange/n", "blue/e", "yellow/z", "green/three"],
        "node3": ["red/f", "blue/g"],
    }
    with cast(lab, where) as members:
        yield members


@pytest.fixture
def operator(lab: LabUnderTest, people: dict[str, Member]) -> Iterator[Operator]:
    operator = Operator(lab)
    yield operator
    for namespace in ("red", "orange", "blue"):
        operator.do(namespace, "isolate")


INSIDE = {
    "red near": ("red/a", "red/b"),
    "red out": ("red/a", "red/d"),
    "red in": ("red/d", "red/b"),
    "blue": ("blue/c", "blue/e"),
    "orange": ("orange/m", "orange/n"),
}
BETWEEN = {
    "red to blue near": ("red/f", "blue/g"),
    "red to blue": ("red/f", "blue/e"),
    "blue to red": ("blue/g", "red/a"),
    "orange to red": ("orange/m", "red/d"),
}
STRANGE_TO_RED = {"yellow to red": ("yellow/y", "red/b"), "red to yellow": ("red/b", "yellow/z")}
STRANGE = {"yellow to blue": ("yellow/z", "blue/e"), "blue to yellow": ("blue/c", "yellow/y")}
CONTROLS = {
    "control": ("green/one", "green/two"),
    "control out": ("green/one", "green/three"),
    "control in": ("green/three", "green/two"),
}


@pytest.fixture
def streams(people: dict[str, Member]) -> dict[str, Stream]:
    dense = {name: people[sender].to(people[receiver]) for name, (sender, receiver) in (INSIDE | CONTROLS).items()}
    thin = BETWEEN | STRANGE_TO_RED | STRANGE
    loose = {name: people[sender].towards(people[receiver]) for name, (sender, receiver) in thin.items()}
    return dense | loose | {"red tcp": people["red/d"].to(people["red/f"], "tcp")}


ALL_INSIDE = (*INSIDE, "red tcp")


def test_join_isolate_and_global_lose_nothing_inside_and_let_nobody_else_in(
    operator: Operator, streams: dict[str, Stream]
) -> None:
    shut = 0.0

    def measure() -> Traffic:
        nonlocal shut
        with Traffic(streams) as traffic:
            joining, joined = operator.do("red", "join", "blue")
            isolating, _ = operator.do("red", "isolate")
            time.sleep(COMPLETE_WITHIN_S + 0.2 - (time.monotonic() - isolating))
            opening, opened = operator.do("red", "global")
            closing, _ = operator.do("red", "isolate")
            time.sleep(COMPLETE_WITHIN_S + 0.3 - (time.monotonic() - closing))
        end = time.monotonic()
        assert traffic.crossed(STRANGE) == []
        for name in STRANGE_TO_RED:
            assert traffic[name].received_between(0, opening) == 0, name
            assert traffic[name].received_between(closing + COMPLETE_WITHIN_S, end) == 0, name
        for name in BETWEEN:
            assert traffic[name].received_between(0, joining) == 0, name
            assert traffic[name].received_between(isolating + COMPLETE_WITHIN_S, opening) == 0, name
        shut = (
            max(max(traffic[name].received_of(isolating, opening), default=isolating) for name in BETWEEN) - isolating
        )
        if not any(traffic[name].lost for name in CONTROLS):
            for name in BETWEEN.keys() - {"orange to red"}:
                assert traffic[name].lost_between(joined, isolating) == 0, name
            for name in STRANGE_TO_RED:
                assert traffic[name].lost_between(opened, closing) == 0, name
        return traffic

    traffic = conclusive(measure)
    log.info("isolated %.2f s after it was asked for", shut)
    assert traffic.lossy(ALL_INSIDE) == []


CHAIN = [
    ("isolate", ""),
    ("join", "blue"),
    ("join", "orange"),
    ("isolate", ""),
    ("join", "orange"),
    ("join", "blue"),
    ("isolate", ""),
    ("join", "blue"),
    ("isolate", ""),
    ("join", "orange"),
]


def chain(operator: Operator) -> None:
    """Changes so fast after each other that none is sent when the next is asked for."""
    each(STEP_S, *(partial(operator.act, "red", action, target) for action, target in CHAIN))


def slow_chain(operator: Operator) -> None:
    """Changes that are sent, but have not drained, when the next is asked for."""
    each(SENT_S, *(partial(operator.act, "red", action, target) for action, target in CHAIN[:SENT_STEPS]))


def test_a_chain_of_changes_loses_nothing_inside_and_lets_nobody_else_in(
    operator: Operator, streams: dict[str, Stream]
) -> None:
    """`red` begins with the id of `orange`, which keeps it."""
    ended = end = 0.0

    def measure() -> Traffic:
        nonlocal ended, end
        operator.do("red", "join", "orange")
        with Traffic(streams) as traffic:
            chain(operator)
            slow_chain(operator)
            ended, _ = operator.do("red", "isolate")
            time.sleep(COMPLETE_WITHIN_S + 0.3 - (time.monotonic() - ended))
            end = time.monotonic()
        assert traffic.crossed(STRANGE | STRANGE_TO_RED) == []
        assert [name for name in BETWEEN if traffic[name].received_between(ended + COMPLETE_WITHIN_S, end)] == []
        return traffic

    assert conclusive(measure).lossy(ALL_INSIDE) == []


def test_a_leader_that_is_killed_in_a_chain_of_changes_loses_nothing_and_lets_nobody_in(
    lab: LabUnderTest, operator: Operator, streams: dict[str, Stream]
) -> None:
    def measure() -> Traffic:
        operator.do("red", "join", "orange")
        with Traffic(streams) as traffic:
            chain(operator)
            leading = next(each for each in lab.status()["controllers"] if each["leader"])
            os.kill(leading["pid"], signal.SIGKILL)
            chain(operator)
            operator.do("red", "isolate")
        assert traffic.crossed(STRANGE | STRANGE_TO_RED) == []
        return traffic

    assert conclusive(measure).lossy(ALL_INSIDE) == []


def test_an_agent_that_restarts_between_changes_loses_nothing_and_lets_nobody_in(
    lab: LabUnderTest, operator: Operator, streams: dict[str, Stream]
) -> None:
    def measure() -> Traffic:
        with Traffic(streams) as traffic:
            for action, target in (("join", "blue"), ("isolate", "")):
                operator.do("red", action, target)
                node = node_now(lab, "node1")
                kill_agent(node)
                wait_ready(node)
        assert traffic.crossed(STRANGE | STRANGE_TO_RED) == []
        return traffic

    assert conclusive(measure).lossy(ALL_INSIDE) == []


def test_an_agent_that_is_away_while_ids_change_lets_nobody_in_and_goes_on_as_soon_as_it_is_back(
    lab: LabUnderTest, operator: Operator, streams: dict[str, Stream]
) -> None:
    """Its node cannot know the new id, so what it exchanges with other nodes is lost meanwhile; nothing else is."""
    back = end = 0.0

    def measure() -> Traffic:
        nonlocal back, end
        operator.do("red", "join", "orange")
        node = node_now(lab, "node1")
        with Traffic(streams) as traffic:
            kill_agent(node)
            chain(operator)
            operator.do("red", "isolate")
            wait_ready(node)
            back = time.monotonic()
            time.sleep(0.5)
            end = time.monotonic()
        assert traffic.crossed(STRANGE | STRANGE_TO_RED) == []
        return traffic

    traffic = conclusive(measure)
    assert traffic.lossy(["red near", "red tcp", "blue", "orange"]) == []
    assert [name for name in INSIDE if traffic[name].lost_between(back, end)] == []
