"""The soak's plan and oracle by themselves."""

from __future__ import annotations

from itertools import combinations, islice, pairwise, permutations

import pytest

from tests.support.soak.oracle import GLOBAL, Oracle
from tests.support.soak.plan import (
    MOST_PODS,
    Act,
    AddPod,
    CreateNamespace,
    DeleteNamespace,
    DeletePod,
    Operation,
    Step,
    Verb,
    steps,
)
from tests.support.soak.run import shortest_failure

SEEDS = range(60)
LENGTH = 60


def oracle_after(*operations: Operation) -> Oracle:
    return Oracle().after(Step(operations, spacing_s=1.0))


def partition(oracle: Oracle) -> set[frozenset[str]]:
    """Which namespaces are one tenant, whatever its number; the global one is marked."""
    groups: dict[int, set[str]] = {}
    for name, tenant in oracle.tenants.items():
        groups.setdefault(tenant, {"global"} if tenant == GLOBAL else set()).add(name)
    return {frozenset(group) for group in groups.values()}


def test_a_plan_follows_from_its_seed() -> None:
    assert list(islice(steps(7, 3), LENGTH)) == list(islice(steps(7, 3), LENGTH))
    assert list(islice(steps(7, 3), LENGTH)) != list(islice(steps(8, 3), LENGTH))


@pytest.mark.parametrize("seed", SEEDS)
def test_every_step_is_possible_and_its_operations_lead_to_one_end_in_any_order(seed: int) -> None:
    oracle = Oracle()
    for step in islice(steps(seed, 3), LENGTH):
        after = oracle.after(step)
        orders = [step.operations] if step.spacing_s else list(permutations(step.operations))
        for order in orders:
            other = oracle.after(Step(order))
            assert (partition(other), other.pods) == (partition(after), after.pods)
        oracle = after
        assert len(oracle.pods) <= MOST_PODS
        assert set(oracle.pods.values()) <= oracle.tenants.keys()


@pytest.mark.parametrize("seed", SEEDS)
def test_of_actions_in_a_row_the_last_one_decides_whatever_became_of_the_others(seed: int) -> None:
    oracle = Oracle()
    for step in islice(steps(seed, 3), LENGTH):
        after = oracle.after(step)
        if step.spacing_s:
            *others, last = step.operations
            for count in range(len(others)):
                for done in combinations(others, count):
                    assert partition(oracle.after(Step((*done, last)))) == partition(after)
        oracle = after


def test_everything_happens_in_a_long_plan() -> None:
    plan = list(islice(steps(1, 3), 400))
    kinds = {type(operation).__name__ for step in plan for operation in step.operations}
    assert kinds == {"CreateNamespace", "DeleteNamespace", "AddPod", "DeletePod", "Act", "TypeId"}
    harms = {(step.disturbance.harm.value, step.disturbance.process) for step in plan if step.disturbance}
    killed = {process for harm, process in harms if harm == "kill"}
    assert killed == {"agent", "vswitchd", "ovsdb", "controller", "etcd", "apiserver"}
    assert ("freeze", "apiserver") in harms
    assert any(step.spacing_s for step in plan)


A, B, C = (CreateNamespace(name) for name in "abc")
PODS = (AddPod("a", "pa", 1), AddPod("b", "pb", 1), AddPod("c", "pc", 2), AddPod("a", "pa2", 2))


def talking(*operations: Operation) -> set[str]:
    """The pairs of namespaces a, b, c, that reach each other."""
    pairs = oracle_after(A, B, C, *PODS, *operations).pairs()
    assert pairs == {(receiver, sender) for sender, receiver in pairs}
    return {"".join(sorted(sender[1] + receiver[1])) for sender, receiver in pairs} - {"aa"}


def test_the_oracle_knows_the_three_verbs() -> None:
    join, isolate, everybody = Act("a", Verb.JOIN, "b"), Act("a", Verb.ISOLATE), Act("a", Verb.GLOBAL)
    assert talking() == set()
    assert talking(join) == {"ab"}
    assert talking(join, Act("b", Verb.JOIN, "c")) == {"bc"}, "a join is no link: b has left, a has not"
    assert talking(join, Act("c", Verb.JOIN, "a")) == {"ab", "ac", "bc"}
    assert talking(join, isolate) == set()
    assert talking(join, Act("b", Verb.ISOLATE)) == set()
    assert talking(everybody) == {"ab", "ac"}
    assert talking(everybody, Act("b", Verb.JOIN, "a")) == {"ab", "ac", "bc"}
    assert talking(everybody, isolate) == set()
    assert talking(Act("a", Verb.JOIN, "a"), Act("a", Verb.JOIN, "nobody")) == set()
    assert talking(join, DeletePod("b", "pb")) == set()
    assert talking(join, DeleteNamespace("b"), CreateNamespace("b"), AddPod("b", "pb", 1)) == set()


def test_while_a_step_is_done_what_held_before_and_after_is_allowed() -> None:
    before = oracle_after(A, B, *PODS[:2])
    meanwhile = list(before.meanwhile(Step((Act("a", Verb.JOIN, "b"),))))
    assert [bool(oracle.pairs()) for oracle in meanwhile] == [False, True]


@pytest.mark.parametrize(
    ("first", "reruns", "found"), [(1, 10, 1), (37, 10, 37), (100, 10, 100), (37, 2, 50), (37, 0, 100)]
)
def test_the_shortest_beginning_that_fails_is_found_by_halving(first: int, reruns: int, found: int) -> None:
    tried: list[int] = []

    def fails(count: int) -> bool:
        tried.append(count)
        return count >= first

    assert shortest_failure(fails, 100, reruns) == found
    assert len(tried) <= reruns
    assert all(one != other for one, other in pairwise(tried))
