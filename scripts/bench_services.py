"""Services in the switch: connections through a ClusterIP beside the pod's own address, in a lab with many of them; and
what one changed endpoint costs an agent that knows as many.
"""

import argparse
import asyncio
import resource
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from agent.flow_reconciler import Demand, FlowReconciler
from agent.switch import Switch
from flows.flow import Source
from flows.service import Backend, Endpoint, Protocol, Service, ServicePort, ServiceProxy
from flows.snapshot import Mode, Node, Snapshot
from k8sovs import logs
from k8sovs.kubernetes import EndpointSlice, Kubernetes, from_document
from k8sovs.kubernetes import Service as ServiceObject
from scripts.bench_figures import Report, p50
from scripts.interrupts import end_on_signals
from tests.support.lab import LabUnderTest
from tests.support.openvswitch import OpenVswitch
from tests.support.sockets import Inside

CLUSTER, SERVICES = IPv4Network("172.11.0.0/16"), IPv4Network("10.96.0.0/12")
SUBNET = IPv4Network("172.11.0.0/22")
ENDPOINTS = 3
CHANGES = 50
CONNECTIONS = 500
ROUNDS = 5
MEASURED = IPv4Address("10.96.0.10")


def main() -> None:
    """All of it, for each number of Services on the command line."""
    end_on_signals()
    parser = argparse.ArgumentParser()
    parser.add_argument("counts", type=int, nargs="*", default=[1_000, 10_000])
    logs.configure("warning")
    report = Report()
    for count in parser.parse_args().counts:
        asyncio.run(_change(report, count))
    for count in parser.parse_args().counts:
        _connect(report, count)
    report.last_line()


async def _change(report: Report, count: int) -> None:
    """One endpoint more or less, from the new snapshot to the switch's commit."""
    report.section(f"{count} Services with {ENDPOINTS} endpoints each, in one agent and a real ovs-vswitchd")
    services = {service.key: service for service in map(_service, range(count))}
    snapshot = Snapshot(
        Mode.MULTITENANT, CLUSTER, SERVICES, Node(IPv4Address("192.0.2.11"), SUBNET, SUBNET[1]),
        service_proxy=ServiceProxy.OVS, services=services,
    )  # fmt: skip
    with OpenVswitch() as ovs:
        ovs.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "fail_mode=secure", "protocols=OpenFlow15")
        switch = Switch(str(ovs.mgmt("br0")))
        reconciler = FlowReconciler(switch, lambda: Demand(snapshot, frozenset(Source)))
        tasks = [asyncio.create_task(switch.run()), asyncio.create_task(reconciler.run())]
        before = _resident_mib()
        started = time.perf_counter()
        waits: list[float] = []
        waiting = asyncio.create_task(_note_waits(waits))
        await reconciler.reconcile()
        while not reconciler.complete:
            await reconciler.reconcile()
        report.value(f"services_{count}_first_s", time.perf_counter() - started)
        waiting.cancel()
        with suppress(asyncio.CancelledError):
            await waiting
        report.value(f"services_{count}_first_others_wait_ms", max(waits), digits=0)
        report.value(f"services_{count}_memory_mib", _resident_mib() - before, digits=0)
        took = []
        for number in range(CHANGES):
            key = f"ns/s{number * 7 % count}"
            changed = _service(number * 7 % count, more=1)
            snapshot = replace(snapshot, services={**snapshot.services, key: changed})
            started = time.perf_counter()
            await reconciler.reconcile()
            took.append((time.perf_counter() - started) * 1000)
        report.samples("one endpoint more, until the switch has it", took)
        report.value(f"services_{count}_change_ms", p50(took), "20" if count >= 10_000 else "")
        for task in tasks:
            task.cancel()
            with suppress(asyncio.CancelledError):
                await task


async def _note_waits(waits: list[float]) -> None:
    """Note, in ms, how long a task of the same event loop waits for its turn, for ever."""
    while True:
        started = time.perf_counter()
        await asyncio.sleep(0)
        waits.append((time.perf_counter() - started) * 1000)
        await asyncio.sleep(0.005)  # to look now and then, not to be the load itself


def _service(number: int, more: int = 0) -> Service:
    first = number * ENDPOINTS
    backends = [Backend(CLUSTER[2 + (first + step) % 60_000], 8080) for step in range(ENDPOINTS + more)]
    endpoints = tuple(Endpoint(backend, backend.address in SUBNET) for backend in backends)
    return Service(f"ns/s{number}", (SERVICES[100 + number],), (ServicePort(Protocol.TCP, 80, None, endpoints),))


def _resident_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def _connect(report: Report, count: int) -> None:
    """Short connections from one pod to another on a second node, by its address and by a Service, in turns."""
    report.section(f"{CONNECTIONS} connections one after the other between nodes, {count} Services, in turns")
    lab = LabUnderTest("bench-services")
    with Inside() as inside:
        try:
            lab("up", "--nodes", "2", "--service-proxy", "ovs")
            client, server = lab.add_pod("red/client", "node1"), lab.add_pod("red/server", "node2")
            # Another pod, as one that is asked both ways may meet a port that is still in use the other way.
            other = lab.add_pod("red/other", "node2")
            for pod in (server, other):
                inside.serve(pod["netns"], "server", 8080)
            asyncio.run(_create(str(lab.env["KUBECONFIG"]), count, server["ip"]))
            _wait_answered(inside, client["netns"])
            direct, by_service = [], []
            for _ in range(ROUNDS):
                direct.append(connection_rate(client["netns"], other["ip"], 8080))
                by_service.append(connection_rate(client["netns"], str(MEASURED), 80))
            report.value(f"connections_{count}_direct_per_s", p50(direct), digits=0)
            report.value(f"connections_{count}_service_per_s", p50(by_service), digits=0)
            report.value(f"connections_{count}_ratio", p50(by_service) / p50(direct))
            for process in ("agent", "vswitchd"):
                report.value(f"services_{count}_{process}_mib", _memory(lab, process), digits=0)
        finally:
            lab("down")


async def _create(kubeconfig: str, count: int, address: str) -> None:
    """The Service to measure, last, after `count` others."""
    async with Kubernetes(kubeconfig) as kubernetes:
        limit = asyncio.Semaphore(20)

        async def create(number: int, vip: IPv4Address, backends: list[str], port: int) -> None:
            meta = {"name": f"s{number}", "namespace": "red"}
            ports = [{"name": "p", "port": 80, "targetPort": port}]
            service = {"metadata": meta, "spec": {"clusterIP": str(vip), "ports": ports}}
            label = {"labels": {"kubernetes.io/service-name": f"s{number}"}}
            slices = {
                "metadata": meta | label,
                "addressType": "IPv4",
                "endpoints": [{"addresses": [one], "conditions": {"ready": True}} for one in backends],
                "ports": [{"name": "p", "port": port, "protocol": "TCP"}],
            }
            async with limit:
                await kubernetes.create(from_document(service, ServiceObject), "red")
                await kubernetes.create(from_document(slices, EndpointSlice), "red")

        async with asyncio.TaskGroup() as tasks:
            for number in range(count):
                pods = [str(CLUSTER[4096 + (number * ENDPOINTS + step) % 50_000]) for step in range(ENDPOINTS)]
                tasks.create_task(create(number, SERVICES[4096 + number], pods, 8080))
        await create(count, MEASURED, [address], 8080)


def _wait_answered(inside: Inside, netns: str) -> None:
    deadline = time.monotonic() + 300
    while not any(answer.startswith("server") for answer in inside.ask(netns, str(MEASURED), 80, timeout_s=1.0)):
        if time.monotonic() > deadline:
            raise SystemExit("the Service did not answer within 300 s")


def connection_rate(netns: str, address: str, port: int, count: int = CONNECTIONS) -> float:
    """`count` connections one after the other, each with an answer: how many in a second."""
    code = (
        "import socket, sys, time\n"
        "host, port, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])\n"
        "start = time.perf_counter()\n"
        "for _ in range(count):\n"
        "    with socket.create_connection((host, port), 30) as one:\n"
        "        assert one.recv(100)\n"
        "print(count / (time.perf_counter() - start))\n"
    )
    argv = ["nsenter", f"--net={netns}", "--", sys.executable, "-c", code, address, str(port), str(count)]
    return float(subprocess.run(argv, check=True, stdout=subprocess.PIPE, text=True).stdout)


def _memory(lab: LabUnderTest, process: str) -> float:
    """Resident MiB of a process of node1."""
    status = Path("/proc", str(lab.status()["nodes"][0][f"{process}_pid"]), "status").read_text()
    (line,) = [line for line in status.splitlines() if line.startswith("VmRSS")]
    return int(line.split()[1]) / 1024


if __name__ == "__main__":
    main()
