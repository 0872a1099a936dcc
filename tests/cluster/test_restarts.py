"""What pods notice of an agent or a switch that restarts; and that a packet of the whole MTU passes between nodes."""

from __future__ import annotations

import re
import subprocess

import pytest

from tests.support.iperf import goodput
from tests.support.lab import LabUnderTest, eventually

pytestmark = pytest.mark.kernel

LAB_OPTIONS = ("--nodes", "2")
INTERVAL_S = 0.1
ICMP_OVERHEAD = 28  # IP 20, ICMP 8


class Pods:
    """Two pods of a tenant on two nodes, and one of another tenant."""

    def __init__(self, lab: LabUnderTest) -> None:
        self.lab = lab
        self.sender, self.target, self.stranger = lab.add_pods(
            ("red/sender", "node1"), ("red/target", "node2"), ("blue/stranger", "node2")
        )

    def command(self, *argv: str) -> list[str]:
        return ["nsenter", f"--net={self.sender['netns']}", "--", *argv]

    def reaches(self, target: str, *options: str) -> bool:
        ping = self.command("ping", "-n", "-q", "-c1", "-W1", *options, target)
        return subprocess.run(ping, capture_output=True, timeout=30, check=False).returncode == 0

    def start_pings(self) -> subprocess.Popen[str]:
        ping = self.command("ping", "-n", "-q", "-i", str(INTERVAL_S), self.target["ip"])
        return subprocess.Popen(ping, stdout=subprocess.PIPE, text=True)


def ended(pings: subprocess.Popen[str]) -> tuple[int, int]:
    """How many were sent, and how many were answered; the answer to the last may still be under way."""
    pings.send_signal(2)
    output, _ = pings.communicate(timeout=30)
    found = re.search(r"(\d+) packets transmitted, (\d+) received", output)
    assert found, output
    return int(found[1]), int(found[2])


@pytest.fixture(scope="module")
def pods(lab: LabUnderTest) -> Pods:
    pods = Pods(lab)
    eventually(lambda: pods.reaches(pods.target["ip"]), "the pods reach each other")
    return pods


def link_mtu(pods: Pods) -> int:
    shown = subprocess.check_output(pods.command("ip", "link", "show", "eth0"), text=True)
    found = re.search(r"mtu (\d+)", shown)
    assert found
    return int(found[1])


def test_a_packet_of_the_whole_mtu_passes_between_nodes_and_a_larger_one_does_not(pods: Pods) -> None:
    largest = link_mtu(pods) - ICMP_OVERHEAD
    assert pods.reaches(pods.target["ip"], "-M", "do", "-s", str(largest))
    assert not pods.reaches(pods.target["ip"], "-M", "do", "-s", str(largest + 1))


def test_a_tcp_stream_flows_between_nodes(pods: Pods) -> None:
    assert goodput(pods.sender, pods.target, "--bytes", "2M") > 1


def test_an_agent_that_restarts_costs_no_packet(pods: Pods) -> None:
    pings = pods.start_pings()
    pods.lab("stop", "agent", "node1")
    pods.lab("start", "agent", "node1")
    eventually(lambda: "ready" in agent_log(pods.lab).rpartition("ovsdb-connected")[2], "the agent is ready again")
    sent, answered = ended(pings)
    assert answered >= sent - 1


def test_pods_are_reached_and_kept_apart_after_the_switch_has_restarted(pods: Pods) -> None:
    pods.lab("stop", "vswitchd", "node2")
    pods.lab("start", "vswitchd", "node2")
    eventually(lambda: pods.reaches(pods.target["ip"]), "the pods reach each other again")
    assert not pods.reaches(pods.stranger["ip"])


def test_on_the_kernel_datapath_pods_hardly_notice_a_switch_that_restarts(pods: Pods) -> None:
    if pods.lab.status()["datapath"] != "system":
        # The userspace datapath is the process that restarts: nothing forwards while it is away.
        restore_wait = pods.lab("exec", "node1", "--", "ovs-vsctl", "get", "Open_vSwitch", ".", "other_config")
        assert "flow-restore-wait" not in restore_wait
        return
    armed = ("exec", "node2", "--", "ovs-vsctl", "--if-exists", "get", "Open_vSwitch", ".", "other_config")
    eventually(lambda: "flow-restore-wait" in pods.lab(*armed), "the switch is prepared for a restart")
    pings = pods.start_pings()
    pods.lab("stop", "vswitchd", "node2")
    pods.lab("start", "vswitchd", "node2")
    eventually(lambda: pods.lab("exec", "node2", "--", "ovs-ofctl", "dump-flows", "br0"), "the switch has its flows")
    eventually(lambda: "flow-restore-wait" in pods.lab(*armed), "the switch is prepared for the next restart")
    sent, answered = ended(pings)
    assert answered >= 0.9 * sent


def agent_log(lab: LabUnderTest) -> str:
    return subprocess.check_output(["cat", f"/run/k8sovs-lab/{lab.name}/logs/agent-node1.log"], text=True)
