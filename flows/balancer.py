"""The flows by which the switch itself handles Services, as far as they do not depend on any Service."""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from flows import fields
from flows.actions import Nat, Output, SetField, Track
from flows.balancing import FRAGMENT, IPV4, TRACKED
from flows.flow import Flow, Source
from flows.match import Match
from flows.rules import Rules
from flows.snapshot import Snapshot, mac_of
from flows.tables import (
    BALANCE,
    BY_NODE_PORT,
    DIRECT,
    EGRESS,
    NODE_PORT,
    NODE_PORT_ADDRESS,
    REFUSE,
    REFUSED_MAC,
    REPLY,
    ROUTE,
    SERVICE,
    SERVICE_IN,
    SERVICE_ZONE,
    TUN_PORT,
    TURN_ADDRESS,
    TURN_ZONE,
    TURNED,
    Priority,
)

_NO_PORT = 0
_NEW = (fields.CT_TRACKED | fields.CT_NEW, fields.CT_TRACKED | fields.CT_NEW | fields.CT_INVALID)
_TRANSLATED = fields.CT_TRACKED | fields.CT_DST_NAT


def balancing_flows(snapshot: Snapshot) -> Iterator[Flow]:
    """The way to the Services, and out of them for what nobody takes or what ends where it began."""
    rule = Rules(Source.NODE)
    node, network = snapshot.node, snapshot.service_network
    # Also back by `tun0`, which a plain output refuses.
    to_node = (
        SetField(fields.ETH_DST, mac_of(node.gateway)),
        SetField(fields.SETTABLE_IN_PORT, _NO_PORT),
        Output(TUN_PORT),
    )
    yield rule.act(SERVICE_IN, Priority.MATCH, {**IPV4, fields.IPV4_DST: network}, TRACKED)
    for address in (node.address, NODE_PORT_ADDRESS):
        yield rule.goto(SERVICE_IN, Priority.MATCH, {**IPV4, fields.IPV4_DST: address}, NODE_PORT)
    turned_back = Track(TURN_ZONE, REPLY.number, nat=Nat())
    yield rule.act(SERVICE_IN, Priority.MATCH, {**IPV4, fields.IPV4_DST: TURN_ADDRESS}, turned_back)

    fragment = Match.masked({fields.ETH_TYPE: (0x0800, 0xFFFF), fields.IP_FRAG: FRAGMENT})
    by_node_port = (SetField(SERVICE, BY_NODE_PORT, BY_NODE_PORT), TRACKED)
    yield Flow(NODE_PORT.number, Priority.ANSWER, fragment, by_node_port, None, Source.NODE)
    yield rule.goto(NODE_PORT, Priority.FALLBACK, IPV4, ROUTE)

    # No Service has this port, or none this address: an answer is better than a silence.
    yield rule.goto(BALANCE, Priority.NETWORK, {**IPV4, fields.IPV4_DST: network}, REFUSE)
    yield rule.goto(BALANCE, Priority.FALLBACK, IPV4, ROUTE)
    yield rule.act(REFUSE, Priority.FALLBACK, IPV4, SetField(fields.ETH_SRC, REFUSED_MAC), *to_node)

    yield direct_flow(node.gateway, Source.NODE)
    yield rule.goto(DIRECT, Priority.FALLBACK, IPV4, ROUTE)

    # The node's own connection to an endpoint at a node, this one or (by the node's kernel) another.
    own = Match.masked(
        {
            fields.IN_PORT: (TUN_PORT, fields.IN_PORT.all_ones),
            fields.CT_STATE: (_TRANSLATED, _TRANSLATED),
            fields.ETH_TYPE: (0x0800, 0xFFFF),
        }
    )
    turn = Track(TURN_ZONE, TURNED.number, commit=True, nat=Nat(TURN_ADDRESS, source=True))
    yield Flow(EGRESS.number, Priority.GUARD, own, (turn,), None, Source.NODE)
    yield rule.act(TURNED, Priority.FALLBACK, IPV4, *to_node)


def direct_flow(client: IPv4Address, source: Source) -> Flow:
    """What remembers a connection that `client` opens to the own address of an endpoint.

    An answer tells nothing but the endpoint's address and the client's port. A client that has both a connection to
    the endpoint and one by way of a Service would have both from the same port, if it picks it twice, as it may; so
    the later one is given another port on its way. Like this the source stays, and so does its port if it is free.
    """
    opened = Match.masked(
        {
            fields.CT_STATE: _NEW,
            fields.ETH_TYPE: (0x0800, 0xFFFF),
            fields.IPV4_SRC: (int(client), 0xFFFFFFFF),
        }
    )
    remember = Track(SERVICE_ZONE, ROUTE.number, commit=True, nat=Nat(client, source=True))
    return Flow(DIRECT.number, Priority.MATCH, opened, (remember,), None, source)
