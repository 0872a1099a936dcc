"""`k8sovs migrate-etcd2`: the records of the old k8s-ovs, from a dump of etcd's v2 store, into the v3 store."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from k8sovs.cli.net import add_store_options, run_on_etcd
from k8sovs.cli.table import printable

if TYPE_CHECKING:
    from k8sovs.etcd import Etcd


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command."""
    parser = subparsers.add_parser("migrate-etcd2", help="take over the old k8s-ovs's records from an etcd v2 dump")
    parser.add_argument("dump", help="file with the JSON answer to /v2/keys/k8s.ovs.com?recursive=true; - for stdin")
    parser.add_argument("--dry-run", action="store_true", help="judge the dump and the v3 store, write nothing")
    parser.add_argument(
        "--leave-out", action="append", default=[], metavar="KEY", help="give this record up; may be repeated"
    )
    parser.set_defaults(run=_migrate)
    add_store_options(parser)


def _migrate(arguments: argparse.Namespace) -> int:
    try:
        text = sys.stdin.read() if arguments.dump == "-" else Path(arguments.dump).read_text()
    except (OSError, UnicodeDecodeError) as error:
        print(f"k8sovs: {arguments.dump} cannot be read: {error}", file=sys.stderr)
        return 1

    async def migrate(etcd: Etcd, prefix: str) -> None:
        from k8sovs import migration

        wanted = migration.plan(migration.read_dump(text), prefix, arguments.leave_out)
        for note in wanted.notes:
            print(f"note: {printable(note)}")
        for key in wanted.left_out:
            print(f"left out: {printable(key)}")
        new = await migration.write(etcd, wanted, prefix, dry_run=arguments.dry_run)
        said = "would be written" if arguments.dry_run else "written"
        print(f"{new} keys {said}, {len(wanted.records) - new} were there already")

    return run_on_etcd(arguments, migrate)
