"""What holds for the desired flows of any node, whatever it knows."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address
from itertools import combinations

import pytest
from hypothesis import given, settings

from flows import fields
from flows.actions import SetField, Track
from flows.desired import desired_flows
from flows.flow import Flow, Source
from flows.match import Match
from flows.pipeline import peer_flows, pod_flows
from flows.replies import former_flow, place_of
from flows.service import Service, ServiceProxy
from flows.snapshot import Attachment, Mode, Peer, Tenancy
from flows.tables import (
    ASKER,
    BACKEND,
    BALANCE,
    BALANCED,
    CHOSEN_ADDRESS,
    CHOSEN_PORT,
    DELIVER,
    EGRESS,
    NODE_PORT,
    POD_IN,
    REPLY,
    SERVICE,
    SERVICE_IN,
    SOURCE_VNI,
    TABLES,
    TO_NODE,
    Priority,
)
from flows.text import match_text
from tests.support.services import examples, services
from tests.support.worlds import Pod, World, gateway_of, node_address, subnet_of, tenant, worlds

varied = settings(max_examples=40, deadline=None, database=None)
BY_NUMBER = {table.number: table for table in TABLES}
PORT_FIELDS = {fields.TCP_SRC, fields.TCP_DST, fields.UDP_SRC, fields.UDP_DST}
SERVICE_TABLES = (SERVICE_IN, NODE_PORT, REPLY, EGRESS)
SERVICE_REGISTERS = {SERVICE, CHOSEN_ADDRESS, CHOSEN_PORT, BALANCED}
AGAIN = {(BALANCE.number, BALANCE.number), (BACKEND.number, BALANCE.number)}
"""Where a packet goes after connection tracking that is no step forward: once, with its backend's address."""


def flows_of(world: World) -> list[Flow]:
    return list(desired_flows(world.snapshot(0)).values())


def test_tables_are_listed_in_the_order_of_their_numbers_and_names_are_unique() -> None:
    assert [table.number for table in TABLES] == sorted(BY_NUMBER)
    assert len({table.name for table in TABLES}) == len(TABLES)


@varied
@given(worlds())
def test_every_goto_is_one_that_its_table_declares(world: World) -> None:
    taken = {(flow.table, flow.goto) for flow in flows_of(world) if flow.goto is not None}
    declared = {(table.number, following.number) for table in TABLES for following in table.next}
    assert taken <= declared


def test_every_declared_goto_is_taken() -> None:
    world = World(Mode.MULTITENANT, 2, (Pod(0, 0, tenant(10)),), examples())
    by_kube_proxy = replace(world.snapshot(0), service_proxy=ServiceProxy.KUBE_PROXY)
    flows = [*flows_of(world), *desired_flows(by_kube_proxy).values()]
    flows += [former_flow(flow) for flow in flows if place_of(flow.key)]
    taken = {(flow.table, flow.goto) for flow in flows if flow.goto is not None}
    taken |= {
        (flow.table, action.table)
        for flow in flows
        for action in flow.actions
        if isinstance(action, Track) and action.table is not None
    }
    assert taken - AGAIN == {(table.number, following.number) for table in TABLES for following in table.next}


def test_packets_only_move_forward() -> None:
    assert all(following.number > table.number for table in TABLES for following in table.next)


@varied
@given(worlds())
def test_every_table_ends_in_exactly_one_drop_of_everything(world: World) -> None:
    last = [flow for flow in flows_of(world) if flow.priority == Priority.MISS]
    assert sorted(flow.table for flow in last) == sorted(BY_NUMBER)
    assert all(flow.match == Match() and not flow.actions and flow.goto is None for flow in last)


@varied
@given(worlds())
def test_no_ports_are_matched_but_for_services_and_packets_to_a_node(world: World) -> None:
    tables = {flow.table for flow in flows_of(world) if any(field in PORT_FIELDS for field, _, _ in flow.match)}
    assert tables <= {TO_NODE.number} | ({*SERVICE_TABLES} if world.services else set())


@varied
@given(worlds())
def test_only_named_registers_are_used(world: World) -> None:
    touched = {field for flow in flows_of(world) for field, _, _ in flow.match}
    touched |= {action.field for flow in flows_of(world) for action in flow.actions if isinstance(action, SetField)}
    assert {field for field in touched if field.name.startswith("reg")} <= {SOURCE_VNI, ASKER, *SERVICE_REGISTERS}


@varied
@given(worlds())
def test_flows_do_not_depend_on_the_order_in_which_things_became_known(world: World) -> None:
    backwards = replace(world, pods=world.pods[::-1])
    assert list(desired_flows(world.snapshot(0))) == list(desired_flows(backwards.snapshot(0)))


@varied
@given(worlds())
def test_what_a_source_says_is_marked_with_that_source(world: World) -> None:
    bare = replace(world.snapshot(0), attachments=frozenset(), peers=frozenset())
    assert {flow.source for flow in desired_flows(bare).values()} == {Source.PIPELINE, Source.NODE}
    added = desired_flows(world.snapshot(0)).keys() - desired_flows(bare).keys()
    sources = {desired_flows(world.snapshot(0))[key].source for key in added}
    assert sources <= {Source.ATTACHMENTS, Source.PEERS}


@pytest.mark.parametrize(
    ("tenancy", "cost"),
    [(tenant(10), 5), (tenant(0), 4), (Tenancy(10, frozenset({10, 11})), 6), (Tenancy(10, frozenset({0, 10})), 4)],
    ids=["at rest", "global", "changing", "becoming global"],
)
def test_a_pod_costs_three_flows_and_one_for_each_vni_that_reaches_it(tenancy: Tenancy, cost: int) -> None:
    assert len(list(pod_flows(Attachment(256, IPv4Address("172.11.0.2"), tenancy), Mode.MULTITENANT))) == cost


def test_a_pod_of_a_single_tenant_costs_four_flows() -> None:
    assert len(list(pod_flows(Attachment(256, IPv4Address("172.11.0.2"), tenant(10)), Mode.SUBNET))) == 4


def test_a_node_costs_three_flows_and_its_pods_none() -> None:
    assert len(list(peer_flows(Peer(node_address(1), subnet_of(1)), ServiceProxy.KUBE_PROXY))) == 3
    alone = World(Mode.MULTITENANT, 2, ())
    crowded = World(Mode.MULTITENANT, 2, tuple(Pod(1, index, tenant(10 + index)) for index in range(20)))
    assert desired_flows(alone.snapshot(0)) == desired_flows(crowded.snapshot(0))


def test_vni_0_as_sender_is_a_vni_like_any_other_and_not_the_lack_of_one() -> None:
    flows = list(pod_flows(Attachment(256, IPv4Address("172.11.0.2"), tenant(0)), Mode.MULTITENANT))
    assert sum(SetField(SOURCE_VNI, 0) in flow.actions for flow in flows if flow.table == POD_IN.number) == 1


def test_in_single_tenant_mode_pods_send_vni_0_whatever_their_records_say() -> None:
    flows = list(pod_flows(Attachment(256, IPv4Address("172.11.0.2"), tenant(10)), Mode.SUBNET))
    loaded = {
        action.value
        for flow in flows
        for action in flow.actions
        if isinstance(action, SetField) and action.field == SOURCE_VNI
    }
    assert loaded == {0}


def test_the_gateway_is_reached_from_any_vni() -> None:
    world = World(Mode.MULTITENANT, 1, ())
    to_gateway = [flow for flow in flows_of(world) if flow.match.get(fields.IPV4_DST) == int(gateway_of(0))]
    assert [flow.match.get(SOURCE_VNI) for flow in to_gateway if flow.table == DELIVER.number] == [None]


def test_two_nodes_that_claim_one_subnet_leave_it_to_the_lower_address() -> None:
    snapshot = World(Mode.MULTITENANT, 1, ()).snapshot(0)
    first, second = Peer(node_address(1), subnet_of(1)), Peer(node_address(2), subnet_of(1))
    both = desired_flows(replace(snapshot, peers=frozenset({second, first})))
    alone = desired_flows(replace(snapshot, peers=frozenset({first})))
    assert both.items() >= alone.items()


@varied
@given(worlds())
def test_no_packet_matches_two_flows_of_the_same_table_and_priority(world: World) -> None:
    ranked: dict[tuple[int, int], list[Match]] = {}
    for flow in flows_of(world):
        ranked.setdefault((flow.table, flow.priority), []).append(flow.match)
    for rivals in ranked.values():
        assert all(disjoint(one, other) for one, other in combinations(rivals, 2))


@varied
@given(services())
def test_with_services_no_packet_matches_two_flows_of_the_same_rank_either(found: tuple[Service, ...]) -> None:
    ranked: dict[tuple[int, int], list[Match]] = {}
    for flow in flows_of(World(Mode.MULTITENANT, 2, (Pod(0, 0, tenant(10)),), found)):
        ranked.setdefault((flow.table, flow.priority), []).append(flow.match)
    for rivals in ranked.values():
        for one, other in combinations(rivals, 2):
            assert disjoint(one, other), f"{match_text(one)} / {match_text(other)}"


def disjoint(one: Match, other: Match) -> bool:
    """Whether some field must differ between packets of the one and of the other."""
    words = {field: (value, field.all_ones if mask is None else mask) for field, value, mask in one}
    for field, value, mask in other:
        rival, rival_mask = words.get(field, (0, 0))
        if (value ^ rival) & rival_mask & (field.all_ones if mask is None else mask):
            return True
    return False
