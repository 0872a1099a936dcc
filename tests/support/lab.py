"""A lab to test in, driven by its command line as a user drives it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cached_property
from pathlib import Path
from typing import Any

from k8sovs.lab.reach import Place
from k8sovs.lab.waiting import PATIENCE

K8SOVS = str(Path(sys.executable).parent / "k8sovs")


def k8sovs(*argv: str, timeout_s: float = 90.0, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run the command line; the caller judges the outcome."""
    environment = {**os.environ, **(env or {})}
    return subprocess.run(
        [K8SOVS, *argv], capture_output=True, text=True, timeout=timeout_s * PATIENCE, env=environment
    )


def eventually(condition: Callable[[], object], what: str, *, deadline_s: float = 15.0) -> None:
    """Wait until `condition` holds; AssertionError at the deadline."""
    end = time.monotonic() + deadline_s * PATIENCE
    while not condition():
        assert time.monotonic() < end, f"not within {deadline_s:.0f} s: {what}"
        time.sleep(0.05 * PATIENCE)


def holds_within(seconds: float, condition: Callable[[], object]) -> bool:
    """Whether `condition` comes to hold within that time."""
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


class LabUnderTest:
    """One named lab. Every method fails the test with what the command said."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __call__(self, *argv: str) -> str:
        """The output of `k8sovs lab ARGV`."""
        # The lab's name goes to the subcommand; behind `--` it would be the command's that is to run.
        verb = 2 if argv[0] == "pod" else 1
        done = k8sovs("lab", *argv[:verb], "--name", self.name, *argv[verb:])
        assert done.returncode == 0, f"lab {' '.join(argv)}: {done.stderr}"
        return done.stdout

    def status(self) -> dict[str, Any]:
        """`lab status --json`."""
        status: dict[str, Any] = json.loads(self("status", "--json"))
        return status

    @cached_property
    def env(self) -> dict[str, str]:
        """The variables that `lab env` exports, and the rest of this process's."""
        script = f'{self("env")}\nprintf "%s\\n" "$ETCDCTL_API" "$ETCDCTL_ENDPOINTS" "$KUBECONFIG"'
        values = subprocess.run(["sh", "-c", script], capture_output=True, text=True, check=True).stdout.split()
        return {**os.environ, **dict(zip(("ETCDCTL_API", "ETCDCTL_ENDPOINTS", "KUBECONFIG"), values, strict=True))}

    def run(self, *argv: str) -> str:
        """A command of the machine's own, pointed at the lab by `lab env`: etcdctl, kubectl."""
        done = subprocess.run(argv, capture_output=True, text=True, timeout=30 * PATIENCE, env=self.env)
        assert done.returncode == 0, f"{' '.join(argv)}: {done.stderr}"
        return done.stdout

    def add_pod(self, pod: str, node: str, *options: str) -> dict[str, Any]:
        """A new pod, NAMESPACE/NAME, that can send; what `lab pod ls --json` says of it."""
        added: dict[str, Any] = json.loads(self("pod", "add", pod, "--node", node, "--json", *options))
        return added

    def add_pods(self, *pods: tuple[str, str]) -> list[dict[str, Any]]:
        """Several new pods, (NAMESPACE/NAME, node) each, two at a time; as `add_pod` describes them."""
        with ThreadPoolExecutor(max_workers=2) as hands:
            return list(hands.map(lambda pod: self.add_pod(*pod), pods))

    def pods(self) -> list[dict[str, Any]]:
        """`lab pod ls --json`."""
        pods: list[dict[str, Any]] = json.loads(self("pod", "ls", "--json"))
        return pods

    def pod_places(self) -> list[Place]:
        """The pods, to measure who reaches whom; each is called NAMESPACE/NAME."""
        return [
            Place(f"{pod['namespace']}/{pod['name']}", pod["netns"], pod["ip"], pod["namespace"]) for pod in self.pods()
        ]

    def node_places(self) -> list[Place]:
        """The nodes, likewise."""
        return [Place(node["name"], node["netns"], node["ip"]) for node in self.status()["nodes"]]

    def outside(self) -> Place:
        """The host beyond the underlay."""
        return Place("outside", f"/run/netns/{self.name}-outside", "198.51.100.10")
