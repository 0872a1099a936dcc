"""The table map: every table of the pipeline, what it decides, and where a packet may go from there.

A packet enters at `classify` and moves only forward:

    classify -> tunnel_in -----------------> reply -> deliver
             -> host_in -> arp
                        -> service -> route -> reply -> deliver   a pod or the gateway of this node
             -> pod_in  -> arp           -> tunnel_out            a pod of another node
                        -> service       -> egress -> to_node     the outside; a node's address

    service [-> node_port] -> balance [-> affinity, backend] -> route   for a Service: tracked, then on as before
                                                              -> refuse
                           -> direct -> route                           for an endpoint's own address: tracked as well

The three `*_in` tables establish who sends, and leave the sender's VNI in `SOURCE_VNI`; nothing after them asks where
a packet came from, but for two loop guards. `deliver` alone decides about tenancy, on the node of the receiver.
Every table ends in an explicit drop, so that the switch counts drops table by table.

Numbers leave gaps: tables come and go without the others moving. `docs/pipeline.md` has a
section for each table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address, IPv4Network

from flows.fields import register

RULE_VERSION = 4
"""Version of the pipeline as a whole; raised with every change of its flows (the golden test insists)."""

VXLAN_PORT = 1
TUN_PORT = 2
FIRST_POD_PORT = 256

SOURCE_VNI = register(0)
"""Who sends: the VNI of the sending pod's namespace, 0 for a node or a global namespace. Set by every `*_in` table."""

ASKER = register(1)
"""The address that asks, while the `arp` table turns a request into its answer. Used nowhere else."""

SERVICE = register(2)
"""How a packet came to a Service, bits `BY_NODE_PORT` and `FROM_OUTSIDE`; 0 for all other packets."""

BY_NODE_PORT = 1
"""The packet is for a node's address and the port is a Service's."""
FROM_OUTSIDE = 2
"""The packet came in by `tun0` from an address outside the cluster: policies for the outside hold."""

CHOSEN_ADDRESS = register(3)
CHOSEN_PORT = register(4)
"""The backend that a client with session affinity had before; written by learned flows alone."""

BALANCED = register(5)
"""The group that chooses the backend, for Services with session affinity."""

VNI_BITS = 24

SERVICE_ZONE = 27448
"""The conntrack zone of connections to Services."""
TURNED_ROUND = 1
"""The mark of connections that the node's kube-proxy has translated, where it handles Services."""
TURN_ZONE = 27449
"""The conntrack zone of connections to Services that end where they begin: at the same pod, or at the node."""

NODE_PORT_ADDRESS = IPv4Address("169.254.77.2")
"""What the node's kernel makes of a node's own address when somebody outside asks for a NodePort."""
TURN_ADDRESS = IPv4Address("169.254.77.3")
"""Who a connection seems to come from if it ends where it begins: nobody answers an address of its own."""

SERVICE_ADDRESSES = IPv4Network("169.254.77.2/31")
"""Both: the node's kernel has a route to them, by `tun0`."""

REFUSED_MAC = 0x0A58_A9FE_4D04
"""The sender of packets that the node's kernel is to refuse."""

HOST_NEXT_HOP = IPv4Address("169.254.77.1")
"""The next hop of the node's own routes into the cluster: nobody's address, only a MAC to send to."""

NODE_LOCAL_DNS = IPv4Address("169.254.20.10")
"""Where NodeLocal DNSCache listens on the node, by its convention; pods ask there, each on its own node."""

UNROUTABLE = (
    IPv4Network("127.0.0.0/8"),  # loopback
    IPv4Network("169.254.0.0/16"),  # link-local, the node's own next hop and cloud metadata among it
    IPv4Network("224.0.0.0/3"),  # multicast, reserved, broadcast
)
"""Destinations that no packet is carried to."""

ARP_METER = 1
"""The meter that every ARP answer passes; it must exist before the flows are installed."""

ARP_RATE = 1000
"""Rate of `ARP_METER` in packets/s. Pods and `tun0` have permanent neighbours, so this serves the odd tool only."""


class Priority(IntEnum):
    """The ranks of flows within a table."""

    MISS = 0
    """The explicit drop at the end of every table."""
    FALLBACK = 100
    """What holds when nothing more specific is known."""
    NETWORK = 200
    """What holds for the cluster network as a whole."""
    MATCH = 300
    """The ordinary case: one port, address, subnet or VNI."""
    ANSWER = 350
    """Answers of endpoints, and fragments: what must not be taken for the ordinary case."""
    GUARD = 400
    """What must never get through, whatever else matches."""
    EXCEPTION = 450
    """What gets through although it lies in a range that a guard keeps out."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its number in the switch, its name, what it decides, and the only tables that it may go to."""

    number: int
    name: str
    decides: str
    next: tuple[Table, ...] = ()


# From the end to the beginning, as each names those that follow it.
TURNED = Table(
    110,
    "turned",
    "What leaves by tun0 after connection tracking: answers to the outside, connections of the node to itself.",
)
TO_NODE = Table(
    100,
    "to_node",
    "What a pod may send to the address of a node: anything but VXLAN, by which it could enter any tenant.",
)
EGRESS = Table(
    90,
    "egress",
    "Traffic of pods to the outside and to Services leaves through tun0, where the node routes and translates it.",
    (TO_NODE, TURNED),
)
TUNNEL_OUT = Table(
    80,
    "tunnel_out",
    "Which node has the destination's subnet; the packet goes there with the sender's VNI.",
)
DELIVER = Table(
    70,
    "deliver",
    "Whether the sender's VNI may reach the local pod (or the node's gateway) that the packet is for.",
)
STEER = Table(
    68,
    "steer",
    "Whether an answer is for a connection that the node's kube-proxy translated, and so has to pass it again.",
    (DELIVER,),
)
FORMER = Table(
    66,
    "former",
    "Whether it comes from where an endpoint was: connections that it had go on; these flows go when unused.",
    (STEER, DELIVER),
)
REPLY = Table(
    65,
    "reply",
    "Whether a packet for this node is an endpoint's, and so perhaps the answer to a Service's client.",
    (FORMER, STEER, DELIVER),
)
ROUTE = Table(
    60,
    "route",
    "Whether the destination is on this node, on another one, or outside the cluster.",
    (REPLY, TUNNEL_OUT, EGRESS),
)
REFUSE = Table(
    59,
    "refuse",
    "What no endpoint takes goes to the node's kernel with a mark that makes it answer no.",
)
BACKEND = Table(
    58,
    "backend",
    "Whether the endpoint that a client with session affinity had is still one; if not, it gets another.",
)
AFFINITY = Table(
    56,
    "affinity",
    "Which endpoint a client with session affinity had; the switch itself learns these flows.",
)
BALANCE = Table(
    54,
    "balance",
    "Which group of endpoints takes a new connection; packets of those that have one go on.",
    (BACKEND, REFUSE, ROUTE),
)
DIRECT = Table(
    53,
    "direct",
    "Whether somebody opens a connection to an endpoint's own address: its port must differ from those to Services.",
    (ROUTE,),
)
NODE_PORT = Table(
    52,
    "node_port",
    "Whether a packet for the address of a node is for a Service's NodePort.",
    (DIRECT, BALANCE, ROUTE),
)
SERVICE_IN = Table(
    50,
    "service",
    "Whether a packet is for a Service; such a packet goes through connection tracking.",
    (NODE_PORT, DIRECT, BALANCE, ROUTE, REPLY),
)
ARP = Table(
    40,
    "arp",
    "Answers ARP requests: the MAC address of every cluster address follows from the address.",
)
POD_IN = Table(
    30,
    "pod_in",
    "Whether a pod sends as itself (port, MAC and IP address), and with which VNI.",
    (ARP, SERVICE_IN),
)
HOST_IN = Table(
    20,
    "host_in",
    "With which VNI the node sends: 0 for itself, the pod's own for a local pod's packet that the node turned round.",
    (ARP, SERVICE_IN, ROUTE),
)
TUNNEL_IN = Table(
    10,
    "tunnel_in",
    "Whether a tunnelled packet comes from a known node; it carries the sender's VNI and is only ever delivered here.",
    (REPLY,),
)
CLASSIFY = Table(
    0,
    "classify",
    "Whether a packet comes out of the tunnel, from the node or from a pod; tagged frames and IPv6 end here.",
    (TUNNEL_IN, HOST_IN, POD_IN),
)

TABLES = (
    *(CLASSIFY, TUNNEL_IN, HOST_IN, POD_IN, ARP),
    *(SERVICE_IN, NODE_PORT, DIRECT, BALANCE, AFFINITY, BACKEND, REFUSE),
    *(ROUTE, REPLY, FORMER, STEER, DELIVER, TUNNEL_OUT, EGRESS, TO_NODE, TURNED),
)

UNCOUNTED = frozenset({AFFINITY.number, FORMER.number})
"""Tables whose flows come and go by themselves: nobody counts them, or misses one."""
