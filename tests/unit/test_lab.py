"""The pure parts of the lab: names and addresses, what a runtime hands over, the table of who reaches whom."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

import pytest

from k8sovs.lab.layout import Datapath, Lab, LabError, LabMode, load, route_metric, spec_file
from k8sovs.lab.reach import Place, Reach, judge, table
from k8sovs.lab.runtime import bandwidth_of


def lab(name: str = "lab", nodes: int = 3, host_subnet_length: int = 10) -> Lab:
    return Lab(name, nodes, LabMode.MULTITENANT, Datapath.AUTO, host_subnet_length=host_subnet_length)


@pytest.mark.parametrize("name", ["", "-a", "a-", "A", "a/b", "..", "a b", "x" * 21])
def test_a_name_that_cannot_be_a_folder_and_a_namespace_is_refused(name: str) -> None:
    with pytest.raises(LabError, match="lab name"):
        lab(name)


@pytest.mark.parametrize("nodes", [0, -1, 51])
def test_a_number_of_nodes_that_does_not_fit_the_underlay_is_refused(nodes: int) -> None:
    with pytest.raises(LabError, match=f"{nodes} nodes"):
        lab(nodes=nodes)


@pytest.mark.parametrize("length", [-1, 1, 15, 16, 17])
def test_a_host_subnet_length_that_leaves_a_node_without_subnet_or_pods_is_refused(length: int) -> None:
    with pytest.raises(LabError, match=f"host subnet length {length}"):
        lab(nodes=3, host_subnet_length=length)


@pytest.mark.parametrize("members", [-1, 0, 100])
def test_a_number_of_members_of_etcd_that_is_not_meant_is_refused(members: int) -> None:
    with pytest.raises(LabError, match=f"{members} members of etcd"):
        Lab("lab", 1, LabMode.MULTITENANT, Datapath.AUTO, etcd_members=members)


@pytest.mark.parametrize("edges", [-1, 10])
def test_a_number_of_edge_hosts_that_is_not_meant_is_refused(edges: int) -> None:
    with pytest.raises(LabError, match=f"{edges} edge hosts"):
        Lab("lab", 3, LabMode.MULTITENANT, Datapath.AUTO, edges=edges)


def test_edge_hosts_need_subnets_too() -> None:
    with pytest.raises(LabError, match="3 nodes and 2 edge hosts need one each"):
        Lab("lab", 3, LabMode.MULTITENANT, Datapath.AUTO, host_subnet_length=14, edges=2)


def test_edge_hosts_count_up_and_have_one_address_towards_clients() -> None:
    edges = Lab("lab", 1, LabMode.MULTITENANT, Datapath.AUTO, edges=2).all_edges()
    assert [(edge.name, str(edge.address), str(edge.client_side)) for edge in edges] == [
        ("edge1", "192.0.2.199", "198.18.0.199"),
        ("edge2", "192.0.2.200", "198.18.0.200"),
    ]


def test_nodes_count_up_from_node1_at_their_first_address() -> None:
    nodes = lab().all_nodes()
    assert [(node.name, str(node.address)) for node in nodes] == [
        ("node1", "192.0.2.11"),
        ("node2", "192.0.2.12"),
        ("node3", "192.0.2.13"),
    ]


def test_pods_whose_names_run_together_have_namespaces_of_their_own() -> None:
    assert lab().pod_netns("a-b", "c", "1111aaaa") != lab().pod_netns("a", "b-c", "2222bbbb")


def test_the_longest_pod_name_still_fits_a_file_name() -> None:
    assert len(lab("x" * 20).pod_netns("n" * 63, "p" * 253, "0" * 64)) <= 255


def test_a_lab_is_read_back_as_it_was_written(tmp_path: Path) -> None:
    spec_file(tmp_path).write_text(lab("other", 5, 4).encode())
    assert load(tmp_path) == lab("other", 5, 4)


def test_a_lab_with_kubernetes_binaries_is_read_back_too(tmp_path: Path) -> None:
    (tmp_path / "kube-apiserver").touch()
    asked = Lab("real", 2, LabMode.SUBNET, Datapath.NETDEV, tmp_path)
    spec_file(tmp_path).write_text(asked.encode())
    assert load(tmp_path) == asked


@pytest.mark.parametrize("written", [{"name": "old", "nodes": 1}, {**json.loads(lab("old").encode()), "colour": "red"}])
def test_a_lab_of_another_version_is_to_be_taken_down(tmp_path: Path, written: dict[str, object]) -> None:
    spec_file(tmp_path).write_text(json.dumps(written))
    with pytest.raises(LabError, match=f"another version of k8sovs: take it down with .*down --name {tmp_path.name}"):
        load(tmp_path)


def test_a_directory_without_an_api_server_is_refused_by_the_variable_that_named_it(tmp_path: Path) -> None:
    with pytest.raises(LabError, match=f"KUBEBUILDER_ASSETS={tmp_path}: there is no kube-apiserver"):
        Lab("real", 2, LabMode.SUBNET, Datapath.NETDEV, tmp_path)


def test_labs_guard_their_prefixes_with_metrics_of_their_own() -> None:
    metrics = {route_metric(f"lab{number}") for number in range(100)}
    assert len(metrics) == 100
    assert all(2**31 < metric < 2**32 for metric in metrics)


@pytest.mark.parametrize(
    ("annotation", "rate"), [("10M", 10_000_000), ("1k", 1_000), ("5Mi", 5 * 2**20), ("800000", 800_000)]
)
def test_a_bandwidth_annotation_becomes_the_capability_that_containerd_passes(annotation: str, rate: int) -> None:
    limits = bandwidth_of({"kubernetes.io/ingress-bandwidth": annotation})
    assert limits == {"IngressRate": rate, "IngressBurst": 2**32 - 1}


@pytest.mark.parametrize("annotation", ["", "fast", "M", "-1M", "1MM"])
def test_a_bandwidth_annotation_that_is_no_quantity_limits_nothing(annotation: str) -> None:
    assert bandwidth_of({"kubernetes.io/egress-bandwidth": annotation}) == {}


def test_a_table_marks_the_cells_that_are_wrong_and_leaves_the_unmeasured_empty() -> None:
    one = Place("one", "/run/netns/1", "192.0.2.1", node="node1")
    two = Place("two", "/run/netns/2", "192.0.2.2")
    lines = table({(one, two): True, (two, one): False}, wrong=[(two, one)])
    assert [line.split() for line in lines] == [
        ["from", "\\", "to", "one", "two"],
        ["one", "node1", "yes"],
        ["two", "-!"],
    ]


class Measurements:
    """Answers of pings, one table for each time of asking; remembers what was asked for."""

    def __init__(self, *answers: Reach) -> None:
        self._answers = list(answers)
        self.asked: list[list[tuple[Place, Place]]] = []

    def __call__(self, pairs: Iterable[tuple[Place, Place]]) -> Reach:
        self.asked.append(list(pairs))
        return self._answers.pop(0)


ONE, TWO = Place("one", "/run/netns/1", "192.0.2.1"), Place("two", "/run/netns/2", "192.0.2.2")
THERE, BACK = (ONE, TWO), (TWO, ONE)


def test_a_forbidden_delivery_is_wrong_at_once() -> None:
    measurements = Measurements({THERE: True, BACK: False})
    _, wrong = judge([THERE, BACK], lambda sender, target: False, measure=measurements)
    assert wrong == [THERE]
    assert measurements.asked == [[THERE, BACK]]


def test_what_should_arrive_and_did_not_is_measured_again_alone() -> None:
    measurements = Measurements({THERE: False, BACK: False}, {THERE: True})
    reach, wrong = judge([THERE, BACK], lambda sender, target: sender is ONE, measure=measurements)
    assert (reach, wrong) == ({THERE: True, BACK: False}, [])
    assert measurements.asked == [[THERE, BACK], [THERE]]


def test_what_never_arrives_is_wrong_after_three_measurements() -> None:
    measurements = Measurements(*[{THERE: False}] * 3)
    _, wrong = judge([THERE], lambda sender, target: True, measure=measurements)
    assert (wrong, len(measurements.asked)) == ([THERE], 3)


@pytest.mark.parametrize("told", ['{"name": "la', "", "[]", "\x00", '{"mode": "odd"}'])
def test_a_lab_whose_file_was_written_in_half_is_told_how_to_be_taken_down(tmp_path: Path, told: str) -> None:
    odd = json.loads(told) if told.startswith('{"mode') else None
    spec_file(tmp_path).write_text(told if odd is None else json.dumps(json.loads(lab().encode()) | odd))
    with pytest.raises(
        LabError, match=f"{spec_file(tmp_path)} cannot be read: .*k8sovs lab down --name {tmp_path.name}"
    ):
        load(tmp_path)
