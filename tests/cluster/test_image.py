"""The image that deploy/Containerfile makes, run by containerd as the manifests in deploy/kustomize have it run.

`make test-image` builds it, and says where it is by K8SOVS_IMAGE. The agent takes the place of a node's own in a lab;
of the manifest's settings only those differ that say where etcd and the node's directories are.
"""

from __future__ import annotations

import json
import logging
import os
import shutil
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.support.containerd import BUSYBOX, Containerd
from tests.support.cri import Cri
from tests.support.lab import LabUnderTest, eventually
from tests.support.podspec import container_config
from tests.support.runtime import Node

log = logging.getLogger(__name__)
"""What a container said."""

pytestmark = [pytest.mark.image, pytest.mark.timeout(180)]

LAB_OPTIONS = ("--nodes", "2")
KUSTOMIZE = Path(__file__).parents[2] / "deploy" / "kustomize"
NOBODY = "65532"
NO_CAPABILITY = "0" * 16


def manifest(name: str) -> dict[str, Any]:
    """The workload, or the ConfigMap, in a file of deploy/kustomize."""
    document: dict[str, Any] = yaml.safe_load((KUSTOMIZE / f"{name}.yaml").read_text())
    return document


def settings_of(pid: int) -> dict[str, str]:
    """What a daemon of the lab was told by its environment."""
    words = Path("/proc", str(pid), "environ").read_text().split("\0")
    return dict(word.split("=", 1) for word in words if word.startswith("K8SOVS_"))


class Container:
    """A running container: its first process and its files."""

    def __init__(self, containerd: Containerd, identifier: str) -> None:
        rows = [line.split() for line in containerd.ctr("tasks", "ls").splitlines()]
        self._pid = next(row[1] for row in rows if row[0] == identifier)
        self.root = Path("/proc", self._pid, "root")

    def status(self, field: str) -> list[str]:
        """A line of /proc/PID/status."""
        lines = Path("/proc", self._pid, "status").read_text().splitlines()
        return next(line for line in lines if line.startswith(f"{field}:")).split()[1:]


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Node:
    lab.run("kubectl", "create", "namespace", "red")
    return Node(lab.status()["nodes"][0])


@pytest.fixture(scope="module")
def containerd(node: Node) -> Iterator[Containerd]:
    with Containerd(node, node.conflist()) as containerd:
        containerd.ctr("images", "import", os.environ["K8SOVS_IMAGE"])
        yield containerd


@contextmanager
def running(
    containerd: Containerd, name: str, places: Mapping[str, Path], changed: Mapping[str, str]
) -> Iterator[Container]:
    """The pod of the manifest `name`, with other values for some settings (TOML) and for paths."""
    (image,) = (word for word in containerd.ctr("images", "ls", "-q").split() if "k8s-ovs:" in word)
    directory = containerd.directory / name
    (directory / "settings").mkdir(parents=True)
    lines = manifest("settings")["data"][f"{name}.toml"].splitlines()
    kept = [line for line in lines if line.partition(" ")[0] not in changed]
    told = "\n".join([*kept, *(f"{key} = {json.dumps(value)}" for key, value in changed.items())])
    (directory / "settings" / f"{name}.toml").write_text(told)
    (directory / "settings").chmod(0o755)
    fields = {"spec.nodeName": containerd.node.name, "metadata.name": "from-the-image"}
    everywhere = {"settings": directory / "settings", **places}
    config = container_config(manifest(name)["spec"]["template"], everywhere, fields, image)
    with Cri(containerd.socket) as cri:
        made = cri.run_on_host_network(name, containerd.cgroup, directory, config)
        try:
            yield Container(containerd, made)
        finally:
            cri.stop_container(made)
            log.info("%s", (directory / "log").read_text())
            for pod in cri.sandboxes():  # a pause of the host's network has its port: there is one pod at a time
                cri.remove(pod)


def test_a_controller_of_the_image_has_neither_root_nor_any_capability_and_stands_for_election(
    lab: LabUnderTest, containerd: Containerd
) -> None:
    settings = settings_of(next(one["pid"] for one in lab.status()["controllers"]))
    credentials = containerd.directory / "controller-credentials"
    credentials.mkdir(mode=0o755)
    shutil.copy(settings["K8SOVS_KUBECONFIG"], credentials / "kubeconfig")
    (credentials / "kubeconfig").chmod(0o644)
    containerd.directory.chmod(0o755)
    changed = {
        "etcd-endpoints": settings["K8SOVS_ETCD_ENDPOINTS"],
        "kubeconfig": "/etc/k8sovs-etcd/kubeconfig",
        "network": settings["K8SOVS_NETWORK"],
    }
    endpoint = lab.status()["etcd"]["endpoints"][0]
    with running(containerd, "controller", {"etcd": credentials}, changed) as controller:
        assert set(controller.status("Uid")) == {NOBODY}
        assert controller.status("CapEff") == [NO_CAPABILITY]
        status = ("k8sovs", "status", "--json", "--etcd-endpoints", endpoint)
        eventually(lambda: "from-the-image" in json.loads(lab.run(*status))["controllers"], "it is a candidate")


@pytest.fixture(scope="module")
def agent(lab: LabUnderTest, node: Node, containerd: Containerd) -> Iterator[Container]:
    """In place of the node's own, which leaves neither executable nor configuration."""
    settings = settings_of(node.agent_pid)
    lab("stop", "agent", node.name)
    own = node.ovs_rundir.parent
    conf = own / "cni" / "net.d"
    for file in (node.executable, conf / "10-k8s-ovs.conflist"):
        file.unlink()
    credentials = containerd.directory / "credentials"
    credentials.mkdir()
    shutil.copy(settings["K8SOVS_KUBECONFIG"], credentials / "kubeconfig")
    places = {
        "etcd": credentials,  # this lab's etcd has no secrets; its API is reached by a file
        "state": own / "state",
        "openvswitch": node.ovs_rundir,
        "socket": own,
        "cni-conf": conf,
        "cni-bin": node.executable.parent,
        "sandboxes": Path("/run/netns"),
    }
    changed = {
        "etcd-endpoints": settings["K8SOVS_ETCD_ENDPOINTS"],
        "kubeconfig": "/etc/k8sovs-etcd/kubeconfig",
        "datapath": settings["K8SOVS_DATAPATH"],
    }
    with running(containerd, "agent", places, changed) as agent:
        eventually(lambda: (conf / "10-k8s-ovs.conflist").exists(), "the agent of the image is ready", deadline_s=30)
        yield agent
    lab("start", "agent", node.name)


@pytest.fixture
def host(agent: Container, node: Node, tmp_path: Path) -> Path:
    """The root of a host that has busybox and nothing else, its /usr read-only; `chroot_into` mounts the rest."""
    for part in ("bin", "usr", "run/k8sovs", "opt/cni/bin"):
        (tmp_path / part).mkdir(parents=True)
    shutil.copy(BUSYBOX, tmp_path / "bin" / "busybox")
    return tmp_path


def call(host: Path, node: Node, command: str, netns: str) -> dict[str, Any]:
    """The executable, as a runtime of that host calls it, with the configuration that the agent wrote."""
    conf = json.loads((node.ovs_rundir.parent / "cni" / "net.d" / "10-k8s-ovs.conflist").read_text())
    stdin = json.dumps({**conf["plugins"][0], "name": conf["name"], "cniVersion": conf["cniVersion"]})
    variables = {
        **{"CNI_COMMAND": command, "CNI_CONTAINERID": "c" * 64, "CNI_NETNS": netns, "CNI_IFNAME": "eth0"},
        **{"CNI_PATH": "/opt/cni/bin", "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=red;K8S_POD_NAME=bare"},
    }
    script = f"""
        set -e
        mount --bind {node.ovs_rundir.parent} {host}/run/k8sovs
        mount --bind {node.executable.parent} {host}/opt/cni/bin
        mount -t tmpfs -o ro none {host}/usr
        ! chroot {host} /bin/busybox touch /usr/x 2>/dev/null
        exec chroot {host} /opt/cni/bin/{node.executable.name}
    """
    alone = ["unshare", "--mount", "--propagation", "private", "sh", "-c", script]
    done = subprocess.run(
        alone, input=stdin, env=os.environ | variables, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    answer: dict[str, Any] = json.loads(done.stdout or "{}")
    return answer


@contextmanager
def sandbox(node: Node) -> Iterator[str]:
    """A network namespace made after the agent's container: it sees it only if its mount is told of new ones."""
    name = f"{Path(node.netns).name}-bare"
    subprocess.run(["ip", "netns", "add", name], check=True)
    try:
        yield name
    finally:
        subprocess.run(["ip", "netns", "del", name], check=True)


def test_a_pod_of_a_host_with_nothing_but_busybox_gets_its_network_from_the_agent_of_the_image(
    lab: LabUnderTest, host: Path, node: Node
) -> None:
    assert call(host, node, "VERSION", "")["supportedVersions"]
    there = lab.add_pod("red/there", "node2")
    with sandbox(node) as name:
        added = call(host, node, "ADD", f"/run/netns/{name}")
        assert added["ips"][0]["address"]
        ping = ["ip", "netns", "exec", name, "ping", "-c1", "-W1", there["ip"]]
        eventually(lambda: subprocess.run(ping, capture_output=True).returncode == 0, "it reaches its neighbour")
        call(host, node, "DEL", f"/run/netns/{name}")
    lab("pod", "del", "red/there")


def test_the_image_holds_what_it_runs_and_nothing_to_build_with(agent: Container) -> None:
    tools = ("cc", "gcc", "musl-gcc", "make", "ld", "pip", "pip3", "ovs-vsctl", "curl", "wget")
    places = ("usr/bin", "usr/local/bin", "opt/k8s-ovs/bin")
    assert [path for place in places for tool in tools if (path := agent.root / place / tool).exists()] == []
    installed = {path.name for path in (agent.root / "opt/k8s-ovs/lib/python3.11/site-packages").iterdir()}
    assert {"agent", "controller", "k8sovs", "grpc"} <= installed
    assert not {"pytest", "pip", "setuptools", "aiohttp", "scapy"} & installed


def test_an_executable_that_somebody_removed_or_spoilt_is_put_back(agent: Container, node: Node) -> None:
    right = node.executable.read_bytes()
    node.executable.unlink()
    eventually(node.executable.exists, "the executable is back")
    node.executable.write_bytes(b"half of it")
    eventually(lambda: node.executable.read_bytes() == right, "it is the right one")
    assert os.access(node.executable, os.X_OK)
