"""Who waits how long for a CNI call: a shorter limit on one call only makes the runtime call again."""

from __future__ import annotations

import re
from pathlib import Path

from agent.attach import FLOW_DEADLINE_S
from agent.cni_server import CALL_DEADLINE_S
from agent.ovsdb import DEADLINE_S

RUNTIMES_WAIT_S = 120
"""containerd and CRI-O, for a sandbox; kubelet waits for four minutes."""
LONGEST_PATIENCE_OF_OTHERS_S = 60
"""A busy node's burst took so long elsewhere: a limit below it would have multiplied the calls."""
SHIM = Path(__file__).parents[2] / "cni" / "shim" / "k8s-ovs.c"


def test_each_waits_a_little_longer_than_whom_it_asks_and_none_is_in_a_hurry() -> None:
    (found,) = re.findall(r"^#define DEADLINE_S (\d+)", SHIM.read_text(), re.MULTILINE)
    executable_s = int(found)
    assert LONGEST_PATIENCE_OF_OTHERS_S < CALL_DEADLINE_S < executable_s < RUNTIMES_WAIT_S
    assert 2 * FLOW_DEADLINE_S + 2 * DEADLINE_S < CALL_DEADLINE_S, "an ADD has time to undo itself"
