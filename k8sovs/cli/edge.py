"""`k8sovs edge`: load balancer hosts outside Kubernetes."""

from __future__ import annotations

import argparse
import json
from ipaddress import AddressValueError, IPv4Address
from typing import TYPE_CHECKING

from k8sovs.cli import backends
from k8sovs.cli.net import add_store_options, run_on_etcd
from k8sovs.cli.table import print_table, printable

if TYPE_CHECKING:
    from k8sovs.etcd import Etcd
    from k8sovs.net import HostState


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = subparsers.add_parser("edge", help="load balancers outside Kubernetes: add, list, remove")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser("ls", help="every edge host with its subnet, and what is said about it")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)
    adding = commands.add_parser("add", help="give a host a subnet: every node opens to it")
    adding.add_argument("address", type=_address, help="its address on the network between the nodes")
    adding.add_argument("--name", metavar="NAME", help="what to call it (default: its address)")
    adding.add_argument("--wait", action="store_true", help="return when it has its subnet")
    adding.set_defaults(run=_add)
    removing = commands.add_parser("rm", help="take a host's subnet away: every node closes to it")
    removing.add_argument("address", type=_address, help="its address")
    removing.set_defaults(run=_remove)
    for each in (listing, adding, removing):
        add_store_options(each)
    backends.register(commands)


def _address(text: str) -> IPv4Address:
    try:
        return IPv4Address(text)
    except AddressValueError:
        raise argparse.ArgumentTypeError(f"'{text}' is not an IPv4 address") from None


def _list(arguments: argparse.Namespace) -> int:
    async def show(etcd: Etcd, prefix: str) -> None:
        from k8sovs import edge, net
        from k8sovs.records import Keys

        config = await net.network(etcd, prefix)
        hosts = await edge.hosts(etcd, Keys(prefix, config.name))
        if arguments.json:
            print(json.dumps([host_fields(host) for host in hosts], indent=2))
        else:
            print_table(("HOST", "ADDRESS", "SUBNET", "PROBLEM"), [host_row(host) for host in hosts])

    return run_on_etcd(arguments, show)


def _add(arguments: argparse.Namespace) -> int:
    async def ask(etcd: Etcd, prefix: str) -> None:
        from k8sovs import edge, net
        from k8sovs.records import Keys

        config = await net.network(etcd, prefix)
        keys, address = Keys(prefix, config.name), arguments.address
        name = arguments.name or str(address)
        await edge.add(etcd, keys, config, address, name)
        if not arguments.wait:
            print(f"{name} at {address}: asked for; see k8sovs edge ls")
            return
        subnet = await edge.wait_assigned(etcd, keys, address)
        print(f"{name} at {address}: has subnet {subnet}; next, there: k8sovs agent --edge --node-address {address}")

    return run_on_etcd(arguments, ask)


def _remove(arguments: argparse.Namespace) -> int:
    async def remove(etcd: Etcd, prefix: str) -> None:
        from k8sovs import edge, net
        from k8sovs.records import Keys

        config = await net.network(etcd, prefix)
        await edge.remove(etcd, Keys(prefix, config.name), arguments.address)
        print(f"{arguments.address}: removed (nodes cut off from etcd go on as they were)")

    return run_on_etcd(arguments, remove)


def host_fields(host: HostState) -> dict[str, object]:
    """A host as JSON."""
    return {
        "name": host.host,
        "address": host.address,
        "subnet": str(host.subnet) if host.subnet else None,
        "problem": host.problem,
    }


def host_row(host: HostState) -> tuple[str, ...]:
    """A host as a row of HOST, ADDRESS, SUBNET, PROBLEM."""
    return printable(host.host) or "-", printable(host.address), str(host.subnet or "-"), printable(host.problem)
