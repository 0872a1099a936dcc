"""The flows and groups of one Service: which packets are for it, and which endpoint takes a new connection.

A group chooses by a hash that the datapath computes, and sees no more of it than four bits. So a client's connections
to a Service share a few datapath flows however many there are: 18, and one for each endpoint. That is why a group has
at most `GROUP_SIZE` endpoints. Larger Services are divided; the client's address decides which part it uses.

With session affinity the client's port takes part in the choice, so that every connection which finds nothing learned
is looked at by itself; what was learned holds from the next one on, whatever the datapath has cached (lesson of others:
a learned flow is noticed by the cache only when it is next revalidated).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from hashlib import blake2b
from ipaddress import IPv4Address, IPv4Network

from flows import fields
from flows.actions import Action, Group, Learn, Nat, Resubmit, SetField, Track
from flows.fields import Field
from flows.flow import PASSING_COOKIE, Flow, Source
from flows.group import Bucket, GroupEntry, GroupType, Selection
from flows.match import Match
from flows.rules import Rules, Words
from flows.service import Backend, Protocol, Service, ServicePort, usable
from flows.tables import (
    AFFINITY,
    BACKEND,
    BALANCE,
    BALANCED,
    BY_NODE_PORT,
    CHOSEN_ADDRESS,
    CHOSEN_PORT,
    FROM_OUTSIDE,
    NODE_PORT,
    REFUSE,
    SERVICE,
    SERVICE_IN,
    SERVICE_ZONE,
    Priority,
)

GROUP_SIZE = 12
"""The most endpoints that a client uses of one Service, and the most that a group may have for 32 datapath flows."""

AFFINITY_SIZE = 200
"""The same with session affinity, where a message with the whole group must not exceed 64 KiB."""

IPV4: Mapping[Field, int] = {fields.ETH_TYPE: 0x0800}
FRAGMENT = (1, 1)
"""Value and mask of a fragment in `fields.IP_FRAG`, the first one included."""

_EITHER = BY_NODE_PORT | FROM_OUTSIDE
_FOR_A_SERVICE = (fields.CT_TRACKED, fields.CT_TRACKED | fields.CT_INVALID | fields.CT_DST_NAT)
"""In `fields.CT_STATE`: went through connection tracking, and has no backend yet."""

SOURCE_PORT = {Protocol.TCP: fields.TCP_SRC, Protocol.UDP: fields.UDP_SRC, Protocol.SCTP: fields.SCTP_SRC}
DESTINATION_PORT = {Protocol.TCP: fields.TCP_DST, Protocol.UDP: fields.UDP_DST, Protocol.SCTP: fields.SCTP_DST}

TRACKED = Track(SERVICE_ZONE, BALANCE.number, nat=Nat())
"""To the backend that the connection has, if it has one."""

_rule = Rules(Source.SERVICES)


@dataclass(frozen=True, slots=True, order=True)
class Frontend:
    """What a client asks for: an address and a port, or with address None a NodePort on any node."""

    address: IPv4Address | None
    protocol: Protocol
    port: int


@dataclass(frozen=True, slots=True)
class _Choice:
    """Some endpoints of a Service's port and the name of their group. `silent`: without any, say nothing."""

    name: str
    backends: tuple[Backend, ...]
    silent: bool = False


def frontends(service: Service) -> Iterator[tuple[Frontend, bool]]:
    """All that a Service lays claim to, and whether that is an address which it has for itself alone."""
    for port in service.ports:
        for address in service.cluster_addresses:
            yield Frontend(address, port.protocol, port.port), True
        for address in service.external:
            yield Frontend(address, port.protocol, port.port), False
        if port.node_port is not None:
            yield Frontend(None, port.protocol, port.node_port), False


def service_rules(
    service: Service, granted: Callable[[Frontend], bool], network: IPv4Network, group_id: Callable[[str], int]
) -> Iterator[Flow | GroupEntry]:
    """The flows and groups of `service`, as far as its claims are `granted`.

    `network` is that of the cluster's Services, `group_id` the number for the name of a group.
    """
    for port in service.ports:
        choices = _Choices(service, port, group_id)
        for address in service.cluster_addresses:
            frontend = Frontend(address, port.protocol, port.port)
            if granted(frontend):
                if address not in network:
                    yield _attracting(address, frontend)
                yield from choices.flows(frontend, (0, BY_NODE_PORT), choices.inside)
        for address in service.external:
            frontend = Frontend(address, port.protocol, port.port)
            if address not in service.cluster_addresses and granted(frontend):
                yield _attracting(address, frontend)
                yield from choices.external(frontend, 0)
        node_port = None if port.node_port is None else Frontend(None, port.protocol, port.node_port)
        if node_port is not None and granted(node_port):
            asked = {**IPV4, fields.IP_PROTO: port.protocol, DESTINATION_PORT[port.protocol]: node_port.port}
            by = SetField(SERVICE, BY_NODE_PORT, BY_NODE_PORT)
            yield _rule.act(NODE_PORT, Priority.MATCH, asked, by, TRACKED)
            yield from choices.external(node_port, BY_NODE_PORT)
        yield from choices.groups()


def fragment_flow(address: IPv4Address) -> Flow:
    """What sends fragments for an address outside the network of Services through connection tracking."""
    match = Match.masked({**_exactly(IPV4), fields.IPV4_DST: (int(address), 0xFFFFFFFF), fields.IP_FRAG: FRAGMENT})
    return Flow(SERVICE_IN.number, Priority.ANSWER, match, (TRACKED,), None, Source.SERVICES)


def _exactly(words: Mapping[Field, int]) -> dict[Field, tuple[int, int]]:
    return {field: (value, field.all_ones) for field, value in words.items()}


def _attracting(address: IPv4Address, frontend: Frontend) -> Flow:
    """What sends packets for an address outside the network of Services through connection tracking."""
    port = DESTINATION_PORT[frontend.protocol]
    asked: Words = {**IPV4, fields.IPV4_DST: address, fields.IP_PROTO: frontend.protocol, port: frontend.port}
    return _rule.act(SERVICE_IN, Priority.GUARD, asked, TRACKED)


class _Choices:
    """The choices among the endpoints of one port, and the groups that they turn out to need."""

    def __init__(self, service: Service, port: ServicePort, group_id: Callable[[str], int]) -> None:
        self._service = service
        self._port = port
        self._group_id = group_id
        self._used: dict[str, _Choice] = {}
        name = f"{service.key}/{port.protocol.name}/{port.port}"
        self._all = _Choice(name, usable(port.endpoints))
        self._local = _Choice(f"{name}/local", usable(port.endpoints, local_only=True))

    @property
    def inside(self) -> _Choice:
        """For clients within the cluster that ask for the Service's own address."""
        return self._local if self._service.internal_local else self._all

    def external(self, frontend: Frontend, by: int) -> Iterator[Flow]:
        """The flows for an address of the outside, or a NodePort (`by` is `BY_NODE_PORT`)."""
        if not self._service.external_local:
            yield from self.flows(frontend, (by, BY_NODE_PORT), self._all)
            return
        # The policy is for clients outside; pods and the node itself reach every endpoint, as with kube-proxy.
        local = _Choice(self._local.name, self._local.backends, silent=True)
        yield from self.flows(frontend, (by, _EITHER), self._all)
        yield from self.flows(frontend, (by | FROM_OUTSIDE, _EITHER), local)

    def flows(self, frontend: Frontend, way: tuple[int, int], choice: _Choice) -> Iterator[Flow]:
        """What sends new connections to `frontend` that came the `way` (value and mask of SERVICE) to their group."""
        asked: dict[Field, tuple[int, int]] = {
            SERVICE: way,
            fields.CT_STATE: _FOR_A_SERVICE,
            fields.ETH_TYPE: (0x0800, 0xFFFF),
            fields.IP_PROTO: (frontend.protocol, 0xFF),
            # Of a fragment the packet's own port is not to be seen, but connection tracking has put them together.
            fields.CT_NW_PROTO: (frontend.protocol, 0xFF),
            fields.CT_TP_DST: (frontend.port, 0xFFFF),
        }
        if frontend.address is not None:
            asked[fields.IPV4_DST] = (int(frontend.address), 0xFFFFFFFF)
        if not choice.backends:
            yield _balance(asked, (), None if choice.silent else REFUSE.number)
            return
        self._used[choice.name] = choice
        parts = self._parts(choice)
        for number, _ in enumerate(parts):
            group = self._group_id(f"{choice.name}/{number}")
            clients = {fields.IPV4_SRC: (number, len(parts) - 1)} if len(parts) > 1 else {}
            if self._service.affinity_s is None:
                yield _balance({**asked, **clients}, (Group(group),), None)
            else:
                remembered = (SetField(BALANCED, group), Resubmit(AFFINITY.number))
                yield _balance({**asked, **clients}, remembered, BACKEND.number)

    def groups(self) -> Iterator[Flow | GroupEntry]:
        """The groups that the flows so far need."""
        for choice in self._used.values():
            for number, backends in enumerate(self._parts(choice)):
                group = self._group_id(f"{choice.name}/{number}")
                if self._service.affinity_s is None:
                    yield GroupEntry(group, GroupType.SELECT, _buckets(backends, _connect), Selection.DP_HASH)
                else:
                    yield from self._remembering(group, backends, self._service.affinity_s)

    def _remembering(self, group: int, backends: tuple[Backend, ...], affinity_s: int) -> Iterator[Flow | GroupEntry]:
        """A group whose choice the switch learns, and what takes up the choice, whether new or learned."""

        def choose(backend: Backend) -> tuple[Action, ...]:
            # A bucket is an action set, which leaves out what it cannot order: learning is for the table.
            chosen = ((CHOSEN_ADDRESS, int(backend.address)), (CHOSEN_PORT, backend.port))
            return *(SetField(*one) for one in chosen), Resubmit(BACKEND.number)

        chosen_by = {fields.ETH_TYPE, fields.IP_PROTO, fields.IPV4_SRC, SOURCE_PORT[self._port.protocol]}
        yield GroupEntry(group, GroupType.SELECT, _buckets(backends, choose), Selection.HASH, frozenset(chosen_by))
        for backend in backends:
            chosen = ((CHOSEN_ADDRESS, int(backend.address)), (CHOSEN_PORT, backend.port))
            learn = Learn(
                AFFINITY.number,
                Priority.MATCH,
                min(affinity_s, 0xFFFF),
                PASSING_COOKIE,
                same=(fields.IPV4_SRC,),
                values=((BALANCED, group),),
                writes=chosen,
            )
            taken = {**IPV4, BALANCED: group, **dict(chosen)}
            yield _rule.act(BACKEND, Priority.MATCH, taken, learn, *_connect(backend))
        yield _rule.act(BACKEND, Priority.FALLBACK, {**IPV4, BALANCED: group}, Group(group))

    def _parts(self, choice: _Choice) -> list[tuple[Backend, ...]]:
        return divide(choice.backends, GROUP_SIZE if self._service.affinity_s is None else AFFINITY_SIZE)


def divide(backends: tuple[Backend, ...], size: int) -> list[tuple[Backend, ...]]:
    """`backends` in a power of two of parts, none larger than `size`.

    Each backend has its own order of preference for the parts and goes to the first that has room, so one that comes
    or goes moves few others. A part that nobody prefers shares those of another.
    """
    if len(backends) <= size:
        return [backends]
    parts = 1
    while len(backends) > parts * size or (parts > 1 and len(backends) > parts * (size - 2)):
        parts *= 2
    divided: list[list[Backend]] = [[] for _ in range(parts)]
    for backend in backends:
        first = _hash(backend)
        # An odd step visits every part of a power of two.
        step = first >> 16 | 1
        order = ((first + step * attempt) % parts for attempt in range(parts))
        divided[next(part for part in order if len(divided[part]) < size)].append(backend)
    filled = [part for part in divided if part]
    return [tuple(part or filled[number % len(filled)]) for number, part in enumerate(divided)] if filled else [()]


def _balance(asked: dict[Field, tuple[int, int]], actions: tuple[Action, ...], goto: int | None) -> Flow:
    return Flow(BALANCE.number, Priority.MATCH, Match.masked(asked), actions, goto, Source.SERVICES)


def _connect(backend: Backend) -> tuple[Action, ...]:
    return (Track(SERVICE_ZONE, BALANCE.number, commit=True, nat=Nat(backend.address, backend.port)),)


def _buckets(backends: Iterable[Backend], actions: Callable[[Backend], tuple[Action, ...]]) -> tuple[Bucket, ...]:
    """A bucket for each backend, with a number of its own that it keeps whoever else comes or goes."""
    buckets: dict[int, Bucket] = {}
    for backend in backends:
        number = _hash(backend)
        while number in buckets:
            number += 1
        buckets[number] = Bucket(number, actions(backend), weight=1)
    return tuple(buckets[number] for number in sorted(buckets))


@lru_cache(maxsize=1 << 16)
def _hash(backend: Backend) -> int:
    """31 bits that look random and never change."""
    name = backend.address.packed + backend.port.to_bytes(2, "big")
    return int.from_bytes(blake2b(name, digest_size=4).digest(), "big") >> 1
