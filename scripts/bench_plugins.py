"""CNI plugins as a container runtime runs them, whole processes: ours on a lab node, `bridge` with `host-local`."""

import json
import secrets
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent import netns
from agent.podlink import HOST_LINK_PREFIX
from tests.support.cni import environment
from tests.support.namespaces import Sandbox
from tests.support.runtime import Node

REFERENCE = Path("/usr/lib/cni")
NAMESPACE = "bench"
POLL_S = 0.002
LINKS_DEADLINE_S = 30.0


class CallFailed(Exception):
    """A plugin reported an error."""


@dataclass(frozen=True)
class Pod:
    """A sandbox, and the container id that goes with it."""

    sandbox: Sandbox
    container_id: str = field(default_factory=lambda: secrets.token_hex(32))


@dataclass(frozen=True)
class Plugin:
    """An executable with its configuration, on the node whose network namespace is at the path `node`."""

    name: str
    executable: Path
    conf: Mapping[str, object]
    node: str

    def add(self, pod: Pod, namespace: str = NAMESPACE) -> tuple[float, str]:
        """ADD: how many milliseconds it took, and the pod's address."""
        took, output = self._call("ADD", pod, namespace)
        return took, json.loads(output)["ips"][0]["address"].partition("/")[0]

    def delete(self, pod: Pod, namespace: str = NAMESPACE) -> float:
        """DEL: how many milliseconds it took."""
        return self._call("DEL", pod, namespace)[0]

    def _call(self, command: str, pod: Pod, namespace: str) -> tuple[float, bytes]:
        arguments = (
            f"IgnoreUnknown=1;K8S_POD_NAMESPACE={namespace};K8S_POD_NAME=pod-{pod.container_id[:8]};"
            f"K8S_POD_INFRA_CONTAINER_ID={pod.container_id};K8S_POD_UID={pod.container_id[:32]}"
        )
        places = {"CNI_NETNS": pod.sandbox.path, "CNI_PATH": str(self.executable.parent)}
        variables = environment(command, pod.container_id, CNI_ARGS=arguments, **places)
        stdin = json.dumps(self.conf).encode()
        with inside(self.node):
            began = time.perf_counter()
            done = subprocess.run([self.executable], input=stdin, env=variables, capture_output=True, timeout=60)
            took = (time.perf_counter() - began) * 1000
        if done.returncode:
            raise CallFailed(f"{self.name}: {command}: {(done.stdout + done.stderr).decode()}")
        return took, done.stdout


@contextmanager
def inside(path: str) -> Iterator[None]:
    """The calling thread, and what it starts, is in the network namespace at `path`."""
    with netns.opened(path) as descriptor, netns.entered(descriptor, path):
        yield


def overlay(status: Mapping[str, Any]) -> Plugin:
    """Ours, on one node of `lab status --json`."""
    return Plugin("k8s-ovs", Path(status["cni_bin"]), Node(status).conf(), status["netns"])


@contextmanager
def bridge() -> Iterator[Plugin]:
    """The reference plugins on a node of their own."""
    with Sandbox() as node, tempfile.TemporaryDirectory() as leases:
        node.run("ip", "link", "set", "lo", "up")
        ranges, routes = [[{"subnet": "10.123.0.0/22"}]], [{"dst": "0.0.0.0/0"}]
        conf = {
            "cniVersion": "1.0.0",
            "name": "bench",
            "type": "bridge",
            "bridge": "cni0",
            "isGateway": True,
            "mtu": 1450,
            "ipam": {"type": "host-local", "ranges": ranges, "routes": routes, "dataDir": leases},
        }
        yield Plugin("bridge + host-local", REFERENCE / "bridge", conf, node.path)


def count_links(plugin: Plugin) -> int:
    """How many pod links of ours the plugin's node has."""
    with inside(plugin.node):
        return sum(name.startswith(HOST_LINK_PREFIX) for _, name in socket.if_nameindex())


def wait_links(plugin: Plugin, count: int) -> None:
    """Wait until there are `count` links: a DEL leaves the deletion of the link for later."""
    deadline = time.monotonic() + LINKS_DEADLINE_S
    while (present := count_links(plugin)) != count:
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: {plugin.name} has {present} pod links after {LINKS_DEADLINE_S:g} s, not {count}")
        time.sleep(POLL_S)
