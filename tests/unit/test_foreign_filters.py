from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from ipaddress import IPv4Network

import pytest

from agent.nftables import FilterSpec, accepts, foreign_firewalls, required_insertions, ruleset

SPEC = FilterSpec(IPv4Network("172.11.0.0/16"), "tun0", 4789, refuse_unsolicited=True, copied_devices=None)
DPORT = {"match": {"op": "==", "left": {"payload": {"protocol": "udp", "field": "dport"}}, "right": 4789}}
COUNTER, ACCEPT = {"counter": {"packets": 1, "bytes": 2}}, {"accept": None}
XT_COMMENT = {"xt": {"type": "match", "name": "comment"}}


def listing(*rules: Mapping[str, object]) -> str:
    """A chain as `nft --json list chain` prints it."""
    entries: Sequence[object] = [{"metainfo": {}}, {"chain": {"name": "INPUT"}}, *({"rule": rule} for rule in rules)]
    return json.dumps({"nftables": entries})


def commands(*rules: Mapping[str, object]) -> list[str]:
    return required_insertions(accepts(SPEC), "INPUT", listing(*rules)).splitlines()


def test_an_empty_chain_gets_every_accept_of_its_own() -> None:
    assert commands() == [
        'insert rule ip filter INPUT iifname "tun0" counter accept comment "k8sovs"',
        'insert rule ip filter INPUT udp dport 4789 counter accept comment "k8sovs"',
    ]


def test_an_accept_that_is_there_is_not_inserted_again() -> None:
    assert not any("dport" in line for line in commands({"handle": 3, "comment": "k8sovs", "expr": [DPORT, ACCEPT]}))


def test_an_accept_that_iptables_restored_counts() -> None:
    assert not any("dport" in line for line in commands({"handle": 3, "expr": [DPORT, XT_COMMENT, COUNTER, ACCEPT]}))


def test_somebody_elses_equal_rule_does_not_count_because_it_may_stand_behind_a_drop() -> None:
    assert any("dport" in line for line in commands({"handle": 3, "expr": [DPORT, ACCEPT]}))


def test_a_drop_on_the_same_condition_is_no_accept() -> None:
    assert any("dport" in line for line in commands({"handle": 3, "expr": [DPORT, XT_COMMENT, {"drop": None}]}))


def test_an_accept_of_ours_that_is_no_longer_wanted_goes() -> None:
    old = {"match": {**DPORT["match"], "right": 8472}}
    assert "delete rule ip filter INPUT handle 3" in commands({"handle": 3, "comment": "k8sovs", "expr": [old, ACCEPT]})


def test_rules_of_others_are_never_deleted() -> None:
    rules = [{"handle": 3, "comment": "other", "expr": [ACCEPT]}, {"handle": 4, "expr": [XT_COMMENT, ACCEPT]}]
    assert not any("delete" in line for line in commands(*rules))


@pytest.mark.parametrize("name", ["", 'a"b', "eth*", "a b", "a\\b"])
def test_a_device_name_that_could_change_the_rules_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="no device name"):
        ruleset(FilterSpec(SPEC.cluster_network, "tun0", 4789, refuse_unsolicited=True, copied_devices=(name,)))


def test_only_the_userspace_datapath_drops_copies() -> None:
    assert "k8o*" not in ruleset(SPEC)


def test_legacy_iptables_in_use_is_told_with_the_commands() -> None:
    (advice,) = foreign_firewalls(SPEC, set(), ["nat", "filter"])
    assert "iptables-legacy -I FORWARD -i tun0 -j ACCEPT" in advice
    assert "--dport 4789" in advice


def test_no_foreign_firewall_needs_no_advice() -> None:
    assert foreign_firewalls(SPEC, {("ip", "filter")}, ["nat"]) == ()
