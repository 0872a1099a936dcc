"""`k8sovs check`: what on this host is, or will be, in the way of the pod network, and what to do about it."""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import sys
from ipaddress import IPv4Address
from typing import TYPE_CHECKING

from k8sovs.cli.table import printable

if TYPE_CHECKING:
    from agent.findings import Finding


def register(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add the command. Like those of the daemons its flags are settings, and are parsed when it runs."""
    parser = subparsers.add_parser(
        "check", help="what on this host is in the way of the pod network", add_help=False, prefix_chars="\0"
    )
    parser.add_argument("flags", nargs="*")
    parser.set_defaults(run=_check)


def _check(arguments: argparse.Namespace) -> int:
    from agent.facts import Role
    from agent.findings import Severity, findings
    from agent.survey import survey
    from k8sovs import logs
    from k8sovs.config import AgentSettings, ConfigError, add_flags, load

    parser = argparse.ArgumentParser(
        prog="k8sovs check",
        description="Look at this host, before or after installation. Exit status: 0, 1 if there are errors, 2 if it "
        "could not look.",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    parser.add_argument(
        "--role",
        choices=[role.value for role in Role],
        default=Role.AGENT.value,
        help="whose rights in etcd to look at",
    )
    parser.add_argument(
        "--peer",
        type=IPv4Address,
        action="append",
        default=[],
        metavar="ADDRESS",
        help="a host to send large packets to, beside those that etcd knows; may be repeated",
    )
    add_flags(parser, AgentSettings)
    options = parser.parse_args(arguments.flags)
    environment = {"K8SOVS_NODE_NAME": os.uname().nodename, **os.environ}
    try:
        settings = load(AgentSettings, options, environment)
        logs.configure("error")
        facts = asyncio.run(survey(settings, Role(options.role), options.peer))
    except ConfigError as error:
        print(f"k8sovs check: {error}", file=sys.stderr)
        return 2
    found = findings(facts)
    if options.json:
        print(json.dumps(_fields(found), indent=2))
    else:
        _print(found)
    return int(any(finding.severity is Severity.ERROR for finding in found))


def _fields(found: tuple[Finding, ...]) -> dict[str, object]:
    from agent.findings import CHECKS

    said = [
        {"check": each.check, "severity": each.severity.value, "what": each.what, "action": each.action}
        for each in found
    ]
    return {"checks": list(CHECKS), "findings": said}


def _print(found: tuple[Finding, ...]) -> None:
    from agent.findings import CHECKS

    for name in CHECKS:
        mine = [each for each in found if each.check == name]
        if not mine:
            print(f"{'ok':8} {name}")
        for each in mine:
            print(f"{each.severity.value:8} {name}: {printable(each.what)}")
            print(f"{'':8} -> {printable(each.action)}")
