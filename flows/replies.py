"""The flows of one endpoint's address: what an endpoint sends may be an answer to a client of a Service.

What is sent to it by its own address is tracked too, or the answers to both could not be told from each other.

Such packets go through connection tracking on the node of the client, where the connection was translated, and get
the Service's address back as their source. A packet that belongs to no connection (somebody spoke to the endpoint by
its own address, or a connection is forgotten and this is its last RST) goes on as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass, replace
from ipaddress import IPv4Address, IPv4Network

from flows import fields
from flows.actions import Nat, Track
from flows.balancing import DESTINATION_PORT, FRAGMENT, IPV4, SOURCE_PORT
from flows.fields import Field
from flows.flow import Flow, FlowKey, Source
from flows.match import Match
from flows.openflow.messages import FlushConnections
from flows.rules import Rules, Words
from flows.service import Protocol
from flows.tables import (
    DELIVER,
    DIRECT,
    EGRESS,
    FORMER,
    NODE_PORT,
    REPLY,
    SERVICE_IN,
    SERVICE_ZONE,
    STEER,
    TURN_ADDRESS,
    TURN_ZONE,
    TURNED,
    Priority,
)

_ICMP = 1
_UNREACHABLE = 3
_ON_ITS_WAY = (
    fields.CT_TRACKED | fields.CT_DST_NAT,
    fields.CT_TRACKED | fields.CT_DST_NAT | fields.CT_REPLY,
)
"""In `fields.CT_STATE`: translated to its backend, and no answer (whose destination may be translated as well)."""
_rule = Rules(Source.SERVICES)

FORMER_IDLE_S = 8_100
"""How long a connection that goes on to a former endpoint may say nothing: longer than TCP's keepalive of two hours."""


@dataclass(frozen=True, slots=True, order=True)
class Answering:
    """A port that answers. `outside`: also clients outside the cluster, whose addresses it sees as they are."""

    protocol: Protocol
    port: int
    outside: bool = False


def steered_flows(address: IPv4Address, ports: Collection[Answering]) -> Iterator[Flow]:
    """The flows for what `address` sends from `ports`, where kube-proxy handles Services."""
    for protocol, port in sorted({(one.protocol, one.port) for one in ports}):
        answer: Words = {**IPV4, fields.IPV4_SRC: address, fields.IP_PROTO: protocol, SOURCE_PORT[protocol]: port}
        yield _rule.act(REPLY, Priority.MATCH, answer, Track(SERVICE_ZONE, STEER.number))
    fragment = Match.masked(
        {
            fields.ETH_TYPE: (0x0800, 0xFFFF),
            fields.IPV4_SRC: (int(address), 0xFFFFFFFF),
            fields.IP_FRAG: FRAGMENT,
        }
    )
    steered = (Track(SERVICE_ZONE, STEER.number),)
    yield Flow(REPLY.number, Priority.NETWORK, fragment, steered, None, Source.SERVICES)


def direct_flows(address: IPv4Address, ports: Collection[Answering], pods: IPv4Network) -> Iterator[Flow]:
    """The flows for what is sent to `ports` of `address` without a Service; `pods` is the network of all pods."""
    known = Track(SERVICE_ZONE, DIRECT.number, nat=Nat())
    # One that is no pod may be a node, where a NodePort comes first.
    tables = (SERVICE_IN,) if address in pods else (SERVICE_IN, NODE_PORT)
    for protocol, port in sorted({(one.protocol, one.port) for one in ports}):
        asked: Words = {**IPV4, fields.IPV4_DST: address, fields.IP_PROTO: protocol, DESTINATION_PORT[protocol]: port}
        for table in tables:
            yield _rule.act(table, Priority.NETWORK, asked, known)


def reply_flows(address: IPv4Address, ports: Collection[Answering], subnet: IPv4Network) -> Iterator[Flow]:
    """The flows for what `address` sends from `ports`; `subnet` is that of this node's pods."""
    back = Track(SERVICE_ZONE, DELIVER.number, nat=Nat())
    sender: Words = {**IPV4, fields.IPV4_SRC: address}
    for protocol, port in sorted({(one.protocol, one.port) for one in ports}):
        answer: Words = {**sender, fields.IP_PROTO: protocol, SOURCE_PORT[protocol]: port}
        yield _rule.act(REPLY, Priority.MATCH, answer, back)
    for one in sorted(ports):
        if one.outside and address in subnet:
            answer = {**sender, fields.IP_PROTO: one.protocol, SOURCE_PORT[one.protocol]: one.port}
            leave = Track(SERVICE_ZONE, TURNED.number, nat=Nat())
            yield _rule.act(EGRESS, Priority.ANSWER, answer, leave)
    refusal: Words = {**sender, fields.IP_PROTO: _ICMP, fields.ICMP_TYPE: _UNREACHABLE}
    yield _rule.act(REPLY, Priority.MATCH, refusal, back)
    said: dict[Field, tuple[int, int]] = {
        fields.ETH_TYPE: (0x0800, 0xFFFF),
        fields.IPV4_SRC: (int(address), 0xFFFFFFFF),
    }
    fragment = Match.masked({**said, fields.IP_FRAG: FRAGMENT})
    yield Flow(REPLY.number, Priority.NETWORK, fragment, (back,), None, Source.SERVICES)
    if address in subnet:
        # To itself by way of a Service: it would answer a packet from its own address without the switch.
        itself = {**said, fields.IPV4_DST: (int(address), 0xFFFFFFFF), fields.CT_STATE: _ON_ITS_WAY}
        turn = Track(TURN_ZONE, DELIVER.number, commit=True, nat=Nat(TURN_ADDRESS, source=True))
        yield Flow(REPLY.number, Priority.GUARD, Match.masked(itself), (turn,), None, Source.SERVICES)


@dataclass(frozen=True, slots=True)
class Place:
    """Where an endpoint answers."""

    protocol: Protocol
    address: IPv4Address
    port: int

    @property
    def forgetting(self) -> FlushConnections:
        """What makes the switch forget all connections to this place."""
        return FlushConnections(SERVICE_ZONE, self.protocol, self.address, self.port)


def place_of(key: FlowKey) -> Place | None:
    """The place whose answers the flow with `key` looks up; None for any other flow."""
    address, protocol = key.match.get(fields.IPV4_SRC), key.match.get(fields.IP_PROTO)
    if key.table != REPLY.number or address is None or protocol not in tuple(Protocol):
        return None
    port = key.match.get(SOURCE_PORT[Protocol(protocol)])
    return None if port is None else Place(Protocol(protocol), IPv4Address(address), port)


def former_flow(flow: Flow) -> Flow:
    """What looks up the answers of a place that is an endpoint's no more, as `flow` did while it was."""
    return replace(flow, table=FORMER.number)
