"""What `k8sovs check` says of the facts of a host: a healthy one first, then one fact changed at a time."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest

from agent.caretakers import caretakers, our_devices
from agent.facts import Caretaker, Device, EtcdFacts, Facts, FilterFacts, Module, PathProbe, Right, Role
from agent.findings import CHECKS, findings
from k8sovs.records import Mode, NetworkConfig

CONFIG = NetworkConfig("k8ssdn", IPv4Network("172.11.0.0/16"), 10, IPv4Network("10.96.0.0/12"), Mode.MULTITENANT)
NODE, PEER = IPv4Address("192.0.2.11"), IPv4Address("192.0.2.12")
UNDERLAY = Device("eth0", 1500, True, addresses=(IPv4Interface("192.0.2.11/24"),), routes=(IPv4Network("0.0.0.0/0"),))
OURS = Device("tun0", 1450, True, "openvswitch", None, (IPv4Interface("172.11.4.1/32"),), (CONFIG.network,))
ETCD = EtcdFacts(("http://192.0.2.2:2379",), writing=Right.DENIED, config=CONFIG)
SETTINGS = {"net.ipv4.ip_forward": "1", "net.ipv4.conf.tun0.rp_filter": "2", "net.ipv4.conf.tun0.forwarding": "1"}
HEALTHY = Facts(
    role=Role.AGENT,
    node_address=NODE,
    address_chosen=True,
    vxlan_port=4789,
    mtu=0,
    installed=True,
    module=Module.LOADED,
    userspace_wanted=False,
    ovs_version="3.1.0",
    ovs_trouble="",
    devices=(UNDERLAY, OURS),
    udp_port_taken_by="",
    probes=(PathProbe(PEER, 1500, 1500),),
    etcd=ETCD,
    filters=FilterFacts(forward_drops=True, admitted=True),
    api_server="https://192.0.2.2:6443",
    api_address=IPv4Address("192.0.2.2"),
    conf_dir="/etc/cni/net.d",
    conf_files=("10-k8s-ovs.conflist", "99-loopback.conf"),
    sysctls=SETTINGS,
    caretakers=(Caretaker("NetworkManager", ()),),
)


def with_devices(*more: Device) -> Facts:
    return replace(HEALTHY, devices=(*HEALTHY.devices, *more))


def with_etcd(**changed: object) -> Facts:
    return replace(HEALTHY, etcd=replace(ETCD, **changed))  # type: ignore[arg-type]


def address(text: str, **more: object) -> Device:
    return Device("dev0", 1500, True, addresses=(IPv4Interface(text),), **more)  # type: ignore[arg-type]


CASES = {
    "not loaded": (
        replace(HEALTHY, module=Module.AVAILABLE),
        "kernel-module",
        "warning",
        "modprobe openvswitch",
    ),
    "no module": (replace(HEALTHY, module=Module.MISSING), "kernel-module", "warning", "datapath = netdev"),
    "no switch": (replace(HEALTHY, ovs_trouble="not running"), "open-vswitch", "error", "start ovsdb-server"),
    "old switch": (replace(HEALTHY, ovs_version="2.17.9"), "open-vswitch", "warning", "3.1 or later"),
    "foreign vxlan": (
        with_devices(Device("flannel.1", 1450, True, "vxlan", 4789)),
        "vxlan-port",
        "error",
        "ip link delete flannel.1",
    ),
    "port taken": (replace(HEALTHY, udp_port_taken_by="x (process 7)"), "vxlan-port", "error", "set vxlan-port"),
    "no address": (replace(HEALTHY, node_address=None), "node-address", "error", "set node-address"),
    "foreign address": (replace(HEALTHY, node_address=PEER), "node-address", "error", "set node-address"),
    "several NICs": (
        replace(with_devices(address("198.51.100.3/24")), address_chosen=False),
        "node-address",
        "warning",
        "set node-address",
    ),
    "mtu too large": (replace(HEALTHY, mtu=1500), "mtu", "error", "lower mtu"),
    "mtu too small": (replace(HEALTHY, mtu=500), "mtu", "error", "raise"),
    "jumbo unused": (
        replace(HEALTHY, mtu=1450, devices=(replace(UNDERLAY, mtu=9000), OURS)),
        "mtu",
        "note",
        "use 8950",
    ),
    "path too small": (replace(HEALTHY, probes=(PathProbe(PEER, 1500, 1450),)), "path", "error", "set mtu = 1400"),
    "silent peer": (replace(HEALTHY, probes=(PathProbe(PEER, 1500, 0),)), "path", "warning", "ICMP"),
    "address in Network": (with_devices(address("172.11.9.1/24")), "addresses", "error", "another Network"),
    "address in ServiceNetwork": (with_devices(address("10.100.0.1/16")), "addresses", "error", "another Network"),
    "route into Network": (
        with_devices(Device("vpn0", 1400, True, routes=(IPv4Network("172.11.128.0/17"),))),
        "addresses",
        "error",
        "another Network",
    ),
    "API by ClusterIP": (
        replace(HEALTHY, api_server="https://10.96.0.1:443", api_address=IPv4Address("10.96.0.1")),
        "addresses",
        "error",
        "address of a host",
    ),
    "etcd by ClusterIP": (with_etcd(endpoints=("http://10.96.0.9:2379",)), "addresses", "error", "address of a host"),
    "etcd away": (with_etcd(trouble="no answer", config=None), "etcd", "error", "etcd-*"),
    "a member away": (with_etcd(silent=("http://192.0.2.3:2379",)), "etcd", "warning", "member"),
    "etcd unreadable": (with_etcd(denied=("/x/vnids/",)), "etcd", "error", "docs/security.md"),
    "agent may write": (with_etcd(writing=Right.GRANTED), "etcd", "warning", "may only read"),
    "controller may not": (replace(HEALTHY, role=Role.CONTROLLER), "etcd", "error", "docs/security.md"),
    "no configuration": (with_etcd(config=None), "etcd", "note", "setting network"),
    "bad configuration": (with_etcd(config=None, config_trouble="no JSON"), "etcd", "error", "correct the record"),
    "another plugin first": (
        replace(HEALTHY, conf_files=("05-cilium.conflist", "10-k8s-ovs.conflist")),
        "cni-order",
        "error",
        "mv /etc/cni/net.d/05-cilium.conflist",
    ),
    "flannel first": (
        replace(HEALTHY, conf_files=("10-flannel.conflist", "10-k8s-ovs.conflist")),
        "cni-order",
        "error",
        "mv /etc/cni/net.d/10-flannel.conflist",
    ),
    "conf missing": (replace(HEALTHY, conf_files=()), "cni-order", "error", "cni-conf-dir"),
    "not admitted": (replace(HEALTHY, filters=FilterFacts(True, False)), "filters", "error", "does it run"),
    "Docker before us": (
        replace(HEALTHY, installed=False, filters=FilterFacts(True, False)),
        "filters",
        "note",
        "the agent adds rules",
    ),
    "firewalld": (
        replace(HEALTHY, filters=FilterFacts(advice=("firewalld runs here; run: firewall-cmd --x",))),
        "filters",
        "warning",
        "firewall-cmd --x",
    ),
    "strict rp_filter": (
        replace(HEALTHY, sysctls=SETTINGS | {"net.ipv4.conf.tun0.rp_filter": "1"}),
        "kernel-settings",
        "error",
        "sysctl -w net.ipv4.conf.tun0.rp_filter=2",
    ),
    "no forwarding": (
        replace(HEALTHY, sysctls=SETTINGS | {"net.ipv4.ip_forward": "0"}),
        "kernel-settings",
        "error",
        "sysctl -w net.ipv4.ip_forward=1",
    ),
    "NetworkManager": (
        replace(HEALTHY, caretakers=(Caretaker("NetworkManager", ("tun0",)),)),
        "caretakers",
        "warning",
        "unmanaged-devices",
    ),
    "networkd": (
        replace(HEALTHY, caretakers=(Caretaker("systemd-networkd", ("tun0",)),)),
        "caretakers",
        "warning",
        "Unmanaged=yes",
    ),
}


def test_of_a_healthy_host_there_is_nothing_to_say() -> None:
    assert findings(HEALTHY) == ()


@pytest.mark.parametrize("case", CASES)
def test_what_is_wrong_is_told_once_with_what_to_do(case: str) -> None:
    facts, check, severity, action = CASES[case]
    (found,) = findings(facts)
    assert (found.check, found.severity.value) == (check, severity)
    assert action in found.action
    assert found.what


def test_every_check_has_a_case() -> None:
    assert {check for _, check, _, _ in CASES.values()} == set(CHECKS)


DEVICES = our_devices("br0", 4789)
RULE = "tun0;interface-name:br0;interface-name:k8o*;interface-name:ovs-system;interface-name:vxlan_sys_*"


def write(root: Path, path: str, text: str = "") -> None:
    file = root / path
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(text)


def test_a_host_without_caretakers_has_none(tmp_path: Path) -> None:
    assert caretakers(DEVICES, tmp_path) == ()


@pytest.mark.parametrize(
    ("text", "minded"),
    [
        ("", DEVICES),
        (f"[keyfile]\nunmanaged-devices=interface-name:{RULE}\n", ()),
        ("[keyfile]\nunmanaged-devices=interface-name:tun0\n", DEVICES[1:]),
        ("[device-ovs]\nmatch-device=interface-name:=tun0\nmanaged=0\n", DEVICES[1:]),
        ("junk [ = \x00", DEVICES),
    ],
)
def test_networkmanager_minds_what_no_rule_excludes(tmp_path: Path, text: str, minded: tuple[str, ...]) -> None:
    write(tmp_path, "run/NetworkManager/pid")
    write(tmp_path, "etc/NetworkManager/conf.d/k8sovs.conf", text)
    assert caretakers(DEVICES, tmp_path) == (Caretaker("NetworkManager", minded),)


@pytest.mark.parametrize(
    ("files", "minded"),
    [
        ({}, ()),
        ({"20-wired.network": "[Match]\nName=en*\n[Network]\nDHCP=yes\n"}, ()),
        ({"20-all.network": "[Match]\nName=*\n[Network]\nDHCP=yes\n"}, DEVICES),
        ({"20-ether.network": "[Match]\nType=ether\n[Network]\nDHCP=yes\n"}, DEVICES),
        (
            {
                "10-k8sovs.network": "[Match]\nName=tun0 br0 k8o* ovs-system vxlan_sys_*\n[Link]\nUnmanaged=yes\n",
                "20-all.network": "[Match]\nName=*\n[Network]\nDHCP=yes\n",
            },
            (),
        ),
    ],
)
def test_networkd_minds_what_the_first_file_that_matches_configures(
    tmp_path: Path, files: dict[str, str], minded: tuple[str, ...]
) -> None:
    write(tmp_path, "run/systemd/netif/links/2")
    for name, text in files.items():
        write(tmp_path, f"etc/systemd/network/{name}", text)
    assert caretakers(DEVICES, tmp_path) == (Caretaker("systemd-networkd", minded),)


def test_the_advice_for_both_names_every_kind_of_device() -> None:
    for name in ("NetworkManager", "systemd-networkd"):
        (found,) = findings(replace(HEALTHY, caretakers=(Caretaker(name, DEVICES),)))
        assert all(pattern in found.action for pattern in ("tun0", "br0", "k8o*", "ovs-system", "vxlan_sys_*"))
