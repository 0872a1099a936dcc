"""CNI ADD and DEL: ours, the reference, and the floor, in turns; then in bursts."""

import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field

from scripts.bench_figures import Report, p50
from scripts.bench_floor import Floor
from scripts.bench_plugins import Plugin, Pod, count_links, inside, wait_links
from scripts.bench_probe import Probe
from tests.support.namespaces import Sandbox
from tests.support.openvswitch import OpenVswitch

PODS = 110
FIRST = 20
AT_ONCE = 16
BURSTS = 3
PAUSE_S = 0.01
"""Between two timed calls: what one leaves a daemon to do should not be counted as the other's time."""


@dataclass
class Samples:
    """Milliseconds of each call, in order."""

    ours: list[float] = field(default_factory=list)
    bridge: list[float] = field(default_factory=list)
    floor: list[float] = field(default_factory=list)


@contextmanager
def pods(count: int) -> Iterator[list[Pod]]:
    """That many sandboxes."""
    with ExitStack() as stack:
        yield [Pod(stack.enter_context(Sandbox())) for _ in range(count)]


@contextmanager
def floor() -> Iterator[Callable[[int, Pod], float]]:
    """Adds the pod of a number to a switch that has nothing else to do; the milliseconds that it took."""
    with Sandbox() as node, OpenVswitch(dummy=False, prefix=("nsenter", f"--net={node.path}", "--")) as switch:
        settings = ("datapath_type=netdev", "fail_mode=secure")
        switch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", *settings)
        with inside(node.path):
            added = Floor(switch.db_socket)

        def add(number: int, pod: Pod) -> float:
            began = time.perf_counter()
            added.add(f"floor{number}", f"02:00:00:00:00:{number:02x}", pod.sandbox.path)
            return (time.perf_counter() - began) * 1000

        yield add


def one_by_one(
    report: Report, ours: Plugin, bridge: Plugin, targets: Sequence[str], at_full_house: Callable[[], None]
) -> None:
    """110 pods one after another, added and deleted; each of ours sends to `targets` as soon as its ADD returned."""
    adds, deletes = Samples(), Samples()
    lost, present = dict.fromkeys(targets, 0), count_links(ours)
    with pods(PODS) as mine, pods(PODS) as theirs, pods(PODS) as bare, floor() as add_floor:
        for number in range(PODS):
            probe = Probe(mine[number].sandbox)
            adds.ours.append(ours.add(mine[number])[0])
            for target in targets:
                lost[target] += not probe.answered(target)
            probe.close()
            time.sleep(PAUSE_S)
            adds.bridge.append(bridge.add(theirs[number])[0])
            time.sleep(PAUSE_S)
            adds.floor.append(add_floor(number, bare[number]))
            time.sleep(PAUSE_S)
        at_full_house()
        for number in range(PODS):
            deletes.ours.append(ours.delete(mine[number]))
            wait_links(ours, present + PODS - number - 1)
            deletes.bridge.append(bridge.delete(theirs[number]))
            time.sleep(PAUSE_S)
    report.section(f"CNI calls as whole processes, {PODS} pods one after another, in turns")
    for command, samples in (("ADD", adds), ("DEL", deletes)):
        report.samples(f"{command} k8s-ovs", samples.ours)
        report.samples(f"{command} {bridge.name}", samples.bridge)
    report.samples("ADD floor (veth, port, ofport; no process)", adds.floor)
    report.value("cni_add_p50_ms", p50(adds.ours))
    report.value("cni_add_floor_ratio", p50(adds.ours) / p50(adds.floor), "1.3")
    report.value("cni_add_first20_ratio", p50(adds.ours[:FIRST]) / p50(adds.bridge[:FIRST]), "0.8, of bridge")
    report.value("cni_del_p50_ratio", p50(deletes.ours) / p50(deletes.bridge), "0.5, of bridge")
    report.value("first_packet_lost", sum(lost.values()), f"0 of {PODS} to each of {len(targets)} pods")


def bursts(report: Report, ours: Plugin, bridge: Plugin) -> None:
    """110 ADDs, 16 at a time, in turns."""
    walls, present = Samples(), count_links(ours)
    for _ in range(BURSTS):
        for plugin, taken in ((ours, walls.ours), (bridge, walls.bridge)):
            with pods(PODS) as burst, ThreadPoolExecutor(AT_ONCE) as workers:
                began = time.perf_counter()
                list(workers.map(plugin.add, burst))
                taken.append((time.perf_counter() - began) * 1000)
                list(workers.map(plugin.delete, burst))
                wait_links(ours, present)  # before the other's turn, which what is left would hold up
    report.section(f"{PODS} ADDs, {AT_ONCE} at a time: wall time of {BURSTS} bursts, in turns")
    report.samples("k8s-ovs", walls.ours)
    report.samples(bridge.name, walls.bridge)
    report.value("burst_wall_ratio", p50(walls.ours) / p50(walls.bridge), "0.6")
