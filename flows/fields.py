"""The header, metadata and register fields that our flows match and set.

Numbers are those of OpenFlow 1.5.1, section 7.2.3 (class 0x8000) and of Nicira's extensions (classes 0 and 1,
`ovs-fields(7)`), which Open vSwitch speaks in every OpenFlow version.
"""

from __future__ import annotations

from dataclasses import dataclass, field

OPENFLOW_BASIC = 0x8000
NICIRA_0 = 0x0000
NICIRA_1 = 0x0001


@dataclass(frozen=True, slots=True, order=True)
class Field:
    """One field: where the OXM encoding puts it and how wide it is.

    Ordering (class, then number) is the order in which a match lists its fields.
    """

    oxm_class: int
    number: int
    name: str
    bits: int
    _hash: int = field(init=False, repr=False, compare=False)
    """Every match is made of fields, by the hundred thousand; their hash is computed once."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.oxm_class, self.number, self.bits)))

    def __hash__(self) -> int:
        return self._hash

    @property
    def size(self) -> int:
        """Width on the wire, in bytes."""
        return (self.bits + 7) // 8

    @property
    def all_ones(self) -> int:
        """The mask that matches every bit."""
        return (1 << self.bits) - 1


IN_PORT = Field(OPENFLOW_BASIC, 0, "in_port", 32)
ETH_DST = Field(OPENFLOW_BASIC, 3, "eth_dst", 48)
ETH_SRC = Field(OPENFLOW_BASIC, 4, "eth_src", 48)
ETH_TYPE = Field(OPENFLOW_BASIC, 5, "eth_type", 16)
VLAN_VID = Field(OPENFLOW_BASIC, 6, "vlan_vid", 13)  # bit 12 (VLAN_PRESENT) says that the frame has a tag at all
IP_PROTO = Field(OPENFLOW_BASIC, 10, "nw_proto", 8)
IPV4_SRC = Field(OPENFLOW_BASIC, 11, "nw_src", 32)
IPV4_DST = Field(OPENFLOW_BASIC, 12, "nw_dst", 32)
TCP_SRC = Field(OPENFLOW_BASIC, 13, "tcp_src", 16)
TCP_DST = Field(OPENFLOW_BASIC, 14, "tcp_dst", 16)
UDP_SRC = Field(OPENFLOW_BASIC, 15, "udp_src", 16)
UDP_DST = Field(OPENFLOW_BASIC, 16, "udp_dst", 16)
SCTP_SRC = Field(OPENFLOW_BASIC, 17, "sctp_src", 16)
SCTP_DST = Field(OPENFLOW_BASIC, 18, "sctp_dst", 16)
ICMP_TYPE = Field(OPENFLOW_BASIC, 19, "icmp_type", 8)
ARP_OP = Field(OPENFLOW_BASIC, 21, "arp_op", 16)
ARP_SPA = Field(OPENFLOW_BASIC, 22, "arp_spa", 32)
ARP_TPA = Field(OPENFLOW_BASIC, 23, "arp_tpa", 32)
ARP_SHA = Field(OPENFLOW_BASIC, 24, "arp_sha", 48)
ARP_THA = Field(OPENFLOW_BASIC, 25, "arp_tha", 48)
TUNNEL_ID = Field(OPENFLOW_BASIC, 38, "tun_id", 64)
TUN_IPV4_SRC = Field(NICIRA_1, 31, "tun_src", 32)
TUN_IPV4_DST = Field(NICIRA_1, 32, "tun_dst", 32)
IP_FRAG = Field(NICIRA_1, 26, "ip_frag", 8)  # bit 0: a fragment, the first one included; bit 1: a later one
CT_STATE = Field(NICIRA_1, 105, "ct_state", 32)
CT_MARK = Field(NICIRA_1, 107, "ct_mark", 32)
CT_NW_PROTO = Field(NICIRA_1, 119, "ct_nw_proto", 8)
CT_TP_DST = Field(NICIRA_1, 125, "ct_tp_dst", 16)

SETTABLE_IN_PORT = Field(NICIRA_0, 0, "in_port", 16)  # Open vSwitch refuses to set IN_PORT itself (BAD_SET_ARGUMENT)

VLAN_PRESENT = 0x1000  # OFPVID_PRESENT

# Bits of CT_STATE (ovs-fields(7)).
CT_NEW = 0x01
CT_ESTABLISHED = 0x02
CT_REPLY = 0x08
CT_INVALID = 0x10
CT_TRACKED = 0x20
CT_DST_NAT = 0x80


def register(number: int) -> Field:
    """Register `number` (0-15) of Open vSwitch, 32 bits; give it a name in `flows.tables` before using it."""
    return Field(NICIRA_1, number, f"reg{number}", 32)
