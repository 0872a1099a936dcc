"""One real node of a large cluster: its switch, its agent, its pods; all the other nodes are records in etcd.

The node is a network namespace behind a router, which is this process' own namespace: there etcd and the API server
serve. Nobody answers at the addresses of the other nodes; the way to all of them is the router.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

from scripts.bench_plugins import CallFailed, Plugin, Pod
from scripts.bench_scale_processes import ScaleApi, wait_until
from scripts.bench_scale_world import Scale, node_name
from tests.support.etcd import EtcdServers
from tests.support.namespaces import Sandbox, fresh_namespace, run
from tests.support.openvswitch import OpenVswitch

ROUTER, ADDRESS = IPv4Address("192.0.2.1"), IPv4Address("192.0.2.11")
METRICS = f"{ADDRESS}:9500"
PODS_PER_NAMESPACE = 5
READY = '"event": "ready"'


@dataclass(frozen=True)
class Site:
    """Everything around the agent."""

    scale: Scale
    sandbox: Sandbox
    switch: OpenVswitch
    etcd: EtcdServers
    api: ScaleApi
    directory: Path


@contextmanager
def site(scale: Scale) -> Iterator[Site]:
    """A node with a switch and its underlay, no agent yet. To be entered before the process has any threads."""
    with ExitStack() as stack:
        stack.enter_context(fresh_namespace())
        node = stack.enter_context(Sandbox())
        node.connect("node0", "eth0")
        run("ip", "address", "add", f"{ROUTER}/24", "dev", "node0")
        # A veth hands over frames with their checksums left to be filled in, which a userspace switch cannot do.
        run("ethtool", "-K", "node0", "tx", "off")
        node.run("ethtool", "-K", "eth0", "tx", "off")
        first = ("nsenter", f"--net={node.path}", "--", "nice", "-n", "-10")
        switch = stack.enter_context(OpenVswitch(dummy=False, prefix=first, arguments=("--disable-system-route",)))
        _underlay(node, switch)
        etcd = stack.enter_context(EtcdServers(address=str(ROUTER)))
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-scale-")))
        yield Site(scale, node, switch, etcd, stack.enter_context(ScaleApi(directory, scale, str(ROUTER))), directory)


def _underlay(node: Sandbox, switch: OpenVswitch) -> None:
    """As docs/lab.md has it: on the userspace datapath the NIC is a port of a switch of its own."""
    hwaddr = json.loads(node.run("ip", "-json", "link", "show", "eth0"))[0]["address"]
    bridge = ("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev")
    switch.vsctl(*bridge, f'other_config:hwaddr="{hwaddr}"', "--", "add-port", "br-phy", "eth0")
    node.run("ip", "link", "set", "br-phy", "up")
    node.run("ip", "address", "add", f"{ADDRESS}/24", "dev", "br-phy")
    node.run("ip", "route", "add", "default", "via", str(ROUTER))


class Agent:
    """`k8sovs agent` of node 0, a process, from entering to leaving."""

    def __init__(self, site: Site) -> None:
        self._site = site
        self._process: subprocess.Popen[bytes] | None = None
        self.log = site.directory / "agent.log"
        self._state = site.directory / "state"

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def start(self) -> float:
        """Start it; the seconds from there until it says that it is ready, its flows in the switch."""
        self.log.write_bytes(b"")
        began = time.monotonic()
        with self.log.open("ab") as log:
            command = ["nsenter", f"--net={self._site.sandbox.path}", "--", "setpriv", "--pdeathsig=KILL"]
            command += [sys.executable, "-m", "k8sovs.cli", "agent"]
            self._process = subprocess.Popen(
                command, env=os.environ | self._environment(), stdin=subprocess.DEVNULL, stdout=log, stderr=log
            )
        wait_until(self._is_ready, f"the agent is ready: {self.log.read_text()[-2000:]}", within_s=120)
        return time.monotonic() - began

    def stop(self) -> None:
        """SIGTERM: the node goes on as it is."""
        assert self._process is not None
        self._process.terminate()
        self._process.wait(20)
        self._process = None

    def forget(self) -> None:
        """Remove the file in which it keeps what it knows of the cluster."""
        for file in self._state.glob("*"):
            file.unlink()

    def metric(self, name: str) -> float:
        """A number that it shows."""
        with urllib.request.urlopen(f"http://{METRICS}/metrics", timeout=30) as answer:
            lines = answer.read().decode().splitlines()
        return sum(float(line.rsplit(" ", 1)[1]) for line in lines if line.startswith((name + " ", name + "{")))

    def plugin(self) -> Plugin:
        """The CNI executable, as the agent has installed it."""
        (conf,) = (self._site.directory / "net.d").iterdir()
        conflist = json.loads(conf.read_text())
        settings = {**conflist["plugins"][0], "name": conflist["name"], "cniVersion": conflist["cniVersion"]}
        return Plugin("k8s-ovs", self._site.directory / "bin" / "k8s-ovs", settings, self._site.sandbox.path)

    def _is_ready(self) -> bool:
        said = self.log.read_text()
        if self._process is not None and self._process.poll() is not None:
            raise SystemExit(f"the agent ended: {said[-4000:]}")
        return READY in said

    def _environment(self) -> dict[str, str]:
        here = self._site.directory
        return {
            "K8SOVS_NODE_NAME": node_name(0),
            "K8SOVS_ETCD_ENDPOINTS": ",".join(self._site.etcd.endpoints),
            "K8SOVS_KUBECONFIG": str(self._site.api.kubeconfig),
            "K8SOVS_OVS_RUNDIR": str(self._site.switch.rundir),
            "K8SOVS_CNI_SOCKET": str(here / "cni.sock"),
            "K8SOVS_CNI_CONF_DIR": str(here / "net.d"),
            "K8SOVS_CNI_BIN_DIR": str(here / "bin"),
            "K8SOVS_STATE_DIR": str(self._state),
            "K8SOVS_DATAPATH": "netdev",
            "K8SOVS_LOG_FORMAT": "json",
            "K8SOVS_METRICS_ADDRESS": METRICS,
        }


@contextmanager
def sandboxes(count: int) -> Iterator[list[Pod]]:
    """That many pods that are not attached yet."""
    with ExitStack() as stack:
        yield [Pod(stack.enter_context(Sandbox())) for _ in range(count)]


def add_all(plugin: Plugin, pods: list[Pod], namespaces: list[str], at_once: int) -> tuple[list[float], int]:
    """ADD of every pod, so many at a time: milliseconds of each, and how many failed."""

    def add(pod: Pod, namespace: str) -> float | None:
        try:
            return plugin.add(pod, namespace)[0]
        except (CallFailed, subprocess.TimeoutExpired):
            return None

    with ThreadPoolExecutor(at_once) as hands:
        took = list(hands.map(add, pods, namespaces))
    good = [one for one in took if one is not None]
    return good, len(took) - len(good)


class FlowMonitor:
    """Every change of a flow as the switch itself tells of it (ovs-ofctl(8), `monitor`), and when."""

    def __init__(self, switch: OpenVswitch) -> None:
        command = ["setpriv", "--pdeathsig=KILL", "stdbuf", "-oL", "-eL"]
        command += ["ovs-ofctl", "monitor", "br0", "watch:!initial"]
        self._process = subprocess.Popen(
            command, env=switch.environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        self.events: list[tuple[float, str]] = []
        threading.Thread(target=self._read, daemon=True).start()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()

    def settle(self, at_least: int = 0, quiet_s: float = 0.15) -> list[tuple[float, str]]:
        """Wait for that many changes, then until there is none for a while; all since the last call."""
        wait_until(lambda: len(self.events) >= at_least, f"{at_least} changes of flows", within_s=60)
        while (seen := len(self.events)) is not None:
            time.sleep(quiet_s)  # quiet is what is waited for
            if len(self.events) == seen:
                break
        found, self.events = self.events[:], []
        return found

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if "event=" in line:
                self.events.append((time.monotonic(), line.strip()))
