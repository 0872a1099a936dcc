"""What an ADD gave the container, in the words of each version of the specification (section "Success")."""

from __future__ import annotations

import json
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

from cni.previous import Json, PreviousResult
from cni.versions import at_least


@dataclass(frozen=True, slots=True)
class Interface:
    """An interface that was made. `sandbox` is the path of its network namespace, empty on the host."""

    name: str
    mac: str
    sandbox: str = ""
    mtu: int | None = None


@dataclass(frozen=True, slots=True)
class IpConfig:
    """An address. `interface` is the position in the result's interfaces of the one that has it."""

    address: IPv4Interface
    gateway: IPv4Address | None = None
    interface: int | None = None


@dataclass(frozen=True, slots=True)
class Route:
    """A route inside the container; without `gateway`, the destination is on the link."""

    destination: IPv4Network
    gateway: IPv4Address | None = None


@dataclass(frozen=True, slots=True)
class Dns:
    """What the network says about name resolution."""

    nameservers: tuple[str, ...] = ()
    domain: str = ""
    search: tuple[str, ...] = ()
    options: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Result:
    """The result of an ADD."""

    interfaces: tuple[Interface, ...] = ()
    ips: tuple[IpConfig, ...] = ()
    routes: tuple[Route, ...] = ()
    dns: Dns = Dns()

    def render(self, cni_version: str, previous: PreviousResult | None = None) -> bytes:
        """As the JSON that goes to standard output. `cni_version` must be of `cni.versions.SUPPORTED`.

        With `previous`, the result of the plugin before, it is that result and this one's part behind it.
        """
        before = previous or PreviousResult.parse({})
        position = len(before.interfaces)
        dns = _filled(
            {
                "nameservers": list(self.dns.nameservers),
                "domain": self.dns.domain,
                "search": list(self.dns.search),
                "options": list(self.dns.options),
            }
        )
        answer: dict[str, Json] = {
            **before.raw,
            "cniVersion": cni_version,
            "interfaces": [*before.interfaces, *(_interface(one, cni_version) for one in self.interfaces)],
            "ips": [*before.ips, *(_ip(ip, cni_version, position) for ip in self.ips)],
            "routes": [*before.routes, *(_route(route) for route in self.routes)],
            "dns": dns or before.raw.get("dns") or {},
        }
        return json.dumps(_filled(answer)).encode() + b"\n"


def _interface(interface: Interface, cni_version: str) -> Json:
    return _filled(
        {
            "name": interface.name,
            "mac": interface.mac,
            "mtu": interface.mtu if at_least(cni_version, "1.1.0") else None,
            "sandbox": interface.sandbox,
        }
    )


def _ip(ip: IpConfig, cni_version: str, first_interface: int) -> Json:
    return _filled(
        {
            "version": None if at_least(cni_version, "1.0.0") else "4",
            "interface": None if ip.interface is None else first_interface + ip.interface,
            "address": str(ip.address),
            "gateway": _text(ip.gateway),
        }
    )


def _route(route: Route) -> Json:
    return _filled({"dst": str(route.destination), "gw": _text(route.gateway)})


def _text(address: IPv4Address | None) -> str:
    return "" if address is None else str(address)


def _filled(fields: dict[str, Json]) -> Json:
    """The fields that say something; 0 does (an interface's position), an empty text or list does not."""
    return {name: value for name, value in fields.items() if value not in (None, "", [])}
