"""Whatever anybody writes into etcd: the controller ends with two tenants apart, and stops writing."""

from __future__ import annotations

import json

from hypothesis import given, settings
from hypothesis import strategies as st

from controller.tenants import Phase
from tests.support.controller import KEYS, Controller, Store

NAMESPACES = {"default": "u0", "a": "ua", "b": "ub"}
JSON = st.recursive(
    st.none() | st.booleans() | st.integers(-2, 2**24 + 1) | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
FIELDS = st.sampled_from(
    ["NetName", "NetID", "Send", "Accept", "Host", "HostIP", "Subnet", "Assign", "Node", "message", "Name", "Network"]
)
VALUES = (
    st.binary(max_size=30)
    | JSON.map(lambda value: json.dumps(value).encode())
    | st.dictionaries(FIELDS, JSON, max_size=4).map(lambda value: json.dumps(value).encode())
)
OWN = [KEYS.netnamespace("a"), KEYS.vnid("a"), KEYS.uid("a"), KEYS.vnid("b"), KEYS.vni_cursor, KEYS.config]
STRANGE = [f"{KEYS.subnets}192.0.2.9", f"{KEYS.subnets}x", f"{KEYS.vnids}x/y", f"{KEYS.leader}x", f"{KEYS.network}z"]
TARGETS = st.sampled_from([*OWN, *STRANGE, KEYS.netnamespace("nobody"), KEYS.vnid("nobody")])
WRITES = st.lists(st.tuples(TARGETS, VALUES, st.booleans()), max_size=12)


def settled_ids(controller: Controller) -> dict[str, tuple[int, set[int]]]:
    assert all(controller.world.tenants[name].phase is Phase.SETTLED for name in NAMESPACES)
    return {name: controller.vnid(name) for name in NAMESPACES}


@settings(max_examples=80)
@given(WRITES)
def test_whatever_is_written_changes_no_tenant_and_comes_to_an_end(writes: list[tuple[str, bytes, bool]]) -> None:
    controller = Controller(Store(), NAMESPACES)
    controller.settle()
    before = settled_ids(controller)
    for key, value, restarts in writes:
        controller.put(key, value)
        if restarts:
            controller = Controller(controller.store, NAMESPACES)
    controller.settle()
    assert settled_ids(controller) == before
    assert json.loads(controller.store.items[KEYS.netnamespace("a")].value)["NetID"] == before["a"][0]
    assert controller.work() == 0, "it has nothing more to write"
