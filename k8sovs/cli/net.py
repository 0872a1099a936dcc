"""`k8sovs net`: the namespaces as tenants, and the three verbs."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING

from k8sovs.cli.table import print_table, printable

if TYPE_CHECKING:
    from k8sovs.etcd import Etcd
    from k8sovs.net import NamespaceState, Verb

WAIT_HELP = "return when it is complete on every node that follows etcd; nodes cut off from etcd are not included"
Work = Callable[["Etcd", str], Awaitable[None]]
"""What a command does on an etcd, under a prefix."""


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command and its own commands."""
    parser = subparsers.add_parser("net", help="namespaces as tenants: list them, join, isolate, make global")
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    listing = commands.add_parser("ls", help="every namespace with its id, and what is said about it")
    listing.add_argument("--json", action="store_true", help="print JSON")
    listing.set_defaults(run=_list)
    for verb, text in (
        ("join", "let a namespace reach, and be reached by, another one"),
        ("isolate", "let a namespace reach itself alone"),
        ("global", "let a namespace reach, and be reached by, all others"),
    ):
        action = commands.add_parser(verb, help=text)
        action.add_argument("namespace", help="the namespace that changes")
        if verb == "join":
            action.add_argument("target", help="the namespace whose id it takes")
        action.add_argument("--wait", action="store_true", help=WAIT_HELP)
        action.set_defaults(run=_act, verb=verb, target="")
        add_store_options(action)
    add_store_options(listing)


def add_store_options(parser: argparse.ArgumentParser) -> None:
    """The flags with which a command finds etcd; all other settings come from the environment and the file."""
    store = parser.add_argument_group("etcd")
    store.add_argument("--config", metavar="FILE", help="configuration file")
    store.add_argument("--etcd-endpoints", metavar="URL,...", help="default: K8SOVS_ETCD_ENDPOINTS, ETCDCTL_ENDPOINTS")
    store.add_argument("--prefix", help="prefix of all our keys")


def run_on_etcd(arguments: argparse.Namespace, work: Work) -> int:
    """Run `work` on the etcd that the settings name; returns the exit status, and says in one line what went wrong."""
    from k8sovs import logs
    from k8sovs.config import ConfigError, StoreSettings, load
    from k8sovs.etcd import Etcd, EtcdError, EtcdUnavailable
    from k8sovs.net import NetError

    async def connected(settings: StoreSettings) -> None:
        async with Etcd(settings.etcd) as etcd:
            await work(etcd, settings.prefix)

    try:
        settings = load(StoreSettings, arguments, _environment(os.environ))
        logs.configure("error", settings.log_format)
        asyncio.run(connected(settings))
    except EtcdUnavailable as error:
        print(f"k8sovs: {error}; --etcd-endpoints or ETCDCTL_ENDPOINTS says where etcd is", file=sys.stderr)
        return 1
    except (ConfigError, EtcdError, NetError, ValueError) as error:
        print(f"k8sovs: {error}", file=sys.stderr)
        return 1
    return 0


def _environment(environment: Mapping[str, str]) -> Mapping[str, str]:
    """Whoever has told etcdctl where etcd is need not say it again."""
    endpoints = environment.get("ETCDCTL_ENDPOINTS")
    return {"K8SOVS_ETCD_ENDPOINTS": endpoints, **environment} if endpoints else environment


def _list(arguments: argparse.Namespace) -> int:
    async def show(etcd: Etcd, prefix: str) -> None:
        from k8sovs import net
        from k8sovs.records import Keys

        config = await net.network(etcd, prefix)
        states = await net.namespaces(etcd, Keys(prefix, config.name))
        if arguments.json:
            print(json.dumps([namespace_fields(state) for state in states], indent=2))
        else:
            print_table(("NAMESPACE", "NETID", "STATE", "ACTION", "MESSAGE"), [_row(state) for state in states])

    return run_on_etcd(arguments, show)


def _act(arguments: argparse.Namespace) -> int:
    async def act(etcd: Etcd, prefix: str) -> None:
        from k8sovs import net
        from k8sovs.records import Keys

        config = await net.network(etcd, prefix)
        keys, verb = Keys(prefix, config.name), net.Verb(arguments.verb)
        revision = await net.request(etcd, keys, arguments.namespace, verb, arguments.target)
        if not arguments.wait:
            print(f"{_sentence(arguments.namespace, verb, arguments.target)}: asked for; see k8sovs net ls")
            return
        state = await net.wait_completed(etcd, keys, arguments.namespace, revision)
        sentence = _sentence(arguments.namespace, verb, arguments.target)
        print(f"{sentence}: complete, NetID {state.send} (nodes cut off from etcd are not included)")

    return run_on_etcd(arguments, act)


def _sentence(namespace: str, verb: Verb, target: str) -> str:
    return " ".join(word for word in (verb.value, namespace, target) if word)


def namespace_fields(state: NamespaceState) -> dict[str, object]:
    """A namespace as JSON."""
    return {
        "namespace": state.name,
        "netid": state.send,
        "state": state.state.value,
        "accept": sorted(state.accept),
        "action": state.action,
        "target": state.target,
        "message": state.message,
    }


def _row(state: NamespaceState) -> tuple[str, ...]:
    netid = "-" if state.send is None else "0 (global)" if state.send == 0 else str(state.send)
    action = f"{state.action} {state.target}".strip()
    return printable(state.name), netid, state.state.value, printable(action) or "-", printable(state.message)
