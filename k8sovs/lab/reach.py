"""Who reaches whom: pings from every place to every other, all at the same time."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from k8sovs.lab.layout import LabError

_PING = ("ping", "-n", "-q", "-c", "2", "-i", "0.2", "-W", "1")
"""Two requests 0.2 s apart; it exits with 0 if either was answered within a second."""
_PING_TIMEOUT_S = 20.0
_ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to ping from and to: a pod, a node, the outside. `netns` is the path of its network namespace."""

    name: str
    netns: str
    address: str
    namespace: str | None = None
    """The Kubernetes Namespace of a pod; nothing else has one."""
    node: str = ""
    """The node of a pod, for its row of the table."""


Reach = Mapping[tuple[Place, Place], bool]


def measure(pairs: Iterable[tuple[Place, Place]]) -> Reach:
    """Whether the first of each pair reaches the second. LabError when pings cannot even be sent."""
    pings = {pair: _start(*pair) for pair in pairs}
    try:
        return {pair: _ended_well(pair, ping) for pair, ping in pings.items()}
    finally:
        for ping in pings.values():
            if ping.poll() is None:
                ping.kill()
                ping.wait()


def judge(
    pairs: Iterable[tuple[Place, Place]],
    allowed: Callable[[Place, Place], bool],
    *,
    measure: Callable[[Iterable[tuple[Place, Place]]], Reach] = measure,
) -> tuple[Reach, Sequence[tuple[Place, Place]]]:
    """Measure, and say which pairs are not as `allowed` has it. LabError when pings cannot even be sent.

    A busy machine loses a ping now and then, so what should arrive and does not is measured again, twice at most. What
    should not arrive and does is wrong at once: no accident delivers a packet.
    """
    reach = dict(measure(pairs))
    for _ in range(_ATTEMPTS - 1):
        lost = [pair for pair, reached in reach.items() if not reached and allowed(*pair)]
        if not lost:
            break
        reach |= measure(lost)
    return reach, [pair for pair, reached in reach.items() if reached != allowed(*pair)]


def table(reach: Reach, wrong: Iterable[tuple[Place, Place]]) -> Sequence[str]:
    """`reach` as lines of text, senders down and targets across; the cells in `wrong` carry an exclamation mark."""
    marked = set(wrong)
    senders = list(dict.fromkeys(sender for sender, _ in reach))
    reachable = {target for _, target in reach}
    targets = [place for place in dict.fromkeys([*senders, *(target for _, target in reach)]) if place in reachable]

    def cell(sender: Place, target: Place) -> str:
        if (sender, target) not in reach:
            return ""
        return ("yes" if reach[sender, target] else "-") + ("!" if (sender, target) in marked else "")

    rows = [["from \\ to", "", *(target.name for target in targets)]]
    rows += [[sender.name, sender.node, *(cell(sender, target) for target in targets)] for sender in senders]
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    return ["  ".join(text.ljust(width) for text, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _start(sender: Place, target: Place) -> subprocess.Popen[bytes]:
    argv = ("nsenter", f"--net={sender.netns}", "--", *_PING, target.address)
    return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)


def _ended_well(pair: tuple[Place, Place], ping: subprocess.Popen[bytes]) -> bool:
    """Exit status 0 is an answer, 1 is none, an unreachable network is none either; all else is no measurement."""
    _, complaint = ping.communicate(timeout=_PING_TIMEOUT_S)
    if ping.returncode in (0, 1) or b"unreachable" in complaint:
        return ping.returncode == 0
    raise LabError(f"ping from {pair[0].name} to {pair[1].name} failed: {complaint.decode(errors='replace').strip()}")
