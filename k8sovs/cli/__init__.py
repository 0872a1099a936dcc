"""The command line, `k8sovs`: each subcommand is a module with `register`, and imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from k8sovs import __version__
from k8sovs.cli import daemons, lab, net, status


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the process's arguments); returns the exit status."""
    parser = argparse.ArgumentParser(prog="k8sovs", description="Multi-tenant pod network on Open vSwitch.")
    parser.add_argument("--version", action="version", version=f"k8sovs {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (net, status, lab, daemons):
        module.register(subparsers)
    arguments = parser.parse_args(argv)
    try:
        exit_status: int = arguments.run(arguments)
        sys.stdout.flush()
    except KeyboardInterrupt:
        print("k8sovs: interrupted", file=sys.stderr)
        return 130
    except BrokenPipeError:
        # Whoever read the output has seen enough; nothing must be written to it when Python ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    return exit_status
