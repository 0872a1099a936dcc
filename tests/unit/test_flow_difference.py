"""Differences between what a switch holds and what it should hold."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings

from flows import fields
from flows.actions import Output
from flows.desired import desired_flows
from flows.diff import AddFlow, DeleteFlow, FlowChange, difference
from flows.flow import Flow, FlowKey, Source
from flows.match import Match
from flows.snapshot import Mode
from tests.support.worlds import Pod, World, tenant, worlds

varied = settings(max_examples=40, deadline=None, database=None)
ALL = frozenset(Source)

KNOWN = Flow(0, 1, Match.of({fields.IN_PORT: 1}), (Output(2),), None, Source.ATTACHMENTS)


def table(*flows: Flow) -> dict[FlowKey, Flow]:
    return {flow.key: flow for flow in flows}


def applied(changes: Sequence[FlowChange], installed: dict[FlowKey, Flow]) -> dict[FlowKey, Flow]:
    """What a switch does with the changes."""
    after = dict(installed)
    for change in changes:
        match change:
            case AddFlow(flow):
                after[flow.key] = flow
            case DeleteFlow(key):
                after.pop(key, None)
    return after


@varied
@given(worlds(), worlds())
def test_the_difference_leads_from_any_world_to_any_other(before: World, after: World) -> None:
    installed, desired = desired_flows(before.snapshot(0)), desired_flows(after.snapshot(0))
    assert applied(difference(installed, desired, ALL), installed) == desired


@varied
@given(worlds(), worlds())
def test_adding_and_removing_again_returns_to_the_start(before: World, after: World) -> None:
    start, other = desired_flows(before.snapshot(0)), desired_flows(after.snapshot(0))
    there = applied(difference(start, other, ALL), start)
    assert applied(difference(there, start, ALL), there) == start


@varied
@given(worlds(), worlds())
def test_changes_replayed_among_themselves_lead_to_the_same_end(before: World, after: World) -> None:
    installed, desired = desired_flows(before.snapshot(0)), desired_flows(after.snapshot(0))
    changes = difference(installed, desired, ALL)
    doubled = [again for one, other in zip(changes, reversed(changes), strict=True) for again in (one, other)]
    assert applied(doubled, installed) == desired


@varied
@given(worlds())
def test_nothing_is_changed_where_all_is_right(world: World) -> None:
    flows = desired_flows(world.snapshot(0))
    assert difference(flows, flows, ALL) == []


@varied
@given(worlds(), worlds())
def test_no_flow_is_touched_twice_and_every_add_comes_before_every_delete(before: World, after: World) -> None:
    changes = difference(desired_flows(before.snapshot(0)), desired_flows(after.snapshot(0)), ALL)
    keys = [change.flow.key if isinstance(change, AddFlow) else change.key for change in changes]
    assert len(keys) == len(set(keys))
    kinds = [isinstance(change, DeleteFlow) for change in changes]
    assert kinds == sorted(kinds)


@varied
@given(worlds(), worlds())
def test_a_source_that_is_not_synced_removes_nothing(before: World, after: World) -> None:
    installed, desired = desired_flows(before.snapshot(0)), desired_flows(after.snapshot(0))
    changes = difference(installed, desired, ALL - {Source.ATTACHMENTS})
    removed = {installed[change.key].source for change in changes if isinstance(change, DeleteFlow)}
    assert Source.ATTACHMENTS not in removed


def test_a_source_that_is_not_synced_adds() -> None:
    assert difference({}, table(KNOWN), frozenset()) == [AddFlow(KNOWN)]


def test_a_synced_source_removes() -> None:
    assert difference(table(KNOWN), {}, frozenset({Source.ATTACHMENTS})) == [DeleteFlow(KNOWN.key)]


def test_a_flow_that_is_nobodys_of_ours_is_removed_by_an_agent_that_knows_nothing_yet() -> None:
    foreign = replace(KNOWN, source=None)
    assert difference(table(foreign), {}, frozenset()) == [DeleteFlow(foreign.key)]


def test_a_flow_of_an_older_pipeline_is_removed_by_an_agent_that_knows_nothing_yet() -> None:
    old = replace(KNOWN, source=Source.PIPELINE)
    assert difference(table(old), {}, frozenset()) == [DeleteFlow(old.key)]


@pytest.mark.parametrize(
    "other",
    [replace(KNOWN, actions=(Output(3),)), replace(KNOWN, goto=10), replace(KNOWN, source=None)],
    ids=["actions", "next table", "cookie"],
)
def test_a_flow_that_does_something_else_is_overwritten_not_deleted(other: Flow) -> None:
    assert difference(table(other), table(KNOWN), ALL) == [AddFlow(KNOWN)]


def test_a_vni_change_touches_the_flows_of_the_pods_concerned_alone() -> None:
    stays, moves = Pod(0, 0, tenant(10)), Pod(0, 1, tenant(11))
    before = desired_flows(World(Mode.MULTITENANT, 2, (stays, moves)).snapshot(0))
    after = desired_flows(World(Mode.MULTITENANT, 2, (stays, replace(moves, tenancy=tenant(10)))).snapshot(0))
    changes = difference(before, after, ALL)
    touched = {change.flow.key if isinstance(change, AddFlow) else change.key for change in changes}
    assert all(int(moves.address) in {value for _, value, _ in key.match} for key in touched)
    # It sends with another VNI (by itself and by way of the host), is reached from the new one, no more from the old.
    assert sorted(type(change).__name__ for change in changes) == ["AddFlow"] * 3 + ["DeleteFlow"]
