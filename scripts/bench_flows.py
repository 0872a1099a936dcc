"""Flow programming: bundles into a real ovs-vswitchd by our connection, and by `ovs-ofctl`, in turns."""

import asyncio
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import IPv4Address, IPv4Network
from itertools import islice
from pathlib import Path

from agent.switch import Switch
from flows.diff import AddFlow, DeleteFlow
from flows.flow import Flow
from flows.openflow import FlowPurge
from flows.pipeline import peer_flows, pipeline_flows, pod_flows
from flows.snapshot import Attachment, Mode, Peer, Tenancy
from flows.text import flow_text
from scripts.bench_figures import Report, p50
from tests.support.openvswitch import OpenVswitch

FLOWS = 10_000
ROUNDS = 7
PODS = 110


def measure(report: Report) -> None:
    """Rates and latencies."""
    with OpenVswitch() as ovs:
        ovs.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "fail_mode=secure", "protocols=OpenFlow15")
        asyncio.run(_measure(report, ovs))


async def _measure(report: Report, ovs: OpenVswitch) -> None:
    flows = many_flows()
    text = ovs.rundir / "flows"
    text.write_text("".join(f"{flow_text(flow)}\n" for flow in flows))
    ours: list[float] = []
    theirs: list[float] = []
    async with _connected(ovs) as switch:
        for _ in range(ROUNDS):
            ours.append(await _commit(switch, flows))
            theirs.append(await asyncio.to_thread(_ofctl_bundle, ovs, text))
            await switch.commit([FlowPurge()])
        pods = [await _pod_bundle(switch, number) for number in range(PODS)]
    report.section(f"{FLOWS} flows into ovs-vswitchd in one bundle, in turns")
    report.samples("k8s-ovs", ours)
    report.samples("ovs-ofctl --bundle add-flows, a process", theirs)
    report.value("flows_per_s", FLOWS / p50(ours) * 1000, digits=0)
    report.value("flows_vs_ofctl_ratio", p50(theirs) / p50(ours), "1.1 times its rate")
    report.samples("one pod's flows, in one bundle", pods)
    report.value("pod_bundle_ms", p50(pods), "1")


def many_flows() -> list[Flow]:
    """The pipeline, and the flows of as many nodes as it takes."""
    nodes = (Peer(IPv4Address(0xC6120000 + number), _subnet(number)) for number in range(FLOWS))
    flows = (flow for source in (pipeline_flows(), *map(peer_flows, nodes)) for flow in source)
    return list(islice(flows, FLOWS))


def _subnet(number: int) -> IPv4Network:
    return IPv4Network((0x0A000000 + number * 256, 24))


async def _commit(switch: Switch, flows: Sequence[Flow]) -> float:
    """Milliseconds from the flows to the switch's word that it has them; then they are gone again."""
    changes = [AddFlow(flow) for flow in flows]
    began = time.perf_counter()
    await switch.commit(changes)
    took = (time.perf_counter() - began) * 1000
    await switch.commit([FlowPurge()])
    return took


def _ofctl_bundle(ovs: OpenVswitch, text: Path) -> float:
    began = time.perf_counter()
    ovs.ofctl("--bundle", "add-flows", "br0", str(text))
    return (time.perf_counter() - began) * 1000


async def _pod_bundle(switch: Switch, number: int) -> float:
    pod = Attachment(256 + number, IPv4Address("172.11.0.2") + number, Tenancy(10, frozenset({10})))
    flows = list(pod_flows(pod, Mode.MULTITENANT))
    began = time.perf_counter()
    await switch.commit([AddFlow(flow) for flow in flows])
    took = (time.perf_counter() - began) * 1000
    if number % 2:  # not only into an empty table, and not only growing
        await switch.commit([DeleteFlow(flow.key) for flow in flows])
    return took


@asynccontextmanager
async def _connected(ovs: OpenVswitch) -> AsyncIterator[Switch]:
    switch = Switch(str(ovs.mgmt("br0")))
    running = asyncio.create_task(switch.run())
    try:
        await switch.wait_connected()
        yield switch
    finally:
        running.cancel()
        await asyncio.wait({running})
