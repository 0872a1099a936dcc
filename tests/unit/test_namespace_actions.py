from __future__ import annotations

import json
from dataclasses import replace

import pytest

from controller.actions import Outcome
from k8sovs.records import Mode
from tests.support.controller import DRAIN_DELAY_S, KEYS, NETWORK, PHASE_DELAY_S, Controller, Store

TENANTS = {"default": "u0", "kube-system": "u1", "a": "ua", "b": "ub", "c": "uc"}


@pytest.fixture
def controller() -> Controller:
    return Controller(Store(), TENANTS)


def settled_id(controller: Controller, name: str) -> int:
    send, accept = controller.vnid(name)
    assert accept == {send}
    assert controller.record(name)["NetID"] == send
    return send


def carry_out(controller: Controller, name: str, action: str, target: str = "") -> None:
    controller.act(name, action, target)
    controller.settle()
    assert controller.record(name)["Action"] == ""


def test_namespaces_are_born_alone_with_ids_from_ten_and_the_chosen_ones_global(controller: Controller) -> None:
    assert [settled_id(controller, name) for name in ("a", "b", "c", "default", "kube-system")] == [10, 11, 12, 0, 0]


def test_nobody_is_born_or_removed_while_kubernetes_is_away(controller: Controller) -> None:
    before = {key: item.value for key, item in controller.store.items.items()}
    again = Controller(controller.store)
    again.put(KEYS.netnamespace("d"), b'{"NetName":"d","NetID":12,"Action":"","Namespace":""}')
    after = {key: item.value for key, item in again.store.items.items()}
    assert after.keys() - before.keys() == {KEYS.netnamespace("d")}
    assert before.items() <= after.items()


def test_a_join_accepts_then_sends_then_forgets(controller: Controller) -> None:
    controller.act("a", "join", "b")
    assert controller.vnid("a") == (10, {10, 11})
    assert controller.record("a")["Action"] == "join"
    controller.wait(PHASE_DELAY_S)
    assert controller.vnid("a") == (11, {10, 11})
    assert controller.record("a") == {"NetName": "a", "NetID": 11, "Action": "", "Namespace": ""}
    controller.wait(DRAIN_DELAY_S)
    assert controller.vnid("a") == (11, {11})
    assert controller.vnid("b") == (11, {11})


def test_no_phase_comes_before_its_delay(controller: Controller) -> None:
    controller.act("a", "join", "b")
    controller.wait(PHASE_DELAY_S * 0.99)
    assert controller.vnid("a") == (10, {10, 11})
    controller.wait(PHASE_DELAY_S * 0.01 + DRAIN_DELAY_S * 0.98)
    assert controller.vnid("a") == (11, {10, 11})


def test_a_join_is_not_a_live_link(controller: Controller) -> None:
    carry_out(controller, "a", "join", "b")
    carry_out(controller, "b", "join", "c")
    assert [settled_id(controller, name) for name in "abc"] == [11, 12, 12]


def test_joining_a_global_namespace_makes_global(controller: Controller) -> None:
    carry_out(controller, "a", "join", "default")
    assert settled_id(controller, "a") == 0


def test_global_and_back_gives_a_fresh_id(controller: Controller) -> None:
    carry_out(controller, "a", "global")
    assert settled_id(controller, "a") == 0
    carry_out(controller, "a", "isolate")
    assert settled_id(controller, "a") == 13


def test_isolating_one_of_two_gives_it_a_fresh_id_and_leaves_the_other_alone(controller: Controller) -> None:
    carry_out(controller, "a", "join", "b")
    carry_out(controller, "b", "isolate")
    assert settled_id(controller, "b") == 13
    assert settled_id(controller, "a") == 11


def test_isolating_who_is_alone_changes_nothing(controller: Controller) -> None:
    controller.act("a", "isolate")
    assert controller.record("a")["Action"] == ""
    assert settled_id(controller, "a") == 10


def test_joining_who_has_the_same_id_changes_nothing(controller: Controller) -> None:
    carry_out(controller, "a", "join", "b")
    controller.act("b", "join", "a")
    assert settled_id(controller, "b") == 11
    assert controller.record("b")["Action"] == ""


@pytest.mark.parametrize(
    ("name", "action", "target", "word"),
    [
        ("a", "join", "nobody", "no namespace 'nobody'"),
        ("a", "join", "a", "itself"),
        ("a", "join", "", "Namespace"),
        ("a", "merge", "b", "unknown action 'merge'"),
        ("kube-system", "isolate", "", "cannot be isolated"),
    ],
)
def test_a_refused_action_changes_no_id_is_cleared_and_says_why(
    controller: Controller, name: str, action: str, target: str, word: str
) -> None:
    before = controller.vnid(name)
    controller.act(name, action, target)
    record = controller.record(name)
    assert (record["Action"], record["Namespace"], record["NetID"]) == ("", "", before[0])
    assert word in str(record["message"])
    assert controller.answers == [(name, Outcome.REFUSED, record["message"])]
    controller.settle()
    assert controller.vnid(name) == before


def test_in_a_single_tenant_network_every_action_is_refused() -> None:
    controller = Controller(Store(), TENANTS, network=replace(NETWORK, mode=Mode.SUBNET))
    for action in ("join", "isolate", "global"):
        controller.act("a", action, "b")
        assert "single-tenant" in str(controller.record("a")["message"])
    assert controller.vnid("a") == (10, {10})


def test_the_message_of_a_refusal_goes_with_the_next_action(controller: Controller) -> None:
    controller.act("a", "merge")
    carry_out(controller, "a", "join", "b")
    assert "message" not in controller.record("a")


def test_an_action_is_understood_in_any_case(controller: Controller) -> None:
    carry_out(controller, "a", "Join", "b")
    assert settled_id(controller, "a") == 11


@pytest.mark.parametrize("net_id", ["10", -1, 2**24, True, 1.5, [1]])
def test_an_action_is_carried_out_whatever_is_typed_as_the_id(controller: Controller, net_id: object) -> None:
    controller.act("a", "join", "b", net_id=net_id)
    controller.settle()
    assert settled_id(controller, "a") == 11


def test_names_of_fields_count_in_any_case(controller: Controller) -> None:
    controller.put(KEYS.netnamespace("a"), '{"netname":"a","netid":10,"action":"join","namespace":"b"}')
    controller.settle()
    assert settled_id(controller, "a") == 11
    assert controller.record("a") == {"NetName": "a", "NetID": 11, "Action": "", "Namespace": ""}


@pytest.mark.parametrize("net_id", [0, 5, 11, 300924])
def test_an_id_that_is_typed_is_repaired_and_never_used(controller: Controller, net_id: int) -> None:
    controller.act("a", "", net_id=net_id)
    assert settled_id(controller, "a") == 10
    assert all(
        item.value == b'{"Send":10,"Accept":[10]}'
        for changes in controller.store.history
        for item in changes.puts
        if item.key == KEYS.vnid("a")
    )


def test_an_unknown_field_is_kept_through_an_action(controller: Controller) -> None:
    record = {"NetName": "a", "NetID": 10, "Action": "join", "Namespace": "b", "Owner": {"team": [1, None]}}
    controller.put(KEYS.netnamespace("a"), json.dumps(record))
    controller.settle()
    assert controller.record("a")["Owner"] == {"team": [1, None]}


@pytest.mark.parametrize(
    "junk",
    [
        b"",
        b"{",
        b"\xff",
        b"[]",
        b"x" * 2**20,
        b'{"NetName":"a","Action":["join"]}',
        b'{"NetName":"b","NetID":11,"Action":""}',
        b'{"Action":true}',
    ],
)
def test_a_malformed_record_is_replaced_and_says_so(controller: Controller, junk: bytes) -> None:
    controller.put(KEYS.netnamespace("a"), junk)
    assert settled_id(controller, "a") == 10
    assert "malformed" in str(controller.record("a")["message"])
    assert controller.answers == [("a", Outcome.REFUSED, controller.record("a")["message"])]
    assert [error.key for error in controller.malformed] == [KEYS.netnamespace("a")]
    carry_out(controller, "a", "join", "b")


def test_junk_under_keys_of_no_namespace_is_left_and_breaks_nothing(controller: Controller) -> None:
    for name in ("x/y", "", "UPPER", "é", "n" * 300):
        controller.put(f"{KEYS.netnamespaces}{name}", b"junk")
        controller.put(f"{KEYS.vnids}{name}", b"junk")
        controller.put(f"{KEYS.subnets}{name}", b"junk")
    controller.put(f"{KEYS.network}something-else", b"junk")
    carry_out(controller, "a", "join", "b")


@pytest.mark.parametrize(
    "junk",
    [
        b"junk",
        b'{"Send":10,"Accept":[]}',
        b'{"Send":10,"Accept":[11]}',
        b'{"Send":11,"Accept":[11]}',
        b'{"Send":0,"Accept":[0]}',
        b'{"Send":5,"Accept":[5]}',
    ],
)
def test_what_somebody_makes_of_vnids_is_put_right(controller: Controller, junk: bytes) -> None:
    controller.put(KEYS.vnid("a"), junk)
    assert settled_id(controller, "a") == 10
    assert controller.outcomes[-1] == ("a", Outcome.REPAIRED)


def test_what_somebody_makes_of_vnids_in_the_middle_of_a_change_does_not_stop_it(controller: Controller) -> None:
    controller.act("a", "join", "b")
    controller.put(KEYS.vnid("a"), b'{"Send":12,"Accept":[12]}')
    assert controller.vnid("a") == (10, {10, 11})
    controller.settle()
    assert settled_id(controller, "a") == 11


@pytest.mark.parametrize("restarts", [False, True], ids=["same leader", "new leader"])
def test_an_action_that_waits_while_vnids_is_put_right_is_not_taken_for_one_that_has_begun(
    controller: Controller, restarts: bool
) -> None:
    """Else the namespace would go back to the id that it is leaving, and the action would be forgotten."""
    controller.act("a", "join", "b")
    controller.wait(PHASE_DELAY_S)
    controller.act("a", "isolate")  # has to wait: the join is draining
    controller.put(KEYS.vnid("a"), b'{"Send":12,"Accept":[12]}')
    assert controller.vnid("a") == (11, {10, 11})
    leader = Controller(controller.store, TENANTS) if restarts else controller
    leader.settle()
    assert settled_id(leader, "a") not in (10, 11)


def test_a_write_whose_answer_was_lost_is_known_as_ours_when_the_watch_tells_of_it(controller: Controller) -> None:
    controller.world.take_changes(controller.store.put(KEYS.netnamespace("a"), '{"NetName":"a","Action":"global"}'))
    batch = controller.planner.next_batch(controller.now)
    assert batch is not None
    done = controller.store.transact(batch)
    assert done is not None
    controller.planner.withdrawn(batch, controller.now)
    controller.world.take_changes(done)
    controller.settle()
    assert settled_id(controller, "a") == 0
    assert ("a", Outcome.REPAIRED) not in controller.outcomes


def test_deleted_keys_of_a_living_namespace_are_restored_with_its_id(controller: Controller) -> None:
    controller.delete(KEYS.vnid("b"))
    assert settled_id(controller, "b") == 11
    controller.delete(KEYS.netnamespace("b"))
    assert settled_id(controller, "b") == 11


def test_an_action_that_comes_while_the_last_one_drains_waits_and_is_done(controller: Controller) -> None:
    controller.act("a", "join", "b")
    controller.wait(PHASE_DELAY_S)
    controller.act("a", "isolate")
    assert controller.vnid("a") == (11, {10, 11})
    assert controller.record("a")["Action"] == "isolate"
    controller.wait(DRAIN_DELAY_S)
    assert controller.vnid("a") == (11, {11, 13})
    controller.wait(PHASE_DELAY_S)
    assert controller.record("a")["Action"] == ""
    controller.settle()
    assert settled_id(controller, "a") == 13


def test_a_refusal_need_not_wait_for_the_last_change_to_drain(controller: Controller) -> None:
    controller.act("a", "join", "b")
    controller.wait(PHASE_DELAY_S)
    controller.act("a", "merge")
    assert controller.record("a")["Action"] == ""
    controller.settle()
    assert settled_id(controller, "a") == 11


def test_an_action_overwritten_before_it_is_sent_gives_way_to_the_new_one(controller: Controller) -> None:
    controller.act("a", "join", "b")
    controller.wait(PHASE_DELAY_S / 2)
    controller.act("a", "join", "c")
    controller.settle()
    assert settled_id(controller, "a") == 12
    assert not any(
        item.value.startswith(b'{"Send":11')
        for c in controller.store.history
        for item in c.puts
        if "vnids/a" in item.key
    )


def test_an_action_taken_back_before_it_is_sent_is_not_done(controller: Controller) -> None:
    controller.act("a", "join", "b")
    controller.act("a", "")
    controller.settle()
    assert settled_id(controller, "a") == 10


def test_a_join_takes_the_id_that_its_target_is_about_to_have(controller: Controller) -> None:
    controller.act("b", "global")
    controller.act("a", "join", "b")
    controller.settle()
    assert settled_id(controller, "a") == 0


def test_an_action_waits_for_the_older_one_of_its_target(controller: Controller) -> None:
    carry_out(controller, "c", "global")
    controller.act("b", "join", "default")
    controller.wait(PHASE_DELAY_S)  # b drains
    controller.act("b", "isolate")
    controller.act("a", "join", "b")
    assert controller.vnid("a") == (10, {10})
    controller.settle()
    assert settled_id(controller, "a") == settled_id(controller, "b") != 0


def test_an_older_join_is_done_before_its_target_changes(controller: Controller) -> None:
    controller.act("a", "join", "default")
    controller.wait(PHASE_DELAY_S)  # a drains
    controller.act("a", "join", "b")
    controller.act("b", "global")
    controller.settle()
    assert settled_id(controller, "a") == 11
    assert settled_id(controller, "b") == 0


def test_actions_that_arrive_together_run_in_the_order_of_their_revisions(controller: Controller) -> None:
    for name, target in (("b", "c"), ("a", "b")):  # later names first: order by name would be wrong
        record = {"NetName": name, "NetID": 1, "Action": "join", "Namespace": target}
        controller.world.take_changes(controller.store.put(KEYS.netnamespace(name), json.dumps(record)))
    controller.work()
    controller.settle()
    assert [settled_id(controller, name) for name in "abc"] == [12, 12, 12]


@pytest.mark.parametrize("elapsed_s", [0, PHASE_DELAY_S, PHASE_DELAY_S + DRAIN_DELAY_S])
def test_a_new_leader_goes_on_at_the_phase_it_finds(controller: Controller, elapsed_s: float) -> None:
    controller.act("a", "join", "b")
    controller.wait(elapsed_s)
    found = controller.vnid("a")
    successor = Controller(controller.store, TENANTS)
    assert successor.vnid("a") == found
    successor.settle()
    assert settled_id(successor, "a") == 11


def test_an_action_on_what_is_no_namespace_is_refused_after_a_moment(controller: Controller) -> None:
    controller.act("ghost", "join", "b")
    assert controller.record("ghost")["Action"] == "join"
    controller.settle()
    assert "no such Namespace" in str(controller.record("ghost")["message"])
    assert controller.record("ghost")["NetID"] is None
    assert KEYS.vnid("ghost") not in controller.store.items
    controller.create("ghost", "ug")
    assert "message" not in controller.record("ghost")
    assert settled_id(controller, "ghost") == 13


def test_an_action_written_before_its_namespace_is_known_is_done(controller: Controller) -> None:
    controller.act("d", "join", "b")
    controller.create("d", "ud")
    controller.settle()
    assert settled_id(controller, "d") == 11


def test_joining_a_namespace_that_is_about_to_be_born_waits_for_it() -> None:
    controller = Controller(Store(), TENANTS)
    controller.world.take_namespace("d", "ud")
    record = {"NetName": "a", "NetID": 1, "Action": "join", "Namespace": "d"}
    controller.world.take_changes(controller.store.put(KEYS.netnamespace("a"), json.dumps(record)))
    controller.work()
    controller.settle()
    assert settled_id(controller, "a") == settled_id(controller, "d") == 13


def test_a_store_that_was_filled_with_junk_at_start_is_repaired() -> None:
    store = Store()
    for key in (KEYS.vni_cursor, KEYS.netnamespace("a"), KEYS.vnid("a"), KEYS.vnid("b")):
        store.put(key, b"\x00junk")
    controller = Controller(store, TENANTS)
    ids = [settled_id(controller, name) for name in "abc"]
    assert len(set(ids)) == 3
    assert store.items[KEYS.vni_cursor].value.isdigit()
