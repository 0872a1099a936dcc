"""Five hundred pods that come to one node at once, in a cluster of thousands of nodes, and go again.

`python -m scripts.bench_scale_burst SCALE` runs it alone.
"""

from __future__ import annotations

import asyncio
import sys
import time
from concurrent.futures import ThreadPoolExecutor

from k8sovs import logs
from scripts.bench_figures import Report, p50, percentile
from scripts.bench_plugins import Plugin, Pod, count_links, wait_links
from scripts.bench_scale_agent import fill
from scripts.bench_scale_node import PODS_PER_NAMESPACE, Agent, add_all, sandboxes, site
from scripts.bench_scale_processes import end_in_good_order, peak_mb
from scripts.bench_scale_world import SCALES, namespace_name

AT_ONCE = 32
FEW = 10
MORE = 8
"""ADDs that are compared, each followed by its DEL, beside few pods and beside many."""
PAUSE_S = 0.05
"""Between two timed calls: what one leaves a daemon to do should not be counted as the other's time."""


def main() -> None:
    """One scale, named on the command line."""
    end_in_good_order()
    logs.configure("warning")
    report, scale = Report(), SCALES[sys.argv[1]]
    report.section(f"burst: {scale.pods} pods, {AT_ONCE} ADDs at a time, in a cluster of {scale.nodes} nodes")
    with site(scale) as around, Agent(around) as agent, sandboxes(scale.pods + MORE) as pods:
        asyncio.run(fill(around))
        agent.start()
        plugin, few = agent.plugin(), min(FEW, scale.pods)
        names = [namespace_name(number // PODS_PER_NAMESPACE) for number in range(scale.pods)]
        add_all(plugin, pods[:few], names[:few], 1)
        beside_few = _one_by_one(plugin, pods[scale.pods :])
        began = time.monotonic()
        took, failures = add_all(plugin, pods[few : scale.pods], names[few:], AT_ONCE)
        report.value(f"burst_wall_s{scale.suffix}", time.monotonic() - began)
        report.samples(f"ADD, {AT_ONCE} at a time", took)
        report.value(f"burst_p99_ms{scale.suffix}", percentile(took, 99))
        report.value(f"burst_failures{scale.suffix}", failures, "0", digits=0)
        report.value(f"burst_peak_mb{scale.suffix}", peak_mb(agent.pid), digits=0)
        beside_many = _one_by_one(plugin, pods[scale.pods :])
        report.samples(f"ADD beside {few} pods", beside_few)
        report.samples(f"ADD beside {scale.pods} pods", beside_many)
        report.value(f"add_{scale.pods}_over_{few}", p50(beside_many) / p50(beside_few), "1.5")
        began = time.monotonic()
        with ThreadPoolExecutor(AT_ONCE) as hands:
            list(hands.map(plugin.delete, pods[: scale.pods], names))
        wait_links(plugin, 0)
        report.value(f"burst_deleted_s{scale.suffix}", time.monotonic() - began)
        report.value(f"burst_left{scale.suffix}", count_links(plugin), "0", digits=0)
    report.last_line()


def _one_by_one(plugin: Plugin, pods: list[Pod]) -> list[float]:
    """Milliseconds of the ADD of each, which goes again before the next comes."""
    took = []
    for pod in pods:
        took.append(plugin.add(pod, namespace_name(0))[0])
        plugin.delete(pod, namespace_name(0))
        time.sleep(PAUSE_S)  # what the DEL leaves to do is not the next ADD's time
    return took


if __name__ == "__main__":
    main()
