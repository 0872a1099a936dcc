"""Filters and address translation of the node, through libnftables: no process, every change one transaction.

We own the tables `inet k8sovs` and `arp k8sovs`, and replace them whole. They cannot accept what somebody else's
chain drops, so hosts with a filter of their own (Docker sets the FORWARD policy to DROP) get a few accepting rules,
marked with a comment, at the head of the chains that iptables-nft keeps in `ip filter`. nft(8), libnftables(3).
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import json
import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path
from types import TracebackType
from typing import Any

from agent import service_filters
from agent.service_filters import ServiceFilterSpec
from flows.tables import NODE_LOCAL_DNS

TABLE = "k8sovs"
COMMENT = "k8sovs"
POD_LINKS = "k8o*"
HOST_COPIES_PRIORITY = -400  # before connection tracking (-200) and everything that iptables calls raw (-300)

_LIBRARY = "libnftables.so.1"
_OUTPUT_STATELESS = 1 << 1
_OUTPUT_JSON = 1 << 4
_LEGACY_TABLES = "/proc/net/ip_tables_names"

Json = Mapping[str, "Json"] | Sequence["Json"] | str | int | None
Rule = Mapping[str, Any]
"""A rule as `nft --json` lists it (libnftables-json(5))."""


class NftablesError(Exception):
    """The kernel or libnftables refused; the text is theirs."""


@dataclass(frozen=True, slots=True)
class FilterSpec:
    """What the node's filters depend on.

    `copied_devices` are the underlay devices whose frames the kernel receives beside the userspace datapath; None on
    the kernel datapath, where there are no such copies. `refuse_unsolicited`: no new connections into the overlay
    from machines that merely route through this node. `masquerade_as`: what enters the overlay from any address but
    this one comes from this one; None where a pod may see who it really was.
    """

    cluster_network: IPv4Network
    gateway_device: str
    vxlan_port: int
    refuse_unsolicited: bool
    copied_devices: tuple[str, ...] | None
    masquerade_as: IPv4Address | None = None
    services: ServiceFilterSpec | None = None
    """for the Services that the switch handles; None: it handles none"""


def ruleset(spec: FilterSpec) -> str:
    """Our own tables, as nft commands that replace them in one transaction."""
    gateway, cluster = _name(spec.gateway_device), spec.cluster_network
    # The switch keeps pods from speaking VXLAN to a node, but kube-proxy changes addresses after the switch has looked.
    tunnelled = f"udp dport {spec.vxlan_port}"
    unsolicited = "counter drop" if spec.refuse_unsolicited else "accept"
    # Else a pod would answer a client of the load balancer by its own node's way out.
    inwards = f"\n        oifname {gateway} ip saddr != {spec.masquerade_as} masquerade" if spec.masquerade_as else ""
    service_masquerades = service_chains = ""
    if spec.services is not None:
        service_masquerades = service_filters.masquerades(spec.services, gateway, cluster)
        service_chains = service_filters.chains(spec.services, gateway)
    inet = f"""{service_chains}
    chain postrouting {{
        type nat hook postrouting priority srcnat; policy accept;
        ip saddr {cluster} ip daddr != {cluster} oifname != {gateway} masquerade{inwards}{service_masquerades}
    }}
    chain forward {{
        type filter hook forward priority filter; policy accept;
        iifname {gateway} oifname != {gateway} ct state invalid counter drop comment "masquerade would pass it over"
        iifname {gateway} ip daddr {NODE_LOCAL_DNS} counter drop comment "for this node alone"
        iifname {gateway} {tunnelled} ct status dnat counter drop comment "a Service must not lead into a tunnel"
        iifname != {gateway} oifname {gateway} jump inbound
    }}
    chain input {{
        type filter hook input priority filter; policy accept;
        iifname {gateway} {tunnelled} counter drop comment "nor into this node's own"
    }}
    chain inbound {{
        ct state established,related accept
        ct status dnat accept
        {unsolicited}
    }}"""
    arp = ""
    if spec.copied_devices is not None:
        drops = _copy_drops(spec.copied_devices)
        inet += f"""
    chain host_copies {{
        type filter hook prerouting priority {HOST_COPIES_PRIORITY}; policy accept;
        {drops}
    }}"""
        arp = _replacement(
            "arp",
            f"""
    chain input {{
        type filter hook input priority filter; policy accept;
        {drops}
    }}""",
        )
    return _replacement("inet", inet) + arp


def _replacement(family: str, chains: str) -> str:
    # Declaring the table first makes the deletion valid whether it existed or not.
    return f"table {family} {TABLE} {{ }}\ndelete table {family} {TABLE}\ntable {family} {TABLE} {{{chains}\n}}\n"


def _copy_drops(devices: Sequence[str]) -> str:
    """The switch has its copy of these frames; the kernel's would bypass every tenant's borders."""
    names = ", ".join(sorted(map(_name, devices)))
    return f'iifname "{POD_LINKS}" drop' + (f"\n        iifname {{ {names} }} drop" if names else "")


def _name(device: str) -> str:
    if not device or any(character in '"*\\' or character.isspace() for character in device):
        raise ValueError(f"{device!r} is no device name that a filter can hold")
    return f'"{device}"'


@dataclass(frozen=True, slots=True)
class Accept:
    """An accepting rule for somebody else's chain: as nft text, and as nft lists its condition in JSON."""

    chain: str
    text: str
    condition: Json


def accepts(spec: FilterSpec) -> tuple[Accept, ...]:
    """What a chain that drops by default must let through for pods and tunnels to work."""
    gateway = spec.gateway_device
    return (
        Accept("FORWARD", f"iifname {_name(gateway)}", _equals({"meta": {"key": "iifname"}}, gateway)),
        Accept("FORWARD", f"oifname {_name(gateway)}", _equals({"meta": {"key": "oifname"}}, gateway)),
        Accept("INPUT", f"iifname {_name(gateway)}", _equals({"meta": {"key": "iifname"}}, gateway)),
        Accept(
            "INPUT",
            f"udp dport {spec.vxlan_port}",
            _equals({"payload": {"protocol": "udp", "field": "dport"}}, spec.vxlan_port),
        ),
    )


def required_insertions(wanted: Sequence[Accept], chain: str, listing: str) -> str:
    """Commands for nft that bring the `ip filter` chain, listed as JSON, to hold the wanted rules of ours, no others.

    Empty if it does already.
    """
    rules = [entry["rule"] for entry in json.loads(listing)["nftables"] if "rule" in entry]
    conditions = [accept.condition for accept in wanted if accept.chain == chain]
    present = [_condition(rule) for rule in rules if _is_ours(rule) or _was_restored(rule)]
    stale = [rule["handle"] for rule in rules if _is_ours(rule) and _condition(rule) not in conditions]
    missing = [accept for accept in wanted if accept.chain == chain and accept.condition not in present]
    deletions = [f"delete rule ip filter {chain} handle {handle}" for handle in stale]
    insertions = [
        f'insert rule ip filter {chain} {accept.text} counter accept comment "{COMMENT}"' for accept in missing
    ]
    return "\n".join(deletions + insertions)


def _equals(left: Json, right: Json) -> Json:
    return {"match": {"op": "==", "left": left, "right": right}}


def _is_ours(rule: Rule) -> bool:
    return rule.get("comment") == COMMENT


def _was_restored(rule: Rule) -> bool:
    """After iptables-save and -restore a comment is an extension that nft cannot read: ours, or somebody else's."""
    return {"xt": {"type": "match", "name": "comment"}} in rule["expr"]


def _condition(rule: Rule) -> Json:
    """What a rule accepts on; None for a rule that is not of the form that we write."""
    matches = [expression for expression in rule["expr"] if "match" in expression]
    return matches[0] if len(matches) == 1 and {"accept": None} in rule["expr"] else None


class Nftables:
    """libnftables for the network namespace that it is used in: `async with Nftables() as nftables`."""

    def __init__(self) -> None:
        self._worker = ThreadPoolExecutor(1, thread_name_prefix="nftables")  # the library is not thread-safe

    async def __aenter__(self) -> Nftables:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await asyncio.to_thread(self._worker.shutdown)

    async def apply(self, commands: str) -> None:
        """Carry out nft commands in one transaction. Raises NftablesError."""
        await self._run(commands)

    async def own_tables(self) -> str:
        """Our own tables as nft lists them, without counters; empty if one is missing. Raises NftablesError."""
        listed = [await self._run("list tables")]
        if f"table inet {TABLE}" in listed[0]:
            listed.append(await self._run(f"list table inet {TABLE}"))
        if f"table arp {TABLE}" in listed[0]:
            listed.append(await self._run(f"list table arp {TABLE}"))
        return "".join(listed[1:])

    async def admit(self, spec: FilterSpec) -> tuple[str, ...]:
        """Let the overlay through `ip filter` FORWARD and INPUT, where these chains exist; the commands it took.

        Nothing is written if all is there. Raises NftablesError.
        """
        done: list[str] = []
        for chain in ("FORWARD", "INPUT"):
            try:
                listing = await self._run(f"list chain ip filter {chain}", as_json=True)
            except NftablesError as error:
                if os.strerror(errno.ENOENT) not in str(error):
                    raise
                continue  # no such chain: nothing there drops
            commands = required_insertions(accepts(spec), chain, listing)
            if commands:
                await self._run(commands)
                done += commands.splitlines()
        return tuple(done)

    async def forwarding(self, spec: FilterSpec) -> tuple[bool, bool]:
        """Whether `ip filter` FORWARD drops what nobody accepts, and whether it has our rules. Raises NftablesError."""
        try:
            listing = await self._run("list chain ip filter FORWARD", as_json=True)
        except NftablesError as error:
            if os.strerror(errno.ENOENT) not in str(error):
                raise
            return False, False
        chains = [entry["chain"] for entry in json.loads(listing)["nftables"] if "chain" in entry]
        drops = any(chain.get("policy") == "drop" for chain in chains)
        return drops, not required_insertions(accepts(spec), "FORWARD", listing)

    async def removal(self) -> str:
        """The commands that take away all that is ours: both tables, and the marked rules in chains of others.

        Empty if there is nothing. Raises NftablesError.
        """
        listed = await self._run("list tables")
        families = [family for family in ("inet", "arp") if f"table {family} {TABLE}\n" in f"{listed}\n"]
        commands = [f"delete table {family} {TABLE}" for family in families]
        if "table ip filter\n" in f"{listed}\n":
            content = json.loads(await self._run("list table ip filter", as_json=True))["nftables"]
            ours = [entry["rule"] for entry in content if "rule" in entry and _is_ours(entry["rule"])]
            commands += [f"delete rule ip filter {rule['chain']} handle {rule['handle']}" for rule in ours]
        return "\n".join(commands)

    async def advice(self, spec: FilterSpec) -> tuple[str, ...]:
        """What a person has to do because a firewall that we cannot write to may be in the way; empty if none is."""
        tables = json.loads(await self._run("list tables", as_json=True))["nftables"]
        names = {(entry["table"]["family"], entry["table"]["name"]) for entry in tables if "table" in entry}
        return foreign_firewalls(spec, names, await asyncio.to_thread(_legacy_tables))

    async def _run(self, commands: str, as_json: bool = False) -> str:
        return await asyncio.get_running_loop().run_in_executor(self._worker, _run, commands, as_json)


def foreign_firewalls(spec: FilterSpec, tables: set[tuple[str, str]], legacy_tables: Sequence[str]) -> tuple[str, ...]:
    """Advice for firewalld, and for the iptables of old kernels, with the exact commands."""
    gateway, port = spec.gateway_device, spec.vxlan_port
    advice = []
    if ("inet", "firewalld") in tables:
        advice.append(
            "firewalld runs here and may drop pod traffic; run: "
            f"firewall-cmd --permanent --zone=trusted --add-interface={gateway} && "
            f"firewall-cmd --permanent --add-port={port}/udp && firewall-cmd --reload"
        )
    if "filter" in legacy_tables:
        advice.append(
            "the filter table of iptables-legacy is in use here and may drop pod traffic; run: "
            f"iptables-legacy -I FORWARD -i {gateway} -j ACCEPT && iptables-legacy -I FORWARD -o {gateway} -j ACCEPT "
            f"&& iptables-legacy -I INPUT -i {gateway} -j ACCEPT && "
            f"iptables-legacy -I INPUT -p udp --dport {port} -j ACCEPT"
        )
    return tuple(advice)


def _legacy_tables() -> list[str]:
    listed = Path(_LEGACY_TABLES)
    return listed.read_text().split() if listed.exists() else []


def _run(commands: str, as_json: bool) -> str:
    """What libnftables answers to `commands`. Blocking."""
    library = _library()
    context = library.nft_ctx_new(0)
    if not context:
        raise NftablesError("libnftables could not be initialised: is this process allowed to use netlink?")
    try:
        library.nft_ctx_buffer_output(context)
        library.nft_ctx_buffer_error(context)
        if as_json:
            library.nft_ctx_output_set_flags(context, _OUTPUT_JSON)
        else:
            library.nft_ctx_output_set_flags(context, _OUTPUT_STATELESS)
        if library.nft_run_cmd_from_buffer(context, commands.encode()) != 0:
            said = library.nft_ctx_get_error_buffer(context) or b""
            raise NftablesError(said.decode(errors="replace").strip() or "libnftables failed without a word")
        return (library.nft_ctx_get_output_buffer(context) or b"").decode()
    finally:
        library.nft_ctx_free(context)


def _library() -> ctypes.CDLL:
    try:
        library = ctypes.CDLL(_LIBRARY)
    except OSError as error:
        raise NftablesError(f"{error}; install the package libnftables1") from None
    library.nft_ctx_new.restype = ctypes.c_void_p
    library.nft_ctx_new.argtypes = [ctypes.c_uint32]
    for function in (library.nft_ctx_buffer_output, library.nft_ctx_buffer_error, library.nft_ctx_free):
        function.argtypes = [ctypes.c_void_p]
    for function in (library.nft_ctx_get_output_buffer, library.nft_ctx_get_error_buffer):
        function.restype = ctypes.c_char_p
        function.argtypes = [ctypes.c_void_p]
    library.nft_ctx_output_set_flags.argtypes = [ctypes.c_void_p, ctypes.c_uint]
    library.nft_run_cmd_from_buffer.argtypes = [ctypes.c_void_p, ctypes.c_char_p]
    return library
