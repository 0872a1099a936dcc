"""Route netlink with types: requests as values, many of them in one send, answers as frozen dataclasses.

The few messages that are needed are packed and read here. The sockets block, because the kernel does the whole work of
a request inside the send (20 ms for the deletion of a veth): callers run in worker threads, off the event loop.
rtnetlink(7), RFC 3549; linux/if_link.h, if_addr.h, rtnetlink.h, neighbour.h.
"""

from __future__ import annotations

import errno
import os
import socket
import struct
import sys
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from types import TracebackType

NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP_INTR = 0x1, 0x4, 0x10
NLM_F_REPLACE, NLM_F_EXCL, NLM_F_CREATE, NLM_F_DUMP = 0x100, 0x200, 0x400, 0x300
RTM_NEWLINK, RTM_DELLINK, RTM_GETLINK, RTM_SETLINK = 16, 17, 18, 19
RTM_NEWADDR, RTM_DELADDR, RTM_GETADDR = 20, 21, 22
RTM_NEWROUTE, RTM_DELROUTE, RTM_GETROUTE = 24, 25, 26
RTM_NEWNEIGH, RTM_DELNEIGH, RTM_GETNEIGH = 28, 29, 30
RTM_NEWQDISC, RTM_DELQDISC = 36, 37
RTM_NEWTFILTER, RTM_DELTFILTER = 44, 45
GROUP_LINK, GROUP_NEIGHBOUR, GROUP_TC, GROUP_IPV4_ADDRESS, GROUP_IPV4_ROUTE = 1, 3, 4, 5, 7

IFF_UP, IFF_PROMISC = 0x1, 0x100
IFA_F_PERMANENT, IFA_F_NOPREFIXROUTE = 0x80, 0x200
RT_TABLE_UNSPEC, RT_TABLE_MAIN, RTN_UNICAST, RTNH_F_ONLINK = 0, 254, 1, 4
SCOPE_UNIVERSE, SCOPE_LINK = 0, 253
NUD_PERMANENT = 0x80

ROUTE_PROTOCOL = 0x6B
"""Marks the routes that are ours (rtm_protocol; 0x6b is free in /etc/iproute2/rt_protos)."""

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")
_ERROR_HEADER, _LINK_HEADER, _ROUTE_HEADER = 2 * _HEADER.size + 4, _HEADER.size + 16, _HEADER.size + 12
_IFINFOMSG, _IFADDRMSG = struct.Struct("=BxHiII"), struct.Struct("=BBBBI")
_RTMSG, _NDMSG = struct.Struct("=8BI"), struct.Struct("=BxxxiHBB")
_ATTRIBUTE, _U32 = struct.Struct("=HH"), struct.Struct("=I")
_NLMSGERR_ATTR_MSG = 1
_IFLA_ADDRESS, _IFLA_IFNAME, _IFLA_MTU, _IFLA_LINKINFO, _IFLA_GROUP, _IFLA_NET_NS_FD = 1, 3, 4, 18, 27, 28
_IFLA_INFO_KIND, _IFLA_INFO_DATA, _VETH_INFO_PEER, _IFLA_VXLAN_PORT = 1, 2, 1, 15
_IFA_ADDRESS, _IFA_LOCAL, _IFA_FLAGS = 1, 2, 8
_RTA_DST, _RTA_OIF, _RTA_GATEWAY, _RTA_PREFSRC, _RTA_TABLE = 1, 4, 5, 7, 15
_NDA_DST, _NDA_LLADDR, _NDA_IFINDEX = 1, 2, 8
_INDEXED = (
    *(RTM_NEWLINK, RTM_DELLINK, RTM_NEWADDR, RTM_DELADDR),
    *(RTM_NEWNEIGH, RTM_DELNEIGH, RTM_NEWQDISC, RTM_DELQDISC, RTM_NEWTFILTER, RTM_DELTFILTER),
)
"""Messages whose fixed part has the index of the device in its second four bytes."""
_DEADLINE_S = 30.0
_BUFFER = 1 << 20


class NetlinkError(OSError):
    """The kernel refused a request: `errno`, and what was asked in `purpose`."""

    def __init__(self, number: int, purpose: str, detail: str) -> None:
        super().__init__(number, f"{purpose}: {detail or os.strerror(number)}")
        self.purpose = purpose


@dataclass(frozen=True, slots=True)
class Request:
    """One encoded message. `tolerated` errors (errno) count as success; `purpose` is for people."""

    purpose: str
    data: bytes
    tolerated: frozenset[int] = frozenset()


@dataclass(frozen=True, slots=True)
class VethEnd:
    """One end of a veth pair; `netns` is the descriptor of the namespace it is born in, None for the caller's."""

    name: str
    mac: str
    mtu: int
    netns: int | None = None
    promiscuous: bool = False


@dataclass(frozen=True, slots=True)
class Link:
    """A network device."""

    index: int
    name: str
    mtu: int
    up: bool
    mac: str | None


@dataclass(frozen=True, slots=True)
class LinkDetail:
    """A device, its kind (empty for hardware), and the UDP port if that is vxlan."""

    link: Link
    kind: str
    vxlan_port: int | None


@dataclass(frozen=True, slots=True)
class Address:
    """An IPv4 address on a device."""

    index: int
    address: IPv4Address
    prefix_length: int
    flags: int


@dataclass(frozen=True, slots=True)
class Route:
    """An IPv4 unicast route. Without `gateway` the destination is on the link."""

    destination: IPv4Network
    index: int
    gateway: IPv4Address | None = None
    source: IPv4Address | None = None
    onlink: bool = False
    protocol: int = ROUTE_PROTOCOL
    table: int = RT_TABLE_MAIN


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An entry of the kernel's ARP table."""

    index: int
    address: IPv4Address
    mac: str | None
    state: int


@dataclass(frozen=True, slots=True)
class Event:
    """The kernel's word that something (`kind`) changed: device `index` itself, or what belongs to it.

    Only a message about the device itself carries its name.
    """

    kind: int
    index: int
    name: str | None = None


def create_veth(near: VethEnd, far: VethEnd) -> Request:
    """A veth pair, both ends born where they stay (moving one costs the kernel ten times as much), both down."""
    data = _packed(_VETH_INFO_PEER, _veth(far))
    kind = _packed(_IFLA_INFO_KIND, b"veth") + _packed(_IFLA_INFO_DATA, data)
    message = _veth(near) + _packed(_IFLA_LINKINFO, kind)
    return _request(f"create veth {near.name}, {far.name}", message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def _veth(end: VethEnd) -> bytes:
    flags = IFF_PROMISC if end.promiscuous else 0
    named = _packed(_IFLA_IFNAME, _name(end.name)) + _packed(_IFLA_ADDRESS, _mac(end.mac))
    netns = b"" if end.netns is None else _packed(_IFLA_NET_NS_FD, _U32.pack(end.netns))
    return _link_message(flags, flags) + named + _packed(_IFLA_MTU, _U32.pack(end.mtu)) + netns


def create_ifb(name: str, mtu: int) -> Request:
    """An intermediate functional block: what is redirected to it passes its qdisc, and goes on where it came from.

    Up at once; one that exists is no error.
    """
    named = _packed(_IFLA_IFNAME, _name(name)) + _packed(_IFLA_MTU, _U32.pack(mtu))
    message = _link_message(IFF_UP, IFF_UP) + named + _packed(_IFLA_LINKINFO, _packed(_IFLA_INFO_KIND, b"ifb"))
    return _request(f"create ifb {name}", message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, (errno.EEXIST,))


def set_link(
    name: str, *, mtu: int | None = None, group: int | None = None, mac: str | None = None, up: bool = False
) -> Request:
    """Change a device; a device that is gone is an error for all but a change of group."""
    flags = IFF_UP if up else 0
    message = _link_message(flags, flags) + _packed(_IFLA_IFNAME, _name(name))
    if mtu is not None:
        message += _packed(_IFLA_MTU, _U32.pack(mtu))
    if mac is not None:
        message += _packed(_IFLA_ADDRESS, _mac(mac))
    if group is not None:
        message += _packed(_IFLA_GROUP, _U32.pack(group))
    return _request(f"set link {name}", message, RTM_SETLINK, tolerated=() if group is None else (errno.ENODEV,))


def delete_link(name: str) -> Request:
    """Delete a device; one that is gone is no error."""
    message = _link_message() + _packed(_IFLA_IFNAME, _name(name))
    return _request(f"delete link {name}", message, RTM_DELLINK, tolerated=(errno.ENODEV,))


def delete_group(group: int) -> Request:
    """Delete every device of link group `group` at once; an empty group is no error."""
    message = _link_message() + _packed(_IFLA_GROUP, _U32.pack(group))
    return _request(f"delete link group {group}", message, RTM_DELLINK, tolerated=(errno.ENODEV,))


def add_address(index: int, address: IPv4Address, prefix_length: int) -> Request:
    """An address that brings no route of its own."""
    flags = _packed(_IFA_FLAGS, _U32.pack(IFA_F_PERMANENT | IFA_F_NOPREFIXROUTE))
    message = _address_message(index, address, prefix_length) + flags
    return _request(f"add address {address}/{prefix_length}", message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)


def delete_address(address: Address) -> Request:
    """Remove an address; one that is gone is no error."""
    message = _address_message(address.index, address.address, address.prefix_length)
    return _request(f"delete address {address.address}", message, RTM_DELADDR, tolerated=(errno.EADDRNOTAVAIL,))


def _address_message(index: int, address: IPv4Address, prefix_length: int) -> bytes:
    attributes = _packed(_IFA_LOCAL, address.packed) + _packed(_IFA_ADDRESS, address.packed)
    return _IFADDRMSG.pack(socket.AF_INET, prefix_length, 0, SCOPE_UNIVERSE, index) + attributes


def add_route(route: Route) -> Request:
    """A route to a destination that has none in this table (at metric 0); one that has keeps it."""
    flags = NLM_F_CREATE | NLM_F_EXCL
    return _request(f"route {route.destination}", _route_message(route), RTM_NEWROUTE, flags, (errno.EEXIST,))


def replace_route(route: Route) -> Request:
    """Set the route to a destination in its table, whatever it was (at metric 0) before."""
    return _request(f"route {route.destination}", _route_message(route), RTM_NEWROUTE, NLM_F_CREATE | NLM_F_REPLACE)


def delete_route(route: Route) -> Request:
    """Remove a route; one that is gone is no error."""
    message = _route_message(route)
    return _request(f"delete route {route.destination}", message, RTM_DELROUTE, tolerated=(errno.ESRCH,))


def _route_message(route: Route) -> bytes:
    scope, length = SCOPE_UNIVERSE if route.gateway else SCOPE_LINK, route.destination.prefixlen
    table = route.table if route.table < 256 else RT_TABLE_UNSPEC
    head = (socket.AF_INET, length, 0, 0, table, route.protocol, scope, RTN_UNICAST)
    message = _RTMSG.pack(*head, RTNH_F_ONLINK if route.onlink else 0)
    message += _packed(_RTA_OIF, _U32.pack(route.index)) + _packed(_RTA_TABLE, _U32.pack(route.table))
    if length:
        message += _packed(_RTA_DST, route.destination.network_address.packed)
    if route.gateway:
        message += _packed(_RTA_GATEWAY, route.gateway.packed)
    if route.source:
        message += _packed(_RTA_PREFSRC, route.source.packed)
    return message


def permanent_neighbour(index: int, address: IPv4Address, mac: str) -> Request:
    """An ARP entry that never ages and is never asked for."""
    attributes = _packed(_NDA_DST, address.packed) + _packed(_NDA_LLADDR, _mac(mac))
    message = _NDMSG.pack(socket.AF_INET, index, NUD_PERMANENT, 0, 0) + attributes
    return _request(f"neighbour {address}", message, RTM_NEWNEIGH, NLM_F_CREATE | NLM_F_REPLACE)


class Netlink:
    """A blocking route netlink socket; every call has a deadline."""

    def __init__(self, sock: socket.socket | None = None) -> None:
        self._socket = sock or route_socket()
        self._socket.settimeout(_DEADLINE_S)
        self._sequence = 0

    def __enter__(self) -> Netlink:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._socket.close()

    def execute(self, requests: Sequence[Request]) -> frozenset[Request]:
        """Have the kernel carry out `requests` in order, all sent at once; those that it refused, which is tolerated.

        The kernel goes on after an error; the first that is not tolerated is raised as NetlinkError at the end.
        """
        tolerated: set[Request] = set()
        pending: dict[int, Request] = {}
        for request in requests:
            self._sequence += 1
            pending[self._sequence] = request
        self._socket.send(b"".join(_numbered(request, number) for number, request in pending.items()))
        failure: NetlinkError | None = None
        while pending:
            for kind, _, sequence, payload in _messages(self._socket.recv(_BUFFER)):
                if kind != NLMSG_ERROR or sequence not in pending:
                    continue
                request = pending.pop(sequence)
                number, detail = _error(payload)
                if number in request.tolerated:
                    tolerated.add(request)
                elif number and failure is None:
                    failure = NetlinkError(number, request.purpose, detail)
        if failure:
            raise failure
        return frozenset(tolerated)

    def link(self, name: str) -> Link | None:
        """The device `name`, or None."""
        message = _link_message() + _packed(_IFLA_IFNAME, _name(name))
        try:
            found = self._ask(_encoded(message, RTM_GETLINK, NLM_F_REQUEST), f"look up link {name}")
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return next((_link(payload) for kind, payload in found if kind == RTM_NEWLINK), None)

    def addresses(self, index: int = 0) -> tuple[Address, ...]:
        """The IPv4 addresses of device `index`, or of all devices."""
        message = _IFADDRMSG.pack(socket.AF_INET, 0, 0, 0, index)
        found = self._ask(_encoded(message, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP), "list addresses")
        addresses = (_address(payload) for kind, payload in found if kind == RTM_NEWADDR)
        return tuple(address for address in addresses if index in (0, address.index))

    def routes(self, index: int) -> tuple[Route, ...]:
        """The IPv4 unicast routes of the main table that leave by device `index`."""
        wanted = _packed(_RTA_OIF, _U32.pack(index)) + _packed(_RTA_TABLE, _U32.pack(RT_TABLE_MAIN))
        message = _RTMSG.pack(socket.AF_INET, 0, 0, 0, RT_TABLE_MAIN, 0, 0, 0, 0) + wanted
        found = self._ask(_encoded(message, RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP), "list routes")
        routes = (_route(payload) for kind, payload in found if kind == RTM_NEWROUTE)
        return tuple(route for route in routes if route is not None and route.index == index)

    def route_to(self, address: IPv4Address) -> Route | None:
        """The route that a packet from here to `address` takes; None if there is none."""
        message = _RTMSG.pack(socket.AF_INET, 32, 0, 0, 0, 0, 0, 0, 0) + _packed(_RTA_DST, address.packed)
        try:
            found = self._ask(_encoded(message, RTM_GETROUTE, NLM_F_REQUEST), f"look up the route to {address}")
        except NetlinkError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                return None
            raise
        return next((_route(payload, any_table=True) for kind, payload in found if kind == RTM_NEWROUTE), None)

    def neighbours(self, index: int) -> tuple[Neighbour, ...]:
        """The IPv4 neighbours on device `index`."""
        message = _NDMSG.pack(socket.AF_INET, 0, 0, 0, 0) + _packed(_NDA_IFINDEX, _U32.pack(index))
        found = self._ask(_encoded(message, RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP), "list neighbours")
        neighbours = (_neighbour(payload) for kind, payload in found if kind == RTM_NEWNEIGH)
        return tuple(neighbour for neighbour in neighbours if neighbour.index == index)

    def devices(self) -> tuple[LinkDetail, ...]:
        """All devices, with what kind of device each is."""
        found = self._ask(_encoded(_link_message(), RTM_GETLINK, NLM_F_REQUEST | NLM_F_DUMP), "list devices")
        return tuple(_detail(message) for kind, message in found if kind == RTM_NEWLINK)

    def dump(self, question: Request, kind: int) -> list[bytes]:
        """The messages of type `kind` that answer a question put by another module."""
        return [message for found, message in self._ask(question.data, question.purpose) if found == kind]

    def _ask(self, data: bytes, purpose: str) -> list[tuple[int, bytes]]:
        """Send a question; the (kind, whole message) of its answers. A dump the kernel was disturbed in is repeated."""
        while True:
            self._sequence += 1
            answers, disturbed = self._answers(_numbered(Request(purpose, data), self._sequence), purpose)
            if not disturbed:
                return answers

    def _answers(self, data: bytes, purpose: str) -> tuple[list[tuple[int, bytes]], bool]:
        is_dump = _HEADER.unpack_from(data)[2] & NLM_F_DUMP == NLM_F_DUMP
        self._socket.send(data)
        answers: list[tuple[int, bytes]] = []
        disturbed = False
        while True:
            for kind, flags, sequence, message in _messages(self._socket.recv(_BUFFER)):
                if sequence != self._sequence:
                    continue
                disturbed |= bool(flags & NLM_F_DUMP_INTR)
                if kind == NLMSG_ERROR:
                    number, detail = _error(message)
                    raise NetlinkError(number, purpose, detail)
                if kind == NLMSG_DONE:
                    return answers, disturbed
                answers.append((kind, message))
            if not is_dump and answers:
                return answers, False


def route_socket(groups: Collection[int] = ()) -> socket.socket:
    """A route netlink socket of the calling thread's network namespace, in `groups` of events."""
    sock = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    for option in (_CAP_ACK, _EXT_ACK, _GET_STRICT_CHK):
        try:
            sock.setsockopt(_SOL_NETLINK, option, 1)
        except OSError as error:
            if error.errno != errno.ENOPROTOOPT:  # kernels before 4.20 answer more than was asked; so we filter too
                sock.close()
                raise
    sock.bind((0, sum(1 << (group - 1) for group in groups)))
    return sock


def decode_events(data: bytes) -> Iterator[Event]:
    """The events in one datagram of a socket that joined groups."""
    for kind, _, _, message in _messages(data):
        if kind in (RTM_NEWROUTE, RTM_DELROUTE):
            index = _attribute(message, _ROUTE_HEADER, _RTA_OIF)
            if index is not None:
                yield Event(kind, int.from_bytes(index, sys.byteorder))
        elif kind in _INDEXED:
            (number,) = struct.unpack_from("=I", message, _HEADER.size + 4)
            name = _attribute(message, _LINK_HEADER, _IFLA_IFNAME) if kind in (RTM_NEWLINK, RTM_DELLINK) else None
            yield Event(kind, number, None if name is None else name.rstrip(b"\0").decode(errors="replace"))


def _link_message(flags: int = 0, change: int = 0) -> bytes:
    return _IFINFOMSG.pack(socket.AF_UNSPEC, 0, 0, flags, change)


def _packed(kind: int, value: bytes) -> bytes:
    """An attribute, filled up to a multiple of four bytes."""
    return _ATTRIBUTE.pack(_ATTRIBUTE.size + len(value), kind) + value + bytes(-len(value) % 4)


def _name(text: str) -> bytes:
    return text.encode() + b"\0"


def _mac(text: str) -> bytes:
    return bytes.fromhex(text.replace(":", ""))


def _request(purpose: str, message: bytes, kind: int, flags: int = 0, tolerated: Collection[int] = ()) -> Request:
    return Request(purpose, _encoded(message, kind, NLM_F_REQUEST | NLM_F_ACK | flags), frozenset(tolerated))


def _encoded(message: bytes, kind: int, flags: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(message), kind, flags, 0, 0) + message


def _numbered(request: Request, sequence: int) -> bytes:
    length, kind, flags, _, port = _HEADER.unpack_from(request.data)
    data = _HEADER.pack(length, kind, flags, sequence, port) + request.data[_HEADER.size :]
    return data + bytes(-len(data) % 4)


def _messages(data: bytes) -> Iterator[tuple[int, int, int, bytes]]:
    """(kind, flags, sequence, whole message) of each message in a datagram."""
    offset = 0
    while offset + _HEADER.size <= len(data):
        length, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if length < _HEADER.size:
            return
        yield kind, flags, sequence, data[offset : offset + length]
        offset += (length + 3) & ~3


def _error(message: bytes) -> tuple[int, str]:
    """(errno, the kernel's explanation) of an NLMSG_ERROR; errno 0 is an acknowledgement."""
    (code,) = struct.unpack_from("=i", message, _HEADER.size)
    detail = _attribute(message, _ERROR_HEADER, _NLMSGERR_ATTR_MSG) or b""
    return -code, detail.rstrip(b"\0").decode(errors="replace")


def _attribute(message: bytes, offset: int, wanted: int) -> bytes | None:
    """The value of the first attribute of type `wanted` in a message whose attributes start at `offset`."""
    return next((value for kind, value in _attributes(message, offset) if kind == wanted), None)


def _attributes(message: bytes, offset: int) -> Iterator[tuple[int, bytes]]:
    """(type, value) of each attribute in a message whose attributes start at `offset`."""
    while offset + _ATTRIBUTE.size <= len(message):
        length, kind = _ATTRIBUTE.unpack_from(message, offset)
        if length < _ATTRIBUTE.size:
            return
        yield kind, message[offset + _ATTRIBUTE.size : offset + length]
        offset += (length + 3) & ~3


def _number(value: bytes | None) -> int | None:
    return None if value is None else int.from_bytes(value, sys.byteorder)


def _link(data: bytes) -> Link:
    _, _, index, flags, _ = _IFINFOMSG.unpack_from(data, _HEADER.size)
    found = dict(_attributes(data, _HEADER.size + _IFINFOMSG.size))
    mac = found.get(_IFLA_ADDRESS)
    return Link(
        index=index,
        name=found.get(_IFLA_IFNAME, b"").rstrip(b"\0").decode(errors="replace"),
        mtu=_number(found.get(_IFLA_MTU)) or 0,
        up=bool(flags & IFF_UP),
        mac=mac.hex(":") if mac else None,
    )


def _detail(data: bytes) -> LinkDetail:
    info = _attribute(data, _LINK_HEADER, _IFLA_LINKINFO) or b""
    kind = (_attribute(info, 0, _IFLA_INFO_KIND) or b"").rstrip(b"\0").decode(errors="replace")
    port = _attribute(_attribute(info, 0, _IFLA_INFO_DATA) or b"", 0, _IFLA_VXLAN_PORT) if kind == "vxlan" else None
    return LinkDetail(_link(data), kind, None if port is None else int.from_bytes(port, "big"))


def _address(data: bytes) -> Address:
    _, prefix_length, flags, _, index = _IFADDRMSG.unpack_from(data, _HEADER.size)
    found = dict(_attributes(data, _HEADER.size + _IFADDRMSG.size))
    all_flags = _number(found.get(_IFA_FLAGS))  # of 32 bits; the header has room for eight of them
    local = found.get(_IFA_LOCAL) or found[_IFA_ADDRESS]
    return Address(index, IPv4Address(local), prefix_length, flags if all_flags is None else all_flags)


def _route(data: bytes, any_table: bool = False) -> Route | None:
    """None for what is not a plain route of the main table by one device."""
    _, length, _, _, table, protocol, _, kind, flags = _RTMSG.unpack_from(data, _HEADER.size)
    found = dict(_attributes(data, _HEADER.size + _RTMSG.size))
    index = _number(found.get(_RTA_OIF))
    table = _number(found.get(_RTA_TABLE)) or table
    if index is None or not (any_table or (table == RT_TABLE_MAIN and kind == RTN_UNICAST)):
        return None
    gateway, source = found.get(_RTA_GATEWAY), found.get(_RTA_PREFSRC)
    return Route(
        destination=IPv4Network((found.get(_RTA_DST, bytes(4)), length)),
        index=index,
        gateway=IPv4Address(gateway) if gateway else None,
        source=IPv4Address(source) if source else None,
        onlink=bool(flags & RTNH_F_ONLINK),
        protocol=protocol,
    )


def _neighbour(data: bytes) -> Neighbour:
    _, index, state, _, _ = _NDMSG.unpack_from(data, _HEADER.size)
    found = dict(_attributes(data, _HEADER.size + _NDMSG.size))
    mac = found.get(_NDA_LLADDR)
    return Neighbour(index, IPv4Address(found[_NDA_DST]), mac.hex(":") if mac else None, state)
