"""Judges the facts of a host: what is wrong, what will be, and what to do. Pure.

Each check is a function from `Facts` to findings; one that yields nothing found nothing wrong.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Network

from agent.bridge import GATEWAY
from agent.facts import Facts, Module, Right, Role
from agent.preflight import SMALLEST_MTU, etcd_inside
from agent.underlay import VXLAN_OVERHEAD
from cni.conf import CONF_FILE

TESTED_OVS = (3, 1)
"""The oldest Open vSwitch that the tests run with."""
STANDARD_MTU = 1500


class Severity(Enum):
    """How bad it is. ERROR: pods will not work. WARNING: they may not, or not for long. NOTE: good to know."""

    ERROR = "error"
    WARNING = "warning"
    NOTE = "note"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found by which check, and what to do about it."""

    check: str
    severity: Severity
    what: str
    action: str = ""


_Judged = Iterator[tuple[Severity, str, str]]


def findings(facts: Facts) -> tuple[Finding, ...]:
    """Everything that there is to say, in the order of the checks."""
    return tuple(
        Finding(name, severity, what, action)
        for name, check in CHECKS.items()
        for severity, what, action in check(facts)
    )


def _kernel_module(facts: Facts) -> _Judged:
    if facts.userspace_wanted or facts.module is Module.LOADED:
        return
    if facts.module is Module.AVAILABLE:
        yield (
            Severity.WARNING,
            "the kernel module openvswitch is not loaded, so the userspace datapath would be chosen",
            "modprobe openvswitch vport_vxlan, and name both in /etc/modules-load.d/k8sovs.conf",
        )
    else:
        yield (
            Severity.WARNING,
            "this kernel has no module openvswitch: only the slower userspace datapath is left",
            "use a kernel with CONFIG_OPENVSWITCH, or set datapath = netdev and put the underlay NIC on an OVS bridge",
        )


def _open_vswitch(facts: Facts) -> _Judged:
    if facts.ovs_trouble:
        yield Severity.ERROR, facts.ovs_trouble, "start ovsdb-server and ovs-vswitchd, or set ovs-rundir"
        return
    numbers = tuple(map(int, re.findall(r"\d+", facts.ovs_version)[:2]))
    if numbers < TESTED_OVS:
        tested = ".".join(map(str, TESTED_OVS))
        yield (
            Severity.WARNING,
            f"Open vSwitch {facts.ovs_version} is older than {tested}, the oldest that is tested",
            f"install Open vSwitch {tested} or later",
        )


def _vxlan_port(facts: Facts) -> _Judged:
    port = facts.vxlan_port
    foreign = [one for one in facts.devices if one.vxlan_port == port and one.name != f"vxlan_sys_{port}"]
    for device in foreign:
        yield (
            Severity.ERROR,
            f"the device {device.name} has UDP port {port} already: the switch cannot open its tunnel there",
            f"is it another network plugin's? Take it away (ip link delete {device.name}), or set vxlan-port, the "
            "same on every node",
        )
    if facts.udp_port_taken_by and not foreign:
        yield (
            Severity.ERROR,
            f"{facts.udp_port_taken_by} has UDP port {port} already: the switch cannot open its tunnel there",
            "stop it, or set vxlan-port, the same on every node",
        )


def _node_address(facts: Facts) -> _Judged:
    if facts.node_address is None:
        yield (
            Severity.ERROR,
            "the address of this node is not known: no record names it, and there is no route to etcd",
            "set node-address, or see whether the controller runs and etcd is reached",
        )
        return
    if facts.underlay is None:
        yield (
            Severity.ERROR,
            f"no device of this host holds the node's address {facts.node_address}",
            "set node-address to an address of the underlay, the one that the Node object has as InternalIP",
        )
        return
    others = [
        f"{each.ip} on {device.name}"
        for device in facts.devices
        if device.up and not _is_ours(device.name)
        for each in device.addresses
        if each.ip != facts.node_address and not each.ip.is_loopback and not each.ip.is_link_local
    ]
    if others and not facts.address_chosen:
        yield (
            Severity.WARNING,
            f"this host has several addresses, and {facts.node_address} is a guess; others: {', '.join(others)}",
            "set node-address to the one by which the other nodes are to send their tunnels",
        )


def _mtu(facts: Facts) -> _Judged:
    underlay = facts.underlay
    if underlay is None:
        return
    largest = underlay.mtu - VXLAN_OVERHEAD
    wanted = facts.mtu or largest
    if wanted > largest:
        yield (
            Severity.ERROR,
            f"mtu {wanted} is more than {largest}, what {underlay.name} (MTU {underlay.mtu}) leaves for a pod's packet",
            "lower mtu, or raise the underlay's MTU on every node and switch",
        )
    elif wanted < SMALLEST_MTU:
        yield (
            Severity.ERROR,
            f"pods would have an MTU of {wanted}, IPv4 needs {SMALLEST_MTU}",
            "raise the underlay's MTU",
        )
    elif wanted < largest and underlay.mtu > STANDARD_MTU:
        yield (
            Severity.NOTE,
            f"the underlay carries packets of {underlay.mtu} bytes, and pods send at most {wanted}",
            f"leave mtu at 0 to use {largest}, on every node at once",
        )


def _path(facts: Facts) -> _Judged:
    for probe in facts.probes:
        if probe.passed == 0:
            yield (
                Severity.WARNING,
                f"{probe.peer} does not answer pings, so the path to it cannot be judged",
                "is the host up, and ICMP allowed between nodes? It is what path MTU discovery needs, too",
            )
        elif probe.passed < probe.wanted:
            yield (
                Severity.ERROR,
                f"packets of {probe.wanted} bytes, those of pods with their tunnel, do not reach {probe.peer}; "
                f"{probe.passed} bytes do",
                f"raise the MTU of the switches on the way, or set mtu = {probe.passed - VXLAN_OVERHEAD} on every node",
            )


def _addresses(facts: Facts) -> _Judged:
    config = facts.etcd.config
    if config is None:
        return
    for name, network in (("Network", config.network), ("ServiceNetwork", config.service_network)):
        for device in facts.devices:
            if _is_ours(device.name):
                continue
            for each in device.addresses:
                if each.ip in network:
                    yield _clash(f"the address {each} of {device.name} lies inside {name} {network}")
            connected = {each.network for each in device.addresses}
            for route in device.routes:
                if route not in connected and _steals(route, network):
                    yield _clash(f"the route {route} by {device.name} takes traffic of {name} {network}")
        if facts.api_address is not None and facts.api_address in network:
            yield (
                Severity.ERROR,
                f"the Kubernetes API is reached at {facts.api_server}, inside {name} {network}: the agent would depend "
                "on the network that it makes",
                "give the agent a kubeconfig with the address of a host (or KUBERNETES_SERVICE_HOST and _PORT)",
            )
    for endpoint, name, network in etcd_inside(config, facts.etcd.endpoints):
        yield (
            Severity.ERROR,
            f"etcd-endpoints names {endpoint}, inside {name} {network}: the agent would depend on the network that it "
            "makes",
            "give the address of a host",
        )


def _clash(what: str) -> tuple[Severity, str, str]:
    return Severity.ERROR, what, "choose other addresses there, or, before the first start, another Network"


def _steals(route: IPv4Network, network: IPv4Network) -> bool:
    """Whether a route is as narrow as ours for `network`, or narrower: then it wins."""
    return route.subnet_of(network)


def _etcd(facts: Facts) -> _Judged:
    etcd = facts.etcd
    if etcd.trouble:
        yield (
            Severity.ERROR,
            etcd.trouble,
            "see the settings etcd-*, the firewall, and whether etcd has a leader",
        )
        return
    for endpoint in etcd.silent:
        yield (
            Severity.WARNING,
            f"{endpoint} does not answer, others do",
            "is that member down, or the firewall between closed? With it one outage less is survived",
        )
    for name in etcd.denied:
        yield Severity.ERROR, f"{name} may not be read", "grant the right: docs/security.md has the roles"
    if facts.role is Role.CONTROLLER and etcd.writing is Right.DENIED:
        yield (
            Severity.ERROR,
            "the controller's user may not write",
            "grant the right: docs/security.md has the roles",
        )
    if facts.role is Role.AGENT and etcd.writing is Right.GRANTED:
        yield (
            Severity.WARNING,
            "the agent's user may write the records of tenants, which it need not",
            "give agents a user of their own that may only read (docs/security.md has the roles): whoever takes over "
            "one node could join any tenants otherwise",
        )
    if etcd.config_trouble:
        yield Severity.ERROR, etcd.config_trouble, "correct the record; docs/state-in-etcd.md has its form"
    elif etcd.config is None and not etcd.denied:
        yield (
            Severity.NOTE,
            "etcd has no network configuration yet: addresses cannot be compared with it",
            "the controller writes it when it first starts, from its setting network",
        )


def _cni_order(facts: Facts) -> _Judged:
    first = min(facts.conf_files, default=None)
    if first is not None and first < CONF_FILE:
        yield (
            Severity.ERROR,
            f"{facts.conf_dir}/{first} comes before {CONF_FILE}: the runtime uses it, and not this plugin",
            f"when its pods are gone, move it away: mv {facts.conf_dir}/{first} {facts.conf_dir}/{first}.away",
        )
    if facts.installed and facts.role is Role.AGENT and CONF_FILE not in facts.conf_files:
        yield (
            Severity.ERROR,
            f"there is no {facts.conf_dir}/{CONF_FILE}: the runtime does not know this plugin",
            "the agent writes it when it is ready: see its log; does cni-conf-dir lead to the host's directory?",
        )


def _filters(facts: Facts) -> _Judged:
    filters = facts.filters
    if filters.trouble:
        yield Severity.WARNING, f"netfilter cannot be asked: {filters.trouble}", "run this as root, with libnftables1"
    if filters.forward_drops and not filters.admitted:
        if facts.installed:
            yield (
                Severity.ERROR,
                "the policy of the chain FORWARD is DROP, and our accepting rules are not in it",
                "the agent puts them there within 5 s: does it run? Its log has firewall-opened or filters-not-kept",
            )
        else:
            yield (
                Severity.NOTE,
                "the policy of the chain FORWARD is DROP (Docker does that)",
                "nothing: the agent adds rules that let pods through, and keeps them",
            )
    for advice in filters.advice:
        what, _, command = advice.partition("; run: ")
        yield Severity.WARNING, what, command


def _kernel_settings(facts: Facts) -> _Judged:
    if not facts.installed:
        return
    wanted = {
        "net.ipv4.ip_forward": "1",
        f"net.ipv4.conf.{GATEWAY}.rp_filter": "2",
        f"net.ipv4.conf.{GATEWAY}.forwarding": "1",
    }
    for name, value in wanted.items():
        found = facts.sysctls.get(name)
        if found is not None and found != value:
            yield (
                Severity.ERROR,
                f"{name} is {found}, and must be {value}: answers of pods, or their way out, are dropped",
                f"find what sets it in /etc/sysctl.d; sysctl -w {name}={value}. The agent sets it when it starts",
            )


def _caretakers(facts: Facts) -> _Judged:
    for caretaker in facts.caretakers:
        if caretaker.minds:
            yield (
                Severity.WARNING,
                f"{caretaker.name} takes care of {', '.join(caretaker.minds)} too: it may remove addresses and routes",
                _LEAVE_ALONE.get(caretaker.name, "tell it to leave these devices alone"),
            )


_LEAVE_ALONE = {
    "NetworkManager": "write /etc/NetworkManager/conf.d/k8sovs.conf: [keyfile] "
    "unmanaged-devices=interface-name:tun0;interface-name:br0;interface-name:k8o*;interface-name:k8i*;"
    "interface-name:ovs-system;interface-name:vxlan_sys_*; then systemctl reload NetworkManager",
    "systemd-networkd": "write /etc/systemd/network/10-k8sovs.network: [Match] Name=tun0 br0 k8o* k8i* ovs-system "
    "vxlan_sys_* [Link] Unmanaged=yes; then networkctl reload",
}


def _is_ours(name: str) -> bool:
    return name == GATEWAY or name.startswith(("k8o", "k8i"))


CHECKS: Mapping[str, Callable[[Facts], _Judged]] = {
    "kernel-module": _kernel_module,
    "open-vswitch": _open_vswitch,
    "vxlan-port": _vxlan_port,
    "node-address": _node_address,
    "mtu": _mtu,
    "path": _path,
    "addresses": _addresses,
    "etcd": _etcd,
    "cni-order": _cni_order,
    "filters": _filters,
    "kernel-settings": _kernel_settings,
    "caretakers": _caretakers,
}
"""By name, in the order in which they are told."""
