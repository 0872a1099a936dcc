from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.preflight import clashes, overlaps
from agent.snapshot import Identity
from agent.underlay import Underlay
from k8sovs.records import Mode, NetworkConfig

CONFIG = NetworkConfig("k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT)
IDENTITY = Identity(IPv4Address("192.0.2.11"), IPv4Network("172.11.4.0/22"), 4789)
ETCD = ("https://192.0.2.2:2379", "etcd.example:2379")
MTU = 1450
UNDERLAY = Underlay("eth0", 2, 1500, IPv4Network("192.0.2.0/24"))


def test_settings_that_go_together_clash_with_nothing() -> None:
    assert list(clashes(CONFIG, IDENTITY, ETCD, MTU, UNDERLAY)) == []


@pytest.mark.parametrize(
    ("address", "name"), [("172.11.200.1", "Network 172.11.0.0/16"), ("10.97.0.1", "ServiceNetwork 10.96.0.0/12")]
)
def test_a_node_inside_the_overlay_is_told_which_setting_clashes_with_which(address: str, name: str) -> None:
    (problem,) = clashes(CONFIG, replace(IDENTITY, address=IPv4Address(address)), ETCD, MTU, UNDERLAY)
    assert f"node-address {address} lies inside {name}" in problem


@pytest.mark.parametrize("endpoint", ["http://10.96.0.10:2379", "10.96.0.10:2379", "https://172.11.0.5:2379/"])
def test_etcd_may_not_be_reached_through_the_network_that_the_agent_makes(endpoint: str) -> None:
    (problem,) = clashes(CONFIG, IDENTITY, (*ETCD, endpoint), MTU, UNDERLAY)
    assert f"etcd-endpoints names {endpoint}, inside" in problem


@pytest.mark.parametrize("subnet", ["172.12.0.0/22", "172.11.4.0/24", "172.11.0.0/16"])
def test_a_subnet_that_the_configuration_does_not_give_is_refused(subnet: str) -> None:
    (problem,) = clashes(CONFIG, replace(IDENTITY, subnet=IPv4Network(subnet)), ETCD, MTU, UNDERLAY)
    assert f"this node's subnet {subnet} is not one of Network 172.11.0.0/16" in problem


def test_an_underlay_too_small_for_a_pod_is_refused() -> None:
    (problem,) = clashes(CONFIG, IDENTITY, ETCD, 526, replace(UNDERLAY, mtu=576))
    assert "would be 526, IPv4 needs 576" in problem


def test_an_mtu_that_the_underlay_cannot_carry_is_refused() -> None:
    (problem,) = clashes(CONFIG, IDENTITY, ETCD, 1500, UNDERLAY)
    assert "mtu 1500 is more than the 1450 bytes" in problem


def test_every_clash_is_told() -> None:
    moved = replace(IDENTITY, address=IPv4Address("10.97.0.1"))
    assert len(list(clashes(CONFIG, moved, ("http://10.96.0.10:2379",), 500, UNDERLAY))) == 3


@pytest.mark.parametrize("connected", ["172.0.0.0/8", "172.11.128.0/24", "172.11.0.0/16"])
def test_a_network_that_overlaps_the_nodes_own_is_told_and_keeps_nobody_from_starting(connected: str) -> None:
    """The node's address need not lie in both."""
    underlay = replace(UNDERLAY, network=IPv4Network(connected))
    (problem,) = overlaps(CONFIG, IDENTITY, underlay)
    assert f"Network 172.11.0.0/16 overlaps {connected}, the network of eth0 with node-address 192.0.2.11" in problem
    assert list(clashes(CONFIG, IDENTITY, ETCD, MTU, underlay)) == []
    assert list(overlaps(CONFIG, IDENTITY, UNDERLAY)) == []
