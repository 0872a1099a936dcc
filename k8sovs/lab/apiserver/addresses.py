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
            taken = {address for other in others for address in words(other, "spec", "clusterIPs")}
            spec["clusterIP"] = str(self._free_address(service, taken))
        elif spec["clusterIP"] != "None":
            self._check(service, spec["clusterIP"], others)
        spec["clusterIPs"] = [spec["clusterIP"]]
        if kind in ("NodePort", "LoadBalancer"):
            self._assign_node_ports(service, others)

    def _free_address(self, service: Document, taken: set[str]) -> IPv4Address:
        for offset in range(min(_RESERVED, self._network.num_addresses // 2), self._network.num_addresses - 1):
            candidate = self._network[offset]
            if str(candidate) not in taken:
                return candidate
        raise _refused(service, "spec.clusterIPs", f"no free address in {self._network}")

    def _check(self, service: Document, address: str, others: Iterable[Document]) -> None:
        try:
            inside = IPv4Address(address) in self._network
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
    spec, old_spec = section(service, "spec"), section(previous, "spec")
    if spec.get("type") == "ExternalName":
        return
    if not spec.get("clusterIP") and old_spec.get("clusterIP"):
        spec["clusterIP"] = old_spec["clusterIP"]
    held = {(port.get("protocol"), port.get("port")): port.get("nodePort") for port in entries(old_spec, "ports")}
    if spec.get("type") in ("NodePort", "LoadBalancer"):
        for port in entries(spec, "ports"):
            node_port = held.get((port.get("protocol"), port.get("port")))
            if node_port and not port.get("nodePort"):
                port["nodePort"] = node_port


def _refused(service: Document, field: str, why: str) -> ApiError:
    cause = Cause("FieldValueInvalid", f"Invalid value: {why}", field)
    return invalid("Service", "", text(service, "metadata", "name"), [cause])
