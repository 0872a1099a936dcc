"""Looks at a host for `k8sovs check`. Reads alone, but for pings, and for one key that a controller's check writes."""

from __future__ import annotations

import asyncio
import os
import secrets
import socket
from collections.abc import Collection
from contextlib import suppress
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from urllib.parse import urlsplit

from agent.bridge import GATEWAY
from agent.caretakers import caretakers, our_devices
from agent.facts import Device, EtcdFacts, Facts, FilterFacts, Module, PathProbe, Right, Role
from agent.netlink import Netlink
from agent.nftables import FilterSpec, Nftables, NftablesError
from agent.pathprobe import probe_path
from agent.underlay import VXLAN_OVERHEAD
from agent.unixctl import ControlError, call, vswitchd_socket
from k8sovs.config import AgentSettings, Datapath
from k8sovs.etcd import Delete, Etcd, EtcdConfig, EtcdError, EtcdPermissionDenied, Put, unchanged
from k8sovs.kubernetes import KubernetesError, server_of
from k8sovs.records import Keys, NetworkConfig, RecordError, SubnetRecord

PROBES_AT_ONCE = 16
_NEVER = 1 << 62
"""No key was ever written at this revision."""


async def survey(settings: AgentSettings, role: Role, peers: Collection[IPv4Address], root: Path = Path("/")) -> Facts:
    """The facts of this host, whose files are below `root`. `peers` are pinged beside the hosts that etcd knows.

    Raises ConfigError for settings that cannot be used.
    """
    etcd, records = await _etcd(settings, role)
    own = next((record.host_ip for record in records if record.host == settings.node_name), None)
    chosen = settings.node_address or own
    address = chosen or await asyncio.to_thread(_address_towards, settings.etcd_endpoints)
    devices = await asyncio.to_thread(_devices)
    version, ovs_trouble = await _ovs_version(settings.ovs_rundir)
    server, api_address = await asyncio.to_thread(_api, settings.kubeconfig)
    facts = Facts(
        role=role,
        node_address=address,
        address_chosen=chosen is not None,
        vxlan_port=settings.vxlan_port,
        mtu=settings.mtu,
        installed=any(device.name == GATEWAY for device in devices),
        module=_module(root),
        userspace_wanted=settings.datapath is Datapath.NETDEV,
        ovs_version=version,
        ovs_trouble=ovs_trouble,
        devices=devices,
        udp_port_taken_by=await asyncio.to_thread(_port_holder, settings.vxlan_port),
        probes=(),
        etcd=etcd,
        filters=await _filters(settings, etcd.config),
        api_server=server,
        api_address=api_address,
        conf_dir=str(settings.cni_conf_dir),
        conf_files=_conf_files(settings.cni_conf_dir),
        sysctls=_sysctls(),
        caretakers=caretakers(our_devices(settings.bridge, settings.vxlan_port), root),
    )
    others = {record.host_ip for record in records} | set(peers)
    return replace(facts, probes=await _probes(facts, others - {address}))


async def _etcd(settings: AgentSettings, role: Role) -> tuple[EtcdFacts, list[SubnetRecord]]:
    config = settings.etcd
    said = await asyncio.gather(*(_reach(config, endpoint) for endpoint in config.endpoints))
    troubles = dict(zip(config.endpoints, said, strict=True))
    answering = tuple(endpoint for endpoint, trouble in troubles.items() if not trouble)
    silent = tuple(endpoint for endpoint, trouble in troubles.items() if trouble)
    facts = EtcdFacts(settings.etcd_endpoints, silent=silent)
    if not answering:
        return replace(facts, silent=(), trouble="; ".join(dict.fromkeys(troubles.values()))), []
    async with Etcd(replace(config, endpoints=answering)) as etcd:
        try:
            return await _records(etcd, facts, settings.prefix, role)
        except EtcdError as error:
            return replace(facts, trouble=str(error)), []


async def _reach(config: EtcdConfig, endpoint: str) -> str:
    """What keeps one endpoint from answering; empty if it does, be it that we may not read there."""
    async with Etcd(replace(config, endpoints=(endpoint,))) as etcd:
        try:
            await etcd.get("/")
        except EtcdPermissionDenied:
            return ""
        except EtcdError as error:
            return str(error)
        return ""


async def _records(etcd: Etcd, facts: EtcdFacts, prefix: str, role: Role) -> tuple[EtcdFacts, list[SubnetRecord]]:
    """What may be read and written, and what it says. Raises EtcdError."""
    denied, trouble, config, records = [], "", None, []
    try:
        found = await etcd.get(Keys(prefix).config)
        config = None if found is None else NetworkConfig.parse(found.key, found.value)
    except EtcdPermissionDenied:
        denied.append(Keys(prefix).config)
    except RecordError as error:
        trouble = str(error)
    if config is not None:
        keys = Keys(prefix, config.name)
        for folder in (keys.subnets, keys.vnids, *((keys.netnamespaces,) if role is Role.CONTROLLER else ())):
            try:
                items = (await etcd.list(folder)).items.values()
            except EtcdPermissionDenied:
                denied.append(folder)
                continue
            for item in items if folder == keys.subnets else ():
                with suppress(RecordError):
                    records.append(SubnetRecord.parse(item.key, item.value))
    writing = await _writing(etcd, prefix, "" if config is None else config.name, role)
    return replace(facts, denied=tuple(denied), writing=writing, config=config, config_trouble=trouble), records


async def _writing(etcd: Etcd, prefix: str, network: str, role: Role) -> Right:
    """Whether one may write: a controller does, a key that is gone again at once; of an agent it is only asked.

    etcd judges the rights of a whole transaction, also of what is not carried out.
    """
    try:
        if role is Role.CONTROLLER:
            key = f"{prefix}/check/{secrets.token_hex(8)}"
            await etcd.transact([], [Put(key, b"written and removed by k8sovs check")])
            await etcd.transact([], [Delete(key)])
        else:
            key = Keys(prefix, network).vnid("default")
            await etcd.transact([unchanged(key, _NEVER)], [Put(key, b"")])
    except EtcdPermissionDenied:
        return Right.DENIED
    return Right.GRANTED


def _devices() -> tuple[Device, ...]:
    with Netlink() as kernel:
        addresses = kernel.addresses()
        return tuple(
            Device(
                name=found.link.name,
                mtu=found.link.mtu,
                up=found.link.up,
                kind=found.kind,
                vxlan_port=found.vxlan_port,
                addresses=tuple(
                    IPv4Interface((one.address, one.prefix_length))
                    for one in addresses
                    if one.index == found.link.index
                ),
                routes=tuple(route.destination for route in kernel.routes(found.link.index)),
            )
            for found in kernel.devices()
        )


def _address_towards(endpoints: tuple[str, ...]) -> IPv4Address | None:
    """The address that this host would talk to etcd with; None if it has no route there."""
    for endpoint in endpoints:
        parts = urlsplit(endpoint if "//" in endpoint else f"//{endpoint}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock, suppress(OSError):
            sock.connect((parts.hostname or "", parts.port or 2379))
            address = IPv4Address(sock.getsockname()[0])
            if not address.is_loopback:
                return address
    return None


def _module(root: Path) -> Module:
    if (root / "sys/module/openvswitch").exists():
        return Module.LOADED
    folder = root / "lib/modules" / os.uname().release
    for index in ("modules.dep", "modules.builtin"):
        with suppress(OSError):
            if "/openvswitch.ko" in (folder / index).read_text():
                return Module.AVAILABLE
    return Module.MISSING


async def _ovs_version(rundir: Path) -> tuple[str, str]:
    """The version, or why it is not known."""
    try:
        said = await call(vswitchd_socket(rundir), "version")
    except ControlError as error:
        return "", str(error)
    return str(said).strip().rsplit(" ", 1)[-1], ""


def _port_holder(port: int) -> str:
    """The program that has a UDP port of this network namespace; the kernel's own tunnels have no inode."""
    entries = [line.split() for line in Path("/proc/net/udp").read_text().splitlines()[1:]]
    inodes = {entry[9] for entry in entries if int(entry[1].rpartition(":")[2], 16) == port} - {"0"}
    if not inodes:
        return ""
    wanted = {f"socket:[{inode}]" for inode in inodes}
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended meanwhile
            if any(os.readlink(descriptor) in wanted for descriptor in (process / "fd").iterdir()):
                return f"{(process / 'comm').read_text().strip()} (process {process.name})"
    return "a program in another container"


def _api(kubeconfig: Path | None) -> tuple[str, IPv4Address | None]:
    """The URL of the API server, and its address where that is known without asking the network."""
    try:
        server = server_of(None if kubeconfig is None else str(kubeconfig))
    except KubernetesError:
        return "", None
    with suppress(ValueError):
        return server, IPv4Address(urlsplit(server).hostname or "")
    return server, None


async def _filters(settings: AgentSettings, config: NetworkConfig | None) -> FilterFacts:
    network = IPv4Interface("0.0.0.0/32").network if config is None else config.network
    spec = FilterSpec(network, GATEWAY, settings.vxlan_port, refuse_unsolicited=True, copied_devices=None)
    async with Nftables() as nftables:
        try:
            drops, admitted = await nftables.forwarding(spec)
            return FilterFacts(drops, admitted, await nftables.advice(spec))
        except NftablesError as error:
            return FilterFacts(trouble=str(error))


def _conf_files(directory: Path) -> tuple[str, ...]:
    """What a runtime reads there."""
    with suppress(OSError):
        return tuple(
            sorted(file.name for file in directory.iterdir() if file.suffix in (".conf", ".conflist", ".json"))
        )
    return ()


def _sysctls() -> dict[str, str]:
    folder = Path("/proc/sys/net/ipv4")
    files = {
        "net.ipv4.ip_forward": folder / "ip_forward",
        f"net.ipv4.conf.{GATEWAY}.rp_filter": folder / "conf" / GATEWAY / "rp_filter",
        f"net.ipv4.conf.{GATEWAY}.forwarding": folder / "conf" / GATEWAY / "forwarding",
    }
    found = {}
    for name, file in files.items():
        with suppress(OSError):
            found[name] = file.read_text().strip()
    return found


async def _probes(facts: Facts, peers: Collection[IPv4Address]) -> tuple[PathProbe, ...]:
    underlay, source = facts.underlay, facts.node_address
    if underlay is None or source is None:
        return ()
    wanted = facts.mtu + VXLAN_OVERHEAD if facts.mtu else underlay.mtu
    places = asyncio.Semaphore(PROBES_AT_ONCE)

    async def probe(peer: IPv4Address) -> PathProbe:
        async with places:
            try:
                return await asyncio.to_thread(probe_path, source, peer, wanted)
            except OSError:
                return PathProbe(peer, wanted, 0)

    return tuple(await asyncio.gather(*map(probe, sorted(peers))))
