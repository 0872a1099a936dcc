"""ClusterIPs and node ports of Services."""

from __future__ import annotations

from collections.abc import Iterable
from ipaddress import IPv4Address, IPv4Network
from typing import Final

from k8sovs.lab.apiserver.documents import Document, entries, section, text, words
from k8sovs.lab.apiserver.errors import ApiError, Cause, invalid

NODE_PORTS: Final = range(30000, 32768)
_RESERVED: Final = 16
"""The first addresses are left to those who ask for one by number, as the real one prefers to."""

_OF_AN_ADDRESS: Final = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")
_REACHED_BY_NODES: Final = ("NodePort", "LoadBalancer")


class ServiceAddresses:
    """Gives a Service what it did not name itself, out of what no other one holds."""

    def __init__(self, network: IPv4Network) -> None:
        """`network` is the service network."""
        self._network = network

    def assign(self, service: Document, others: Iterable[Document], previous: Document | None = None) -> None:
        """Set clusterIP, clusterIPs and node ports in place, as `previous` had them where the new form is silent.

        ApiError 422: taken, outside the network, or used up.
        """
        spec = section(service, "spec")
        if previous is not None:
            _keep(service, previous)
        kind = text(service, "spec", "type")
        if kind == "ExternalName":
            return
        others = list(others)
        if not spec.get("clusterIP"):
            if spec.get("clusterIPs"):
                raise _refused(service, "spec.clusterIPs", "must be empty when `clusterIP` is not specified")
            taken = {address for other in others for address in words(other, "spec", "clusterIPs")}
            spec["clusterIP"] = str(self._free_address(service, taken))
        elif spec["clusterIP"] != "None":
            self._check(service, spec["clusterIP"], others)
        elif kind != "ClusterIP":
            raise _refused(service, "spec.clusterIPs[0]", f"may not be set to 'None' for {kind} services")
        spec["clusterIPs"] = [spec["clusterIP"]]
        if kind in _REACHED_BY_NODES:
            self._assign_node_ports(service, others)

    def _free_address(self, service: Document, taken: set[str]) -> IPv4Address:
        for offset in range(min(_RESERVED, self._network.num_addresses // 2), self._network.num_addresses - 1):
            candidate = self._network[offset]
            if str(candidate) not in taken:
                return candidate
        raise _refused(service, "spec.clusterIPs", f"no free address in {self._network}")

    def _check(self, service: Document, address: str, others: Iterable[Document]) -> None:
        try:
            candidate = IPv4Address(address)
            inside = self._network.network_address < candidate < self._network.broadcast_address
        except ValueError:
            inside = False
        if not inside:
            raise _refused(service, "spec.clusterIPs", f"{address!r} is not an address of {self._network}")
        if any(address in words(other, "spec", "clusterIPs") for other in others):
            raise _refused(service, "spec.clusterIPs", f"{address!r} is already allocated")

    def _assign_node_ports(self, service: Document, others: Iterable[Document]) -> None:
        taken = {port.get("nodePort") for other in others for port in entries(other, "spec", "ports")}
        for port in entries(service, "spec", "ports"):
            if not port.get("nodePort"):
                free = next((number for number in NODE_PORTS if number not in taken), None)
                if free is None:
                    raise _refused(service, "spec.ports", "no free node port")
                port["nodePort"] = free
            elif port["nodePort"] in taken:
                raise _refused(service, "spec.ports", f"node port {port['nodePort']} is already allocated")
            taken.add(port["nodePort"])


def _keep(service: Document, previous: Document) -> None:
    """Keep what the Service has, except what its new type has no use for. ApiError 422: another address."""
    spec, old_spec = section(service, "spec"), section(previous, "spec")
    _keep_node_ports(spec, old_spec)
    if spec.get("type") == "ExternalName":
        for name in _OF_AN_ADDRESS:
            spec.pop(name, None)
        return
    held = old_spec.get("clusterIP")
    if not held:
        return
    if (spec.get("clusterIP") or held) != held:
        raise _refused(service, "spec.clusterIPs[0]", f"[{spec['clusterIP']!r}]: may not change once set")
    spec["clusterIP"] = held


def _keep_node_ports(spec: Document, old_spec: Document) -> None:
    held = {(port.get("protocol"), port.get("port")): port.get("nodePort") for port in entries(old_spec, "ports")}
    for port in entries(spec, "ports"):
        node_port = held.get((port.get("protocol"), port.get("port")))
        if spec.get("type") in _REACHED_BY_NODES:
            if node_port and not port.get("nodePort"):
                port["nodePort"] = node_port
        elif node_port and port.get("nodePort") == node_port:
            del port["nodePort"]


def _refused(service: Document, field: str, why: str) -> ApiError:
    cause = Cause("FieldValueInvalid", f"Invalid value: {why}", field)
    return invalid("Service", "", text(service, "metadata", "name"), [cause])
