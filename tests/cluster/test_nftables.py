"""The node's filters and address translation, judged by packets between namespaces and by nft and iptables.

The node is the test's own namespace. `tun0` leads to a pod in the place of the switch, `eth0` to a machine outside,
and `k8o...` is the host end of a pod link, whose frames the kernel receives too on the userspace datapath.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network
from typing import Any

import pytest
from scapy.layers.inet import IP, TCP
from scapy.layers.l2 import Ether

from agent import sysctls
from agent.nftables import FilterSpec, Nftables, NftablesError, ruleset
from tests.support.frames import Sniffer, send_frame
from tests.support.namespaces import Sandbox, fresh_namespace, run, run_json

SPEC = FilterSpec(
    cluster_network=IPv4Network("172.11.0.0/16"),
    gateway_device="tun0",
    vxlan_port=4789,
    refuse_unsolicited=True,
    copied_devices=(),
)
POD, GATEWAY, NODE, OUTSIDE = "172.11.0.5", "172.11.0.1", "198.51.100.1", "198.51.100.10"


@dataclass(frozen=True, slots=True)
class Place:
    """The two ends that talk through the node."""

    pod: Sandbox
    outside: Sandbox


def reaches(sandbox: Sandbox, address: str) -> bool:
    """Whether a ping comes back, the first or any later one."""
    return sandbox.succeeds("ping", "-i", "0.1", "-c", "1", "-w", "5", address)


def is_cut_off(sandbox: Sandbox, address: str) -> bool:
    """Whether several pings in a row are lost."""
    return not sandbox.succeeds("ping", "-i", "0.2", "-c", "1", "-w", "1", address)


@pytest.fixture
def place() -> Iterator[Place]:
    with fresh_namespace(), Sandbox() as pod, Sandbox() as outside:
        pod.connect("tun0", "eth0", f"{POD}/16")
        run("ip", "address", "add", f"{GATEWAY}/16", "dev", "tun0")
        pod.run("ip", "route", "add", "default", "via", GATEWAY)
        outside.connect("eth0", "eth0", f"{OUTSIDE}/24")
        run("ip", "address", "add", f"{NODE}/24", "dev", "eth0")
        sysctls.apply(sysctls.node_sysctls("tun0"))
        yield Place(pod, outside)


@pytest.fixture
async def nftables(place: Place) -> AsyncIterator[Nftables]:
    async with Nftables() as nftables:
        yield nftables


async def test_pods_reach_the_outside_under_the_nodes_address(place: Place, nftables: Nftables) -> None:
    assert is_cut_off(place.pod, OUTSIDE), "the outside knows no way back to a pod, so this must fail"
    await nftables.apply(ruleset(SPEC))
    assert reaches(place.pod, OUTSIDE)


async def test_what_belongs_to_no_connection_does_not_leave_under_a_pods_own_address(
    place: Place, nftables: Nftables
) -> None:
    """Address translation passes such packets over, a late RST say."""
    router = run_json("ip", "-json", "link", "show", "tun0")[0]["address"]
    stray = Ether(dst=router) / IP(src=POD, dst=OUTSIDE) / TCP(sport=4000, dport=80, flags="R", seq=7) / b"stray"
    with Sniffer(place.outside.path, "eth0") as outside:
        send_frame(place.pod.path, "eth0", bytes(stray))
        assert outside.sees(b"stray", 5), "this is what the rule is for"
        await nftables.apply(ruleset(SPEC))
        send_frame(place.pod.path, "eth0", bytes(stray))
        assert not outside.sees(b"stray", 0.5)
    assert reaches(place.pod, OUTSIDE)


async def test_pods_and_node_reach_each_other(place: Place, nftables: Nftables) -> None:
    await nftables.apply(ruleset(SPEC))
    assert reaches(place.pod, NODE)
    run("ping", "-c", "1", "-W", "1", POD)


async def test_clients_that_an_edge_host_forwards_are_answered_by_way_of_it(place: Place, nftables: Nftables) -> None:
    place.outside.run("ip", "route", "add", "172.11.0.0/16", "via", NODE)
    place.pod.run("ip", "route", "del", "default")
    admitting = replace(SPEC, refuse_unsolicited=False)
    await nftables.apply(ruleset(admitting))
    assert is_cut_off(place.outside, POD), "the pod knows no way to a client, so this must fail"
    await nftables.apply(ruleset(replace(admitting, masquerade_as=IPv4Address(GATEWAY))))
    assert reaches(place.outside, POD)


@pytest.mark.parametrize("refuse", [True, False])
async def test_machines_that_route_by_the_node_enter_only_if_allowed(
    place: Place, nftables: Nftables, refuse: bool
) -> None:
    place.outside.run("ip", "route", "add", "172.11.0.0/16", "via", NODE)
    await nftables.apply(ruleset(replace(SPEC, refuse_unsolicited=refuse)))
    assert (is_cut_off if refuse else reaches)(place.outside, POD)


async def test_what_a_service_of_the_node_translated_enters(place: Place, nftables: Nftables) -> None:
    await nftables.apply(ruleset(SPEC))
    run("nft", "add", "table", "ip", "proxy")
    run("nft", "add", "chain", "ip", "proxy", "pre", "{ type nat hook prerouting priority dstnat; }")
    run("nft", "add", "rule", "ip", "proxy", "pre", "ip", "daddr", "198.51.100.77", "dnat", "to", POD)
    place.outside.run("ip", "route", "add", "198.51.100.77/32", "via", NODE)
    assert reaches(place.outside, "198.51.100.77")


@pytest.mark.parametrize(("port", "tunnel", "entered"), [(4789, OUTSIDE, 0), (4789, NODE, 0), (4788, OUTSIDE, 1)])
async def test_a_service_cannot_lead_a_pod_into_a_tunnel(
    place: Place, nftables: Nftables, port: int, tunnel: str, entered: int
) -> None:
    await nftables.apply(ruleset(SPEC))
    run("nft", "add", "table", "ip", "proxy")
    run("nft", "add", "chain", "ip", "proxy", "pre", "{ type nat hook prerouting priority dstnat; }")
    run("nft", "add", "rule", "ip", "proxy", "pre", "udp", "dport", "53", "dnat", "to", f"{tunnel}:{port}")
    # Counted behind every filter of ours: what leaves for the other node, and what a socket of this one would get.
    run("nft", "add", "chain", "ip", "proxy", "post", "{ type filter hook postrouting priority 300; }")
    run("nft", "add", "chain", "ip", "proxy", "in", "{ type filter hook input priority 300; }")
    for chain in ("post", "in"):
        run("nft", "add", "rule", "ip", "proxy", chain, "udp", "dport", str(port), "counter", "accept")
    place.pod.run("bash", "-c", f"echo vxlan > /dev/udp/{OUTSIDE}/53")
    counters = [entry["rule"]["expr"] for entry in _listed("proxy") if "rule" in entry]
    passed = sum(part["counter"]["packets"] for expressions in counters for part in expressions if "counter" in part)
    assert passed == entered


def _listed(table: str) -> list[Any]:
    listing: list[Any] = run_json("nft", "--json", "list", "table", "ip", table)["nftables"]
    return listing


async def test_a_host_that_drops_by_default_lets_the_overlay_through(place: Place, nftables: Nftables) -> None:
    run("iptables-nft", "-P", "FORWARD", "DROP")
    run("iptables-nft", "-P", "INPUT", "DROP")
    await nftables.apply(ruleset(SPEC))
    assert is_cut_off(place.pod, OUTSIDE)
    assert is_cut_off(place.pod, NODE)
    assert await nftables.admit(SPEC)
    assert reaches(place.pod, OUTSIDE)
    assert reaches(place.pod, NODE)


async def test_iptables_reads_the_accepts_as_its_own(place: Place, nftables: Nftables) -> None:
    run("iptables-nft", "-P", "FORWARD", "DROP")
    run("iptables-nft", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
    await nftables.admit(SPEC)
    rules = run("iptables-nft", "-S").splitlines()
    assert "-A FORWARD -i tun0 -m comment --comment k8sovs -j ACCEPT" in rules
    assert "-A FORWARD -o tun0 -m comment --comment k8sovs -j ACCEPT" in rules
    assert "-A INPUT -i tun0 -m comment --comment k8sovs -j ACCEPT" in rules
    assert "-A INPUT -p udp -m udp --dport 4789 -m comment --comment k8sovs -j ACCEPT" in rules


async def test_the_accepts_are_inserted_once(place: Place, nftables: Nftables) -> None:
    run("iptables-nft", "-P", "FORWARD", "DROP")
    assert len(await nftables.admit(SPEC)) == 2
    assert await nftables.admit(SPEC) == ()


async def test_the_accepts_are_known_again_after_iptables_restored_them(place: Place, nftables: Nftables) -> None:
    run("iptables-nft", "-P", "FORWARD", "DROP")
    run("iptables-nft", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
    await nftables.admit(SPEC)
    run("sh", "-c", "iptables-nft-save | iptables-nft-restore")
    assert await nftables.admit(SPEC) == ()


async def test_a_changed_vxlan_port_replaces_the_old_accept(place: Place, nftables: Nftables) -> None:
    run("iptables-nft", "-A", "INPUT", "-i", "lo", "-j", "ACCEPT")
    await nftables.admit(SPEC)
    await nftables.admit(replace(SPEC, vxlan_port=8472))
    listed = run("iptables-nft", "-S", "INPUT")
    assert "--dport 8472" in listed
    assert "--dport 4789" not in listed
    assert "-i lo" in listed


async def test_without_a_foreign_filter_none_is_made(place: Place, nftables: Nftables) -> None:
    assert await nftables.admit(SPEC) == ()
    assert run("nft", "list", "tables") == ""


@pytest.mark.parametrize(("copied", "dropped"), [((), True), (None, False)])
async def test_frames_that_the_switch_has_do_not_reach_the_kernel_too(
    place: Place, nftables: Nftables, copied: tuple[str, ...] | None, dropped: bool
) -> None:
    with Sandbox() as other:
        other.connect("k8o0123456789a", "eth0", "172.11.0.6/16")
        run("ip", "route", "add", "172.11.0.6/32", "dev", "k8o0123456789a")
        await nftables.apply(ruleset(replace(SPEC, copied_devices=copied)))
        assert (is_cut_off if dropped else reaches)(other, "172.11.0.1")


@pytest.mark.parametrize(("copied", "dropped"), [((), True), (None, False)])
async def test_two_pods_do_not_reach_each_other_past_the_switch(
    place: Place, nftables: Nftables, copied: tuple[str, ...] | None, dropped: bool
) -> None:
    with Sandbox() as one, Sandbox() as other:
        for sandbox, link, address in ((one, "k8o1", "172.11.0.6"), (other, "k8o2", "172.11.0.7")):
            sandbox.connect(link, "eth0", f"{address}/32")
            (pod_end,) = run_json(*sandbox.command("ip", "-json", "link", "show", "eth0"))
            run("ip", "route", "add", f"{address}/32", "dev", link)
            run("ip", "neighbour", "add", address, "lladdr", pod_end["address"], "dev", link)
            sandbox.run("ip", "route", "add", "default", "dev", "eth0")
            (host_end,) = run_json("ip", "-json", "link", "show", link)
            peer = "172.11.0.7" if sandbox is one else "172.11.0.6"
            sandbox.run("ip", "neighbour", "add", peer, "lladdr", host_end["address"], "dev", "eth0")
        await nftables.apply(ruleset(replace(SPEC, copied_devices=copied)))
        assert (is_cut_off if dropped else reaches)(one, "172.11.0.7")


async def test_copies_of_the_underlay_device_are_dropped(place: Place, nftables: Nftables) -> None:
    assert reaches(place.outside, NODE)
    await nftables.apply(ruleset(replace(SPEC, copied_devices=("eth0",))))
    assert is_cut_off(place.outside, NODE)


async def test_no_arp_is_answered_to_a_pods_link(place: Place, nftables: Nftables) -> None:
    with Sandbox() as other:
        other.connect("k8o0123456789a", "eth0", "172.11.0.6/16")
        await nftables.apply(ruleset(SPEC))
        assert is_cut_off(other, "172.11.0.1")
        assert "lladdr" not in other.run("ip", "neighbour", "show", "172.11.0.1")


async def test_replacing_the_rules_by_the_same_leaves_the_same(place: Place, nftables: Nftables) -> None:
    await nftables.apply(ruleset(SPEC))
    before = run("nft", "list", "ruleset")
    await nftables.apply(ruleset(SPEC))
    assert run("nft", "list", "ruleset") == before


async def test_rules_with_an_error_change_nothing(place: Place, nftables: Nftables) -> None:
    await nftables.apply(ruleset(SPEC))
    before = run("nft", "list", "ruleset")
    with pytest.raises(NftablesError, match="syntax error"):
        await nftables.apply(ruleset(SPEC) + "nonsense\n")
    assert run("nft", "list", "ruleset") == before


async def test_tables_of_others_stay(place: Place, nftables: Nftables) -> None:
    run("nft", "add", "table", "ip", "somebody")
    await nftables.apply(ruleset(SPEC))
    assert "table ip somebody" in run("nft", "list", "tables")


async def test_firewalld_is_noticed(place: Place, nftables: Nftables) -> None:
    assert await nftables.advice(SPEC) == ()
    run("nft", "add", "table", "inet", "firewalld")
    (advice,) = await nftables.advice(SPEC)
    assert "firewall-cmd --permanent --zone=trusted --add-interface=tun0" in advice


async def test_settings_are_written_once(place: Place) -> None:
    run("sysctl", "-q", "net.ipv4.conf.tun0.send_redirects=1", "net.ipv4.ip_forward=0")
    changed = await sysctls.ensure(sysctls.node_sysctls("tun0"))
    assert set(changed) >= {"net/ipv4/conf/tun0/send_redirects", "net/ipv4/ip_forward"}
    assert await sysctls.ensure(sysctls.node_sysctls("tun0")) == ()
    assert run("sysctl", "-n", "net.ipv4.conf.tun0.send_redirects", "net.ipv4.ip_forward").split() == ["0", "1"]
