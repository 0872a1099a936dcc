"""The processes of a lab: what is started where, with which settings, and when each can be called up."""

from __future__ import annotations

import asyncio
import base64
import json
import sys
import urllib.error
import urllib.request
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path

from k8sovs.lab import openvswitch
from k8sovs.lab.daemon import Daemon
from k8sovs.lab.layout import (
    API_ETCD_PORT,
    API_PORT,
    CONTROL_ADDRESS,
    CONTROLLERS,
    ETCD_PREFIX,
    METRICS_PORT,
    NETWORK_NAME,
    Datapath,
    Lab,
    LabError,
    NodeLayout,
)
from k8sovs.lab.netns import inside
from k8sovs.lab.pki import Pki
from k8sovs.lab.realserver import RBAC, RealServer
from k8sovs.records import Keys, SubnetRecord

_HTTP_TIMEOUT_S = 5.0


def _daemon(lab: Lab, name: str, netns: str, *argv: str, **env: str) -> Daemon:
    # Settings of the machine's own k8s-ovs, if it is a node, are not the lab's.
    settings = {"K8SOVS_CONFIG": "/dev/null", **env}
    return Daemon(name, inside(netns, *argv), lab.logs / f"{name}.log", settings, lab.directory)


def etcd(lab: Lab) -> tuple[Daemon, ...]:
    """The store. Nothing outlives a lab, so nothing is synced to disk for long: the run directory is in memory."""
    names = [lab.etcd_name(member) for member in range(lab.etcd_members)]
    peers = [f"http://127.0.0.1:{port + 1}" for port in lab.etcd_ports]
    everybody = ",".join(f"{name}={peer}" for name, peer in zip(names, peers, strict=True))
    return tuple(
        _daemon(
            lab,
            name,
            lab.netns("control"),
            *("etcd", f"--name={name}", f"--data-dir={lab.directory / name}", "--log-level=warn"),
            *(f"--listen-client-urls={url}", f"--advertise-client-urls={url}"),
            *(f"--listen-peer-urls={peer}", f"--initial-advertise-peer-urls={peer}", f"--initial-cluster={everybody}"),
        )
        for name, url, peer in zip(names, lab.etcd_endpoints, peers, strict=True)
    )


def real_server(lab: Lab) -> RealServer | None:
    """Kubernetes' own API server, if the lab was asked to use it."""
    if lab.kubernetes_assets is None:
        return None
    pki = Pki(lab.directory / "pki")
    return RealServer(lab.kubernetes_assets, lab.directory, pki, CONTROL_ADDRESS, API_PORT, API_ETCD_PORT)


def api_url(lab: Lab) -> str:
    """The Kubernetes API on the underlay."""
    return f"{'http' if lab.kubernetes_assets is None else 'https'}://{CONTROL_ADDRESS}:{API_PORT}"


def kubernetes(lab: Lab) -> tuple[Daemon, ...]:
    """The Kubernetes API, in the order in which its processes are started."""
    netns, real = lab.netns("control"), real_server(lab)
    if real is None:
        listen, journal = f"{CONTROL_ADDRESS}:{API_PORT}", str(lab.directory / "apiserver.journal")
        options = ("--listen", listen, "--journal", journal, "--manifest", str(RBAC))
        return (_daemon(lab, "apiserver", netns, sys.executable, "-m", "k8sovs.lab.apiserver", *options),)
    daemons = [
        _daemon(lab, "kubernetes-etcd", netns, *real.etcd()),
        _daemon(lab, "apiserver", netns, *real.apiserver()),
    ]
    if real.manages_itself:
        command = real.controller_manager(kubeconfig(lab, "manager"))
        daemons.append(_daemon(lab, "kube-controller-manager", netns, *command))
    return tuple(daemons)


def ovsdb(lab: Lab, node: NodeLayout) -> Daemon:
    """The database of a node's switch."""
    name, argv, env = f"ovsdb-{node.name}", openvswitch.ovsdb_command(node), openvswitch.environment(node)
    return _daemon(lab, name, node.netns, *argv, **env)


def vswitchd(lab: Lab, node: NodeLayout, datapath: Datapath) -> Daemon:
    """A node's switch."""
    name, argv = f"vswitchd-{node.name}", openvswitch.vswitchd_command(node, datapath)
    return _daemon(lab, name, node.netns, *argv, **openvswitch.environment(node))


def controllers(lab: Lab) -> tuple[Daemon, ...]:
    """The replicas of the controller; one of them leads."""
    return tuple(
        _daemon(
            lab,
            f"controller-{number}",
            lab.netns("control"),
            *(sys.executable, "-m", "k8sovs.cli", "controller"),
            K8SOVS_ETCD_ENDPOINTS=",".join(lab.etcd_endpoints),
            K8SOVS_KUBECONFIG=str(kubeconfig(lab, "controller")),
            K8SOVS_IDENTITY=f"controller-{number}",
            K8SOVS_NETWORK=lab.network_config(),
            K8SOVS_METRICS_ADDRESS=f"127.0.0.1:{METRICS_PORT + number}",
        )
        for number in range(1, CONTROLLERS + 1)
    )


def agent(lab: Lab, node: NodeLayout, datapath: Datapath) -> Daemon:
    """A node's agent."""
    return _daemon(
        lab,
        f"agent-{node.name}",
        node.netns,
        *(sys.executable, "-m", "k8sovs.cli", "agent"),
        K8SOVS_NODE_NAME=node.name,
        K8SOVS_ETCD_ENDPOINTS=",".join(lab.etcd_endpoints),
        K8SOVS_KUBECONFIG=str(kubeconfig(lab, "agent")),
        K8SOVS_OVS_RUNDIR=str(node.ovs_rundir),
        K8SOVS_CNI_SOCKET=str(node.cni_socket),
        K8SOVS_CNI_CONF_DIR=str(node.cni_conf_dir),
        K8SOVS_CNI_BIN_DIR=str(node.cni_bin_dir),
        K8SOVS_STATE_DIR=str(node.state_dir),
        K8SOVS_DATAPATH=datapath.value,
        K8SOVS_SERVICE_PROXY=lab.service_proxy.value,
        K8SOVS_METRICS_ADDRESS=f"127.0.0.1:{METRICS_PORT}",
    )


def edge_agent(lab: Lab, edge: NodeLayout, datapath: Datapath) -> Daemon:
    """The agent of an edge host, which knows nothing of Kubernetes."""
    return _daemon(
        lab,
        f"agent-{edge.name}",
        edge.netns,
        *(sys.executable, "-m", "k8sovs.cli", "agent", "--edge"),
        K8SOVS_NODE_ADDRESS=str(edge.address),
        K8SOVS_ETCD_ENDPOINTS=",".join(lab.etcd_endpoints),
        K8SOVS_OVS_RUNDIR=str(edge.ovs_rundir),
        K8SOVS_STATE_DIR=str(edge.state_dir),
        K8SOVS_DATAPATH=datapath.value,
        K8SOVS_SERVICE_PROXY=lab.service_proxy.value,
        K8SOVS_METRICS_ADDRESS=f"127.0.0.1:{METRICS_PORT}",
        NOTIFY_SOCKET=str(edge.notify_socket),
    )


def kubeconfig(lab: Lab, who: str = "") -> Path:
    """The kubeconfig of `who` on the underlay: agent, controller, manager; without, a person's on this machine."""
    return lab.directory / (f"kubeconfig-{who}" if who else "kubeconfig")


def write_kubeconfig(path: Path, server: str, pki: Pki | None, user: Mapping[str, str]) -> None:
    """A kubeconfig (JSON is YAML too) for the API at `server`, which without a `pki` asks nobody who they are."""
    cluster = {"server": server} | ({} if pki is None else {"certificate-authority": str(pki.authority)})
    config = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "lab",
        "clusters": [{"name": "lab", "cluster": cluster}],
        "users": [{"name": "lab", "user": user}],
        "contexts": [{"name": "lab", "context": {"cluster": "lab", "user": "lab"}}],
    }
    path.touch(mode=0o600)
    path.write_text(json.dumps(config, indent=2) + "\n")


async def etcd_problem(url: str) -> str | None:
    """None when etcd answers and has a leader, else what it said."""
    try:
        with await asyncio.to_thread(urllib.request.urlopen, f"{url}/health", timeout=_HTTP_TIMEOUT_S):
            return None
    except OSError as error:
        return f"etcd at {url} does not answer: {error}"


async def leader(urls: Iterable[str]) -> str | None:
    """The identity of the leading controller, as the first member of etcd that answers has it; None: there is none."""
    for url in urls:
        with suppress(OSError):
            return await asyncio.to_thread(_leader, url)
    return None


def _leader(url: str) -> str | None:
    first = Keys(ETCD_PREFIX, NETWORK_NAME).leader.encode()
    last = first[:-1] + bytes([first[-1] + 1])
    query = {
        "key": base64.b64encode(first).decode(),
        "range_end": base64.b64encode(last).decode(),
        "sort_target": "CREATE",
        "limit": 1,
    }
    request = urllib.request.Request(f"{url}/v3/kv/range", json.dumps(query).encode(), method="POST")
    with urllib.request.urlopen(request, timeout=_HTTP_TIMEOUT_S) as answer:
        found = json.load(answer).get("kvs", [])
    return base64.b64decode(found[0]["value"]).decode() if found else None


async def ask_for_subnet(url: str, edge: NodeLayout) -> None:
    """Put the record of an edge host into etcd, as an operator does. LabError when etcd does not take it."""
    key = Keys(ETCD_PREFIX, NETWORK_NAME).subnet(edge.address)
    record = SubnetRecord(edge.name, edge.address, None, assign=True)
    content = {
        name: base64.b64encode(part).decode() for name, part in (("key", key.encode()), ("value", record.encode()))
    }
    request = urllib.request.Request(f"{url}/v3/kv/put", json.dumps(content).encode(), method="POST")
    try:
        with await asyncio.to_thread(urllib.request.urlopen, request, timeout=_HTTP_TIMEOUT_S):
            return
    except OSError as error:
        raise LabError(f"etcd at {url} does not take the record of {edge.name}: {error}") from error
