"""TCP streams between pods, by iperf3: what reaches the reader."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from k8sovs.lab.waiting import PATIENCE
from tests.support.lab import eventually


def inside(pod: Mapping[str, Any], *argv: str, timeout_s: float = 60.0) -> str:
    """What a command prints in the network namespace of a pod (as `lab pod ls --json` describes it)."""
    command = ["nsenter", f"--net={pod['netns']}", "--", *argv]
    return subprocess.check_output(command, text=True, timeout=timeout_s * PATIENCE)


def goodput(sender: Mapping[str, Any], target: Mapping[str, Any], *options: str) -> float:
    """Mbit/s that one TCP stream brings to its reader; `options` of iperf3 say how long or how much."""
    with _listening(target):
        report = json.loads(inside(sender, "iperf3", "--client", target["ip"], "--json", *options))
    return float(report["end"]["sum_received"]["bits_per_second"]) / 1e6


@contextmanager
def streaming(sender: Mapping[str, Any], target: Mapping[str, Any]) -> Iterator[None]:
    """One TCP stream that sends as fast as it may while the block runs."""
    with _listening(target):
        client = ["nsenter", f"--net={sender['netns']}", "--", "iperf3", "--client", target["ip"], "--time", "3600"]
        with _running(client):
            eventually(lambda: inside(target, "ss", "-Htn", "state", "established", "sport = :5201"), "it streams")
            yield


@contextmanager
def _listening(pod: Mapping[str, Any]) -> Iterator[None]:
    with _running(["nsenter", f"--net={pod['netns']}", "--", "iperf3", "--server", "--one-off"]):
        eventually(lambda: inside(pod, "ss", "-Hltn", "sport = :5201"), "iperf3 listens")
        yield


@contextmanager
def _running(command: Sequence[str]) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        yield
    finally:
        process.kill()
        process.wait()
