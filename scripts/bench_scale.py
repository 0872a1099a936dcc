"""bench-scale: ten thousand namespaces and five thousand nodes, simulated here. Needs root; at most 20 minutes.

Each part runs as a process of its own, first in a cluster of a tenth of the size, then of all of it; what grows, and
how fast, follows from the two. Nothing here passes or fails: `reach` names what each figure is held against.
docs/performance.md has results, and says what the simulation leaves out.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
import time

from scripts.bench_figures import Report
from scripts.bench_growth import exponents
from scripts.bench_scale_processes import end_in_good_order
from scripts.bench_scale_world import FULL, SCALES, TENTH

PARTS = ("controller", "agent", "fanout", "path", "burst")
OF_NO_SCALE = ("path",)
"""They cost the same in any cluster, and so are measured once."""
GROWTH_REACH = 1.15


def main() -> None:
    parser = argparse.ArgumentParser(prog="bench-scale", description=__doc__)
    parser.add_argument("--only", choices=PARTS, action="append", help="measure this part (may be repeated)")
    parser.add_argument("--scale", choices=SCALES, action="append", help="in a cluster of this size; default: both")
    arguments = parser.parse_args()
    end_in_good_order()
    began, report = time.monotonic(), Report()
    report.section(_machine())
    for part in arguments.only or PARTS:
        for scale in [FULL.name] if part in OF_NO_SCALE else arguments.scale or SCALES:
            figures = _part(part, scale)
            report.values |= figures
            if not figures:
                report.section(f"{part} at scale {scale} broke off: its figures are missing below")
    _tell_growth(report)
    report.section(f"{time.monotonic() - began:.0f} s in all, load {os.getloadavg()[0]:.1f} at the end")
    report.last_line()


def _machine() -> str:
    switch = subprocess.run(["ovs-vswitchd", "--version"], capture_output=True, text=True, check=True).stdout
    etcd = subprocess.run(["etcd", "--version"], capture_output=True, text=True, check=True).stdout
    load = os.getloadavg()[0]
    return (
        f"{os.cpu_count()} CPUs, Linux {platform.release()}, {switch.splitlines()[0]}, {etcd.splitlines()[0]}, "
        f"Python {platform.python_version()}, load {load:.1f} at the start"
    )


def _part(part: str, scale: str) -> dict[str, float]:
    """Run a part; its table goes on, its last line is taken. Nothing if it broke off: the others go on."""
    command = [sys.executable, "-m", f"scripts.bench_scale_{part}", scale]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    last = ""
    try:
        assert process.stdout is not None
        for line in process.stdout:
            if last:
                print(last, end="", flush=True)
            last = line
        return json.loads(last) if process.wait() == 0 else {}
    finally:
        if process.poll() is None:
            process.terminate()  # it tidies up, and so has to be waited for
            process.wait()


def _tell_growth(report: Report) -> None:
    full = {key: value for key, value in report.values.items() if not key.endswith(TENTH.suffix)}
    found = exponents(report.values, full, TENTH.suffix)
    if not found:
        return
    report.section("growth: x, where a cluster of ten times the size costs 10^x times as much")
    for key, exponent in sorted(found.items(), key=lambda each: -each[1]):
        print(f"  {key:44}  {exponent:11.2f}", flush=True)
    report.value("worst_growth_exponent", max(found.values()), str(GROWTH_REACH))


if __name__ == "__main__":
    main()
