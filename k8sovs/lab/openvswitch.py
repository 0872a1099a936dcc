"""A node's own Open vSwitch: its database, the daemons' command lines, the switch that carries the underlay."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

from k8sovs.lab.layout import Datapath, NodeLayout
from k8sovs.lab.netns import run
from k8sovs.lab.topology import UNDERLAY_NIC

SCHEMA = Path("/usr/share/openvswitch/vswitch.ovsschema")
UNDERLAY_SWITCH = "br-phy"
_FIRST = ("nice", "-n", "-10")
"""As ovs-ctl(8) starts both daemons: a busy machine must not make the switch late."""


def environment(node: NodeLayout) -> Mapping[str, str]:
    """The variables that point any `ovs-` command at this node's switch."""
    return {f"OVS_{name}": str(node.ovs_rundir) for name in ("RUNDIR", "LOGDIR", "DBDIR")}


def create_database(node: NodeLayout) -> None:
    """Make the empty database. LabError when Open vSwitch is not installed."""
    node.ovs_rundir.mkdir(parents=True)
    run("ovsdb-tool", "create", str(_database(node)), str(SCHEMA))


def ovsdb_command(node: NodeLayout) -> Sequence[str]:
    """How the database server is started, in the foreground."""
    return (
        *_FIRST,
        "ovsdb-server",
        str(_database(node)),
        f"--remote=punix:{_socket(node)}",
        "--pidfile",
        "-vconsole:warn",
        "-vsyslog:off",
    )


def vswitchd_command(node: NodeLayout, datapath: Datapath) -> Sequence[str]:
    """How the switch is started, in the foreground. On the userspace datapath it has its routes from the agent."""
    userspace = ["--disable-system", "--disable-system-route"] if datapath is Datapath.NETDEV else []
    return (*_FIRST, "ovs-vswitchd", f"unix:{_socket(node)}", "--pidfile", "-vconsole:warn", "-vsyslog:off", *userspace)


def configure(node: NodeLayout, datapath: Datapath) -> str:
    """Put the underlay NIC where tunnels need it; returns the device that takes the node's address.

    The userspace datapath sends tunnel packets out of a switch port only, so there the NIC joins a switch of its own.
    """
    _vsctl(node, "--no-wait", "init", "--", "set", "Open_vSwitch", ".", f"external_ids:system-id={node.name}")
    if datapath is Datapath.SYSTEM:
        return UNDERLAY_NIC
    hwaddr = json.loads(run("ip", "-netns", node.netns, "-json", "link", "show", UNDERLAY_NIC))[0]["address"]
    _vsctl(
        node,
        *("add-br", UNDERLAY_SWITCH, "--", "set", "bridge", UNDERLAY_SWITCH, "datapath_type=netdev"),
        f'other_config:hwaddr="{hwaddr}"',
        *("--", "add-port", UNDERLAY_SWITCH, UNDERLAY_NIC),
    )
    return UNDERLAY_SWITCH


def _vsctl(node: NodeLayout, *arguments: str) -> None:
    run(
        "ovs-vsctl",
        f"--db=unix:{_socket(node)}",
        "--retry",
        "--timeout=20",
        *arguments,
        env={**os.environ, **environment(node)},
    )


def _socket(node: NodeLayout) -> Path:
    return node.ovs_rundir / "db.sock"


def _database(node: NodeLayout) -> Path:
    return node.ovs_rundir / "conf.db"
