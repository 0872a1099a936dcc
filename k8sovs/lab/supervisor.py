"""The one process that builds a lab and keeps it running: `python -m k8sovs.lab.supervisor DIRECTORY --report FD`.

It reports its progress as JSON lines on the descriptor it was given, until the lab is ready or cannot be; then it
serves the control socket. It ends when it is killed: `down` needs no help from it, so that `down` after a crash is no
special case.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Mapping
from contextlib import AsyncExitStack
from functools import partial
from pathlib import Path
from typing import Any

from cni.conf import EXECUTABLE
from k8sovs import logs
from k8sovs.kubernetes import Kubernetes, KubernetesError, Namespace
from k8sovs.lab import cluster, control, openvswitch, pki, realserver, runtime, topology
from k8sovs.lab.apiserver import authorization
from k8sovs.lab.controllers.loop import (
    CONTROLLER_MANAGER,
    NAMESPACE_CONTROLLER,
    SCHEDULER,
    ControllerLoop,
    Job,
)
from k8sovs.lab.daemon import Daemon
from k8sovs.lab.forward import Forward
from k8sovs.lab.kubelet import Kubelet
from k8sovs.lab.layout import (
    API_PORT,
    CLIENT_ADDRESS,
    CONTROL_ADDRESS,
    NETNS_ROOT,
    Datapath,
    Lab,
    LabError,
    NodeLayout,
    load,
)
from k8sovs.lab.netns import Journal
from k8sovs.lab.notices import Notices
from k8sovs.lab.pods import Pods
from k8sovs.lab.waiting import all_of, wait_until

START_TIMEOUT_S = 30.0
REAL_START_TIMEOUT_S = 90.0
READY_TIMEOUT_S = 60.0

log = logs.get_logger(__name__)


class Report:
    """Tells the process that started the lab how far it is."""

    def __init__(self, descriptor: int) -> None:
        self._lines = os.fdopen(descriptor, "w", buffering=1)

    def progress(self, text: str) -> None:
        """One step is done."""
        self._send({"progress": text})

    def ready(self) -> None:
        """The lab is complete; that is the last word."""
        self._send({"standing": True})
        self._lines.close()

    def failed(self, error: LabError, *, standing: bool) -> None:
        """The lab is not complete, the last word. `standing`: but all of its processes are there, and can be asked."""
        self._send({"failed": str(error), "standing": standing})
        self._lines.close()

    def _send(self, message: Mapping[str, object]) -> None:
        try:
            self._lines.write(json.dumps(message) + "\n")
        except BrokenPipeError:
            log.warning("nobody-listens", message=message)


class Supervisor:
    """The lab's state: its processes by name, and its kubelets."""

    def __init__(self, lab: Lab, report: Report) -> None:
        self._lab = lab
        self._report = report
        self._journal = Journal(lab.directory / "namespaces")
        self._daemons: dict[str, Daemon] = {}
        self._kubelets: dict[str, Kubelet] = {}
        self._notices: dict[str, Notices] = {}
        self._datapath = Datapath.NETDEV
        self._etcd_urls: tuple[str, ...] = ()

    async def run(self) -> None:
        """Build the lab, then serve it for ever."""
        async with AsyncExitStack() as stack, asyncio.TaskGroup() as tasks:
            try:
                kubernetes = await self._build(stack, tasks)
            except LabError as error:
                self._report.failed(error, standing=False)
                raise
            await self._serve(Pods(self._lab, kubernetes, self._kubelets))
            try:
                await self._wait_ready()
            except LabError as error:
                log.error("not-ready", error=str(error))
                self._report.failed(error, standing=True)
            else:
                self._report.ready()
            await asyncio.Event().wait()

    async def _serve(self, pods: Pods) -> None:
        handlers = {
            "status": self._status,
            "start": self._start,
            "stop": self._stop,
            "pod-add": pods.add,
            "pod-delete": pods.delete,
            "pod-list": pods.list,
        }
        await control.serve(self._lab.control_socket, handlers)

    async def _build(self, stack: AsyncExitStack, tasks: asyncio.TaskGroup) -> Kubernetes:
        lab = self._lab
        self._datapath = await asyncio.to_thread(topology.resolve_datapath, lab.datapath)
        await asyncio.to_thread(topology.build_fabric, lab, self._journal)
        for prefix in await asyncio.to_thread(topology.guard_routes, lab):
            self._report.progress(f"{prefix} is in use on this machine and stays without a blackhole route")
        self._report.progress("fabric, control plane and outside are wired")
        control_netns = NETNS_ROOT / lab.netns("control")
        ways = [Forward(control_netns, CONTROL_ADDRESS, port) for port in lab.etcd_ports]
        etcd = [await stack.enter_async_context(way) for way in ways]
        api = await stack.enter_async_context(Forward(control_netns, CONTROL_ADDRESS, API_PORT))
        self._etcd_urls = tuple(f"http://127.0.0.1:{way.port}" for way in etcd)
        await self._write_kubeconfigs(api.port)
        kubernetes = await stack.enter_async_context(Kubernetes(str(cluster.kubeconfig(lab))))
        if lab.edges:
            await asyncio.to_thread(topology.build_client, lab, self._journal)
        nodes = [self._build_node(node) for node in lab.all_nodes()]
        edges = [self._build_edge(edge, stack) for edge in lab.all_edges()]
        await all_of(self._start_store(), self._start_api(kubernetes), *nodes, *edges)
        for node in lab.all_nodes():
            kubelet = self._kubelets[node.name] = Kubelet(lab, node, kubernetes, self._journal)
            tasks.create_task(kubelet.run(), name=f"kubelet-{node.name}")
        for job in self._jobs():
            tasks.create_task(ControllerLoop(kubernetes, job).run(), name=f"controllers-{job.name}")
        for daemon in cluster.controllers(lab):
            await self._launch(daemon)
        for node in lab.all_nodes():
            await self._launch(cluster.agent(lab, node, self._datapath))
        for edge in lab.all_edges():
            await cluster.ask_for_subnet(self._etcd_urls[0], edge)
            await self._launch(cluster.edge_agent(lab, edge, self._datapath))
        return kubernetes

    async def _launch(self, daemon: Daemon) -> None:
        self._daemons[daemon.name] = daemon
        await daemon.start()

    async def _start_store(self) -> None:
        for daemon in cluster.etcd(self._lab):
            await self._launch(daemon)
        for url in self._etcd_urls:
            await wait_until(partial(cluster.etcd_problem, url), timeout_s=START_TIMEOUT_S)
        self._report.progress("etcd answers")

    async def _write_kubeconfigs(self, port: int) -> None:
        """Those that need no running server; `port` is where the machine reaches it."""
        lab, real = self._lab, cluster.real_server(self._lab)
        outside, inside = cluster.kubeconfig(lab), cluster.api_url(lab)
        if real is None:
            cluster.write_kubeconfig(outside, f"http://127.0.0.1:{port}", None, {})
            for who, account in realserver.ACCOUNTS.items():
                token = authorization.user_name(realserver.ACCOUNT_NAMESPACE, account)
                cluster.write_kubeconfig(cluster.kubeconfig(lab, who), inside, None, {"token": token})
            return
        names = (f"IP:{real.address}", *realserver.SERVER_NAMES)
        await asyncio.to_thread(pki.create, real.pki.directory, names)
        admin = realserver.by_certificate(real.pki, "admin")
        cluster.write_kubeconfig(outside, f"https://127.0.0.1:{port}", real.pki, admin)
        cluster.write_kubeconfig(cluster.kubeconfig(lab, "manager"), inside, real.pki, admin)

    def _jobs(self) -> tuple[Job, ...]:
        """What is left to our small controllers."""
        real = cluster.real_server(self._lab)
        if real is None:
            return (SCHEDULER, CONTROLLER_MANAGER)
        return (SCHEDULER,) if real.manages_itself else (SCHEDULER, CONTROLLER_MANAGER, NAMESPACE_CONTROLLER)

    async def _start_api(self, kubernetes: Kubernetes) -> None:
        real = cluster.real_server(self._lab)
        for daemon in cluster.kubernetes(self._lab):
            await self._launch(daemon)

        async def problem() -> str | None:
            try:
                await kubernetes.get(Namespace, "kube-system")
                if real is not None:
                    await realserver.install_roles(kubernetes)
            except KubernetesError as error:
                return f"the API server does not answer: {error}{self._said('apiserver')}"
            return None

        await wait_until(problem, timeout_s=START_TIMEOUT_S if real is None else REAL_START_TIMEOUT_S)
        if real is not None:
            for who, account in realserver.ACCOUNTS.items():
                user = await realserver.by_token(kubernetes, account)
                path = cluster.kubeconfig(self._lab, who)
                cluster.write_kubeconfig(path, cluster.api_url(self._lab), real.pki, user)
        self._report.progress("the Kubernetes API answers")

    async def _build_edge(self, edge: NodeLayout, stack: AsyncExitStack) -> None:
        await self._build_node(edge)
        await asyncio.to_thread(topology.plug_client, self._lab, edge)
        self._notices[edge.name] = await stack.enter_async_context(Notices(edge.notify_socket))

    async def _build_node(self, node: NodeLayout) -> None:
        lab = self._lab
        await asyncio.to_thread(topology.plug_node, lab, self._journal, node)
        for directory in (node.cni_conf_dir, node.cni_bin_dir, node.state_dir):
            directory.mkdir(parents=True)
        await asyncio.to_thread(openvswitch.create_database, node)
        await self._launch(cluster.ovsdb(lab, node))
        await self._launch(cluster.vswitchd(lab, node, self._datapath))
        try:
            device = await asyncio.to_thread(openvswitch.configure, node, self._datapath)
        except LabError as error:
            raise LabError(f"{error}{self._said(f'ovsdb-{node.name}')}{self._said(f'vswitchd-{node.name}')}") from None
        await asyncio.to_thread(topology.address_node, node, device)
        await asyncio.to_thread(topology.shield_etcd, self._lab, node)
        self._report.progress(f"{node.name} has its switch ({self._datapath.value} datapath)")

    async def _wait_ready(self) -> None:
        await wait_until(self._leader_problem, timeout_s=READY_TIMEOUT_S)
        self._report.progress("a controller leads")
        agents = [self._wait_agent(node) for node in self._lab.all_nodes()]
        await all_of(*agents, *(self._wait_edge(edge) for edge in self._lab.all_edges()))

    async def _leader_problem(self) -> str | None:
        if await cluster.leader(self._etcd_urls) is None:
            return f"no controller leads{self._said('controller-1')}"
        return None

    async def _wait_agent(self, node: NodeLayout) -> None:
        async def problem() -> str | None:
            try:
                await runtime.check_ready(node)
            except LabError as error:
                return f"the agent of {node.name} is not ready: {error}{self._said(f'agent-{node.name}')}"
            return None

        await wait_until(problem, timeout_s=READY_TIMEOUT_S)
        self._report.progress(f"{node.name} is ready")

    async def _wait_edge(self, edge: NodeLayout) -> None:
        async def problem() -> str | None:
            is_ready = self._notices[edge.name].is_ready
            return None if is_ready else f"the agent of {edge.name} is not ready{self._said(f'agent-{edge.name}')}"

        await wait_until(problem, timeout_s=READY_TIMEOUT_S)
        self._report.progress(f"{edge.name} is ready")

    def _said(self, daemon: str) -> str:
        """The last line of a process's log, to be appended to a complaint about it."""
        words = self._daemons[daemon].last_words(1) if daemon in self._daemons else ""
        return f"; {daemon} last said: {words}" if words else ""

    async def _start(self, request: Mapping[str, Any]) -> object:
        await self._find(request["process"]).start()
        return None

    async def _stop(self, request: Mapping[str, Any]) -> object:
        await self._find(request["process"]).stop()
        return None

    def _find(self, name: str) -> Daemon:
        if name not in self._daemons:
            known = ", ".join(sorted(name.replace("-", " ", 1) for name in self._daemons))
            raise LabError(f"lab '{self._lab.name}' has no '{name.replace('-', ' ', 1)}'; it has {known}")
        return self._daemons[name]

    async def _status(self, request: Mapping[str, Any]) -> object:
        leader = await cluster.leader(self._etcd_urls)
        return {
            "name": self._lab.name,
            "mode": self._lab.mode.value,
            "datapath": self._datapath.value,
            "directory": str(self._lab.directory),
            "supervisor_pid": os.getpid(),
            "nodes": [self._node_status(node) for node in self._lab.all_nodes()],
            "edges": [self._edge_status(edge) for edge in self._lab.all_edges()],
            "client": self._client_status() if self._lab.edges else None,
            "controllers": [
                {"name": name, "pid": daemon.pid, "leader": name == leader, "restarts": daemon.restarts}
                for name, daemon in self._daemons.items()
                if name.startswith("controller-")
            ],
            "etcd": {
                "endpoints": list(self._etcd_urls),
                "pids": [pid for pid in map(self._pid, self._etcd_names()) if pid is not None],
            },
            "apiserver": {"kubeconfig": str(cluster.kubeconfig(self._lab)), "pid": self._pid("apiserver")},
        }

    def _node_status(self, node: NodeLayout) -> Mapping[str, object]:
        conf = runtime.find_conf(node)
        cni = {"cni_bin": str(node.cni_bin_dir / EXECUTABLE), "cni_conf": str(conf) if conf else None}
        return {**self._host_status(node), **cni}

    def _edge_status(self, edge: NodeLayout) -> Mapping[str, object]:
        return {**self._host_status(edge), "client_ip": str(edge.client_side), "state_dir": str(edge.state_dir)}

    def _client_status(self) -> Mapping[str, object]:
        return {"ip": str(CLIENT_ADDRESS), "netns": str(NETNS_ROOT / self._lab.netns("client"))}

    def _host_status(self, node: NodeLayout) -> Mapping[str, object]:
        return {
            "name": node.name,
            "ip": str(node.address),
            "netns": str(node.netns_path),
            "ovs_rundir": str(node.ovs_rundir),
            "ovsdb_pid": self._pid(f"ovsdb-{node.name}"),
            "vswitchd_pid": self._pid(f"vswitchd-{node.name}"),
            "agent_pid": self._pid(f"agent-{node.name}"),
            "agent_restarts": self._daemons[f"agent-{node.name}"].restarts,
        }

    def _etcd_names(self) -> list[str]:
        return [self._lab.etcd_name(member) for member in range(self._lab.etcd_members)]

    def _pid(self, daemon: str) -> int | None:
        return self._daemons[daemon].pid if daemon in self._daemons else None


async def _main(directory: Path, report: Report) -> None:
    try:
        await Supervisor(load(directory), report).run()
    except* LabError as errors:
        for error in errors.exceptions:
            log.error("lab-failed", error=str(error))


def main() -> int:
    """Run the supervisor of the lab in a run directory."""
    parser = argparse.ArgumentParser(prog="k8sovs.lab.supervisor")
    parser.add_argument("directory", type=Path)
    parser.add_argument("--report", type=int, required=True, metavar="FD")
    arguments = parser.parse_args()
    logs.configure()
    asyncio.run(_main(arguments.directory, Report(arguments.report)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
