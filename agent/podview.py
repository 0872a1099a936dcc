"""What a pod's link is now, as the kernel shows it. Blocking: `agent.links` runs this in a worker thread."""

from __future__ import annotations

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network

from agent import netns
from agent.netlink import Link, Netlink


@dataclass(frozen=True, slots=True)
class PodLinkView:
    """The two ends; None where there is no such device. `addresses` and `routes` are those of the pod's end."""

    host: Link | None
    pod: Link | None
    addresses: frozenset[IPv4Address]
    routes: frozenset[tuple[IPv4Network, IPv4Address | None]]


def view_pod_link(host_name: str, path: str, ifname: str) -> PodLinkView:
    """The link between `host_name` here and `ifname` in the namespace at `path`. Raises NetnsGone, OSError."""
    with Netlink() as host:
        near = host.link(host_name)
    with netns.opened(path) as sandbox:
        with netns.entered(sandbox, path):
            inside = Netlink()
        with inside as pod:
            far = pod.link(ifname)
            if far is None:
                return PodLinkView(near, None, frozenset(), frozenset())
            return PodLinkView(
                near,
                far,
                frozenset(entry.address for entry in pod.addresses(far.index)),
                frozenset((route.destination, route.gateway) for route in pod.routes(far.index)),
            )
