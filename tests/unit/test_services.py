"""Desired flows and groups of Services: the same from any history, the rules of Kubernetes, what a change touches."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

from hypothesis import given, settings
from hypothesis import strategies as st

from flows import fields
from flows.actions import Group, SetField, Track
from flows.balancing import GROUP_SIZE, divide
from flows.desired import DesiredFlows, desired_rules
from flows.diff import AddFlow, DeleteFlow, DeleteGroup, FlowChange, PutGroup, difference
from flows.flow import Flow, FlowKey, Source
from flows.group import GroupEntry
from flows.openflow.messages import FlushConnections
from flows.replies import Place, place_of
from flows.service import Backend, Endpoint, Protocol, Service, ServicePort, ServiceProxy, usable
from flows.service_parts import Rule, RuleKey
from flows.snapshot import Mode
from flows.tables import BALANCE, REPLY, SERVICE_ZONE
from tests.support.services import endpoint, examples, service, services, vip
from tests.support.worlds import World

varied = settings(max_examples=40, deadline=None, database=None)
ALL = frozenset(Source)


def rules(*found: Service) -> dict[RuleKey, Rule]:
    return desired_rules(World(Mode.MULTITENANT, 2, (), found).snapshot(0))


def groups(*found: Service) -> list[GroupEntry]:
    return [rule for rule in rules(*found).values() if isinstance(rule, GroupEntry)]


def backends(group: GroupEntry) -> set[Backend]:
    actions = [action for bucket in group.buckets for action in bucket.actions]
    return {
        Backend(action.nat.address, action.nat.port)
        for action in actions
        if isinstance(action, Track) and action.nat and action.nat.address and action.nat.port
    }


def applied(changes: list[FlowChange], installed: Mapping[RuleKey, Rule]) -> dict[RuleKey, Rule]:
    """What a switch does with the changes. It refuses a flow to a group that is not there."""
    after = dict(installed)
    for change in changes:
        match change:
            case AddFlow(flow):
                after[flow.key] = flow
            case PutGroup(group):
                after[group.key] = group
            case _:
                after.pop(change.key, None)
    return after


@varied
@given(st.lists(services(), min_size=1, max_size=4))
def test_what_came_before_makes_no_difference(history: list[tuple[Service, ...]]) -> None:
    desired = DesiredFlows()
    for found in history:
        parts = desired.parts(World(Mode.MULTITENANT, 2, (), found).snapshot(0))
        joined = [key for part in parts.values() for key in part]
        assert len(joined) == len(set(joined)), "no key is in two parts"
        assert {key: rule for part in parts.values() for key, rule in part.items()} == rules(*found)


@varied
@given(services(), services())
def test_the_difference_leads_from_any_services_to_any_others(
    before: tuple[Service, ...], after: tuple[Service, ...]
) -> None:
    changes = difference(rules(*before), rules(*after), ALL)
    assert applied(changes, rules(*before)) == rules(*after)


def test_groups_come_before_the_flows_that_name_them_and_go_after_them() -> None:
    to_others = difference(rules(*examples()), rules(service("b/other", 99, endpoint("172.11.0.9"))), ALL)
    order = [PutGroup, AddFlow, DeleteFlow, DeleteGroup]
    ranks = [order.index(type(change)) for change in to_others]
    assert ranks == sorted(ranks)
    assert set(ranks) == {0, 1, 2, 3}


def test_services_that_have_not_been_heard_remove_nothing() -> None:
    changes = difference(rules(*examples()), rules(), ALL - {Source.SERVICES})
    assert changes == []


def test_a_change_of_one_endpoint_touches_one_group_and_nothing_else_but_its_own_flows() -> None:
    others = [service(f"a/s{number}", 100 + number, endpoint("172.11.0.2")) for number in range(50)]
    few = service("a/web", 10, endpoint("172.11.0.2"), endpoint("172.11.4.2"))
    more = service("a/web", 10, endpoint("172.11.0.2"), endpoint("172.11.4.2"), endpoint("172.11.4.3"))
    changes = difference(rules(few, *others), rules(more, *others), ALL)
    assert sum(isinstance(change, PutGroup) for change in changes) == 1
    flows = [change.flow for change in changes if isinstance(change, AddFlow)]
    ends = {flow.match.get(fields.IPV4_SRC) or flow.match.get(fields.IPV4_DST) for flow in flows}
    assert ends == {int(IPv4Address("172.11.4.3"))}
    assert len(changes) == 1 + len(flows)


def test_a_change_of_one_service_leaves_most_parts_the_same_objects() -> None:
    desired = DesiredFlows()
    found = tuple(service(f"a/s{number}", number, endpoint("172.11.0.2")) for number in range(1, 200))
    snapshot = World(Mode.MULTITENANT, 2, (), found).snapshot(0)
    before = desired.parts(snapshot)
    after = desired.parts(replace(snapshot, services={**snapshot.services, "a/s7": service("a/s7", 7)}))
    assert sum(before[name] is not after[name] for name in after) == 1


def test_ready_endpoints_are_used_and_only_if_there_are_none_those_that_end() -> None:
    ready = endpoint("172.11.0.2")
    ending = endpoint("172.11.0.3", ready=False, terminating=True)
    failed = endpoint("172.11.0.4", ready=False, serving=False)
    over = endpoint("172.11.0.5", ready=False, serving=False, terminating=True)
    assert usable([ready, ending, failed, over]) == (ready.backend,)
    assert usable([ending, failed, over]) == (ending.backend,)
    assert usable([failed, over]) == ()


def test_a_local_policy_leaves_endpoints_of_other_nodes_out() -> None:
    here, there = replace(endpoint("172.11.0.2"), local=True), endpoint("172.11.4.2")
    assert usable([here, there], local_only=True) == (here.backend,)
    (group,) = groups(service("a/near", 10, here, there, internal_local=True))
    assert backends(group) == {here.backend}


def test_an_endpoint_that_ends_keeps_its_connections_and_one_of_udp_that_failed_does_not() -> None:
    def answering(protocol: Protocol, state: Endpoint) -> bool:
        port = ServicePort(protocol, 80, None, (state, endpoint("172.11.4.9")))
        found = rules(Service("a/web", (vip(1),), (port,))).values()
        return any(
            isinstance(rule, Flow)
            and rule.table == REPLY.number
            and rule.match.get(fields.IPV4_SRC) == int(state.backend.address)
            for rule in found
        )

    ending = endpoint("172.11.4.2", ready=False, terminating=True)
    failed = endpoint("172.11.4.2", ready=False, serving=False)
    assert answering(Protocol.TCP, ending)
    assert answering(Protocol.UDP, ending)
    assert answering(Protocol.TCP, failed)
    assert not answering(Protocol.UDP, failed)


def test_what_goes_on_to_an_endpoint_that_is_gone_is_forgotten() -> None:
    port = ServicePort(Protocol.UDP, 53, None, (endpoint("172.11.4.2", 5353),))
    before, after = rules(Service("a/dns", (vip(1),), (port,))), rules(Service("a/dns", (vip(1),), ()))
    deleted = [change.key for change in difference(before, after, ALL) if isinstance(change, DeleteFlow)]
    flushed = [place.forgetting for key in deleted if (place := place_of(key))]
    assert flushed == [FlushConnections(SERVICE_ZONE, 17, IPv4Address("172.11.4.2"), 5353)]


def test_only_what_said_that_it_would_end_counts_as_ended_when_it_is_gone() -> None:
    desired = DesiredFlows()
    ending = endpoint("172.11.4.2", ready=False, terminating=True)
    stays, taken = endpoint("172.11.4.3"), endpoint("172.11.4.4")
    for found in (service("a/web", 1, ending, stays, taken), service("a/web", 1, stays)):
        desired.parts(World(Mode.MULTITENANT, 2, (), (found,)).snapshot(0))
    places = [Place(Protocol.TCP, one.backend.address, one.backend.port) for one in (ending, stays, taken)]
    assert [desired.has_ended(place) for place in places] == [True, False, False]


def test_an_endpoint_that_another_service_still_lists_has_not_ended() -> None:
    desired = DesiredFlows()
    ending = endpoint("172.11.4.2", ready=False, terminating=True)
    both = (service("a/web", 1, ending), service("a/other", 2, ending))
    for found in (both, both[:1]):
        desired.parts(World(Mode.MULTITENANT, 2, (), found).snapshot(0))
    assert not desired.has_ended(Place(Protocol.TCP, ending.backend.address, ending.backend.port))


def test_nobody_takes_the_address_of_a_pod_or_of_another_service_as_an_external_one() -> None:
    victim = service("a/victim", 10, endpoint("172.11.0.2"))
    thief = service("a/thief", 11, endpoint("172.11.4.2"), external=(vip(10), IPv4Address("172.11.0.2")))
    honest = service("a/thief", 11, endpoint("172.11.4.2"))
    stolen = [rule for rule in rules(victim, thief).values() if rule not in rules(victim, honest).values()]
    assert [rule for rule in stolen if isinstance(rule, Flow) and rule.table == BALANCE.number] == []


def test_of_two_services_with_one_external_address_the_first_by_name_has_it_whoever_came_first() -> None:
    outer = (IPv4Address("203.0.113.7"),)
    first, second = (
        service(f"a/{name}", number, endpoint("172.11.0.2"), external=outer) for name, number in (("x", 1), ("y", 2))
    )
    desired = DesiredFlows()
    for found in ((second,), (first, second)):
        parts = desired.parts(World(Mode.MULTITENANT, 2, (), found).snapshot(0))
    assert {key: rule for part in parts.values() for key, rule in part.items()} == rules(first, second)


@varied
@given(st.integers(0, 600))
def test_a_large_service_is_divided_into_groups_that_are_neither_empty_nor_too_large(count: int) -> None:
    found = tuple(Backend(IPv4Address("172.11.0.2") + number, 8080) for number in range(count))
    parts = divide(found, GROUP_SIZE)
    assert {backend for part in parts for backend in part} == set(found)
    assert all(len(part) <= GROUP_SIZE for part in parts)
    assert count == 0 or all(parts)
    assert len(parts).bit_count() == 1


def test_each_of_300_endpoints_is_some_clients_and_each_client_has_12_at_most() -> None:
    many = service("a/large", 17, *(endpoint(IPv4Address("172.11.4.2") + number) for number in range(300)))
    found = rules(many).values()
    by_number = {rule.identifier: backends(rule) for rule in found if isinstance(rule, GroupEntry)}
    choices = [
        (term, action.identifier)
        for rule in found
        if isinstance(rule, Flow)
        for term in rule.match
        if term[0] is fields.IPV4_SRC
        for action in rule.actions
        if isinstance(action, Group)
    ]
    used: set[Backend] = set()
    for client in range(int(IPv4Address("172.11.8.0")), int(IPv4Address("172.11.9.0"))):
        (mine,) = (group for (_, value, mask), group in choices if client & (mask or 0xFFFFFFFF) == value)
        assert len(by_number[mine]) <= GROUP_SIZE
        used |= by_number[mine]
    assert len(used) == 300


@varied
@given(st.integers(13, 600))
def test_an_endpoint_more_changes_few_parts(count: int) -> None:
    found = tuple(Backend(IPv4Address("172.11.0.2") + number, 8080) for number in range(count + 1))
    before, after = divide(found[:-1], GROUP_SIZE), divide(found, GROUP_SIZE)
    changed = sum(one != other for one, other in zip(before, after, strict=False))
    assert len(before) != len(after) or changed <= 4


def test_the_actions_of_a_bucket_are_such_as_an_action_set_may_hold() -> None:
    allowed = (Track, SetField)
    for group in groups(*examples()):
        for bucket in group.buckets:
            assert isinstance(bucket.actions[0], allowed)


def test_where_kube_proxy_handles_services_answers_of_endpoints_are_looked_at_and_nothing_else() -> None:
    snapshot = World(Mode.MULTITENANT, 2, (), examples()).snapshot(0)
    told = desired_rules(replace(snapshot, service_proxy=ServiceProxy.KUBE_PROXY))
    untold = desired_rules(replace(snapshot, service_proxy=ServiceProxy.KUBE_PROXY, services={}))
    assert {key.table for key in told.keys() - untold.keys() if isinstance(key, FlowKey)} == {REPLY.number}
    assert not any(isinstance(rule, GroupEntry) for rule in told.values())
