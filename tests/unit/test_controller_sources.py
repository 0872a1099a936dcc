"""What the controller keeps of the objects of Kubernetes: enough to decide by, and little of it."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec

from controller.sources import ADDRESS_ANNOTATION, address_of, bare_namespace, bare_node, uid_of
from k8sovs.kubernetes import Namespace, Node, from_document, key_of, to_document

RECORDED = Path(__file__).parents[1] / "recorded" / "kubernetes"


def _node(**annotations: str) -> Node:
    document = json.loads((RECORDED / "api_v1_nodes_node1.json").read_bytes())
    document["metadata"]["annotations"] |= annotations
    return from_document(document, Node)


def test_a_trimmed_namespace_says_who_it_is() -> None:
    document = json.loads((RECORDED / "api_v1_namespaces_tenant1.json").read_bytes())
    whole = from_document(document, Namespace)
    assert (key_of(bare_namespace(whole)), uid_of(bare_namespace(whole))) == (key_of(whole), uid_of(whole))


def test_a_trimmed_node_says_who_and_where_it_is() -> None:
    for whole in (_node(), _node(**{ADDRESS_ANNOTATION: "192.0.2.77"})):
        bare = bare_node(whole)
        assert (key_of(bare), address_of(bare)) == (key_of(whole), address_of(whole))


def test_a_node_without_status_or_metadata_can_be_trimmed() -> None:
    assert address_of(bare_node(Node())) is None


def test_little_of_a_node_is_left() -> None:
    whole = _node()
    whole_bytes, bare_bytes = (len(msgspec.json.encode(to_document(one))) for one in (whole, bare_node(whole)))
    assert bare_bytes < whole_bytes / 5
