"""TCP streams between pods, by iperf3: what reaches the reader."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from typing import Any

from k8sovs.lab.waiting import PATIENCE
from tests.support.lab import eventually


def inside(pod: Mapping[str, Any], *argv: str, timeout_s: float = 60.0) -> str:
    """What a command prints in the network namespace of a pod (as `lab pod ls --json` describes it)."""
    command = ["nsenter", f"--net={pod['netns']}", "--", *argv]
    return subprocess.check_output(command, text=True, timeout=timeout_s * PATIENCE)


def goodput(sender: Mapping[str, Any], target: Mapping[str, Any], *options: str) -> float:
    """Mbit/s that one TCP stream brings to its reader; `options` of iperf3 say how long or how much."""
    server = subprocess.Popen(
        ["nsenter", f"--net={target['netns']}", "--", "iperf3", "--server", "--one-off"], stdout=subprocess.DEVNULL
    )
    try:
        eventually(lambda: inside(target, "ss", "-Hltn", "sport = :5201"), "iperf3 listens")
        report = json.loads(inside(sender, "iperf3", "--client", target["ip"], "--json", *options))
    finally:
        server.kill()
        server.wait()
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6
