"""Scripts that make a lab take it down when they are interrupted."""

from __future__ import annotations

import signal
import subprocess
import sys
from pathlib import Path

import pytest

from k8sovs.lab.layout import directory_of
from tests.support.lab import eventually

ROOT = Path(__file__).parents[2]
NETNS = Path("/run/netns")
DOWN_WITHIN_S = 60.0
COMMANDS = {"bench": ["scripts.bench", "--only", "join"], "soak": ["scripts.soak", "--seconds", "600", "--seed", "1"]}


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGHUP, signal.SIGINT], ids=lambda ending: ending.name)
@pytest.mark.parametrize("script", COMMANDS)
def test_a_script_that_is_interrupted_leaves_no_lab(script: str, ending: signal.Signals) -> None:
    command = [sys.executable, "-m", *COMMANDS[script]]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True) as running:
        name = f"{script}-{running.pid}"
        try:
            eventually(lambda: list(NETNS.glob(f"{name}-*")), "its lab has a network", deadline_s=30)
        finally:
            running.send_signal(ending)
            _, said = running.communicate(timeout=DOWN_WITHIN_S)
    assert running.returncode == 128 + ending, said
    assert "Traceback" not in said
    assert not directory_of(name).exists()
    assert list(NETNS.glob(f"{name}-*")) == []
