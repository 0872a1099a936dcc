"""`k8sovs uninstall` on a node of a lab."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.support.runtime import Node

PROGRAM = str(Path(sys.executable).parent / "k8sovs")


def uninstall(node: Node, *flags: str) -> subprocess.CompletedProcess[str]:
    """Run it with the paths that the node's agent has; the caller judges the outcome."""
    directory = node.ovs_rundir.parent
    places = {
        "ovs-rundir": node.ovs_rundir,
        "state-dir": directory / "state",
        "cni-socket": directory / "cni.sock",
        "cni-conf-dir": directory / "cni" / "net.d",
        "cni-bin-dir": directory / "cni" / "bin",
        "config": "/dev/null",
    }
    told = [f"--{name}={path}" for name, path in places.items()]
    command = node.command(PROGRAM, "uninstall", *told, *flags)
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
