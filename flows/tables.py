"""The table map: every table of the pipeline, what it decides, and where a packet may go from there.

A packet enters at `classify` and moves only forward:

    classify -> tunnel_in -------------------------> deliver
             -> host_in -> arp
                        -> route --> deliver             a pod or the gateway of this node
             -> pod_in  -> arp   --> tunnel_out          a pod of another node
                        -> route --> egress -> to_node   the outside and Services; a node's address

The three `*_in` tables establish who sends, and leave the sender's VNI in `SOURCE_VNI`; nothing after them asks where
a packet came from, but for two loop guards. `deliver` alone decides about tenancy, on the node of the receiver.
Every table ends in an explicit drop, so that the switch counts drops table by table.

Numbers leave gaps: tables come and go without the others moving (50 is kept for Services). `docs/pipeline.md` has a
section for each table.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from ipaddress import IPv4Address

from flows.fields import register

RULE_VERSION = 1
"""Version of the pipeline as a whole; raised with every change of its flows (the golden test insists)."""

VXLAN_PORT = 1
TUN_PORT = 2
FIRST_POD_PORT = 256

SOURCE_VNI = register(0)
"""Who sends: the VNI of the sending pod's namespace, 0 for a node or a global namespace. Set by every `*_in` table."""

ASKER = register(1)
"""The address that asks, while the `arp` table turns a request into its answer. Used nowhere else."""

VNI_BITS = 24

HOST_NEXT_HOP = IPv4Address("169.254.77.1")
"""The next hop of the node's own routes into the cluster: nobody's address, only a MAC to send to."""

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
    GUARD = 400
    """What must never get through, whatever else matches."""


@dataclass(frozen=True, slots=True)
class Table:
    """One table: its number in the switch, its name, what it decides, and the only tables that it may go to."""

    number: int
    name: str
    decides: str
    next: tuple[Table, ...] = ()


# From the end to the beginning, as each names those that follow it.
TO_NODE = Table(
    100,
    "to_node",
    "What a pod may send to the address of a node: anything but VXLAN, by which it could enter any tenant.",
)
EGRESS = Table(
    90,
    "egress",
    "Traffic of pods to the outside and to Services leaves through tun0, where the node routes and translates it.",
    (TO_NODE,),
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
ROUTE = Table(
    60,
    "route",
    "Whether the destination is on this node, on another one, or outside the cluster.",
    (DELIVER, TUNNEL_OUT, EGRESS),
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
    (ARP, ROUTE),
)
HOST_IN = Table(
    20,
    "host_in",
    "With which VNI the node sends: 0 for itself, the pod's own for a local pod's packet that the node turned round.",
    (ARP, ROUTE),
)
TUNNEL_IN = Table(
    10,
    "tunnel_in",
    "Whether a tunnelled packet comes from a known node; it carries the sender's VNI and is only ever delivered here.",
    (DELIVER,),
)
CLASSIFY = Table(
    0,
    "classify",
    "Whether a packet comes out of the tunnel, from the node or from a pod; tagged frames and IPv6 end here.",
    (TUNNEL_IN, HOST_IN, POD_IN),
)

TABLES = (CLASSIFY, TUNNEL_IN, HOST_IN, POD_IN, ARP, ROUTE, DELIVER, TUNNEL_OUT, EGRESS, TO_NODE)
