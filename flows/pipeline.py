"""The desired flows of a node: pure functions of what the node knows.

Each function returns the flows of one thing, with the source of the knowledge behind them; `flows.desired` puts them
together, and the agent compares the whole with the switch (`flows.diff`) and applies what differs.
`flows.tables` has the map of the tables, `docs/pipeline.md` the reasons.

Size: a pod costs 3 flows (4 where the switch handles Services) and one for each accepted VNI (two while a change is
under way) and for VNI 0; a node costs 3 (4); a pod elsewhere, or a VNI without a local pod, costs none.
"""

from __future__ import annotations

from collections.abc import Iterator
from ipaddress import IPv4Address

from flows import fields
from flows.actions import IN_PORT, CopyField, Meter, Output, SetField, Track
from flows.balancer import balancing_flows, direct_flow
from flows.flow import Flow, Source
from flows.match import Match
from flows.rules import Rules, Words
from flows.service import ServiceProxy
from flows.snapshot import VNI_GLOBAL, Attachment, Mode, Peer, Snapshot, mac_of
from flows.tables import (
    ARP,
    ARP_METER,
    ASKER,
    CLASSIFY,
    DELIVER,
    EGRESS,
    FORMER,
    FROM_OUTSIDE,
    HOST_IN,
    HOST_NEXT_HOP,
    NODE_LOCAL_DNS,
    NODE_PORT,
    POD_IN,
    REPLY,
    ROUTE,
    SERVICE,
    SERVICE_IN,
    SERVICE_ZONE,
    SOURCE_VNI,
    STEER,
    TABLES,
    TO_NODE,
    TUN_PORT,
    TUNNEL_IN,
    TUNNEL_OUT,
    TURNED_ROUND,
    UNROUTABLE,
    VNI_BITS,
    VXLAN_PORT,
    Priority,
)

_IPV4: Words = {fields.ETH_TYPE: 0x0800}
_ARP: Words = {fields.ETH_TYPE: 0x0806}
_UDP: Words = {**_IPV4, fields.IP_PROTO: 17}
_ARP_REQUEST = 1
_ARP_REPLY = 2

_FRAGMENT = 0
"""The port that a fragment seems to have, the first one included (ovs-ofctl(8), `set-frags normal`)."""

_NO_PORT = 0
"""Nobody's ofport. A packet that seems to come from there may leave by the port it really came in by (a pod calling
itself), which a plain output refuses."""

_AS_GLOBAL = SetField(SOURCE_VNI, VNI_GLOBAL)

_ARP_ANSWER = (
    Meter(ARP_METER),
    # Back to the asker, from the MAC address that belongs to what was asked: 0a:58 and the four bytes (`mac_of`).
    CopyField(fields.ETH_SRC, fields.ETH_DST, 48),
    CopyField(fields.ARP_SHA, fields.ARP_THA, 48),
    SetField(fields.ETH_SRC, mac_of(IPv4Address(0)), mask=0xFFFF_00000000),
    CopyField(fields.ARP_TPA, fields.ETH_SRC, 32),
    CopyField(fields.ETH_SRC, fields.ARP_SHA, 48),
    # The two IP addresses change places.
    CopyField(fields.ARP_SPA, ASKER, 32),
    CopyField(fields.ARP_TPA, fields.ARP_SPA, 32),
    CopyField(ASKER, fields.ARP_TPA, 32),
    SetField(fields.ARP_OP, _ARP_REPLY),
    Output(IN_PORT),
)


def pipeline_flows() -> Iterator[Flow]:
    """The flows that depend on nothing."""
    rule = Rules(Source.PIPELINE)
    for table in TABLES:
        yield rule.drop(table, Priority.MISS, {})

    tagged = Match.masked({fields.VLAN_VID: (fields.VLAN_PRESENT, fields.VLAN_PRESENT)})
    yield Flow(CLASSIFY.number, Priority.GUARD, tagged, (), None, Source.PIPELINE)
    # The userspace datapath ends tunnels at every address of the underlay's bridge.
    yield rule.drop(CLASSIFY, Priority.NETWORK, {fields.IN_PORT: VXLAN_PORT})
    yield rule.goto(CLASSIFY, Priority.MATCH, {fields.IN_PORT: TUN_PORT}, HOST_IN)
    yield rule.goto(CLASSIFY, Priority.FALLBACK, _IPV4, POD_IN)
    yield rule.goto(CLASSIFY, Priority.FALLBACK, _ARP, POD_IN)

    yield rule.goto(HOST_IN, Priority.MATCH, _ARP, ARP)
    outside = SetField(SERVICE, FROM_OUTSIDE)
    yield rule.goto(HOST_IN, Priority.FALLBACK, _IPV4, SERVICE_IN, _AS_GLOBAL, outside)
    yield rule.goto(SERVICE_IN, Priority.FALLBACK, _IPV4, ROUTE)
    yield rule.goto(REPLY, Priority.FALLBACK, _IPV4, FORMER)
    yield rule.goto(FORMER, Priority.FALLBACK, _IPV4, DELIVER)
    yield rule.goto(STEER, Priority.FALLBACK, _IPV4, DELIVER)
    for network in UNROUTABLE:
        yield rule.drop(ROUTE, Priority.GUARD, {**_IPV4, fields.IPV4_DST: network})
    yield rule.goto(ROUTE, Priority.EXCEPTION, {**_IPV4, fields.IPV4_DST: NODE_LOCAL_DNS}, EGRESS)
    yield rule.goto(ROUTE, Priority.FALLBACK, _IPV4, EGRESS)
    # What the node sent here and belongs nowhere must not go back to it: that would be a loop.
    looping = {fields.IN_PORT: (TUN_PORT, fields.IN_PORT.all_ones), fields.CT_STATE: (0, fields.CT_DST_NAT)}
    yield Flow(EGRESS.number, Priority.GUARD, Match.masked(looping), (), None, Source.PIPELINE)


def node_flows(snapshot: Snapshot) -> Iterator[Flow]:
    """The flows that follow from this node's own subnet and the configuration of the network."""
    rule = Rules(Source.NODE)
    node, cluster = snapshot.node, snapshot.cluster_network
    to_node = (SetField(fields.ETH_DST, mac_of(node.gateway)), Output(TUN_PORT))

    yield rule.goto(
        CLASSIFY, Priority.MATCH, {fields.IN_PORT: VXLAN_PORT, fields.TUN_IPV4_DST: node.address}, TUNNEL_IN
    )
    yield rule.goto(HOST_IN, Priority.MATCH, {**_IPV4, fields.IPV4_SRC: node.gateway}, SERVICE_IN, _AS_GLOBAL)
    # A packet of a pod that has just gone, or of another node's, must not pass for the node, who reaches everybody.
    yield rule.drop(HOST_IN, Priority.NETWORK, {**_IPV4, fields.IPV4_SRC: cluster})

    request = {**_ARP, fields.ARP_OP: _ARP_REQUEST}
    for asked in (cluster, snapshot.service_network):
        yield rule.act(ARP, Priority.MATCH, {**request, fields.ARP_TPA: asked}, *_ARP_ANSWER)
    next_hop = {**request, fields.IN_PORT: TUN_PORT, fields.ARP_TPA: HOST_NEXT_HOP}
    yield rule.act(ARP, Priority.MATCH, next_hop, *_ARP_ANSWER)

    yield rule.goto(ROUTE, Priority.MATCH, {**_IPV4, fields.IPV4_DST: node.subnet}, REPLY)
    yield rule.goto(ROUTE, Priority.NETWORK, {**_IPV4, fields.IPV4_DST: cluster}, TUNNEL_OUT)
    # Back by `tun0` too: the node's own connection to a Service that ends at the node.
    back = (SetField(fields.SETTABLE_IN_PORT, _NO_PORT), *to_node)
    yield rule.act(DELIVER, Priority.MATCH, {**_IPV4, fields.IPV4_DST: node.gateway}, *back)
    answer = fields.CT_TRACKED | fields.CT_REPLY
    turned = {fields.CT_STATE: (answer, answer), fields.CT_MARK: (TURNED_ROUND, 0xFFFFFFFF)}
    to_kube_proxy = Match.masked({**turned, fields.ETH_TYPE: (0x0800, 0xFFFF)})
    yield Flow(STEER.number, Priority.MATCH, to_kube_proxy, to_node, None, Source.NODE)

    yield rule.goto(EGRESS, Priority.MATCH, {**_IPV4, fields.IPV4_DST: node.address}, TO_NODE)
    yield rule.act(EGRESS, Priority.FALLBACK, _IPV4, *to_node)
    for port in (node.vxlan_port, _FRAGMENT):
        yield rule.drop(TO_NODE, Priority.GUARD, {**_UDP, fields.UDP_DST: port})
    yield rule.act(TO_NODE, Priority.FALLBACK, _IPV4, *to_node)
    if snapshot.service_proxy is ServiceProxy.OVS:
        yield from balancing_flows(snapshot)


def peer_flows(peer: Peer, proxy: ServiceProxy = ServiceProxy.KUBE_PROXY) -> Iterator[Flow]:
    """The flows for one other node."""
    rule = Rules(Source.PEERS)
    if proxy is ServiceProxy.OVS:
        yield rule.goto(SERVICE_IN, Priority.MATCH, {**_IPV4, fields.IPV4_DST: peer.address}, NODE_PORT)
    yield rule.goto(
        TUNNEL_IN,
        Priority.MATCH,
        {**_IPV4, fields.TUN_IPV4_SRC: peer.address},
        REPLY,
        CopyField(fields.TUNNEL_ID, SOURCE_VNI, VNI_BITS),
    )
    yield rule.act(
        TUNNEL_OUT,
        Priority.MATCH,
        {**_IPV4, fields.IPV4_DST: peer.subnet},
        CopyField(SOURCE_VNI, fields.TUNNEL_ID, VNI_BITS),
        SetField(fields.TUN_IPV4_DST, int(peer.address)),
        Output(VXLAN_PORT),
    )
    yield rule.goto(EGRESS, Priority.MATCH, {**_IPV4, fields.IPV4_DST: peer.address}, TO_NODE)


def pod_flows(pod: Attachment, mode: Mode, proxy: ServiceProxy = ServiceProxy.KUBE_PROXY) -> Iterator[Flow]:
    """The flows for one local pod."""
    rule = Rules(Source.ATTACHMENTS)
    mac = mac_of(pod.address)
    sends = SetField(SOURCE_VNI, VNI_GLOBAL if mode is Mode.SUBNET else pod.tenancy.send)

    honest = {fields.IN_PORT: pod.ofport, fields.ETH_SRC: mac}
    honest_ip = {**honest, **_IPV4, fields.IPV4_SRC: pod.address}
    honest_arp = {**honest, **_ARP, fields.ARP_SPA: pod.address, fields.ARP_SHA: mac}
    yield rule.goto(POD_IN, Priority.MATCH, honest_ip, SERVICE_IN, sends)
    yield rule.goto(POD_IN, Priority.MATCH, honest_arp, ARP)
    # Service traffic that the node's kube-proxy has turned round is still the pod's; answers have to pass there too.
    own = {**_IPV4, fields.IPV4_SRC: pod.address}
    if proxy is ServiceProxy.KUBE_PROXY:
        remember = Track(SERVICE_ZONE, ROUTE.number, commit=True, mark=TURNED_ROUND)
        yield rule.act(HOST_IN, Priority.MATCH, own, sends, remember)
    else:
        yield rule.goto(HOST_IN, Priority.MATCH, own, SERVICE_IN, sends)
        yield direct_flow(pod.address, Source.ATTACHMENTS)

    for sender in _accepted(pod, mode):
        yield rule.act(
            DELIVER,
            Priority.MATCH,
            {**sender, **_IPV4, fields.IPV4_DST: pod.address},
            SetField(fields.ETH_DST, mac),
            SetField(fields.SETTABLE_IN_PORT, _NO_PORT),
            Output(pod.ofport),
        )


def _accepted(pod: Attachment, mode: Mode) -> Iterator[Words]:
    """What to match, beside the pod's address, for each sender that may reach the pod."""
    if mode is Mode.SUBNET or VNI_GLOBAL in pod.tenancy.accept:
        yield {}
        return
    for vni in sorted({VNI_GLOBAL, *pod.tenancy.accept}):
        yield {SOURCE_VNI: vni}
