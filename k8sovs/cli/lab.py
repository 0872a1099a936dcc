"""`k8sovs lab`: a cluster on this machine."""

from __future__ import annotations

import argparse
import json
import os
import re
import shlex
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from k8sovs.cli.table import print_table
from k8sovs.config import ServiceProxy
from k8sovs.lab.layout import (
    ASSETS_VARIABLE,
    DEFAULT_HOST_SUBNET_LENGTH,
    DEFAULT_NAME,
    OWNER_VARIABLE,
    Datapath,
    Lab,
    LabError,
    LabMode,
    directory_of,
    load,
)

Handler = Callable[[argparse.Namespace], int]

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_POD_NAME = re.compile(rf"(?P<namespace>{_LABEL})/(?=.{{1,253}}$)(?P<name>{_LABEL}(\.{_LABEL})*)")
"""What Kubernetes takes for both (RFC 1123); checked before anything is created for a pod that it would refuse."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = subparsers.add_parser("lab", help="a cluster on this machine: nodes are network namespaces")
    _add_name(parser, DEFAULT_NAME)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)

    def command(name: str, handler: Handler, text: str) -> argparse.ArgumentParser:
        return _add(commands, name, handler, text)

    up = command("up", _up, "build a lab; returns when it is ready")
    up.add_argument("--nodes", type=int, default=3, metavar="N", help="how many nodes (default: 3)")
    up.add_argument(
        "--mode",
        choices=[mode.value for mode in LabMode],
        default=LabMode.MULTITENANT.value,
        help="default: multitenant",
    )
    up.add_argument(
        "--datapath",
        choices=[datapath.value for datapath in Datapath],
        default=Datapath.AUTO.value,
        help="default: auto",
    )
    up.add_argument(
        "--host-subnet-length",
        type=int,
        default=DEFAULT_HOST_SUBNET_LENGTH,
        metavar="BITS",
        help=f"host bits of each node's pod subnet (default: {DEFAULT_HOST_SUBNET_LENGTH})",
    )
    up.add_argument("--etcd-members", type=int, default=1, metavar="N", help="how many members etcd has (default: 1)")
    up.add_argument("--edge", type=int, default=0, metavar="N", help="how many edge hosts (default: 0), with a client")
    up.add_argument(
        "--service-proxy",
        choices=[proxy.value for proxy in ServiceProxy],
        default=ServiceProxy.KUBE_PROXY.value,
        help=f"who handles Services (default: {ServiceProxy.KUBE_PROXY.value}, which nobody starts)",
    )
    command("down", _down, "remove a lab and all that is left of it")
    command("status", _status, "nodes, controllers, etcd, and their processes")
    command("env", _env, "shell commands that point etcdctl and kubectl at the lab")
    execute = _add(commands, "exec", _exec, "run a command in a pod or on a host", data=False)
    execute.usage = f"{execute.prog} [--name LAB] NAMESPACE/NAME|nodeK|edgeK|client -- CMD ..."
    execute.add_argument("where", metavar="NAMESPACE/NAME|nodeK|edgeK|client")
    execute.set_defaults(takes_command=True)
    for name, handler, text in (
        ("stop", _stop, "stop a process, for an outage"),
        ("start", _start, "start a stopped process again"),
    ):
        outage = command(name, handler, text)
        outage.add_argument("kind", choices=["agent", "controller", "vswitchd", "ovsdb", "etcd"])
        outage.add_argument("which", nargs="?", metavar="HOST|N", help="the name of a node or edge host, or a number")
    _register_pods(commands)


def _register_pods(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    pod = commands.add_parser("pod", help="pods of the lab")
    _add_name(pod, argparse.SUPPRESS)
    verbs = pod.add_subparsers(title="commands", metavar="COMMAND", required=True)
    add = _add(verbs, "add", _pod_add, "create a pod; returns when it can send")
    add.add_argument("pod", type=_pod_name, metavar="NAMESPACE/NAME", help="a missing namespace is created")
    add.add_argument("--node", metavar="nodeK", help="default: the node with the fewest pods")
    for option in ("annotation", "label"):
        add.add_argument(f"--{option}", type=_pair, action="append", default=[], metavar="K=V")
    delete = _add(verbs, "del", _pod_delete, "delete a pod; returns when it is gone")
    delete.add_argument("pod", type=_pod_name, metavar="NAMESPACE/NAME")
    _add(verbs, "ls", _pod_list, "the pods, where they run and how to enter them")


def _add(
    commands: argparse._SubParsersAction[argparse.ArgumentParser],
    name: str,
    handler: Handler,
    text: str,
    *,
    data: bool = True,
) -> argparse.ArgumentParser:
    parser = commands.add_parser(name, help=text, description=text)
    _add_name(parser, argparse.SUPPRESS)
    if data:
        parser.add_argument("--json", action="store_true", help="print data")
    parser.set_defaults(run=_reporting(handler))
    return parser


def _add_name(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument("--name", default=default, metavar="LAB", help=f"which lab (default: {DEFAULT_NAME})")


def _reporting(handler: Handler) -> Handler:
    """The handler, for root alone, and with its LabError told to the person in one line."""

    def run(arguments: argparse.Namespace) -> int:
        try:
            if os.geteuid() != 0:
                raise LabError("a lab is made of network namespaces, which takes root: try sudo")
            return handler(arguments)
        except LabError as error:
            print(f"k8sovs lab: {error}", file=sys.stderr)
            return 1

    return run


def _up(arguments: argparse.Namespace) -> int:
    from k8sovs.lab.launch import up

    given = os.environ.get(ASSETS_VARIABLE)
    assets = Path(given).absolute() if given else None
    lab = Lab(
        arguments.name,
        arguments.nodes,
        LabMode(arguments.mode),
        Datapath(arguments.datapath),
        assets,
        arguments.host_subnet_length,
        arguments.etcd_members,
        arguments.edge,
        ServiceProxy(arguments.service_proxy),
    )
    up(lab, lambda text: print(f"lab: {text}", file=sys.stderr, flush=True))
    print(f"lab: '{lab.name}' is up; next: k8sovs lab pod add NAMESPACE/NAME --name {lab.name}", file=sys.stderr)
    return _done(arguments, name=lab.name, directory=str(lab.directory))


def _down(arguments: argparse.Namespace) -> int:
    from k8sovs.lab.teardown import remove

    removed = remove(directory_of(arguments.name))
    if not removed:
        print(f"lab: '{arguments.name}' is not up, nothing to remove", file=sys.stderr)
    return _done(arguments, name=arguments.name, removed=removed)


def _status(arguments: argparse.Namespace) -> int:
    status = _ask(arguments, "status")
    if arguments.json:
        return _print_json(status)
    print(f"lab {status['name']}: {status['mode']}, {status['datapath']} datapath, {status['directory']}")
    print(f"etcd {', '.join(status['etcd']['endpoints'])}, kubeconfig {status['apiserver']['kubeconfig']}\n")
    controllers = [
        (entry["name"], entry["pid"] or "stopped", "leads" if entry["leader"] else "")
        for entry in status["controllers"]
    ]
    print_table(("CONTROLLER", "PID", ""), controllers)
    print()
    nodes = [
        (entry["name"], entry["ip"], entry["agent_pid"] or "stopped", "yes" if entry["cni_conf"] else "no")
        for entry in status["nodes"]
    ]
    print_table(("NODE", "ADDRESS", "AGENT", "CNI CONFIGURED"), nodes)
    edges = [(edge["name"], edge["ip"], edge["agent_pid"] or "stopped", edge["client_ip"]) for edge in status["edges"]]
    if edges:
        print()
        print_table(("EDGE", "ADDRESS", "AGENT", "FOR CLIENTS"), edges)
    return 0


def _env(arguments: argparse.Namespace) -> int:
    status = _ask(arguments, "status")
    variables = {
        "ETCDCTL_API": "3",
        "ETCDCTL_ENDPOINTS": ",".join(status["etcd"]["endpoints"]),
        "KUBECONFIG": status["apiserver"]["kubeconfig"],
    }
    if arguments.json:
        return _print_json(variables)
    for name, value in variables.items():
        print(f"export {name}={shlex.quote(value)}")
    return 0


def _exec(arguments: argparse.Namespace) -> int:
    if not arguments.command:
        raise LabError("exec needs a command: k8sovs lab exec WHERE -- COMMAND")
    netns, variables = _place(arguments)
    environment = {**os.environ, OWNER_VARIABLE: str(directory_of(arguments.name)), **variables}
    os.execvpe("nsenter", ["nsenter", f"--net={netns}", "--", *arguments.command], environment)


def _place(arguments: argparse.Namespace) -> tuple[str, Mapping[str, str]]:
    """Where to run a command: a network namespace, and what the environment says there."""
    where: str = arguments.where
    if "/" in where:
        for pod in _ask(arguments, "pod-list"):
            if f"{pod['namespace']}/{pod['name']}" == where and pod["netns"] is not None:
                return pod["netns"], {}
        raise LabError(f"there is no running pod {where}")
    status = _ask(arguments, "status")
    if where == "client" and status["client"] is not None:
        return status["client"]["netns"], {}
    hosts = [*status["nodes"], *status["edges"]]
    for host in hosts:
        if host["name"] == where:
            # ovs-vsctl and its sisters find this host's switch by itself.
            return host["netns"], {"OVS_RUNDIR": host["ovs_rundir"]}
    raise LabError(f"there is no host '{where}': the hosts are {', '.join(host['name'] for host in hosts)}")


def _start(arguments: argparse.Namespace) -> int:
    process = _process_name(arguments)
    _ask(arguments, "start", process=process)
    return _done(arguments, process=process, started=True)


def _stop(arguments: argparse.Namespace) -> int:
    process = _process_name(arguments)
    _ask(arguments, "stop", process=process)
    return _done(arguments, process=process, stopped=True)


def _process_name(arguments: argparse.Namespace) -> str:
    kind, which = arguments.kind, arguments.which
    if kind == "etcd" and not which:
        return "etcd"
    if not which:
        raise LabError(f"{kind} needs {'a number: 1 or 2' if kind == 'controller' else 'the name of a node: node1'}")
    return f"{kind}-{which}"


def _pod_add(arguments: argparse.Namespace) -> int:
    namespace, name = arguments.pod
    pod = _ask(
        arguments,
        "pod-add",
        namespace=namespace,
        name=name,
        node=arguments.node,
        annotations=dict(arguments.annotation),
        labels=dict(arguments.label),
    )
    if arguments.json:
        return _print_json(pod)
    print(f"{namespace}/{name} on {pod['node']}: {pod['ip']}")
    return 0


def _pod_delete(arguments: argparse.Namespace) -> int:
    namespace, name = arguments.pod
    _ask(arguments, "pod-delete", namespace=namespace, name=name)
    return _done(arguments, namespace=namespace, name=name, deleted=True)


def _pod_list(arguments: argparse.Namespace) -> int:
    pods = _ask(arguments, "pod-list")
    if arguments.json:
        return _print_json(pods)
    columns = ("namespace", "name", "node", "ip", "netns")
    print_table([column.upper() for column in columns], [[pod[column] or "-" for column in columns] for pod in pods])
    return 0


def _ask(arguments: argparse.Namespace, command: str, **values: object) -> Any:  # noqa: ANN401 - JSON
    from k8sovs.lab.control import ask

    return ask(load(directory_of(arguments.name)), command, **values)


def _pod_name(text: str) -> tuple[str, str]:
    found = _POD_NAME.fullmatch(text)
    if found is None:
        raise argparse.ArgumentTypeError(f"'{text}' is not NAMESPACE/NAME, of a-z, 0-9 and '-', in the name also '.'")
    return found["namespace"], found["name"]


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not (key and equals):
        raise argparse.ArgumentTypeError(f"'{text}' is not KEY=VALUE")
    return key, value


def _done(arguments: argparse.Namespace, **outcome: object) -> int:
    """The end of a command whose outcome needs no words, but can be asked for."""
    return _print_json(outcome) if arguments.json else 0


def _print_json(data: object) -> int:
    print(json.dumps(data, indent=2))
    return 0
