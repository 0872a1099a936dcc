"""`k8sovs agent`, with `--edge` for hosts outside Kubernetes, and `k8sovs controller`: the processes of the cluster."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from k8sovs.config import SettingsT


_EDGE = "--edge"


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add both commands.

    Their flags are their settings, whose classes bring the etcd client with them; so the flags are parsed when the
    command runs, and the other commands start without that. A prefix that cannot occur leaves them untouched here.
    """
    for name, text, run in (
        ("agent", "the node daemon", _run_agent),
        ("controller", "the cluster daemon", _run_controller),
    ):
        parser = subparsers.add_parser(name, help=text, add_help=False, prefix_chars="\0")
        parser.add_argument("flags", nargs="*")
        parser.set_defaults(run=run)


def _run_agent(arguments: argparse.Namespace) -> int:
    """One of two daemons, each with settings of its own: what serves Kubernetes is not asked for at the edge."""
    flags = [flag for flag in arguments.flags if flag != _EDGE]
    if len(flags) < len(arguments.flags):
        from agent import edge
        from k8sovs.config import EdgeSettings

        return _run(f"agent {_EDGE}", EdgeSettings, flags, edge.run)
    from agent import main
    from k8sovs.config import AgentSettings

    return _run("agent", AgentSettings, flags, main.run, more=f"k8sovs agent {_EDGE} --help: for edge hosts")


def _run_controller(arguments: argparse.Namespace) -> int:
    from controller.controller import run
    from k8sovs.config import ControllerSettings

    return _run("controller", ControllerSettings, arguments.flags, run)


def _run(
    name: str,
    settings: type[SettingsT],
    flags: Sequence[str],
    daemon: Callable[[SettingsT], Coroutine[None, None, None]],
    more: str = "",
) -> int:
    """Run a daemon until it ends; a setting that cannot be used is told in one line, with its source."""
    from k8sovs import logs
    from k8sovs.config import ConfigError, UnusableSetting, add_flags, load, source_of
    from k8sovs.etcd import EtcdError
    from k8sovs.exposition import ExpositionError
    from k8sovs.kubernetes import KubernetesError

    parser = argparse.ArgumentParser(prog=f"k8sovs {name}", epilog=more)
    add_flags(parser, settings)
    arguments = parser.parse_args(flags)
    try:
        chosen = load(settings, arguments, os.environ)
        logs.configure(chosen.log_level, chosen.log_format)
        asyncio.run(daemon(chosen))
    except UnusableSetting as error:
        source = source_of(error.name, arguments, os.environ)
        print(f"k8sovs {name}: {error} (from {source})", file=sys.stderr)
        return 2
    except (ConfigError, EtcdError, KubernetesError, ExpositionError) as error:
        print(f"k8sovs {name}: {error}", file=sys.stderr)
        return 2
    return 0
