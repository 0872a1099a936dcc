"""What Open vSwitch itself says became of flows: their counters and ages, and every change as it happens."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.lab import eventually
from tests.support.runtime import Node


def counters(node: Node) -> dict[str, tuple[float, int]]:
    """Each flow: how old it is in seconds, how many packets it has seen."""
    lines = node.execute("ovs-ofctl", "-OOpenFlow15", "--no-names", "dump-flows", "br0").splitlines()
    found = (
        re.fullmatch(r" (cookie=\S+) duration=([\d.]+)s, (table=\S+) n_packets=(\d+), n_bytes=\d+, (.*)", line)
        for line in lines
    )
    return {
        f"{one[1]} {one[3]} {re.sub(r'(idle|hard)_age=[0-9]+, ', '', one[5])}": (float(one[2]), int(one[4]))
        for one in found
        if one
    }


class FlowEvents:
    """The changes of flows since the block began, one line each."""

    def __init__(self, output: Path) -> None:
        self._output = output
        self._before = len(_events(output))
        self._final: list[str] | None = None

    def __call__(self) -> list[str]:
        """Until now, or until the block ended."""
        return _events(self._output)[self._before :] if self._final is None else self._final

    def end(self) -> None:
        """The file is about to go."""
        self._final = self()


@contextmanager
def watched(node: Node) -> Iterator[FlowEvents]:
    """A flow monitor on the bridge (ovs-ofctl(8), `monitor ... watch:`). A flow that is written anew counts, too."""
    flows = len(node.flows())
    with tempfile.NamedTemporaryFile(mode="w") as output:
        path = Path(output.name)
        monitor = subprocess.Popen(
            node.command("stdbuf", "-oL", "-eL", "ovs-ofctl", "monitor", "br0", "watch:"), stdout=output, stderr=output
        )
        try:
            eventually(lambda: len(_events(path)) >= flows, "the monitor knows all flows")
            events = FlowEvents(path)
            yield events
            events.end()
        finally:
            monitor.kill()
            monitor.wait()


def _events(path: Path) -> list[str]:
    return [line.strip() for line in path.read_text().splitlines() if "event=" in line]
