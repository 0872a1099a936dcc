"""The flows of one endpoint's address: what an endpoint sends may be an answer to a client of a Service.

Such packets go through connection tracking on the node of the client, where the connection was translated, and get
the Service's address back as their source. A packet that belongs to no connection (somebody spoke to the endpoint by
its own address, or a connection is forgotten and this is its last RST) goes on as it is.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from flows import fields
from flows.actions import Nat, Track
from flows.balancing import FRAGMENT, IPV4, SOURCE_PORT
from flows.fields import Field
from flows.flow import Flow, FlowKey, Source
from flows.match import Match
from flows.openflow.messages import FlushConnections
from flows.rules import Rules, Words
from flows.service import Protocol
from flows.tables import DELIVER, EGRESS, REPLY, SERVICE_ZONE, STEER, TURN_ADDRESS, TURN_ZONE, TURNED, Priority

_ICMP = 1
_UNREACHABLE = 3
_ON_ITS_WAY = (
    fields.CT_TRACKED | fields.CT_DST_NAT,
    fields.CT_TRACKED | fields.CT_DST_NAT | fields.CT_REPLY,
)
"""In `fields.CT_STATE`: translated to its backend, and no answer (whose destination may be translated as well)."""
_rule = Rules(Source.SERVICES)


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


def silenced(key: FlowKey) -> FlushConnections | None:
    """What to forget when the flow with `key` is gone: connections to an endpoint that answers no more."""
    address, protocol = key.match.get(fields.IPV4_SRC), key.match.get(fields.IP_PROTO)
    if key.table != REPLY.number or address is None or protocol not in tuple(Protocol):
        return None
    port = key.match.get(SOURCE_PORT[Protocol(protocol)])
    return None if port is None else FlushConnections(SERVICE_ZONE, protocol, IPv4Address(address), port)
