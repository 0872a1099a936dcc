"""`k8sovs edge backends`: the pods behind Services, as a load balancer's configuration."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from k8sovs.cli.table import printable

if TYPE_CHECKING:
    from k8sovs.backends import BackendList, Publisher, Target
    from k8sovs.kubernetes import Kubernetes

FORMATS = ("haproxy", "nginx", "json")

_DESCRIPTION = """\
Writes the addresses of the pods that are ready, from the EndpointSlices of each Service. With --watch it goes on for
ever: the file is replaced as a whole when the list changes, and the reload command is run. While the API server is away
everything stays as it is.
"""


def register(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command to those of `k8sovs edge`."""
    parser = commands.add_parser(
        "backends", help="the pods behind Services, for a load balancer", description=_DESCRIPTION
    )
    parser.add_argument(
        "services",
        nargs="+",
        type=_target,
        metavar="NAMESPACE/SERVICE[:PORT]",
        help="PORT: the Service's, by name or number",
    )
    parser.add_argument("--format", choices=FORMATS, required=True, help="for whom")
    parser.add_argument("--watch", action="store_true", help="go on, and write again whenever the list changes")
    parser.add_argument("--output", type=Path, metavar="FILE", help="where to (default: standard output)")
    parser.add_argument("--reload", default="", metavar="COMMAND", help="run by the shell whenever FILE has changed")
    parser.add_argument("--kubeconfig", metavar="FILE", help="default: KUBECONFIG, ~/.kube/config, the pod's account")
    parser.set_defaults(run=_backends, parser=parser)


def _target(text: str) -> Target:
    from k8sovs.backends import Target

    try:
        return Target.parse(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _backends(arguments: argparse.Namespace) -> int:
    from k8sovs import logs
    from k8sovs.backends import Format, Publisher, Unresolved, render
    from k8sovs.kubernetes import Kubernetes, KubernetesError

    async def work() -> int:
        async with Kubernetes(_kubeconfig(arguments.kubeconfig, os.environ)) as kubernetes:
            if arguments.watch:
                return await _watch(kubernetes, targets, publisher)
            return await _write_once(kubernetes, targets, publisher)

    if arguments.reload and arguments.output is None:
        arguments.parser.error("--reload needs --output: what would be read again?")
    targets, form = tuple(dict.fromkeys(arguments.services)), Format(arguments.format)
    publisher = Publisher(lambda lists: render(lists, form), arguments.output, arguments.reload, _print)
    logs.configure("info" if arguments.watch else "error")
    try:
        return asyncio.run(work())
    except (KubernetesError, Unresolved) as error:
        print(f"k8sovs: {error}", file=sys.stderr)
        return 1


async def _watch(kubernetes: Kubernetes, targets: tuple[Target, ...], publisher: Publisher) -> int:
    from k8sovs.backends import BackendSource

    source = BackendSource(kubernetes, targets)
    tasks = {asyncio.create_task(source.run()), asyncio.create_task(publisher.run(source))}
    try:
        # Both go on for ever, unless something fails: nobody reads the output any more, say.
        ended, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for task in tasks:
            task.cancel()
    return ended.pop().result()


async def _write_once(kubernetes: Kubernetes, targets: tuple[Target, ...], publisher: Publisher) -> int:
    from k8sovs.backends import resolve_once

    lists: tuple[BackendList, ...] = await resolve_once(kubernetes, targets)
    for each in lists:
        for problem in each.problems:
            print(f"k8sovs: {printable(problem)}", file=sys.stderr)
    return 0 if await publisher.publish(lists) else 1


def _print(text: str) -> None:
    print(text, end="", flush=True)


def _kubeconfig(chosen: str | None, environment: Mapping[str, str]) -> str | None:
    """The file that kubectl would use; None for a pod, which has none."""
    home = Path(environment.get("HOME", "/"), ".kube", "config")
    return chosen or environment.get("KUBECONFIG") or (str(home) if home.exists() else None)
