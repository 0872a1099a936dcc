"""Which pods a load balancer may send to. Pure.

EndpointSlices are written by tenants too, and an edge host reaches every tenant. So an endpoint counts only if it is a
pod of the Service's own namespace, by the address that this pod has: hand-made endpoints lead nowhere else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from ipaddress import AddressValueError, IPv4Address
from typing import Final, Self

from k8sovs.kubernetes import EndpointSlice, Pod, Service, metadata_of

SERVICE_LABEL: Final = "kubernetes.io/service-name"

_LABEL = "[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?"
_TARGET = re.compile(rf"(?P<namespace>{_LABEL})/(?P<service>{_LABEL})(:(?P<port>{_LABEL}))?")
_FINISHED = ("Succeeded", "Failed")
_PORTS = range(1, 1 << 16)


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """A port of a Service, as its Service calls it or numbers it; an empty port is the only one that there is."""

    namespace: str
    service: str
    port: str = ""

    @classmethod
    def parse(cls, text: str) -> Self:
        """NAMESPACE/SERVICE[:PORT]. Raises ValueError."""
        found = _TARGET.fullmatch(text)
        if found is None:
            raise ValueError(f"'{text}' is not NAMESPACE/SERVICE or NAMESPACE/SERVICE:PORT")
        return cls(found["namespace"], found["service"], found["port"] or "")

    @property
    def name(self) -> str:
        """What the list is called in a configuration. No name of Kubernetes has a `_`, so no two are called alike."""
        return "_".join(part for part in (self.namespace, self.service, self.port) if part)

    def __str__(self) -> str:
        return f"{self.namespace}/{self.service}" + (f":{self.port}" if self.port else "")


@dataclass(frozen=True, slots=True)
class Backend:
    """A pod that is ready, and where it listens."""

    name: str
    address: IPv4Address
    port: int
    node: str = ""


@dataclass(frozen=True, slots=True)
class BackendList:
    """What is behind a target, by address, and what a person should know about it."""

    target: Target
    backends: tuple[Backend, ...]
    problems: tuple[str, ...] = ()


class Unresolved(Exception):
    """There is no such Service, or not that port; the text says what there is."""


def resolve(
    target: Target, service: Service | None, slices: Iterable[EndpointSlice], pods: Mapping[str, Pod]
) -> BackendList:
    """The ready pods behind `target`; none if the Service has gone.

    `slices` are those of the Service, `pods` are those of its namespace, by name.
    """
    try:
        name = port_name(target, service)
    except Unresolved as error:
        return BackendList(target, (), (str(error),))
    found: dict[tuple[IPv4Address, int], Backend] = {}
    strangers = set()
    for backend, is_known in _endpoints(slices, name, pods):
        if is_known:
            # While slices are rewritten, a pod may be in two of them.
            found[backend.address, backend.port] = backend
        else:
            strangers.add(f"{target}: {backend.address} is no pod of namespace {target.namespace}: left out")
    return BackendList(target, tuple(found[key] for key in sorted(found)), tuple(sorted(strangers)))


def port_name(target: Target, service: Service | None) -> str:
    """What EndpointSlices call the target's port. Raises Unresolved."""
    if service is None:
        raise Unresolved(f"{target}: there is no Service {target.service} in namespace {target.namespace}")
    ports = (service.spec.ports if service.spec else None) or []
    known = ", ".join(f"{port.name or '-'} ({port.port})" for port in ports) or "none"
    if not target.port and len(ports) == 1:
        return ports[0].name or ""
    if not target.port:
        raise Unresolved(f"{target}: say which port, {target}:PORT; the Service has {known}")
    for port in ports:
        if target.port in (port.name, str(port.port)):
            return port.name or ""
    raise Unresolved(f"{target}: the Service has no such port; it has {known}")


def _endpoints(
    slices: Iterable[EndpointSlice], port_name: str, pods: Mapping[str, Pod]
) -> Iterator[tuple[Backend, bool]]:
    """Every ready endpoint on that port, and whether it is one of `pods`. What is not of IPv4 is passed over."""
    for body in slices:
        ports = {port.port for port in body.ports or [] if (port.name or "") == port_name and port.port in _PORTS}
        for endpoint in body.endpoints or []:
            # No word on it means ready (EndpointConditions of the API).
            if endpoint.conditions is not None and endpoint.conditions.ready is False:
                continue
            try:
                address = IPv4Address(endpoint.addresses[0])
            except (AddressValueError, IndexError):
                continue
            reference = endpoint.targetRef
            name = (reference.name or "") if reference is not None and reference.kind == "Pod" else ""
            for port in ports:
                yield Backend(name, address, port or 0, endpoint.nodeName or ""), _has(pods.get(name), address)


def _has(pod: Pod | None, address: IPv4Address) -> bool:
    """Whether the pod is there and has the address."""
    if pod is None or pod.status is None or pod.status.phase in _FINISHED:
        return False
    return str(address) in {pod.status.podIP, *(each.ip for each in pod.status.podIPs or [])}


def by_name(pods: Iterable[Pod]) -> dict[str, Pod]:
    """Pods of one namespace by their name."""
    return {metadata_of(pod).name or "": pod for pod in pods}


def is_of(body: EndpointSlice, service: str) -> bool:
    """Whether a slice is of the Service of that name."""
    return (metadata_of(body).labels or {}).get(SERVICE_LABEL) == service
