"""Kubernetes Services as the pipeline takes them, and the rules by which Kubernetes chooses their endpoints.

`docs/services.md` has the way of a packet. Only IPv4.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum, IntEnum
from ipaddress import IPv4Address


class ServiceProxy(Enum):
    """Who translates the addresses of Services."""

    OVS = "ovs"
    """The switch."""
    KUBE_PROXY = "kube-proxy"
    """The node's kernel, told by kube-proxy; the switch sends it Service traffic, and the answers to it."""


class Protocol(IntEnum):
    """The protocols that a Service can have, by their number in IP."""

    TCP = 6
    UDP = 17
    SCTP = 132


@dataclass(frozen=True, slots=True, order=True)
class Backend:
    """Where a connection can end."""

    address: IPv4Address
    port: int


@dataclass(frozen=True, slots=True)
class Endpoint:
    """A backend and its state. `local`: it is on this node."""

    backend: Backend
    local: bool
    ready: bool = True
    serving: bool = True
    terminating: bool = False


@dataclass(frozen=True, slots=True)
class ServicePort:
    """One port of a Service, with its endpoints resolved to numbers."""

    protocol: Protocol
    port: int
    node_port: int | None
    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True)
class Service:
    """A Service with an address of its own (a headless one, or one by name alone, is none of ours).

    `external` are its externalIPs and load balancer addresses. `affinity_s`: a client that comes back within so many
    seconds gets the endpoint that it had; None: no such thing. With `internal_local` clients in the cluster use only
    endpoints on their own node; with `external_local` those outside do.
    """

    key: str
    cluster_addresses: tuple[IPv4Address, ...]
    ports: tuple[ServicePort, ...]
    external: tuple[IPv4Address, ...] = ()
    affinity_s: int | None = None
    internal_local: bool = False
    external_local: bool = False


def usable(endpoints: Iterable[Endpoint], *, local_only: bool = False) -> tuple[Backend, ...]:
    """Where new connections go: to ready endpoints; if there are none, to those that still serve while they end."""
    candidates = [one for one in endpoints if one.local or not local_only]
    ready = {one.backend for one in candidates if one.ready}
    return tuple(sorted(ready or {one.backend for one in candidates if one.serving and one.terminating}))


def answers(protocol: Protocol, endpoint: Endpoint) -> bool:
    """Whether connections that an endpoint has go on.

    Those over TCP and SCTP do for as long as it is listed. UDP knows no end of a connection: what an endpoint that
    failed was sent last would be sent to it for ever, so only one that is ready, or ends in order, goes on.
    """
    return protocol is not Protocol.UDP or endpoint.ready or endpoint.terminating
