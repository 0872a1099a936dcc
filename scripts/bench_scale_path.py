"""The data path beside a bridge with two flows by hand, on the same switch, in turns; pods of one node and of two.

It knows no scale: a packet meets as much in any cluster. `python -m scripts.bench_scale_path full`
runs it alone, in a lab of two nodes.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager

from k8sovs import logs
from scripts.bench_figures import Report, p50
from scripts.bench_growth import median_interval
from scripts.bench_scale_processes import end_in_good_order
from scripts.bench_services import connection_rate
from tests.support.iperf import goodput
from tests.support.lab import LabUnderTest
from tests.support.namespaces import Sandbox
from tests.support.runtime import Node
from tests.support.sockets import Inside

PAIRS = 10
SECONDS = 2
CONNECTIONS = 300
MANY_CONNECTIONS = 20_000
PORT = 8080
BRIDGE = "br-hand"
MTU = 1450

Pod = Mapping[str, str]


def main() -> None:
    """All of it."""
    end_in_good_order()
    logs.configure("warning")
    report, lab = Report(), LabUnderTest(f"bench-path-{os.getpid()}")
    report.section(f"data path: {PAIRS} pairs in turns, userspace datapath; by hand: a bridge with two flows")
    try:
        lab("up", "--nodes", "2")
        node = Node(lab.status()["nodes"][0])
        client, near = lab.add_pod("red/client", "node1"), lab.add_pod("red/near", "node1")
        far = lab.add_pod("red/far", "node2")
        with _by_hand(node) as (hand_client, hand_server), Inside() as inside:
            for pod in (near, far, hand_server):
                inside.serve(pod["netns"], "server", PORT)
            ours, hand = (client, near), (hand_client, hand_server)
            _compare(report, "throughput", "mbit_s", lambda pair: goodput(*pair, f"--time={SECONDS}"), ours, hand)
            _compare(report, "crr", "per_s", _rate, ours, hand)
            report.value("across_nodes_mbit_s", goodput(client, far, f"--time={SECONDS}"), digits=0)
            report.value("across_nodes_crr", _rate((client, far)), digits=0)
            connection_rate(client["netns"], near["ip"], PORT, MANY_CONNECTIONS)
            flows = node.execute("ovs-appctl", "dpctl/dump-flows").splitlines()
            report.value("megaflows_20k", sum("actions:" in flow for flow in flows), "30, of the whole node", digits=0)
    finally:
        lab("down")
    report.last_line()


def _rate(pair: tuple[Pod, Pod]) -> float:
    return connection_rate(pair[0]["netns"], pair[1]["ip"], PORT, CONNECTIONS)


def _compare(
    report: Report,
    name: str,
    unit: str,
    measure: Callable[[tuple[Pod, Pod]], float],
    ours: tuple[Pod, Pod],
    hand: tuple[Pod, Pod],
) -> None:
    """In turns, the first one changing, so that neither always has the warmer machine."""
    mine, theirs = [], []
    for number in range(PAIRS):
        for pair, found in [(ours, mine), (hand, theirs)][:: 1 if number % 2 else -1]:
            found.append(measure(pair))
    ratios = [one / other for one, other in zip(mine, theirs, strict=True)]
    low, high = median_interval(ratios)
    report.value(f"{name}_ours_{unit}", p50(mine), digits=0)
    report.value(f"{name}_by_hand_{unit}", p50(theirs), digits=0)
    report.value(f"{name}_ratio", p50(ratios), "0.95")
    report.value(f"{name}_ratio_low", low, f"0.90; the median lies between this and {high:.2f} with 95 %")


@contextmanager
def _by_hand(node: Node) -> Iterator[tuple[Pod, Pod]]:
    """Two namespaces on a bridge of the node's switch that has a flow for either direction."""
    with Sandbox() as client, Sandbox() as server:
        node.execute("ovs-vsctl", "add-br", BRIDGE, "--", "set", "bridge", BRIDGE, "datapath_type=netdev")
        for number, end in enumerate((client, server), 1):
            node.execute(*f"ip link add hand{number} type veth peer name eth0 netns {end.path}".split())
            node.execute("ip", "link", "set", f"hand{number}", "mtu", str(MTU), "up")
            port = f"ofport_request={number}"
            node.execute(
                "ovs-vsctl", "add-port", BRIDGE, f"hand{number}", "--", "set", "interface", f"hand{number}", port
            )
            end.run("ip", "address", "add", f"172.31.0.{number}/24", "dev", "eth0")
            end.run("ip", "link", "set", "eth0", "mtu", str(MTU), "up")
            end.run("ethtool", "-K", "eth0", "tx", "off")
        node.execute("ovs-ofctl", "del-flows", BRIDGE)
        for way in ("in_port=1,actions=output:2", "in_port=2,actions=output:1"):
            node.execute("ovs-ofctl", "add-flow", BRIDGE, way)
        yield {"netns": client.path, "ip": "172.31.0.1"}, {"netns": server.path, "ip": "172.31.0.2"}


if __name__ == "__main__":
    main()
