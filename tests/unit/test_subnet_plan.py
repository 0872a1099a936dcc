from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from ipaddress import IPv4Address, IPv4Network

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from controller.placement import Entry, Trouble, marked
from controller.subnets import Plan, plan
from k8sovs.records import SubnetRecord
from tests.support.controller import KEYS, NETWORK, Controller, Store

SMALL = replace(NETWORK, network=IPv4Network("172.11.0.0/20"))  # four subnets


@dataclass
class Folder:
    """The folder of subnets; plans are carried out on it."""

    entries: dict[str, Entry] = field(default_factory=dict)
    remembered: Mapping[str, IPv4Network] = field(default_factory=dict)
    revision: int = 0

    def put(self, key: str, record: SubnetRecord | None, *, fault: str = "", misplaced: bool = False) -> None:
        self.revision += 1
        create = self.entries[key].create_revision if key in self.entries else self.revision
        self.entries[key] = Entry(key, record, self.revision, create, fault, misplaced)

    def edge(self, address: str, host: str, subnet: str | None = None, *, assign: bool = False) -> None:
        network = IPv4Network(subnet) if subnet else None
        self.put(address, SubnetRecord(host, IPv4Address(address), network, assign))

    def apply(self, nodes: dict[str, str] | None, *, config=NETWORK) -> Plan:  # type: ignore[no-untyped-def]
        """Carry out the plan for these nodes; a second one must find nothing left to do."""
        addresses = None if nodes is None else {name: IPv4Address(address) for name, address in nodes.items()}
        made = plan(config, addresses, self.entries, self.remembered)
        touched = [key for change in made.changes for key in change]
        assert len(touched) == len(set(touched)), "two transactions write one key"
        for change in made.changes:
            for key, record in change.items():
                if record is None:
                    del self.entries[key]
                else:
                    assert key == str(record.host_ip)
                    self.put(key, record)
        self.remembered = {host: subnet for host, subnet in made.owned.items() if nodes is None or host in nodes}
        assert not [change for change in plan(config, addresses, self.entries, self.remembered).changes if change]
        return made

    def subnets(self) -> dict[str, str]:
        """Host to subnet."""
        return {e.record.host: str(e.record.subnet) for e in self.entries.values() if e.record and e.record.subnet}


ONE, TWO, THREE = "192.0.2.11", "192.0.2.12", "192.0.2.13"


PROBLEM_AT_HOME = "its HostIP is the address of node node1: delete or correct it"


def troubles(made: Plan) -> set[tuple[str, Trouble]]:
    return {(problem.subject, problem.trouble) for problem in made.problems}


def test_nodes_get_the_lowest_free_subnets() -> None:
    folder = Folder()
    made = folder.apply({"node1": ONE, "node2": TWO})
    assert folder.subnets() == {"node1": "172.11.0.0/22", "node2": "172.11.4.0/22"}
    assert (made.free, made.total) == (62, 64)


def test_a_node_that_changes_its_address_keeps_its_subnet_in_one_transaction() -> None:
    folder = Folder()
    folder.apply({"node1": ONE, "node2": TWO})
    made = folder.apply({"node1": ONE, "node2": THREE})
    assert [set(change) for change in made.changes if change] == [{TWO, THREE}]
    assert folder.subnets() == {"node1": "172.11.0.0/22", "node2": "172.11.4.0/22"}
    assert folder.entries.keys() == {ONE, THREE}


def test_nodes_that_swap_addresses_keep_their_subnets_in_one_transaction() -> None:
    folder = Folder()
    folder.apply({"node1": ONE, "node2": TWO})
    made = folder.apply({"node1": TWO, "node2": ONE})
    assert [set(change) for change in made.changes if change] == [{ONE, TWO}]
    assert folder.subnets() == {"node1": "172.11.0.0/22", "node2": "172.11.4.0/22"}


def test_a_swap_that_kubernetes_tells_of_in_two_parts_is_refused_first_and_done_then() -> None:
    folder = Folder()
    folder.apply({"node1": ONE, "node2": TWO})
    half = folder.apply({"node1": TWO, "node2": TWO})
    assert troubles(half) == {("node1", Trouble.REFUSED)}
    folder.apply({"node1": TWO, "node2": ONE})
    assert folder.subnets() == {"node1": "172.11.0.0/22", "node2": "172.11.4.0/22"}


def test_three_nodes_that_shift_round_do_so_in_one_transaction() -> None:
    folder = Folder()
    folder.apply({"a": ONE, "b": TWO, "c": THREE})
    before = folder.subnets()
    made = folder.apply({"a": TWO, "b": THREE, "c": ONE})
    assert [set(change) for change in made.changes if change] == [{ONE, TWO, THREE}]
    assert folder.subnets() == before


def test_a_deleted_node_frees_its_subnet_and_an_edge_host_keeps_its_own() -> None:
    folder = Folder()
    folder.edge("192.0.2.90", "lb", assign=True)
    folder.apply({"node1": ONE})
    folder.apply({})
    assert folder.entries.keys() == {"192.0.2.90"}


def test_nothing_is_removed_or_moved_while_kubernetes_is_away_but_an_edge_host_is_served() -> None:
    folder = Folder()
    folder.apply({"node1": ONE})
    folder.edge("192.0.2.90", "lb", assign=True)
    folder.apply(None)
    assert folder.subnets() == {"node1": "172.11.0.0/22", "lb": "172.11.4.0/22"}


def test_an_assign_record_is_filled_and_its_flag_cleared() -> None:
    folder = Folder()
    folder.edge("192.0.2.90", "lb", assign=True)
    folder.apply({})
    record = folder.entries["192.0.2.90"].record
    assert record == SubnetRecord("lb", IPv4Address("192.0.2.90"), IPv4Network("172.11.0.0/22"), assign=False)


def test_an_edge_host_that_does_not_ask_is_given_nothing() -> None:
    folder = Folder()
    folder.edge("192.0.2.90", "lb")
    assert not [change for change in folder.apply({}).changes if change]


@pytest.mark.parametrize("subnet", ["172.12.0.0/22", "172.11.0.0/23", "172.11.0.0/16", "0.0.0.0/0", "172.11.0.0/22"])
def test_an_edge_host_cannot_take_what_is_not_a_free_subnet_of_the_network(subnet: str) -> None:
    folder = Folder()
    folder.apply({"node1": ONE})
    folder.edge("192.0.2.90", "evil", subnet)
    folder.apply({"node1": ONE})
    assert folder.subnets() == {"node1": "172.11.0.0/22"}
    record = folder.entries["192.0.2.90"].record
    assert record is not None
    assert "Assign true" in record.message


def test_a_record_that_claims_a_live_nodes_address_is_refused_and_left_alone() -> None:
    folder = Folder()
    folder.apply({"node1": ONE})
    folder.edge(ONE, "evil", "172.11.8.0/22")
    evil = folder.entries[ONE].record
    assert evil is not None
    made = folder.apply({"node1": ONE, "node2": TWO})
    assert folder.entries[ONE].record == replace(evil, message=PROBLEM_AT_HOME)
    assert troubles(made) >= {("node1", Trouble.REFUSED), (ONE, Trouble.REFUSED)}
    assert folder.subnets()["node2"] != "172.11.0.0/22"
    del folder.entries[ONE]
    folder.apply({"node1": ONE, "node2": TWO})
    assert folder.subnets()["node1"] == "172.11.0.0/22"


def test_an_asking_record_under_a_live_nodes_address_or_with_its_name_is_refused_and_given_nothing() -> None:
    folder = Folder()
    folder.apply({"node1": ONE, "node2": TWO})
    folder.edge(ONE, "lb", assign=True)
    folder.edge("192.0.2.90", "node2", assign=True)
    made = folder.apply({"node1": ONE, "node2": TWO})
    refused = {key: entry.record for key, entry in folder.entries.items() if key != TWO}
    assert [record.subnet for record in refused.values() if record] == [None, None]
    assert [bool(record.message) for record in refused.values() if record] == [True, True]
    assert troubles(made) >= {(ONE, Trouble.REFUSED), ("192.0.2.90", Trouble.REFUSED)}
    assert made.owned == {"node1": IPv4Network("172.11.0.0/22"), "node2": IPv4Network("172.11.4.0/22")}


def test_a_record_under_another_address_is_refused_and_left_alone() -> None:
    folder = Folder()
    folder.put(ONE, None, fault="HostIP 192.0.2.99 and the key disagree", misplaced=True)
    before = dict(folder.entries)
    made = folder.apply({"node1": ONE})
    assert folder.entries == before
    assert troubles(made) == {("node1", Trouble.REFUSED), (ONE, Trouble.REFUSED)}


def test_a_strangers_record_that_names_a_live_node_is_refused_and_left_alone() -> None:
    folder = Folder()
    folder.apply({"node1": ONE})
    folder.edge("192.0.2.90", "node1", "172.11.0.0/22")
    stranger = folder.entries["192.0.2.90"].record
    assert stranger is not None
    made = folder.apply({"node1": ONE})
    answer = "it names node node1, which is at 192.0.2.11: delete it"
    assert folder.entries["192.0.2.90"].record == replace(stranger, message=answer)
    assert troubles(made) == {("192.0.2.90", Trouble.REFUSED), ("node1", Trouble.REFUSED)}
    assert made.owned == {"node1": IPv4Network("172.11.0.0/22")}


def test_junk_under_a_live_nodes_address_is_repaired_and_elsewhere_left() -> None:
    folder = Folder()
    folder.apply({"node1": ONE, "node2": TWO})
    folder.put(TWO, None, fault="not JSON")
    folder.put("192.0.2.90", None, fault="not JSON")
    made = folder.apply({"node1": ONE, "node2": TWO})
    assert folder.subnets() == {"node1": "172.11.0.0/22", "node2": "172.11.4.0/22"}
    assert troubles(made) == {("192.0.2.90", Trouble.REFUSED)}


def test_what_somebody_types_into_a_nodes_record_is_repaired() -> None:
    folder = Folder()
    folder.apply({"node1": ONE, "node2": TWO})
    for subnet in ("172.11.0.0/22", "10.0.0.0/8", "172.11.40.0/22"):
        folder.edge(TWO, "node2", subnet)
        folder.apply({"node1": ONE, "node2": TWO})
        assert folder.subnets() == {"node1": "172.11.0.0/22", "node2": "172.11.4.0/22"}


def test_records_of_an_old_store_are_taken_over() -> None:
    folder = Folder()
    folder.edge(ONE, "node1", "172.11.32.0/22")
    folder.apply({"node1": ONE})
    assert folder.entries[ONE].is_of_node
    assert folder.subnets() == {"node1": "172.11.32.0/22"}


@pytest.mark.parametrize("address", ["172.11.200.5", "172.11.0.1", "10.96.0.10"])
def test_an_edge_host_inside_the_pod_or_service_network_is_refused_and_left_alone(address: str) -> None:
    folder = Folder()
    folder.edge(address, "lb", assign=True)
    asking = folder.entries[address].record
    assert asking is not None
    made = folder.apply({"node1": ONE})
    answer = folder.entries[address].record
    assert answer == replace(asking, message=answer.message if answer else "")
    assert "inside" in answer.message
    assert troubles(made) == {(address, Trouble.REFUSED)}


def test_an_asking_record_that_was_copied_from_a_nodes_is_an_edge_hosts_and_stays() -> None:
    folder = Folder()
    folder.apply({"node1": ONE})
    pattern = folder.entries[ONE].record
    assert pattern is not None
    copy = replace(pattern, host="lb", host_ip=IPv4Address("192.0.2.90"), subnet=None, assign=True)
    folder.put("192.0.2.90", copy)
    folder.apply({"node1": ONE})
    folder.apply({"node1": ONE})
    assert folder.subnets() == {"node1": "172.11.0.0/22", "lb": "172.11.4.0/22"}


def test_an_edge_host_that_is_removed_gives_its_subnet_back() -> None:
    folder = Folder()
    folder.edge("192.0.2.90", "lb", assign=True)
    folder.apply({})
    del folder.entries["192.0.2.90"]
    assert folder.apply({"node1": ONE}).owned == {"node1": IPv4Network("172.11.0.0/22")}


def test_of_two_records_with_one_subnet_the_older_keeps_it() -> None:
    folder = Folder()
    folder.edge("192.0.2.91", "first", "172.11.8.0/22")
    folder.edge("192.0.2.90", "second", "172.11.8.0/22")
    folder.apply({})
    assert folder.subnets() == {"first": "172.11.8.0/22"}


def test_coming_close_to_the_end_and_reaching_it_is_said() -> None:
    folder = Folder()
    nodes = {f"node{number}": f"192.0.2.{number}" for number in range(1, 4)}
    close = folder.apply(nodes, config=SMALL)
    assert troubles(close) == {("node3", Trouble.SCARCE)}
    nodes |= {"node4": "192.0.2.4", "node5": "192.0.2.5"}
    folder.edge("192.0.2.90", "lb", assign=True)
    full = folder.apply(nodes, config=SMALL)
    assert troubles(full) == {("node5", Trouble.EXHAUSTED), ("192.0.2.90", Trouble.EXHAUSTED)}
    record = folder.entries["192.0.2.90"].record
    assert record is not None
    assert (record.assign, record.subnet) == (True, None)
    assert "no subnet is free" in record.message
    del nodes["node1"]
    folder.apply(nodes, config=SMALL)
    assert folder.subnets()["node5"] == "172.11.0.0/22"


def test_unknown_fields_of_a_record_are_kept() -> None:
    folder = Folder()
    folder.put(ONE, SubnetRecord("node1", IPv4Address(ONE), None, extra=(("Rack", '"r7"'),)))
    folder.apply({"node1": TWO})
    record = folder.entries[TWO].record
    assert record is not None
    assert record.extra == marked((("Rack", '"r7"'),))


hosts = st.sampled_from(["n1", "n2", "n3", "n4", "stranger"])
addresses = st.sampled_from([f"192.0.2.{number}" for number in range(1, 7)])
subnets = st.none() | st.sampled_from([*SMALL.network.subnets(new_prefix=22), IPv4Network("10.0.0.0/22")])
records = st.tuples(addresses, hosts, subnets, st.booleans(), st.booleans())
nodes_of_kubernetes = st.dictionaries(hosts.filter(lambda host: host != "stranger"), addresses)


@settings(max_examples=300, deadline=None)
@given(st.lists(st.tuples(st.lists(records, max_size=3), st.none() | nodes_of_kubernetes), max_size=6))
def test_whatever_is_written_a_plan_is_final_and_no_two_live_nodes_share_a_subnet(
    history: list[tuple[list[tuple[str, str, IPv4Network | None, bool, bool]], dict[str, str] | None]],
) -> None:
    folder = Folder()
    for written, nodes in history:
        for address, host, subnet, assign, is_marked in written:
            record = SubnetRecord(host, IPv4Address(address), subnet, assign, extra=marked(()) if is_marked else ())
            folder.put(address, record)
        made = folder.apply(nodes, config=SMALL)
        owned = list(made.owned.values())
        assert len(owned) == len(set(owned))
        assert all(SMALL.has_subnet(subnet) for subnet in owned)
        for entry in folder.entries.values():
            if entry.is_of_node and entry.record is not None and nodes and nodes.get(entry.host) == entry.name:
                assert made.owned.get(entry.host) == entry.record.subnet or entry.host not in made.owned


def test_a_host_is_no_younger_for_what_the_controller_writes_into_its_record() -> None:
    controller = Controller(Store())
    first, second = KEYS.subnet(IPv4Address("192.0.2.91")), KEYS.subnet(IPv4Address("192.0.2.90"))
    controller.put(first, '{"Host":"first","Assign":true}')
    controller.put(second, '{"Host":"second"}')
    controller.put(first, controller.store.items[first].value.replace(b'"Assign":false', b'"Assign":true'))
    controller.put(second, '{"Host":"second","Subnet":"172.11.0.0/22"}')
    assert json.loads(controller.store.items[first].value)["Subnet"] == "172.11.0.0/22"
    assert json.loads(controller.store.items[second].value)["Subnet"] == ""
