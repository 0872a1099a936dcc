"""Everything that pods leave on a node, to be compared before and after: what differs was left half-made."""

from __future__ import annotations

import json
from collections.abc import Mapping

from tests.support.runtime import Node


def traces(node: Node) -> Mapping[str, object]:
    """Links and addresses, routes, filters, the switch's database, flows, the files beside the agent's socket."""
    return {
        "links": _links(node.execute("ip", "-json", "address")),
        "routes": sorted(node.execute("ip", "-4", "route", "show", "table", "all").splitlines()),
        "filters": node.execute("nft", "--stateless", "list", "ruleset"),
        "database": sorted(
            node.execute(
                *("ovs-vsctl", "--format=csv", "--columns=name,tag,trunks,external_ids", "list", "Port", "--"),
                *("--columns=name,type,options,ofport,ofport_request,error,external_ids", "list", "Interface"),
            ).splitlines()
        ),
        "flows": node.flows(),
        "files": _files(node),
    }


def _links(listing: str) -> dict[str, list[str]]:
    """The IPv4 addresses of each device; those of IPv6 come and go by themselves."""
    return {
        link["ifname"]: [
            f"{held['local']}/{held['prefixlen']}" for held in link["addr_info"] if held["family"] == "inet"
        ]
        for link in json.loads(listing)
    }


def _files(node: Node) -> list[str]:
    """What a runtime reads, and the DELs that wait for an agent."""
    directory = node.ovs_rundir.parent
    return sorted(str(path) for part in ("cni", "spool") for path in (directory / part).rglob("*"))
