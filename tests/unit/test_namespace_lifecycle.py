"""Births, removals and restarts, and random histories compared with what the three verbs mean."""

from __future__ import annotations

import json
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.actions import Outcome
from controller.tenants import Phase
from k8sovs.etcd import Changes, Listing
from k8sovs.records import VNI_MAX, VnidRecord
from tests.support.controller import DRAIN_DELAY_S, KEYS, PHASE_DELAY_S, Controller, Store

TENANTS = {"default": "u0", "a": "ua", "b": "ub", "c": "uc"}


def test_a_namespace_that_is_deleted_takes_its_keys_along() -> None:
    controller = Controller(Store(), TENANTS)
    controller.remove("a", "ua")
    assert KEYS.netnamespace("a") not in controller.store.items
    assert KEYS.vnid("a") not in controller.store.items


def test_a_namespace_deleted_while_no_controller_ran_is_removed_at_start() -> None:
    store = Store()
    Controller(store, TENANTS)
    controller = Controller(store, {"default": "u0"})
    assert {key for key in store.items if "/a" in key} == set()
    assert controller.outcomes.count(("a", Outcome.REMOVED)) == 1


def test_a_namespace_that_exists_and_cannot_be_read_keeps_its_id_until_it_is_deleted() -> None:
    store = Store()
    before = Controller(store, TENANTS).vnid("a")
    restarted = Controller(store, TENANTS | {"a": ""})
    assert restarted.vnid("a") == before
    restarted.remove("a", "ua")
    assert KEYS.vnid("a") not in store.items


def test_a_namespace_deleted_in_the_middle_of_a_change_is_removed() -> None:
    controller = Controller(Store(), TENANTS)
    controller.act("a", "join", "b")
    controller.remove("a", "ua")
    controller.settle()
    assert KEYS.vnid("a") not in controller.store.items


def test_a_namespace_of_the_same_name_gets_another_id_even_if_both_changes_were_missed() -> None:
    store = Store()
    before = Controller(store, TENANTS).vnid("a")[0]
    after = Controller(store, TENANTS | {"a": "another"}).vnid("a")[0]
    assert after != before


@pytest.mark.parametrize("copied", [{}, {"UID": "ua"}])
def test_what_an_operator_writes_into_a_record_does_not_decide_whose_the_id_is(copied: dict[str, str]) -> None:
    """The documented form has four fields; a record that was copied from another namespace may have more."""
    store = Store()
    Controller(store, TENANTS).act("b", "join", "c")
    store.put(KEYS.netnamespace("a"), json.dumps({"NetName": "a", "NetID": 10, "Action": "", "Namespace": ""} | copied))
    store.put(KEYS.netnamespace("b"), json.dumps({"NetName": "b", "NetID": 10, "Action": "", "Namespace": ""} | copied))
    restarted = Controller(store, TENANTS)
    restarted.settle()
    assert [restarted.vnid(name)[0] for name in "ab"] == [10, 11]
    recreated = Controller(store, TENANTS | {"a": "another"})
    assert [recreated.vnid(name)[0] for name in "ab"] == [13, 11]


def test_an_action_for_the_former_namespace_is_not_done_to_the_new_one_of_that_name() -> None:
    store = Store()
    Controller(store, TENANTS)
    asked = {"NetName": "a", "NetID": 10, "Action": "join", "Namespace": "b"}
    store.put(KEYS.netnamespace("a"), json.dumps(asked))
    controller = Controller(store, TENANTS | {"a": "another"})
    controller.settle()
    assert controller.vnid("a") == (13, {13})
    record = controller.record("a")
    assert (record["Action"], record["Namespace"], record["NetID"]) == ("", "", 13)
    assert "former Namespace" in str(record["message"])
    assert controller.answers == [("a", Outcome.REBORN, record["message"])]


@pytest.mark.parametrize("junk", [b"", b"ub", b"\xff", b"x" * 2**20])
def test_the_note_of_a_uid_is_put_right(junk: bytes) -> None:
    controller = Controller(Store(), TENANTS)
    controller.put(KEYS.uid("a"), junk)
    assert controller.store.items[KEYS.uid("a")].value == b"ua"
    controller.delete(KEYS.uid("a"))
    assert controller.store.items[KEYS.uid("a")].value == b"ua"
    assert controller.vnid("a") == (10, {10})


def test_the_note_of_a_uid_is_removed_with_its_namespace_even_if_nothing_else_is_left() -> None:
    store = Store()
    Controller(store, TENANTS)
    for key in (KEYS.netnamespace("a"), KEYS.vnid("a")):
        store.delete(key)
    Controller(store, {"default": "u0"})
    assert not [key for key in store.items if key.startswith((KEYS.uids, KEYS.vnids)) and not key.endswith("default")]


def test_a_thousand_cycles_with_restarts_between_repeat_no_id() -> None:
    store = Store()
    seen = []
    for cycle in range(1000):
        controller = Controller(store, {"a": f"u{cycle}"})
        seen.append(controller.vnid("a")[0])
        if cycle % 2:
            controller.remove("a", f"u{cycle}")
    assert len(set(seen)) == 1000


def test_the_cursor_goes_round_and_skips_what_is_in_use() -> None:
    store = Store()
    store.put(KEYS.vni_cursor, str(VNI_MAX))
    controller = Controller(store, {"a": "ua"})
    controller.create("b", "ub")
    assert controller.vnid("a")[0] == VNI_MAX
    assert controller.vnid("b")[0] == 10


def test_a_cursor_that_somebody_turns_back_or_deletes_is_put_forward_again() -> None:
    controller = Controller(Store(), TENANTS)
    controller.remove("a", "ua")
    controller.put(KEYS.vni_cursor, "10")
    assert controller.store.items[KEYS.vni_cursor].value == b"13"
    controller.delete(KEYS.vni_cursor)
    assert controller.store.items[KEYS.vni_cursor].value == b"13"


def test_the_first_start_on_an_old_store_takes_its_ids_over() -> None:
    store = Store()
    for name, net_id in (("a", 300924), ("b", 300924), ("c", 0), ("d", 7), ("gone", 99)):
        record = {"NetName": name, "NetID": net_id, "Action": "", "Namespace": ""}
        store.put(KEYS.netnamespace(name), json.dumps(record))
    controller = Controller(store, TENANTS | {"d": "ud", "e": "ue"})
    assert [controller.vnid(name)[0] for name in "abc"] == [300924, 300924, 0]
    assert [controller.vnid(name)[0] for name in "de"] == [300925, 300926]
    assert KEYS.netnamespace("gone") not in store.items


def test_the_import_of_an_old_store_goes_on_where_a_leader_stopped() -> None:
    store = Store()
    for number in range(100):
        record = {"NetName": f"n{number}", "NetID": 1000 + number, "Action": "", "Namespace": ""}
        store.put(KEYS.netnamespace(f"n{number}"), json.dumps(record))
    first = Controller(Store())
    first.store = store
    first.world.take_listing(Listing(store.revision, dict(store.items)))
    batch = first.planner.next_batch(0)
    assert batch is not None
    assert store.transact(batch)
    assert KEYS.vni_cursor not in store.items
    second = Controller(store)
    assert [second.vnid(f"n{number}")[0] for number in range(100)] == list(range(1000, 1100))


def test_a_store_with_a_cursor_is_no_old_store_and_an_id_typed_into_it_is_not_used() -> None:
    store = Store()
    Controller(store, TENANTS)
    store.put(KEYS.netnamespace("d"), b'{"NetName":"d","NetID":11,"Action":"","Namespace":""}')
    controller = Controller(store, TENANTS | {"d": "ud"})
    assert controller.vnid("d")[0] == 13


def test_many_births_share_a_transaction() -> None:
    controller = Controller(Store())
    controller.world.take_namespaces({f"n{number}": "u" for number in range(1000)})
    assert controller.work() <= 25
    assert len({controller.vnid(f"n{number}")[0] for number in range(1000)}) == 1000


def test_a_restart_with_nothing_to_do_writes_nothing() -> None:
    controller = Controller(Store(), TENANTS)
    controller.act("a", "join", "b")
    controller.settle()
    revision = controller.store.revision
    Controller(controller.store, TENANTS).settle()
    assert controller.store.revision == revision


def test_a_record_that_changes_under_our_hands_holds_up_nobody_else() -> None:
    controller = Controller(Store(), TENANTS)
    for name in ("a", "b", "c"):
        controller.world.take_changes(controller.store.put(KEYS.netnamespace(name), f'{{"NetName":"{name}"}}'))
    # The watch has not told of this one yet.
    unseen = controller.store.put(KEYS.netnamespace("b"), '{"NetName":"b","Action":"global"}')
    controller.work()
    assert controller.record("a")["NetID"] == 10
    assert controller.record("c")["NetID"] == 12
    assert controller.record("b") == {"NetName": "b", "Action": "global"}
    controller.world.take_changes(unseen)
    controller.settle()
    assert controller.vnid("b") == (0, {0})


def test_an_update_older_than_what_is_known_is_passed_over() -> None:
    controller = Controller(Store(), TENANTS)
    old = [changes for changes in controller.store.history if any("vnids/a" in item.key for item in changes.puts)]
    controller.act("a", "join", "b")
    controller.settle()
    for changes in old:
        controller.world.take_changes(changes)
    controller.work()
    assert controller.world.tenants["a"].newest == 11


def test_a_change_of_the_running_network_is_undone() -> None:
    controller = Controller(Store(), TENANTS)
    value = controller.store.items[KEYS.config].value
    for attempt in (value.replace(b"172.11", b"172.12"), b"junk", value.replace(b"multitenant", b"subnet")):
        controller.put(KEYS.config, attempt)
        assert controller.store.items[KEYS.config].value == value
    controller.delete(KEYS.config)
    assert controller.store.items[KEYS.config].value == value


class Oracle:
    """What the verbs mean, without ids, phases or time: who shares a token with whom; 0 is global."""

    def __init__(self, names: list[str]) -> None:
        self.tokens = dict(zip(names, range(1, len(names) + 1), strict=True))
        self.next_token = len(names) + 1

    def act(self, name: str, action: str, target: str) -> None:
        if action == "join" and target in self.tokens:
            self.tokens[name] = self.tokens[target]
        elif action == "global":
            self.tokens[name] = 0
        elif action == "isolate":
            token = self.tokens[name]
            if token == 0 or list(self.tokens.values()).count(token) > 1:
                self.tokens[name] = self.next_token
                self.next_token += 1


def partition(ids: dict[str, int]) -> set[frozenset[str]]:
    return {frozenset(name for name in ids if ids[name] == each) for each in ids.values()}


NAMES = [*"abcde"]
actions = st.tuples(
    st.sampled_from(NAMES), st.sampled_from(["join", "isolate", "global"]), st.sampled_from([*NAMES, "x"])
)
pauses = st.sampled_from([0.0, 0.01, PHASE_DELAY_S / 2, PHASE_DELAY_S, DRAIN_DELAY_S, 2.0])
histories = st.lists(st.tuples(actions, pauses, st.integers(0, 9).map(lambda chance: chance == 0)), max_size=25)


@settings(max_examples=200, deadline=None)
@given(histories)
def test_any_history_ends_as_the_verbs_say_and_no_step_of_it_can_lose_a_packet(
    history: list[tuple[tuple[str, str, str], float, bool]],
) -> None:
    namespaces = dict.fromkeys(NAMES, "u")
    controller = Controller(Store(), namespaces)
    oracle = Oracle(NAMES)
    for (name, action, target), pause, restarts in history:
        # Who overwrites an action that has not been done takes it back; that is another test's matter.
        if not controller.record(name)["Action"]:
            controller.act(name, action, target)
            if not (action == "join" and target == name):
                oracle.act(name, action, target)
        if restarts:
            controller = Controller(controller.store, namespaces)
        controller.wait(pause)
    controller.settle()
    final = {name: controller.vnid(name)[0] for name in NAMES}
    assert partition(final) == partition(oracle.tokens)
    assert {name for name in NAMES if final[name] == 0} == {name for name in NAMES if oracle.tokens[name] == 0}
    assert all(controller.world.tenants[name].phase is Phase.SETTLED for name in NAMES)
    for name in NAMES:
        assert_made_before_broken(controller.store.history, name)


def assert_made_before_broken(history: list[Changes], name: str) -> None:
    """An id is accepted before it is sent and while it may still be under way, each in a write of its own."""
    states = [
        VnidRecord.parse(item.key, item.value)
        for changes in history
        for item in changes.puts
        if item.key == KEYS.vnid(name)
    ]
    for before, after in pairwise(states):
        assert after.send in after.accept
        assert after.send in before.accept
        assert before.send in after.accept
        assert after.send == before.send or after.accept == before.accept
