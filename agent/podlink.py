"""The veth pair between a pod and the switch. These functions block: `agent.links` runs them in worker threads.

The pod's end gets its address without a connected route. All it sends goes to the node's gateway address, whose MAC
it knows for ever: so a pod never waits for ARP, and a frame for a neighbour pod passes the switch like any other.
"""

from __future__ import annotations

import errno
import hashlib
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

from agent import netlink, netns, rules
from agent.ethtool import settle_carrier, transmit_offloads_off
from agent.netlink import Netlink, NetlinkError, Request, Route, VethEnd
from flows.snapshot import mac_of

HOST_LINK_PREFIX = "k8o"
EVERYWHERE = IPv4Network("0.0.0.0/0")
DELETION_GROUP = 0x6B38736F
"""Link group ("k8so") that our links join only to be deleted together."""

_DELETIONS_PER_REQUEST = 128
"""The kernel queues an answer for each before we read the first: a socket's usual 208 KiB hold some 220 of them."""


class LinkError(Exception):
    """A link could not be made; the text says which and why."""


class InterfaceExists(LinkError):
    """The sandbox already has an interface of that name."""


class LinkExists(LinkError):
    """The node already has the host end: this attachment exists, or the rest of one that failed."""


@dataclass(frozen=True, slots=True)
class PodLinkSpec:
    """A pod's link: `ifname` inside the namespace at the path `netns`, `host_name` on the node.

    `prefix_length` is that of the node's subnet; `networks` (cluster, services) are reached through `gateway` besides
    everything else, so that they still are when somebody changes the pod's default route. `offloads_off`: the
    userspace datapath needs finished frames.
    """

    host_name: str
    netns: str
    ifname: str
    address: IPv4Address
    prefix_length: int
    gateway: IPv4Address
    networks: tuple[IPv4Network, ...]
    mtu: int
    offloads_off: bool


@dataclass(frozen=True, slots=True)
class PodLink:
    """A link that was made, as a CNI result describes it."""

    host_name: str
    host_mac: str
    ifname: str
    mac: str
    netns: str
    mtu: int


def host_link_name(container_id: str, ifname: str) -> str:
    """The name of the node's end of a pod's link: 14 characters (15 is the kernel's limit), the same every time."""
    digest = hashlib.sha256(f"{container_id}/{ifname}".encode()).hexdigest()
    return HOST_LINK_PREFIX + digest[:11]


def mac_text(mac: int) -> str:
    """`mac`, 48 bits, as aa:bb:cc:dd:ee:ff."""
    return mac.to_bytes(6, "big").hex(":")


def make_pod_link(spec: PodLinkSpec, created: Callable[[], object]) -> tuple[PodLink, tuple[IPv4Network, ...]]:
    """Make both ends, each in its place, up and ready to send, or leave nothing.

    `created` is called, in the calling thread, once there is all that the switch sees of a link: that much is done in
    one go, because ovs-vswitchd goes through all of its ports whenever a device of the node changes, and one round
    serves for whatever happened since the last. What is inside the pod only is done while the switch is at work.

    Returns the link, and the destinations that are reached by it in the pod's main table: one that another interface
    of the pod is the way to stays that interface's, and then only what is sent from this one's own address leaves by
    it. Raises NetnsGone, LinkError and its kinds.
    """
    with netns.opened(spec.netns) as sandbox, Netlink() as host, _inet_socket() as inet:
        if netns.is_own(sandbox):
            raise LinkError(
                f"{spec.netns} is the node's own network namespace: a pod of the host network needs no link"
            )
        with netns.entered(sandbox, spec.netns):
            pod, pod_inet = Netlink(), _inet_socket()
        with pod, pod_inet:
            link = _create(host, spec, sandbox)
            with _undone_on_failure(spec):
                _quiet_ipv6(spec.host_name)
                pod.execute([netlink.set_link(spec.ifname, up=True)])
                host.execute([netlink.set_link(spec.host_name, up=True)])
                settle_carrier(inet, spec.host_name)
                created()
                return link, _configure(pod, pod_inet, spec)


@contextmanager
def _undone_on_failure(spec: PodLinkSpec) -> Iterator[None]:
    try:
        yield
    except BaseException as error:  # whatever it was, half a link must not stay
        with suppress(OSError):  # why the link was not made matters more; whoever asked for it has it deleted again
            delete_links([spec.host_name])
        if isinstance(error, OSError):
            raise LinkError(f"link {spec.host_name} of {spec.ifname} in {spec.netns}: {error.strerror}") from error
        raise


def delete_links(names: list[str]) -> None:
    """Delete host ends, and with each its pod's end; many cost the kernel what one does. Missing ones are no error."""
    with Netlink() as host:
        if len(names) == 1:
            host.execute([netlink.delete_link(names[0])])
            return
        for start in range(0, len(names), _DELETIONS_PER_REQUEST):
            batch = names[start : start + _DELETIONS_PER_REQUEST]
            joins = [netlink.set_link(name, group=DELETION_GROUP) for name in batch]
            host.execute([*joins, netlink.delete_group(DELETION_GROUP)])


def list_links(prefix: str) -> list[str]:
    """The names of this namespace's devices that start with `prefix`."""
    return [name for _, name in socket.if_nameindex() if name.startswith(prefix)]


def _create(host: Netlink, spec: PodLinkSpec, sandbox: int) -> PodLink:
    link = PodLink(
        host_name=spec.host_name,
        host_mac=_host_mac(spec.host_name),
        ifname=spec.ifname,
        mac=mac_text(mac_of(spec.address)),
        netns=spec.netns,
        mtu=spec.mtu,
    )
    # The switch would make it so, and its own change would send it through all of its ports once more.
    near = VethEnd(spec.host_name, link.host_mac, spec.mtu, promiscuous=True)
    far = VethEnd(spec.ifname, link.mac, spec.mtu, netns=sandbox)
    try:
        host.execute([netlink.create_veth(near, far)])
    except NetlinkError as error:
        if error.errno == errno.EEXIST:
            if list_links(spec.host_name):
                raise LinkExists(f"{spec.host_name} exists on this node already") from None
            raise InterfaceExists(f"{spec.ifname} exists in {spec.netns} already") from None
        raise LinkError(error.strerror) from error
    return link


def _host_mac(name: str) -> str:
    """A locally administered MAC that follows from the name: udev leaves a device alone that was born with one."""
    digest = hashlib.sha256(name.encode()).digest()
    return bytes([digest[0] & 0xFC | 0x02, *digest[1:6]]).hex(":")


def _quiet_ipv6(name: str) -> None:
    """The node must not speak IPv6 to a pod behind the switch's back; without IPv6 in the kernel it does not."""
    setting = Path("/proc/sys/net/ipv6/conf", name, "disable_ipv6")
    if setting.exists():
        setting.write_text("1")


def _configure(pod: Netlink, inet: socket.socket, spec: PodLinkSpec) -> tuple[IPv4Network, ...]:
    found = pod.link(spec.ifname)
    if found is None:
        raise LinkError(f"{spec.ifname} vanished from {spec.netns} while it was set up")
    if spec.offloads_off:
        transmit_offloads_off(inet, spec.ifname)
    routes = {netlink.add_route(route): route.destination for route in _routes(found.index, spec)}
    taken = pod.execute([*_pod_requests(found.index, spec), *routes])
    if taken:
        pod.execute(_own_way(found.index, spec))
    settle_carrier(inet, spec.ifname)
    return tuple(destination for request, destination in routes.items() if request not in taken)


def _inet_socket() -> socket.socket:
    return socket.socket(socket.AF_INET, socket.SOCK_DGRAM)


def _pod_requests(index: int, spec: PodLinkSpec) -> list[Request]:
    return [
        netlink.set_link("lo", up=True),
        netlink.add_address(index, spec.address, spec.prefix_length),
        netlink.permanent_neighbour(index, spec.gateway, mac_text(mac_of(spec.gateway))),
        netlink.add_route(Route(IPv4Network(spec.gateway), index)),
    ]


def _routes(index: int, spec: PodLinkSpec) -> list[Route]:
    # On the link, whatever the table says: another interface of ours has the route to the gateway already.
    return [Route(network, index, gateway=spec.gateway, onlink=True) for network in (*spec.networks, EVERYWHERE)]


def _own_way(index: int, spec: PodLinkSpec) -> list[Request]:
    """What is sent from the interface's own address leaves by it, wherever it goes."""
    table = rules.table_of(index)
    return [
        netlink.replace_route(Route(EVERYWHERE, index, gateway=spec.gateway, onlink=True, table=table)),
        rules.delete_rule(spec.address),
        rules.add_rule(spec.address, table),
    ]
