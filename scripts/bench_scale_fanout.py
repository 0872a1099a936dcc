"""A change of the controller on its way to five thousand agents, by a three-member etcd.

Fifty of the agents are the product's store, ten to a process; the others are raw watchers (`bench_scale_watchers`).
`python -m scripts.bench_scale_fanout SCALE` runs it alone.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager

from k8sovs import logs
from k8sovs.etcd import Etcd, EtcdConfig
from scripts.bench_figures import Report, percentile
from scripts.bench_scale_processes import cpu_s, end_in_good_order, many_files
from scripts.bench_scale_world import SCALES, Scale, numbers_in_turn, settled_records, vni_of, vnid_record, write
from tests.support.etcd import EtcdServers

REAL, PER_PROCESS = 50, 10
MEMBERS = 3
CHANGES, CHANGES_PER_S = 100, 5
LATEST_S = 3.0
IDLE_S = 5.0
D1_MS = 300
"""The default of the controller's `phase-delay-s`: how late an agent may be for a change to lose no packet."""
SENT = "etcd_network_client_grpc_sent_bytes_total"


def main() -> None:
    """One scale, named on the command line."""
    end_in_good_order()
    many_files()
    logs.configure("warning")
    report, scale = Report(), SCALES[sys.argv[1]]
    report.section(f"fan-out: {REAL} real and {scale.nodes - REAL} raw watchers on {MEMBERS} members of etcd")
    with EtcdServers(members=MEMBERS) as etcd, ExitStack() as stack:
        asyncio.run(_write(etcd, settled_records(scale)))
        addresses = [endpoint.removeprefix("http://") for endpoint in etcd.endpoints]
        stack.enter_context(_process("watchers", [str(scale.nodes - REAL), *addresses]))
        followers = [
            stack.enter_context(_process("followers", [str(PER_PROCESS), *etcd.endpoints]))
            for _ in range(REAL // PER_PROCESS)
        ]
        for process in followers:
            _wait_standing(process)
        _changes(report, scale, etcd, followers)
    report.last_line()


def _changes(report: Report, scale: Scale, etcd: EtcdServers, followers: Sequence[subprocess.Popen[str]]) -> None:
    before = _processor_s(etcd)
    time.sleep(IDLE_S)  # what etcd uses anyway
    idle = (_processor_s(etcd) - before) / IDLE_S
    spent, sent, began = _processor_s(etcd), _sent(etcd), time.monotonic()
    written = asyncio.run(_change_records(etcd, scale))
    spent, sent = _processor_s(etcd) - spent - idle * (time.monotonic() - began), _sent(etcd) - sent
    ends = [json.loads(process.communicate(timeout=60)[0].splitlines()[-1]) for process in followers]
    late = [(max(end[value] for end in ends) - at) * 1000 for value, at in written.items()]
    report.samples(f"from the write to the last of {REAL} agents", late)
    report.value(f"fanout_p50_ms{scale.suffix}", percentile(late, 50))
    report.value(f"fanout_last_ms{scale.suffix}", percentile(late, 99), f"{D1_MS // 2}: half of D1")
    report.value(f"fanout_etcd_cpu_ms{scale.suffix}", spent * 1000 / len(written))
    report.value(f"fanout_kb_per_change{scale.suffix}", sent / 1024 / len(written), digits=1)


async def _write(etcd: EtcdServers, records: dict[str, bytes]) -> None:
    async with Etcd(EtcdConfig(etcd.endpoints)) as store:
        await write(store, records)


async def _change_records(etcd: EtcdServers, scale: Scale) -> dict[str, float]:
    """Records change, evenly; by value, when each was written. The last has a while to arrive."""
    written: dict[str, float] = {}
    async with Etcd(EtcdConfig(etcd.endpoints)) as store:
        for turn, number in zip(range(CHANGES), numbers_in_turn(scale.namespaces), strict=False):
            key, value = vnid_record(number, vni_of(20_000 + turn))
            written[value.decode()] = time.monotonic()
            await write(store, {key: value})
            await asyncio.sleep(1 / CHANGES_PER_S)  # the rate that is asked for
        await asyncio.sleep(LATEST_S)  # who has not heard by then counts as never
    return written


@contextmanager
def _process(name: str, arguments: Sequence[str]) -> Iterator[subprocess.Popen[str]]:
    command = ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", f"scripts.bench_scale_{name}", *arguments]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        if name == "watchers":
            _wait_standing(process)
        yield process
    finally:
        process.kill()
        process.wait()


def _wait_standing(process: subprocess.Popen[str]) -> None:
    assert process.stdout is not None
    if process.stdout.readline().strip() != "standing":
        raise SystemExit(f"watchers of etcd ended before all of them stood: {process.args!r}")


def _processor_s(etcd: EtcdServers) -> float:
    return sum(cpu_s(etcd.pid(member)) for member in range(MEMBERS))


def _sent(etcd: EtcdServers) -> float:
    total = 0.0
    for endpoint in etcd.endpoints:
        with urllib.request.urlopen(f"{endpoint}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        total += sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith(SENT))
    return total


if __name__ == "__main__":
    main()
