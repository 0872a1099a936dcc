"""An agent among five thousand nodes and ten thousand namespaces, with 500 pods of its own on a real switch.

Agent, switch, etcd, CNI executable and pods are real; how flows change is judged by the switch's own flow monitor.
`python -m scripts.bench_scale_agent SCALE` runs it alone.
"""

from __future__ import annotations

import asyncio
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack

from k8sovs import logs
from k8sovs.etcd import Etcd, EtcdConfig
from scripts.bench_figures import Report, p50
from scripts.bench_scale_node import (
    ADDRESS,
    PODS_PER_NAMESPACE,
    Agent,
    FlowMonitor,
    Site,
    add_all,
    sandboxes,
    site,
)
from scripts.bench_scale_processes import cpu_s, end_in_good_order, peak_mb, resident_mb, wait_until
from scripts.bench_scale_world import (
    FULL,
    SCALES,
    Scale,
    namespace_name,
    settled_records,
    subnet_record,
    vni_of,
    vnid_record,
    write,
)

AT_ONCE = 32
CHANGES = 15
MORE_PODS = 8
"""With the others, what a subnet of 510 addresses holds."""
IDLE_S = 60
SETTLED_S = 10.0
"""After a start the agent asks for the way to every node (userspace datapath only): so long without work ends it."""


def main() -> None:
    """One scale, named on the command line."""
    end_in_good_order()
    logs.configure("warning")
    report, scale = Report(), SCALES[sys.argv[1]]
    report.section(f"agent: {scale.nodes} nodes, {scale.namespaces} namespaces, {scale.pods} pods here, real switch")
    with site(scale) as around, ExitStack() as stack:
        asyncio.run(fill(around))
        agent = stack.enter_context(Agent(around))
        agent.start()
        pods = stack.enter_context(sandboxes(scale.pods + MORE_PODS))
        names = [namespace_name(number // PODS_PER_NAMESPACE) for number in range(scale.pods)]
        _, failures = add_all(agent.plugin(), pods[: scale.pods], names, AT_ONCE)
        if failures:
            raise SystemExit(f"{failures} of {scale.pods} pods could not be attached: see {agent.log}")
        _starts(report, around, agent)
        with FlowMonitor(around.switch) as monitor:
            asyncio.run(_changes(report, around, monitor))
            _pods(report, scale, agent, monitor, pods[scale.pods :])
        report.value(f"agent_rss_mb{scale.suffix}", resident_mb(agent.pid), "120", digits=0)
        report.value(f"agent_peak_mb{scale.suffix}", peak_mb(agent.pid), digits=0)
        if scale is FULL:
            before = cpu_s(agent.pid)
            time.sleep(IDLE_S)  # the time is what is measured
            report.value("agent_idle_cpu_pct", (cpu_s(agent.pid) - before) / IDLE_S * 100, "0.5")
    report.last_line()


async def fill(around: Site) -> None:
    """Write what a settled cluster has in etcd, this node among it."""
    async with Etcd(EtcdConfig(around.etcd.endpoints)) as etcd:
        await write(etcd, settled_records(around.scale) | dict([subnet_record(0, ADDRESS)]))


def _starts(report: Report, around: Site, agent: Agent) -> None:
    """From nothing: no flows, no file. Then over a switch that has its flows already."""
    scale = around.scale
    agent.stop()
    agent.forget()
    around.switch.ofctl("del-flows", "br0")
    report.value(f"agent_cold_s{scale.suffix}", agent.start(), "3")
    report.value(f"agent_flows{scale.suffix}", _flows(around), digits=0)
    began = time.monotonic()
    _wait_idle(agent)
    report.value(f"agent_routes_s{scale.suffix}", max(0.0, time.monotonic() - began - SETTLED_S), digits=1)
    agent.stop()
    with FlowMonitor(around.switch) as monitor:
        report.value(f"agent_warm_s{scale.suffix}", agent.start(), "2")
        changed = len(monitor.settle(quiet_s=1.0))
    counted = agent.metric("k8sovs_flow_changes_total")
    report.value(f"agent_warm_rewrites{scale.suffix}", max(changed, counted), "0", digits=0)
    _wait_idle(agent)


def _wait_idle(agent: Agent) -> None:
    """Until it has used less than a fiftieth of a processor for a while."""
    marks = [cpu_s(agent.pid)]

    def idle() -> bool:
        marks.append(cpu_s(agent.pid))
        return len(marks) > SETTLED_S and marks[-1] - marks[-1 - int(SETTLED_S)] < SETTLED_S / 50

    wait_until(idle, "the agent has nothing to do", within_s=180, every_s=1.0)


async def _changes(report: Report, around: Site, monitor: FlowMonitor) -> None:
    """Records change as the controller changes them; from etcd's acknowledgement to the switch's last change."""
    scale = around.scale
    async with Etcd(EtcdConfig(around.etcd.endpoints)) as etcd:
        joins = [dict([subnet_record(scale.nodes + number)]) for number in range(CHANGES)]
        times, flows = await _each(etcd, monitor, joins, 3)
        report.samples("a node joins", times)
        report.value(f"node_join_ms{scale.suffix}", p50(times), "20")
        report.value(f"node_join_flows{scale.suffix}", max(flows), "3", digits=0)
        local = range(min(CHANGES, scale.pods // PODS_PER_NAMESPACE))
        phases = [_joining(number, phase) for number in local for phase in range(3)]
        times, flows = await _each(etcd, monitor, phases, PODS_PER_NAMESPACE)
        report.samples(f"a namespace with {PODS_PER_NAMESPACE} pods here joins another, each phase", times)
        report.value(f"namespace_join_ms{scale.suffix}", p50(times), "20")
        report.value(f"namespace_join_flows{scale.suffix}", max(flows), "its own: 2 a pod", digits=0)
        elsewhere = [_joining(number, 0) for number in range(scale.namespaces - CHANGES, scale.namespaces)]
        for records in elsewhere:
            await write(etcd, records)
        report.value(f"foreign_join_flows{scale.suffix}", len(monitor.settle()), "0", digits=0)


def _joining(number: int, phase: int) -> dict[str, bytes]:
    """One of the three phases in which a namespace joins the last one of the cluster."""
    old, new = vni_of(number), vni_of(900)
    send, accept = [(old, (old, new)), (new, (old, new)), (new, (new,))][phase]
    return dict([vnid_record(number, send, *accept)])


async def _each(
    etcd: Etcd, monitor: FlowMonitor, changes: Sequence[Mapping[str, bytes]], at_least: int
) -> tuple[list[float], list[int]]:
    """Milliseconds of each change, and how many flows it touched."""
    times, flows = [], []
    monitor.settle()
    for records in changes:
        await write(etcd, records)
        written = time.monotonic()
        events = await asyncio.to_thread(monitor.settle, at_least)
        times.append((events[-1][0] - written) * 1000)
        flows.append(len(events))
    return times, flows


def _pods(report: Report, scale: Scale, agent: Agent, monitor: FlowMonitor, pods: Sequence[object]) -> None:
    """ADDs one after another: what of each the agent spends on flows, by its own metric; the flows, by the switch."""
    plugin, name = agent.plugin(), "k8sovs_flow_reconcile_duration_seconds_sum"
    before, flows, adds = agent.metric(name), [], []
    for pod in pods:
        adds.append(plugin.add(pod, namespace_name(scale.namespaces // 2))[0])
        flows.append(len(monitor.settle(1)))
    spent = (agent.metric(name) - before) * 1000 / len(pods)
    report.samples("ADD of one more pod, whole", adds)
    report.value(f"pod_ms{scale.suffix}", spent, "20")
    report.value(f"pod_flows{scale.suffix}", max(flows), "5", digits=0)


def _flows(around: Site) -> int:
    return int(around.switch.ofctl("dump-aggregate", "br0").split("flow_count=")[1].split()[0])


if __name__ == "__main__":
    main()
