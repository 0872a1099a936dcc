"""`k8sovs status`: the network, who leads, the hosts with their subnets, and what is under way."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from k8sovs.cli.edge import host_fields, host_row
from k8sovs.cli.net import add_store_options, namespace_fields, run_on_etcd
from k8sovs.cli.table import print_table, printable

if TYPE_CHECKING:
    from k8sovs.etcd import Etcd
    from k8sovs.net import NamespaceState, Overview


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("status", help="the network, its leader, hosts, and changes under way")
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.set_defaults(run=_status)
    add_store_options(parser)


def _status(arguments: argparse.Namespace) -> int:
    async def show(etcd: Etcd, prefix: str) -> None:
        from k8sovs import net

        overview = await net.overview(etcd, prefix)
        if arguments.json:
            print(json.dumps(_fields(overview), indent=2))
        else:
            _print(overview)

    return run_on_etcd(arguments, show)


def _under_way(overview: Overview) -> list[NamespaceState]:
    return [each for each in overview.namespaces if each.state.value != "settled"]


def _fields(overview: Overview) -> dict[str, object]:
    config = overview.config
    return {
        "name": config.name,
        "mode": config.mode.name.lower(),
        "network": str(config.network),
        "host_subnet_length": config.host_subnet_length,
        "service_network": str(config.service_network),
        "leader": overview.leader,
        "controllers": list(overview.candidates),
        "nodes": [host_fields(host) for host in overview.hosts],
        "namespaces": len(overview.namespaces),
        "transitions": [namespace_fields(state) for state in _under_way(overview)],
    }


def _print(overview: Overview) -> None:
    config = overview.config
    print(f"network     {config.name}, {config.mode.name.lower()}")
    print(f"pods        {config.network}, {2**config.host_subnet_length} addresses a node")
    print(f"services    {config.service_network}")
    print(f"leader      {printable(overview.leader or 'none: no controller runs, nothing changes')}")
    print(f"namespaces  {len(overview.namespaces)}, {len(_under_way(overview))} of them changing")
    for state in _under_way(overview):
        print(f"            {printable(state.name)}: {state.state.value} {printable(state.action or state.message)}")
    print()
    print_table(("HOST", "ADDRESS", "SUBNET", "PROBLEM"), [host_row(host) for host in overview.hosts])
