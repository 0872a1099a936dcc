"""Traffic between pods while something happens: what was sent, what arrived, and what should not have.

    with Traffic({"near": Stream(one, two, "172.11.0.3"), ...}) as traffic:
        ...whatever is to be survived...
    assert traffic["near"].lost == 0

The machine is shared, and a switch that is not given a processor for a while loses packets. So streams between pods of
a tenant that has nothing to do with the matter run beside, named "control...", through the same switches wherever these
are not what is disturbed, and with as many to a sending pod. If one of them loses, nothing was shown, and `conclusive`
does it again.
"""

from __future__ import annotations

import base64
import json
import logging
import os
import subprocess
import sys
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from types import TracebackType

import pytest

log = logging.getLogger(__name__)
"""The counts of each run: pytest --log-cli-level=info."""

LABS = "/run/k8sovs-lab"
PROGRAM = Path(__file__).with_name("traffic_process.py")
FIRST_PORT = 9000
ATTEMPTS = 3


@dataclass(frozen=True, slots=True)
class Stream:
    """Numbered datagrams (or with `tcp` records over one connection) from one network namespace to another.

    `sender` and `receiver` are paths of network namespaces, `address` is the receiver's. One is sent each millisecond,
    or only every so many: what should not arrive need not be so dense, and a switch has just so much room.
    """

    sender: str
    receiver: str
    address: str
    kind: str = "udp"
    every: int = 1


@dataclass(frozen=True, slots=True)
class Tally:
    """What became of a stream, by number; times are seconds of CLOCK_MONOTONIC, None: it did not arrive."""

    sent_at: tuple[float, ...] = field(repr=False)
    arrived_at: tuple[float | None, ...] = field(repr=False)

    @property
    def sent(self) -> int:
        return len(self.sent_at)

    @property
    def received(self) -> int:
        return self.sent - self.lost

    @property
    def lost(self) -> int:
        return sum(arrived is None for arrived in self.arrived_at)

    def received_between(self, start: float, end: float) -> int:
        """How many of those arrived that were sent in that time."""
        return len(self.received_of(start, end))

    def received_of(self, start: float, end: float) -> list[float]:
        """When they arrived, of those that were sent in that time."""
        both = zip(self.sent_at, self.arrived_at, strict=True)
        return [arrived for sent, arrived in both if arrived is not None and start <= sent <= end]

    def lost_between(self, start: float, end: float) -> int:
        """How many of those were lost that were sent in that time."""
        both = zip(self.sent_at, self.arrived_at, strict=True)
        return sum(arrived is None and start <= sent <= end for sent, arrived in both)

    @property
    def last_lost(self) -> float:
        """When the last one was sent that was lost; 0 if none was."""
        both = zip(self.sent_at, self.arrived_at, strict=True)
        return max((sent for sent, arrived in both if arrived is None), default=0.0)

    @property
    def last_arrival(self) -> float:
        """When the last one arrived; 0 if none did."""
        return max((arrived for arrived in self.arrived_at if arrived is not None), default=0.0)

    @property
    def longest_silence(self) -> float:
        """The longest time in which nothing arrived, between two that did."""
        arrivals = sorted(arrived for arrived in self.arrived_at if arrived is not None)
        return max((later - earlier for earlier, later in pairwise(arrivals)), default=float("inf"))

    def __str__(self) -> str:
        return f"{self.received} of {self.sent}"


class Traffic:
    """Streams by name, from `__enter__` to `__exit__`; then `traffic[name]` tells what became of one."""

    def __init__(self, streams: Mapping[str, Stream]) -> None:
        self._streams = dict(streams)
        self._tallies: dict[str, Tally] = {}

    def __enter__(self) -> Traffic:
        _put_switches_first()
        told = [
            (stream.kind, stream.sender, stream.receiver, stream.address, FIRST_PORT + position, stream.every)
            for position, stream in enumerate(self._streams.values())
        ]
        self._receiving = _start("receive", [(kind, to, *rest) for kind, _, to, *rest in told])
        self._sending = _start("send", [(kind, by, *rest) for kind, by, _, *rest in told])
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            sent = _told(self._sending)
            arrived = _told(self._receiving)
            for (name, stream), times, found in zip(self._streams.items(), sent, arrived, strict=True):
                self._tallies[name] = (_datagrams if stream.kind == "udp" else _records)(times, found)
        finally:
            for process in (self._sending, self._receiving):
                process.kill()
                process.communicate()

    def __getitem__(self, name: str) -> Tally:
        return self._tallies[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._streams)

    def lossy(self, names: Iterable[str]) -> list[str]:
        """Those of the streams that lost something, with the counts."""
        return [f"{name}: {self[name]}" for name in names if self[name].lost]

    def crossed(self, names: Iterable[str]) -> list[str]:
        """Those of the streams of which something arrived, with the counts."""
        return [f"{name}: {self[name]}" for name in names if self[name].received]

    def __str__(self) -> str:
        return ", ".join(f"{name}: {tally}" for name, tally in self._tallies.items())


def conclusive(measure: Callable[[], Traffic]) -> Traffic:
    """The traffic that `measure` returns, once its controls lost nothing; it is asked three times at most.

    What should not arrive and does is wrong whatever the control says; that is for `measure` itself to assert.
    """
    for _ in range(ATTEMPTS):
        traffic = measure()
        log.info("%s", traffic)
        if not any(traffic[name].lost for name in traffic if name.startswith("control")):
            return traffic
    pytest.fail(f"inconclusive, {ATTEMPTS} times: pods that had nothing to do with it lost packets, too; {traffic}")


def _put_switches_first() -> None:
    """Let the switches of this run's labs have a processor whenever they want one, if we may.

    A userspace switch that waits for a processor loses what arrives meanwhile, and that is not what is measured.
    """
    ours = f"K8SOVS_LAB_DIR={LABS}/test-{os.getpid()}".encode()
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):
            if (process / "comm").read_text() != "ovs-vswitchd\n" or ours not in (process / "environ").read_bytes():
                continue
            for thread in (process / "task").iterdir():
                os.sched_setscheduler(int(thread.name), os.SCHED_RR, os.sched_param(1))


def _datagrams(sent: array[float], found: array[float]) -> Tally:
    arrived: list[float | None] = [None] * len(sent)
    for number, at in zip(found[::2], found[1::2], strict=True):
        assert arrived[int(number)] is None, f"datagram {int(number)} came twice"
        arrived[int(number)] = at
    return Tally(tuple(sent), tuple(arrived))


def _records(sent: array[float], found: array[float]) -> Tally:
    """TCP keeps the order: what did not arrive is the end."""
    missing = [None] * (len(sent) - len(found))
    return Tally(tuple(sent), (*found, *missing))


def _start(end: str, streams: Sequence[tuple[object, ...]]) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-I", str(PROGRAM), end], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(f"{json.dumps(streams)}\n")
    process.stdin.flush()
    assert process.stdout.readline() == "ready\n", f"the end that is to {end} did not start"
    return process


def _told(process: subprocess.Popen[str]) -> list[array[float]]:
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write("stop\n")
    process.stdin.flush()
    return [array("d", base64.b64decode(text)) for text in json.loads(process.stdout.readline())]
