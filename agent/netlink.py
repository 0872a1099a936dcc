"""Route netlink with types: requests as values, many of them in one send, answers as frozen dataclasses.

`pyroute2` is the codec; the sockets are our own and block, because the kernel does the whole work of a request inside
the send (20 ms for the deletion of a veth): callers run in worker threads, off the event loop. rtnetlink(7), RFC 3549.
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
from typing import Any, TypeAlias

from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.ndmsg import ndmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

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

UntypedMessage: TypeAlias = Any
"""A message of pyroute2, or its class; the library has no types, and this module is where that ends."""

_SOL_NETLINK, _CAP_ACK, _EXT_ACK, _GET_STRICT_CHK = 270, 10, 11, 12
_HEADER = struct.Struct("=IHHII")
_ERROR_HEADER, _LINK_HEADER, _ROUTE_HEADER = 2 * _HEADER.size + 4, _HEADER.size + 16, _HEADER.size + 12
_NLMSGERR_ATTR_MSG, _IFLA_IFNAME, _RTA_OIF = 1, 3, 4
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
    data = {"attrs": [("VETH_INFO_PEER", {**_veth_flags(far), "attrs": _veth_attributes(far)})]}
    information = {"attrs": [("IFLA_INFO_KIND", "veth"), ("IFLA_INFO_DATA", data)]}
    message = _message(ifinfmsg, **_veth_flags(near))
    message["attrs"] = [*_veth_attributes(near), ("IFLA_LINKINFO", information)]
    return _request(f"create veth {near.name}, {far.name}", message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL)


def _veth_flags(end: VethEnd) -> dict[str, int]:
    return {"flags": IFF_PROMISC, "change": IFF_PROMISC} if end.promiscuous else {}


def _veth_attributes(end: VethEnd) -> list[tuple[str, str | int]]:
    attributes: list[tuple[str, str | int]] = [
        ("IFLA_IFNAME", end.name),
        ("IFLA_ADDRESS", end.mac),
        ("IFLA_MTU", end.mtu),
    ]
    if end.netns is not None:
        attributes.append(("IFLA_NET_NS_FD", end.netns))
    return attributes


def create_ifb(name: str, mtu: int) -> Request:
    """An intermediate functional block: what is redirected to it passes its qdisc, and goes on where it came from.

    Up at once; one that exists is no error.
    """
    message = _message(ifinfmsg, flags=IFF_UP, change=IFF_UP)
    message["attrs"] = [
        ("IFLA_IFNAME", name),
        ("IFLA_MTU", mtu),
        ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "ifb")]}),
    ]
    return _request(f"create ifb {name}", message, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, (errno.EEXIST,))


def set_link(name: str, *, mtu: int | None = None, group: int | None = None, up: bool = False) -> Request:
    """Change a device; a device that is gone is an error for all but a change of group."""
    message = _message(ifinfmsg, flags=IFF_UP if up else 0, change=IFF_UP if up else 0)
    wanted = (("IFLA_IFNAME", name), ("IFLA_MTU", mtu), ("IFLA_GROUP", group))
    message["attrs"] = [(key, value) for key, value in wanted if value is not None]
    tolerated = (errno.ENODEV,) if group is not None else ()
    return _request(f"set link {name}", message, RTM_SETLINK, tolerated=tolerated)


def delete_link(name: str) -> Request:
    """Delete a device; one that is gone is no error."""
    message = _message(ifinfmsg)
    message["attrs"] = [("IFLA_IFNAME", name)]
    return _request(f"delete link {name}", message, RTM_DELLINK, tolerated=(errno.ENODEV,))


def delete_group(group: int) -> Request:
    """Delete every device of link group `group` at once; an empty group is no error."""
    message = _message(ifinfmsg)
    message["attrs"] = [("IFLA_GROUP", group)]
    return _request(f"delete link group {group}", message, RTM_DELLINK, tolerated=(errno.ENODEV,))


def add_address(index: int, address: IPv4Address, prefix_length: int) -> Request:
    """An address that brings no route of its own."""
    message = _address_message(index, address, prefix_length)
    message["attrs"].append(("IFA_FLAGS", IFA_F_PERMANENT | IFA_F_NOPREFIXROUTE))
    return _request(f"add address {address}/{prefix_length}", message, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE)


def delete_address(address: Address) -> Request:
    """Remove an address; one that is gone is no error."""
    message = _address_message(address.index, address.address, address.prefix_length)
    return _request(f"delete address {address.address}", message, RTM_DELADDR, tolerated=(errno.EADDRNOTAVAIL,))


def _address_message(index: int, address: IPv4Address, prefix_length: int) -> UntypedMessage:
    message = _message(ifaddrmsg, family=socket.AF_INET, prefixlen=prefix_length, index=index)
    message["attrs"] = [("IFA_LOCAL", str(address)), ("IFA_ADDRESS", str(address))]
    return message


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


def _route_message(route: Route) -> UntypedMessage:
    message = _message(
        rtmsg,
        family=socket.AF_INET,
        dst_len=route.destination.prefixlen,
        table=route.table if route.table < 256 else RT_TABLE_UNSPEC,
        type=RTN_UNICAST,
        proto=route.protocol,
        scope=SCOPE_UNIVERSE if route.gateway else SCOPE_LINK,
        flags=RTNH_F_ONLINK if route.onlink else 0,
    )
    message["attrs"] = [("RTA_OIF", route.index), ("RTA_TABLE", route.table)]
    if route.destination.prefixlen:
        message["attrs"].append(("RTA_DST", str(route.destination.network_address)))
    if route.gateway:
        message["attrs"].append(("RTA_GATEWAY", str(route.gateway)))
    if route.source:
        message["attrs"].append(("RTA_PREFSRC", str(route.source)))
    return message


def permanent_neighbour(index: int, address: IPv4Address, mac: str) -> Request:
    """An ARP entry that never ages and is never asked for."""
    message = _message(ndmsg, family=socket.AF_INET, ifindex=index, state=NUD_PERMANENT)
    message["attrs"] = [("NDA_DST", str(address)), ("NDA_LLADDR", mac)]
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
        message = _message(ifinfmsg)
        message["attrs"] = [("IFLA_IFNAME", name)]
        try:
            found = self._ask(_encoded(message, RTM_GETLINK, NLM_F_REQUEST), f"look up link {name}")
        except NetlinkError as error:
            if error.errno == errno.ENODEV:
                return None
            raise
        return next((_link(payload) for kind, payload in found if kind == RTM_NEWLINK), None)

    def addresses(self, index: int = 0) -> tuple[Address, ...]:
        """The IPv4 addresses of device `index`, or of all devices."""
        message = _message(ifaddrmsg, family=socket.AF_INET, index=index)
        found = self._ask(_encoded(message, RTM_GETADDR, NLM_F_REQUEST | NLM_F_DUMP), "list addresses")
        addresses = (_address(payload) for kind, payload in found if kind == RTM_NEWADDR)
        return tuple(address for address in addresses if index in (0, address.index))

    def routes(self, index: int) -> tuple[Route, ...]:
        """The IPv4 unicast routes of the main table that leave by device `index`."""
        message = _message(rtmsg, family=socket.AF_INET, table=RT_TABLE_MAIN)
        message["attrs"] = [("RTA_OIF", index), ("RTA_TABLE", RT_TABLE_MAIN)]
        found = self._ask(_encoded(message, RTM_GETROUTE, NLM_F_REQUEST | NLM_F_DUMP), "list routes")
        routes = (_route(payload) for kind, payload in found if kind == RTM_NEWROUTE)
        return tuple(route for route in routes if route is not None and route.index == index)

    def route_to(self, address: IPv4Address) -> Route | None:
        """The route that a packet from here to `address` takes; None if there is none."""
        message = _message(rtmsg, family=socket.AF_INET, dst_len=32)
        message["attrs"] = [("RTA_DST", str(address))]
        try:
            found = self._ask(_encoded(message, RTM_GETROUTE, NLM_F_REQUEST), f"look up the route to {address}")
        except NetlinkError as error:
            if error.errno in (errno.ENETUNREACH, errno.EHOSTUNREACH):
                return None
            raise
        return next((_route(payload, any_table=True) for kind, payload in found if kind == RTM_NEWROUTE), None)

    def neighbours(self, index: int) -> tuple[Neighbour, ...]:
        """The IPv4 neighbours on device `index`."""
        message = _message(ndmsg, family=socket.AF_INET)
        message["attrs"] = [("NDA_IFINDEX", index)]
        found = self._ask(_encoded(message, RTM_GETNEIGH, NLM_F_REQUEST | NLM_F_DUMP), "list neighbours")
        neighbours = (_neighbour(payload) for kind, payload in found if kind == RTM_NEWNEIGH)
        return tuple(neighbour for neighbour in neighbours if neighbour.index == index)

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


def _message(kind: UntypedMessage, **fields: int) -> UntypedMessage:
    """A message of pyroute2's class `kind` with its fixed fields set."""
    message = kind()
    for name, value in fields.items():
        message[name] = value
    message["attrs"] = []
    return message


def _request(
    purpose: str, message: UntypedMessage, kind: int, flags: int = 0, tolerated: Collection[int] = ()
) -> Request:
    return Request(purpose, _encoded(message, kind, NLM_F_REQUEST | NLM_F_ACK | flags), frozenset(tolerated))


def _encoded(message: UntypedMessage, kind: int, flags: int) -> bytes:
    message["header"]["type"] = kind
    message["header"]["flags"] = flags
    message.encode()
    return bytes(message.data)


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
    while offset + 4 <= len(message):
        length, kind = struct.unpack_from("=HH", message, offset)
        if length < 4:
            return None
        if kind == wanted:
            return message[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return None


def _decoded(kind: UntypedMessage, data: bytes) -> UntypedMessage:
    message = kind(data)
    message.decode()
    return message


def _link(data: bytes) -> Link:
    message = _decoded(ifinfmsg, data)
    return Link(
        index=message["index"],
        name=message.get_attr("IFLA_IFNAME") or "",
        mtu=message.get_attr("IFLA_MTU") or 0,
        up=bool(message["flags"] & IFF_UP),
        mac=message.get_attr("IFLA_ADDRESS"),
    )


def _address(data: bytes) -> Address:
    message = _decoded(ifaddrmsg, data)
    local = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    flags = message.get_attr("IFA_FLAGS")
    return Address(
        message["index"], IPv4Address(local), message["prefixlen"], message["flags"] if flags is None else flags
    )


def _route(data: bytes, any_table: bool = False) -> Route | None:
    """None for what is not a plain route of the main table by one device."""
    message = _decoded(rtmsg, data)
    index = message.get_attr("RTA_OIF")
    table = message.get_attr("RTA_TABLE") or message["table"]
    if index is None or not (any_table or (table == RT_TABLE_MAIN and message["type"] == RTN_UNICAST)):
        return None
    gateway, source = message.get_attr("RTA_GATEWAY"), message.get_attr("RTA_PREFSRC")
    return Route(
        destination=IPv4Network((message.get_attr("RTA_DST") or "0.0.0.0", message["dst_len"])),
        index=index,
        gateway=IPv4Address(gateway) if gateway else None,
        source=IPv4Address(source) if source else None,
        onlink=bool(message["flags"] & RTNH_F_ONLINK),
        protocol=message["proto"],
    )


def _neighbour(data: bytes) -> Neighbour:
    message = _decoded(ndmsg, data)
    return Neighbour(
        message["ifindex"], IPv4Address(message.get_attr("NDA_DST")), message.get_attr("NDA_LLADDR"), message["state"]
    )
