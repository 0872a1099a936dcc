"""What pods notice of an agent or a switch that restarts; and that a packet of the whole MTU passes between nodes."""

from __future__ import annotations

import logging
import re
import subprocess
import time

import pytest

from tests.support.events import RUN_TIMEOUT_S, node_now, stay_away
from tests.support.iperf import goodput
from tests.support.lab import LabUnderTest, eventually
from tests.support.runtime import Node
from tests.support.traffic import ATTEMPTS, Stream, Traffic, conclusive

log = logging.getLogger(__name__)

pytestmark = pytest.mark.kernel

LAB_OPTIONS = ("--nodes", "2")
INTERVAL_S = 0.1
LONGEST_GAP_S = 0.3
ICMP_OVERHEAD = 28  # IP 20, ICMP 8
RESTART = 2
"""By how many the configuration is on after a restart: the agent lets the switch go on, and prepares the next."""


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
    node = node_now(pods.lab, "node2")
    eventually(lambda: prepared(node), "the switch is prepared for a restart")
    before = prepared(node)
    pings = pods.start_pings()
    pods.lab("stop", "vswitchd", "node2")
    pods.lab("start", "vswitchd", "node2")
    eventually(lambda: prepared(node) >= before + RESTART, "the switch has its flows and is prepared for the next")
    sent, answered = ended(pings)
    assert answered >= 0.9 * sent


@pytest.mark.outage
@pytest.mark.timeout(RUN_TIMEOUT_S)
def test_on_the_kernel_datapath_established_traffic_outlives_the_switch(pods: Pods) -> None:
    if pods.lab.status()["datapath"] != "system":
        return  # the userspace datapath is the process: see test_traffic_while_daemons_restart.py
    one, two = (pods.lab.add_pod(f"green/{name}", "node1") for name in ("one", "two"))
    node = node_now(pods.lab, "node2")
    gone = back = 0.0

    def measure() -> Traffic:
        nonlocal gone, back
        eventually(lambda: prepared(node), "the switch is prepared for a restart")
        before = prepared(node)
        with Traffic(
            {
                "out": Stream(pods.sender["netns"], pods.target["netns"], pods.target["ip"], every=4),
                "control": Stream(one["netns"], two["netns"], two["ip"], every=4),
            }
        ) as traffic:
            assert pods.reaches(pods.target["ip"]), "the stream is established"
            gone = time.monotonic()
            pods.lab("stop", "vswitchd", "node2")
            stay_away()
            back = time.monotonic()
            pods.lab("start", "vswitchd", "node2")
            eventually(lambda: prepared(node) >= before + RESTART, "the switch has its flows, and is prepared again")
            eventually(lambda: pods.reaches(pods.target["ip"]), "packets of new connections pass again")
        return traffic

    gaps: list[float] = []
    # A busy machine makes a gap longer, never shorter: what the switch itself takes is the least of several.
    while not gaps or (min(gaps) >= LONGEST_GAP_S and len(gaps) < ATTEMPTS):
        traffic = conclusive(measure)
        gaps.append(traffic["out"].longest_silence)
        log.info("without a switch %.0f s, then a gap of %.0f ms", back - gone, gaps[-1] * 1000)
        assert traffic["out"].lost_between(gone, back) == 0
    assert min(gaps) < LONGEST_GAP_S


def prepared(node: Node) -> int:
    """The number of the switch's configuration, if ovs-vswitchd would now leave the kernel's flows alone; else 0.

    Asked of the database itself: the command line would take the processor that the switch needs.
    """
    shown = node.execute("ovs-vsctl", "get", "Open_vSwitch", ".", "next_cfg", "cur_cfg", "other_config")
    wanted, reached, settings = shown.splitlines()
    return int(wanted) if wanted == reached and "flow-restore-wait" in settings else 0


def agent_log(lab: LabUnderTest) -> str:
    return subprocess.check_output(["cat", f"/run/k8sovs-lab/{lab.name}/logs/agent-node1.log"], text=True)
