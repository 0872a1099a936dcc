"""What hosts do to a network plugin in the first days: other software changes devices, addresses and settings."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node, Pod

LAB_OPTIONS = ("--nodes", "2")
NODE_LOCAL_DNS = "169.254.20.10"
METADATA = "169.254.169.254"
ANSWERER = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as server:
    server.bind(("ADDRESS", 53))
    print(flush=True)
    while True:
        question, client = server.recvfrom(512)
        server.sendto(client[0].encode(), client)
"""
ASK = """
import socket
with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
    client.settimeout(1)
    client.sendto(b"?", ("ADDRESS", 53))
    print(client.recv(512).decode())
"""


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Node:
    lab.add_pod("red/first", "node1")  # the namespace
    return Node(lab.status()["nodes"][0])


@pytest.fixture(scope="module")
def far(lab: LabUnderTest, node: Node) -> str:
    """The address of a pod of the same tenant on the other node."""
    address: str = lab.add_pod("red/far", "node2")["ip"]
    return address


@pytest.fixture
def pod(node: Node) -> Iterator[Pod]:
    with node.attached("red") as (attached, _):
        yield attached


def gateway_of(node: Node) -> str:
    return node.execute("ip", "-4", "-o", "address", "show", "dev", "tun0").split()[3].partition("/")[0]


def gateway_state(node: Node) -> tuple[str, str]:
    """Routes, flags, MTU and MAC."""
    (link,) = json.loads(node.execute("ip", "-json", "link", "show", "dev", "tun0"))
    return node.execute("ip", "route", "show", "dev", "tun0"), str([link[key] for key in ("flags", "mtu", "address")])


def settings(node: Node, *names: str) -> list[str]:
    return node.execute("sysctl", "-n", *names).split()


@pytest.mark.parametrize(
    "damage",
    [
        "ip route flush dev tun0",
        "ip address flush dev tun0",
        "ip link set tun0 address 02:00:00:00:00:01",
        "ip link set tun0 down",
        "ip link set tun0 mtu 1300",
        "ip neighbour flush dev tun0 nud permanent",
    ],
)
def test_what_a_network_service_does_to_the_gateway_is_undone_at_once(node: Node, pod: Pod, damage: str) -> None:
    gateway = gateway_of(node)
    before = gateway_state(node)
    node.execute(*damage.split())
    eventually(lambda: pod.reaches(gateway), "the pod reaches its node", deadline_s=5)
    eventually(lambda: gateway_state(node) == before, "all is as before", deadline_s=5)


def test_settings_that_somebody_applies_to_every_device_are_put_back(node: Node, pod: Pod) -> None:
    names = ("net.ipv4.ip_forward", "net.ipv4.conf.tun0.rp_filter", "net.ipv4.conf.tun0.forwarding")
    assert settings(node, *names) == ["1", "2", "1"]
    strict = ("net.ipv4.conf.all.rp_filter=1", "net.ipv4.conf.tun0.rp_filter=1")
    node.execute("sysctl", "-qw", "net.ipv4.ip_forward=0", *strict)
    try:
        eventually(lambda: settings(node, *names) == ["1", "2", "1"], "the settings are right")
        assert pod.reaches("198.51.100.10")  # with the strict check for all other devices
    finally:
        node.execute("sysctl", "-qw", "net.ipv4.conf.all.rp_filter=0")


def answering(node: Node, address: str) -> subprocess.Popen[bytes]:
    """Something on the node that answers UDP at `address`, port 53, with the address of who asked."""
    node.execute("ip", "address", "add", f"{address}/32", "dev", "lo")
    server = subprocess.Popen(
        node.command("python3", "-c", ANSWERER.replace("ADDRESS", address)), stdout=subprocess.PIPE
    )
    assert server.stdout is not None
    server.stdout.readline()
    return server


def test_a_pod_asks_the_nodes_own_dns_cache_and_nothing_else_that_is_link_local(node: Node, pod: Pod) -> None:
    servers = {address: answering(node, address) for address in (NODE_LOCAL_DNS, METADATA)}
    try:
        own = pod.sandbox.run("ip", "-4", "-o", "address", "show", "dev", "eth0").split()[3].partition("/")[0]
        answer = pod.sandbox.run("python3", "-c", ASK.replace("ADDRESS", NODE_LOCAL_DNS)).strip()
        assert answer == own  # the cache sees who asks
        assert not pod.sandbox.succeeds("python3", "-c", ASK.replace("ADDRESS", METADATA))
    finally:
        for address, server in servers.items():
            server.kill()
            server.wait()
            node.execute("ip", "address", "del", f"{address}/32", "dev", "lo")


def test_without_a_dns_cache_nothing_of_that_address_leaves_the_node(node: Node, pod: Pod) -> None:
    chain = ("nft", "list", "chain", "inet", "k8sovs", "forward")
    dropped = next(line for line in node.execute(*chain).splitlines() if NODE_LOCAL_DNS in line)
    assert not pod.reaches(NODE_LOCAL_DNS)
    assert next(line for line in node.execute(*chain).splitlines() if NODE_LOCAL_DNS in line) != dropped


def test_a_second_nic_changes_nothing_for_the_tunnels(lab: LabUnderTest, node: Node, pod: Pod, far: str) -> None:
    node.execute("ip", "link", "add", "nic2", "type", "veth", "peer", "name", "nic2peer")
    try:
        for device in ("nic2", "nic2peer"):
            node.execute("ip", "link", "set", device, "up")
        node.execute("ip", "address", "add", "198.18.77.7/24", "dev", "nic2")
        lab("stop", "agent", "node1")
        lab("start", "agent", "node1")
        eventually(lambda: node.status() == 0, "the agent is ready")
        if lab.status()["datapath"] == "system":
            options = node.execute("ovs-vsctl", "get", "Interface", "vxlan0", "options:local_ip")
            assert options.strip().strip('"') == node.address
        eventually(lambda: pod.reaches(far), "the other node's pod answers")
    finally:
        node.execute("ip", "link", "delete", "nic2")


def test_a_foreign_vxlan_device_on_our_port_takes_no_packets_of_the_userspace_datapath(
    lab: LabUnderTest, node: Node, pod: Pod, far: str
) -> None:
    if lab.status()["datapath"] != "netdev":
        pytest.skip("the kernel datapath refuses the port and says so; k8sovs check names the device")
    node.execute("ip", "link", "add", "foreign", "type", "vxlan", "id", "10", "dstport", "4789", "local", node.address)
    try:
        node.execute("ip", "link", "set", "foreign", "up")
        assert pod.reaches(far)
        with pod.pinging(far) as pings:
            node.execute("sleep", "0.5")
        assert pings.lost == 0
    finally:
        node.execute("ip", "link", "delete", "foreign")


def test_pods_of_a_jumbo_underlay_get_what_it_leaves_them(lab: LabUnderTest, node: Node) -> None:
    def set_underlay(mtu: int) -> None:
        for device in ("uplink", "br-phy"):
            found = node.execute("ovs-vsctl", "--if-exists", "get", "Interface", device, "name").strip()
            if found:
                node.execute("ovs-vsctl", "set", "Interface", device, f"mtu_request={mtu}")
        for port in node.execute("ovs-vsctl", "list-ports", "br-phy").split():
            node.execute("ip", "link", "set", port, "mtu", str(mtu))
        eventually(lambda: f"mtu {mtu} " in node.execute("ip", "-o", "link", "show", "br-phy"), "the underlay has it")

    def restart() -> None:
        lab("stop", "agent", "node1")
        lab("start", "agent", "node1")
        eventually(lambda: node.status() == 0, "the agent is ready")

    set_underlay(9000)
    try:
        restart()
        with node.attached("red", "jumbo") as (pod, _):
            assert "mtu 8950 " in pod.sandbox.run("ip", "-o", "link", "show", "eth0")
            assert "mtu 8950 " in node.execute("ip", "-o", "link", "show", "tun0")
    finally:
        set_underlay(1500)
        restart()
