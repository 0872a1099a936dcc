"""Desired flows of one snapshot after another: the same as if each were the first, and nothing made twice."""

from __future__ import annotations

from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from flows.desired import DesiredFlows, changed_keys, desired_flows
from flows.flow import Source
from flows.snapshot import Mode, Peer
from tests.support.worlds import Pod, World, tenant, worlds

SNAPSHOT = World(Mode.MULTITENANT, 3, (Pod(0, 0, tenant(10)), Pod(0, 1, tenant(11)))).snapshot(0)
FEWER_PODS = replace(SNAPSHOT, attachments=frozenset(sorted(SNAPSHOT.attachments, key=lambda pod: pod.ofport)[:1]))


@settings(max_examples=40, deadline=None, database=None)
@given(st.lists(worlds(), min_size=1, max_size=5))
def test_what_came_before_makes_no_difference(history: list[World]) -> None:
    desired = DesiredFlows()
    for world in history:
        parts = desired.parts(world.snapshot(0))
        assert {key: flow for part in parts.values() for key, flow in part.items()} == desired_flows(world.snapshot(0))
        assert all(flow.source is source for (source, _), part in parts.items() for flow in part.values())


def test_a_part_whose_input_stays_is_the_same_object() -> None:
    desired = DesiredFlows()
    before, after = desired.parts(SNAPSHOT), desired.parts(FEWER_PODS)
    assert [name for name in before if before[name] is not after[name]] == [(Source.ATTACHMENTS, 0)]


def test_the_flows_of_a_pod_that_stays_are_the_same_objects() -> None:
    desired = DesiredFlows()
    few, many = (desired.parts(one)[Source.ATTACHMENTS, 0] for one in (FEWER_PODS, SNAPSHOT))
    assert few.keys() < many.keys()
    assert changed_keys(few, many) == many.keys() - few.keys()


def test_a_flow_that_comes_goes_or_changes_is_a_changed_key() -> None:
    flows = list(desired_flows(SNAPSHOT).values())
    stays, goes, comes, changes = flows[:4]
    before = {flow.key: flow for flow in (stays, goes, changes)}
    after = {flow.key: flow for flow in (stays, comes, replace(changes, goto=0))}
    assert changed_keys(before, after) == {goes.key, comes.key, changes.key}


def test_the_flows_of_a_peer_that_stays_are_the_same_objects() -> None:
    desired = DesiredFlows()
    fewer = replace(SNAPSHOT, peers=frozenset(sorted(SNAPSHOT.peers, key=lambda peer: peer.address)[:1]))
    before, after = (desired.parts(one)[Source.PEERS, 0] for one in (fewer, SNAPSHOT))
    assert before.items() < after.items()
    assert changed_keys(before, after) == after.keys() - before.keys()


def test_of_two_peers_that_claim_the_same_the_lowest_address_has_it_and_when_that_goes_the_other() -> None:
    desired = DesiredFlows()
    (known, *_) = sorted(SNAPSHOT.peers, key=lambda peer: peer.address)
    rival = Peer(known.address + 1000, known.subnet)
    both = replace(SNAPSHOT, peers=SNAPSHOT.peers | {rival})
    left = replace(SNAPSHOT, peers=(SNAPSHOT.peers | {rival}) - {known})
    for snapshot in (SNAPSHOT, both, left, both, SNAPSHOT):
        found = {key: flow for part in desired.parts(snapshot).values() for key, flow in part.items()}
        assert found == desired_flows(snapshot)
    contested = both.peers - {known}
    assert desired_flows(both) != desired_flows(replace(both, peers=contested)), "they do lay claim to one flow"
