"""`k8sovs check` where the conditions that it looks for are real: devices, filters, routers, an etcd with users."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import pytest

from k8sovs.lab.layout import CONTROL_ADDRESS, ETCD_PORT
from tests.support.etcd import EtcdServers
from tests.support.lab import K8SOVS, LabUnderTest, eventually
from tests.support.namespaces import Sandbox

LAB_OPTIONS = ("--nodes", "2")
NETWORK = {
    "Name": "k8ssdn",
    "Network": "172.11.0.0/16",
    "HostSubnetLength": 10,
    "ServiceNetwork": "10.96.0.0/12",
    "PluginName": "k8s-ovs-multitenant",
}
PREFIX = "/k8s.ovs.com/ovs/network"
HOLD_PORT = """
import socket, time
held = socket.socket(type=socket.SOCK_DGRAM)
held.bind(("127.0.0.1", 4789))
print(flush=True)
time.sleep(60)
"""
DROP_FORWARD = "add table ip filter; add chain ip filter FORWARD { type filter hook forward priority 0; policy drop; }"
SAY_NOTHING = (
    "add table ip t; add chain ip t o { type filter hook output priority 0; }; "
    "add rule ip t o icmp type destination-unreachable drop"
)


class Check:
    """Runs the command somewhere, with settings of its own."""

    def __init__(self, prefix: tuple[str, ...], settings: Mapping[str, str]) -> None:
        self._prefix = prefix
        self._settings = settings

    def run(self, *flags: str) -> tuple[int, str]:
        environment = [f"K8SOVS_{name}={value}" for name, value in self._settings.items()]
        command = [*self._prefix, "env", *environment, K8SOVS, "check", *flags]
        done = subprocess.run(command, capture_output=True, text=True, timeout=60)
        assert done.returncode in (0, 1), done.stderr
        return done.returncode, done.stdout

    def findings(self, check: str, *flags: str) -> list[tuple[str, str]]:
        """Severity and text of what one check found."""
        _, said = self.run("--json", *flags)
        found = json.loads(said)
        assert check in found["checks"]
        return [(each["severity"], each["what"]) for each in found["findings"] if each["check"] == check]


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Check:
    directory = Path("/run/k8sovs-lab") / lab.name
    status = lab.status()["nodes"][0]
    return Check(
        ("nsenter", f"--net={status['netns']}"),
        {
            "NODE_NAME": "node1",
            "ETCD_ENDPOINTS": f"http://{CONTROL_ADDRESS}:{ETCD_PORT}",
            "KUBECONFIG": str(directory / "kubeconfig-agent"),
            "OVS_RUNDIR": str(directory / "node1" / "ovs"),
            "CNI_CONF_DIR": str(directory / "node1" / "cni" / "net.d"),
            "DATAPATH": "netdev" if lab.status()["datapath"] == "netdev" else "auto",
        },
    )


@pytest.fixture
def inside(lab: LabUnderTest) -> Sandbox:
    """Node 1's network namespace, to run commands in."""
    return NamedNamespace(f"/run/netns/{lab.name}-node1")


class NamedNamespace(Sandbox):
    """A namespace that is somebody else's."""

    def __init__(self, path: str) -> None:
        self.path = path


def test_a_node_of_a_lab_has_no_errors(node: Check) -> None:
    status, said = node.run()
    assert status == 0, said
    words = [line.split()[0] for line in said.splitlines() if not line.startswith(" ")]
    assert set(words) <= {"ok", "warning", "note"}
    assert "ok       path" in said  # the other node answers packets as large as the underlay takes
    assert "ok       filters" in said


def test_a_foreign_vxlan_device_on_our_port_is_found(node: Check, inside: Sandbox) -> None:
    assert node.findings("vxlan-port") == []
    inside.run("ip", "link", "add", "foreign", "type", "vxlan", "id", "5", "dstport", "4789", "local", "127.0.0.1")
    try:
        ((severity, what),) = node.findings("vxlan-port")
        assert severity == "error"
        assert "device foreign has UDP port 4789" in what
        assert node.run()[0] == 1
    finally:
        inside.run("ip", "link", "delete", "foreign")


def test_a_program_that_has_our_port_is_named(node: Check, inside: Sandbox) -> None:
    holder = subprocess.Popen(inside.command("python3", "-c", HOLD_PORT), stdout=subprocess.PIPE)
    try:
        assert holder.stdout is not None
        holder.stdout.readline()
        ((severity, what),) = node.findings("vxlan-port")
        assert severity == "error"
        assert f"python3 (process {holder.pid})" in what
    finally:
        holder.kill()
        holder.wait()


def test_a_route_into_the_pod_network_and_an_address_in_the_service_network_clash(node: Check, inside: Sandbox) -> None:
    inside.run("ip", "link", "add", "vpn0", "type", "veth", "peer", "name", "vpn1")
    try:
        inside.run("ip", "address", "add", "10.100.0.1/32", "dev", "vpn0")
        inside.run("ip", "link", "set", "vpn0", "up")
        inside.run("ip", "link", "set", "vpn1", "up")
        inside.run("ip", "route", "add", "172.11.128.0/17", "dev", "vpn0")
        found = node.findings("addresses")
        assert [severity for severity, _ in found] == ["error", "error"]
        assert any("172.11.128.0/17 by vpn0" in what for _, what in found)
        assert any("10.100.0.1/32 of vpn0" in what for _, what in found)
    finally:
        inside.run("ip", "link", "delete", "vpn0")


def test_settings_of_the_kernel_that_break_the_way_back_are_found(node: Check, inside: Sandbox) -> None:
    inside.run("sysctl", "-qw", "net.ipv4.conf.tun0.rp_filter=1")
    try:
        assert ("error", "net.ipv4.conf.tun0.rp_filter is 1") in [
            (severity, what.partition(",")[0]) for severity, what in node.findings("kernel-settings")
        ]
    finally:
        inside.run("sysctl", "-qw", "net.ipv4.conf.tun0.rp_filter=2")


def test_another_plugins_configuration_before_ours_is_found(lab: LabUnderTest, node: Check) -> None:
    file = Path("/run/k8sovs-lab") / lab.name / "node1" / "cni" / "net.d" / "05-other.conflist"
    file.write_text("{}")
    try:
        ((severity, what),) = node.findings("cni-order")
        assert severity == "error"
        assert "05-other.conflist comes before" in what
    finally:
        file.unlink()


def test_a_forward_policy_of_drop_is_an_error_only_while_nobody_lets_pods_through(
    lab: LabUnderTest, node: Check, inside: Sandbox
) -> None:
    lab("stop", "agent", "node1")
    try:
        inside.run("nft", DROP_FORWARD)
        ((severity, what),) = node.findings("filters")
        assert severity == "error"
        assert "FORWARD is DROP" in what
    finally:
        lab("start", "agent", "node1")
    try:
        eventually(lambda: node.findings("filters") == [], "the agent lets its pods through")
    finally:
        inside.run("nft", "delete table ip filter")


@contextmanager
def routed_hosts(mtu: int) -> Iterator[tuple[Sandbox, Sandbox, Sandbox]]:
    """Two hosts with MTU 1500, 192.0.2.11 and 198.51.100.12, and a router whose far side has `mtu`."""
    with Sandbox() as near, Sandbox() as router, Sandbox() as far:
        for host, side, address in ((near, "near", "192.0.2"), (far, "far", "198.51.100")):
            router.run("ip", "link", "add", side, "type", "veth", "peer", "name", "eth0", "netns", host.path)
            router.run("ip", "address", "add", f"{address}.1/24", "dev", side)
            router.run("ip", "link", "set", side, "up")
            host.run("ip", "address", "add", f"{address}.{11 if host is near else 12}/24", "dev", "eth0")
            host.run("ip", "link", "set", "eth0", "up")
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "route", "add", "default", "via", f"{address}.1")
        router.run("sysctl", "-qw", "net.ipv4.ip_forward=1")
        router.run("ip", "link", "set", "far", "mtu", str(mtu))
        yield near, router, far


def check_in(host: Sandbox) -> Check:
    settings = {"NODE_ADDRESS": "192.0.2.11", "ETCD_ENDPOINTS": "http://127.0.0.1:1", "OVS_RUNDIR": "/nonexistent"}
    return Check(("nsenter", f"--net={host.path}"), settings)


@pytest.mark.parametrize("mtu", [1400, 1499])
def test_a_router_that_takes_smaller_packets_only_is_found_with_the_size_that_passes(mtu: int) -> None:
    with routed_hosts(mtu) as (near, _, _):
        ((severity, what),) = check_in(near).findings("path", "--peer", "198.51.100.12")
        assert severity == "error"
        assert f"do not reach 198.51.100.12; {mtu} bytes do" in what


def test_a_path_that_takes_what_the_underlay_takes_is_no_finding() -> None:
    with routed_hosts(1500) as (near, _, _):
        assert check_in(near).findings("path", "--peer", "198.51.100.12") == []


def test_a_black_hole_for_large_packets_is_found_though_nobody_says_so() -> None:
    with routed_hosts(1400) as (near, router, _):
        router.run("nft", SAY_NOTHING)
        ((severity, what),) = check_in(near).findings("path", "--peer", "198.51.100.12")
        assert severity == "error"
        assert "1400 bytes do" in what


def test_a_silent_host_is_a_warning() -> None:
    with routed_hosts(1500) as (near, _, _):
        ((severity, what),) = check_in(near).findings("path", "--peer", "198.51.100.99")
        assert severity == "warning"
        assert "198.51.100.99 does not answer" in what


def test_an_etcd_that_nobody_serves_is_an_error_and_a_switch_that_is_not_there_too() -> None:
    with routed_hosts(1500) as (near, _, _):
        check = check_in(near)
        assert [severity for severity, _ in check.findings("etcd")] == ["error"]
        assert [severity for severity, _ in check.findings("open-vswitch")] == ["error"]
        assert check.run()[0] == 1


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[EtcdServers]:
    with EtcdServers() as etcd:
        etcd.put(f"{PREFIX}/config", json.dumps(NETWORK))
        etcd.enable_users(
            reader=("pw", "/k8s.ovs.com/", "/elsewhere/"),
            writer=("pw", "/k8s.ovs.com/", "/k8s.ovs.com/"),
            stranger=("pw", "/foreign/", "/foreign/"),
        )
        yield etcd


@pytest.mark.parametrize(
    ("user", "role", "severities", "said"),
    [
        ("reader", "agent", [], ""),
        ("writer", "agent", ["warning"], "may write"),
        ("writer", "controller", [], ""),
        ("reader", "controller", ["error"], "may not write"),
        ("stranger", "agent", ["error"], f"{PREFIX}/config may not be read"),
    ],
)
def test_rights_in_etcd_are_tried_for_the_role(
    guarded: EtcdServers, tmp_path: Path, user: str, role: str, severities: list[str], said: str
) -> None:
    password = tmp_path / "password"
    password.write_text("pw")
    before = guarded.etcdctl("get", "", "--prefix")
    settings = {"ETCD_ENDPOINTS": guarded.endpoints[0], "ETCD_USER": user, "ETCD_PASSWORD_FILE": str(password)}
    found = Check((), settings).findings("etcd", "--role", role)
    assert [severity for severity, _ in found] == severities
    assert all(said in what for _, what in found)
    assert guarded.etcdctl("get", "", "--prefix") == before


def test_a_password_that_is_wrong_is_an_error(guarded: EtcdServers, tmp_path: Path) -> None:
    password = tmp_path / "password"
    password.write_text("wrong")
    settings = {"ETCD_ENDPOINTS": guarded.endpoints[0], "ETCD_USER": "reader", "ETCD_PASSWORD_FILE": str(password)}
    ((severity, _),) = Check((), settings).findings("etcd")
    assert severity == "error"
