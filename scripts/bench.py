"""bench: figures beside references, all of one run and in turns. Needs root; at most 10 minutes.

Nothing here passes or fails: `reach` names what each figure is held against. docs/performance.md has results, with
profiles of what falls short.
"""

import argparse
import os
import platform
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path

from k8sovs import logs
from scripts import bench_cni, bench_flows, bench_join
from scripts.bench_figures import Report
from scripts.bench_plugins import NAMESPACE, bridge, overlay
from scripts.interrupts import end_on_signals
from tests.support.lab import LabUnderTest
from tests.support.runtime import Node

PARTS = ("flows", "cni", "join")


def main() -> None:
    end_on_signals()
    parser = argparse.ArgumentParser(prog="bench", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part (may be repeated)")
    parts = parser.parse_args().only or PARTS
    began = time.monotonic()
    logs.configure("warning")
    report = Report()
    report.section(_machine())
    if "flows" in parts:
        bench_flows.measure(report)
    if "cni" in parts or "join" in parts:
        _in_a_lab(report, parts)
    report.section(f"{time.monotonic() - began:.0f} s in all")
    report.last_line()


def _machine() -> str:
    switch = subprocess.run(["ovs-vswitchd", "--version"], capture_output=True, text=True, check=True).stdout
    load = os.getloadavg()[0]
    return f"{os.cpu_count()} CPUs, Linux {platform.release()}, {switch.splitlines()[0]}, load {load:.1f} at the start"


def _in_a_lab(report: Report, parts: Sequence[str]) -> None:
    lab = LabUnderTest(f"bench-{os.getpid()}")
    try:
        lab("up", "--nodes", "3")
        nodes = lab.status()["nodes"]
        ours = [overlay(node) for node in nodes]
        if "cni" in parts:
            # The pods that are sent to; the namespace comes with them.
            targets = [lab.add_pod(f"{NAMESPACE}/{node}", node)["ip"] for node in ("node1", "node2")]
            with bridge() as reference:
                present = lambda: _full_node(report, Node(nodes[0]))  # noqa: E731
                bench_cni.one_by_one(report, ours[0], reference, targets, present)
                bench_cni.bursts(report, ours[0], reference)
        if "join" in parts:
            bench_join.measure(report, lab, ours)
    finally:
        lab("down")


def _full_node(report: Report, node: Node) -> None:
    """What a node with all its pods costs."""
    memory = Path(f"/proc/{node.agent_pid}/status").read_text()
    resident_kb = next(int(line.split()[1]) for line in memory.splitlines() if line.startswith("VmRSS"))
    report.section(f"{node.name} of 3, with {bench_cni.PODS + 1} pods")
    report.value("agent_rss_mb", resident_kb / 1024, "80", digits=0)
    aggregate = node.execute("ovs-ofctl", "-OOpenFlow15", "dump-aggregate", "br0")
    report.value("flows_per_node", int(aggregate.split("flow_count=")[1].split()[0]), "8 a pod, 3 a node", digits=0)


if __name__ == "__main__":
    main()
