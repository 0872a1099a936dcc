"""Services and EndpointSlices of the Kubernetes API in the terms of the switch. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from ipaddress import AddressValueError, IPv4Address

from flows.service import Backend, Endpoint, Protocol, Service, ServicePort
from k8sovs import kubernetes as k8s
from k8sovs.kubernetes import EndpointSlice, key_of

DEFAULT_AFFINITY_S = 10800
_LOCAL = "Local"


def service_of(service: k8s.Service, slices: Iterable[EndpointSlice], node: str) -> Service | None:
    """A Service with its endpoints, as node `node` sees it; None for one without an IPv4 address of its own.

    What is not IPv4, and a protocol that is none of TCP, UDP and SCTP, is passed over.
    """
    spec = service.spec
    if spec is None or spec.type == "ExternalName":
        return None
    addresses = tuple(_addresses(spec.clusterIPs or [spec.clusterIP]))
    if not addresses:
        return None
    ingress = (service.status.loadBalancer.ingress if service.status and service.status.loadBalancer else None) or []
    by_proxy = [one.ip for one in ingress if getattr(one, "ipMode", None) != "Proxy"]
    affinity = spec.sessionAffinityConfig.clientIP if spec.sessionAffinityConfig else None
    timeout = (affinity.timeoutSeconds if affinity else None) or DEFAULT_AFFINITY_S
    listed = [one for one in slices if one.addressType == "IPv4"]
    return Service(
        key=str(key_of(service)),
        cluster_addresses=addresses,
        ports=tuple(_ports(spec, listed, node)),
        external=tuple(sorted({*_addresses(spec.externalIPs or []), *_addresses(by_proxy)})),
        affinity_s=timeout if spec.sessionAffinity == "ClientIP" else None,
        internal_local=spec.internalTrafficPolicy == _LOCAL,
        external_local=spec.externalTrafficPolicy == _LOCAL,
    )


def _ports(spec: k8s.ServiceSpec, slices: Iterable[EndpointSlice], node: str) -> Iterator[ServicePort]:
    for port in spec.ports or []:
        protocol = _protocol(port.protocol)
        if protocol is not None:
            found: dict[Backend, Endpoint] = {}
            for one in slices:
                for endpoint in _endpoints(
                    one, port.name or "", protocol, spec.publishNotReadyAddresses or False, node
                ):
                    # While a pod moves from one slice to another it may be in both: the better news holds.
                    if endpoint.backend not in found or endpoint.ready:
                        found[endpoint.backend] = endpoint
            yield ServicePort(protocol, port.port, port.nodePort or None, tuple(found[key] for key in sorted(found)))


def _endpoints(slice_: EndpointSlice, name: str, protocol: Protocol, all_ready: bool, node: str) -> Iterator[Endpoint]:
    numbers = [
        port.port
        for port in slice_.ports or []
        if (port.name or "") == name and _protocol(port.protocol) is protocol and port.port
    ]
    for number in numbers:
        for endpoint in slice_.endpoints or []:
            conditions = endpoint.conditions
            # What is not said is so, but for the end (the API's own words).
            ready = conditions is None or conditions.ready is not False
            serving = ready if conditions is None or conditions.serving is None else conditions.serving
            terminating = conditions is not None and conditions.terminating is True
            for address in _addresses(endpoint.addresses[:1]):
                yield Endpoint(
                    Backend(address, number),
                    endpoint.nodeName == node,
                    ready or all_ready,
                    serving or all_ready,
                    terminating,
                )


def _protocol(name: str | None) -> Protocol | None:
    return Protocol.__members__.get(name or "TCP")


def _addresses(texts: Iterable[str | None]) -> Iterator[IPv4Address]:
    """Those that are IPv4 addresses; "None", the empty text and IPv6 are not."""
    for text in texts:
        try:
            yield IPv4Address(text or "")
        except AddressValueError:
            continue
