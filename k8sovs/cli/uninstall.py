"""`k8sovs uninstall`: takes everything of ours off this host."""

from __future__ import annotations

import argparse
import asyncio
import os
import sys


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command. Its flags beside its own are settings, parsed when it runs, as those of the daemons are."""
    parser = subparsers.add_parser(
        "uninstall", help="take everything of k8s-ovs off this host", add_help=False, prefix_chars="\0"
    )
    parser.add_argument("flags", nargs="*")
    parser.set_defaults(run=_uninstall)


def _uninstall(arguments: argparse.Namespace) -> int:
    from agent.nftables import NftablesError
    from agent.uninstall import StillInUse, uninstall
    from k8sovs import logs
    from k8sovs.config import ConfigError, UninstallSettings, add_flags, load

    parser = argparse.ArgumentParser(
        prog="k8sovs uninstall", description="Take bridge, links, filters, settings and files of k8s-ovs off this host."
    )
    parser.add_argument("--dry-run", action="store_true", help="only tell what would be removed")
    parser.add_argument("--force", action="store_true", help="although an agent runs or pods are attached")
    parser.add_argument("--keep-kernel-settings", action="store_true", help="leave /proc/sys as it is now")
    add_flags(parser, UninstallSettings)
    chosen = parser.parse_args(arguments.flags)
    try:
        settings = load(UninstallSettings, chosen, os.environ)
        logs.configure("error", settings.log_format)
        removing = uninstall(
            settings,
            force=chosen.force,
            dry_run=chosen.dry_run,
            keep_kernel_settings=chosen.keep_kernel_settings,
            tell=print,
        )
        return 0 if asyncio.run(removing) else 1
    except (ConfigError, StillInUse, NftablesError) as error:
        print(f"k8sovs uninstall: {error}", file=sys.stderr)
        return 2
