"""The command line, `k8sovs`: each subcommand is a module with `register`, and imports what it needs when it runs."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

from k8sovs import __version__
from k8sovs.cli import check, daemons, edge, lab, migrate, net, status, uninstall

READER_GONE = 141
"""What a shell calls the end by SIGPIPE."""


def command_line() -> argparse.ArgumentParser:
    """All commands with their options."""
    parser = argparse.ArgumentParser(prog="k8sovs", description="Multi-tenant pod network on Open vSwitch.")
    parser.add_argument("--version", action="version", version=f"k8sovs {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    for module in (net, edge, status, check, migrate, lab, daemons, uninstall):
        module.register(subparsers)
    return parser


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command in `argv` (default: the process's arguments); returns the exit status."""
    parser = command_line()
    options, command = _split(sys.argv[1:] if argv is None else argv)
    arguments = parser.parse_args(options, argparse.Namespace(command=command, takes_command=False))
    if command and not arguments.takes_command:
        parser.error(f"only 'lab exec' runs a command: unexpected '-- {' '.join(command)}'")
    try:
        exit_status: int = arguments.run(arguments)
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output has enough of it. Python would complain once more when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return READER_GONE
    except KeyboardInterrupt:
        print("k8sovs: interrupted", file=sys.stderr)
        return 130
    return exit_status


def _split(argv: Sequence[str]) -> tuple[Sequence[str], Sequence[str]]:
    """Our own arguments, and behind the first `--` a command to be run with arguments of its own."""
    if "--" not in argv:
        return argv, ()
    end = argv.index("--")
    return argv[:end], argv[end + 1 :]
