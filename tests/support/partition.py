"""Faults of the network between a lab's processes, made with nftables in their network namespaces.

All of it leaves with its `with` block; packets of pods are not concerned.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import Enum

from tests.support.namespaces import run


class Fault(Enum):
    """What becomes of packets to a port: nobody answers, or somebody refuses, at once."""

    SILENT = "drop"
    REFUSED = "reject with tcp reset"


@contextmanager
def broken(fault: Fault, ports: Sequence[int], *netns: str) -> Iterator[None]:
    """TCP from these network namespaces (paths) to these ports is broken, connections that are open too.

    What comes from there is dropped: it would be read, although nobody could acknowledge it.
    """
    rules = f"""
        table ip k8sovs-broken {{
            chain output {{
                type filter hook output priority filter; policy accept;
                tcp dport {{ {", ".join(map(str, ports))} }} {fault.value}
            }}
            chain input {{
                type filter hook input priority filter; policy accept;
                tcp sport {{ {", ".join(map(str, ports))} }} drop
            }}
        }}
    """
    with _table("k8sovs-broken", rules, netns):
        yield


@contextmanager
def redirected(port: int, to: str, *netns: str) -> Iterator[None]:
    """New TCP connections from these network namespaces to `port` end at `to` (address:port)."""
    rules = f"""
        table ip k8sovs-redirected {{
            chain output {{
                type nat hook output priority -100; policy accept;
                tcp dport {port} dnat to {to}
            }}
        }}
    """
    with _table("k8sovs-redirected", rules, netns):
        yield


@contextmanager
def _table(name: str, rules: str, netns: Sequence[str]) -> Iterator[None]:
    made = []
    try:
        for path in netns:
            subprocess.run(["nsenter", f"--net={path}", "nft", "--file", "-"], input=rules, text=True, check=True)
            made.append(path)
        yield
    finally:
        for path in made:
            run("nsenter", f"--net={path}", "nft", "delete", "table", "ip", name)
