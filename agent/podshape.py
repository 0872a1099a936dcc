"""The token buckets of pods, on their devices. Blocking: `agent.links` runs this in a worker thread.

into the pod    the root of the host end of its link
out of it       kernel datapath:     an ifb, to which all is redirected that the host end receives
                userspace datapath:  the root of the pod's own end, inside its namespace, because the switch takes
                                     the frames from the host end before the kernel could redirect them
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass

from agent import netlink, netns, tc
from agent.netlink import Netlink, Request
from agent.netns import NetnsGone
from agent.podlink import HOST_LINK_PREFIX
from agent.tc import Qdisc, TokenBucket

IFB_PREFIX = "k8i"


@dataclass(frozen=True, slots=True)
class PodShape:
    """What limits one pod's link; None: nothing does. `shape_inside`: egress is limited at the pod's end."""

    host_name: str
    netns: str
    ifname: str
    mtu: int
    ingress: TokenBucket | None
    egress: TokenBucket | None
    shape_inside: bool

    @property
    def ifb(self) -> str:
        """The device that limits what the pod sends, where that is not done at its own end."""
        return IFB_PREFIX + self.host_name.removeprefix(HOST_LINK_PREFIX)

    @property
    def is_limited(self) -> bool:
        """Whether anything limits the link at all."""
        return self.ingress is not None or self.egress is not None

    @property
    def needs_ifb(self) -> bool:
        """Whether that device should exist."""
        return self.egress is not None and not self.shape_inside


def shape_pods(shapes: Sequence[PodShape]) -> Mapping[str, tuple[str, ...] | OSError]:
    """Make each link what its shape says. By host end: what was changed, empty if all was right; or why it failed.

    A link or namespace that is gone meanwhile needs nothing.
    """
    with Netlink() as host:
        present = _Present(host)
        outcomes: dict[str, tuple[str, ...] | OSError] = {}
        for shape in shapes:
            try:
                outcomes[shape.host_name] = _shape(host, present, shape)
            except NetnsGone:
                outcomes[shape.host_name] = ()
            except OSError as error:
                outcomes[shape.host_name] = error
        return outcomes


class _Present:
    """The devices and qdiscs of a namespace at one moment: that of the calling thread, and of the socket `kernel`."""

    def __init__(self, kernel: Netlink) -> None:
        self.indices = {name: index for index, name in socket.if_nameindex()}
        self._qdiscs: dict[int, dict[int, Qdisc]] = {}
        for qdisc in tc.qdiscs(kernel):
            self._qdiscs.setdefault(qdisc.index, {})[qdisc.parent] = qdisc

    def on(self, index: int) -> Mapping[int, Qdisc]:
        """The qdiscs of a device, by parent."""
        return self._qdiscs.get(index, {})


def missing_limits(shape: PodShape) -> tuple[str, ...]:
    """What `shape_pods` would change now, in words; this changes nothing. Raises OSError."""
    with Netlink() as host:
        present = _Present(host)
        index = present.indices.get(shape.host_name)
        if index is None:
            return ()
        changes = bucket_changes(index, present.on(index), shape.ingress)
        if not shape.shape_inside:
            changes += _ifb_changes(host, present, index, shape)
        else:
            with suppress(NetnsGone), _inside(shape.netns) as (_, pods_present):
                changes += _inside_changes(pods_present, shape)
        return _purposes(changes)


def _shape(host: Netlink, present: _Present, shape: PodShape) -> tuple[str, ...]:
    index = present.indices.get(shape.host_name)
    if index is None:
        return ()
    changes = _carry_out(host, bucket_changes(index, present.on(index), shape.ingress))
    if shape.shape_inside:
        with _inside(shape.netns) as (pod, pods_present):
            return changes + _carry_out(pod, _inside_changes(pods_present, shape))
    changes += _carry_out(host, _ifb_changes(host, present, index, shape))
    if shape.needs_ifb and shape.ifb not in present.indices:
        changes += _carry_out(host, _ifb_changes(host, _Present(host), index, shape))
    return changes


def bucket_changes(index: int, found: Mapping[int, Qdisc], wanted: TokenBucket | None) -> list[Request]:
    """What leads from the qdiscs `found` on a device, by parent, to the bucket `wanted`.

    A qdisc of somebody else is only replaced, never removed.
    """
    root, leaf = found.get(tc.ROOT), found.get(tc.LEAF_PARENT)
    ours = root is not None and root.handle == tc.OUR_HANDLE
    if wanted is None:
        return [tc.delete_bucket(index)] if ours else []
    # Without a leaf of ours: either the bucket is new, or somebody took the leaf, and all is lost that should wait.
    queued = ours and leaf is not None and leaf.handle in (tc.FIFO_HANDLE, tc.FAIR_HANDLE)
    if root is not None and root.is_bucket(wanted) and queued:
        return []
    queue = [] if queued else [tc.queue_in_order(index, wanted)]
    return [tc.replace_bucket(index, wanted), *queue, tc.share_fairly(index, wanted)]


def _inside_changes(present: _Present, shape: PodShape) -> list[Request]:
    index = present.indices.get(shape.ifname)
    return [] if index is None else bucket_changes(index, present.on(index), shape.egress)


def _ifb_changes(host: Netlink, present: _Present, index: int, shape: PodShape) -> list[Request]:
    """What leads to the ifb of a pod. Without the device that is to make it, no more: the rest needs its index."""
    ifb = present.indices.get(shape.ifb)
    if shape.egress is None:
        # The redirection first: what is redirected to a device that is gone is lost.
        return [] if ifb is None else [tc.delete_redirect(index), netlink.delete_link(shape.ifb)]
    if ifb is None:
        return [netlink.create_ifb(shape.ifb, shape.mtu)]
    changes = bucket_changes(ifb, present.on(ifb), shape.egress)
    redirected = tc.INGRESS in present.on(index) and tc.redirect_target(host, index) == ifb
    return changes if redirected else [*changes, *tc.redirect_ingress(index, ifb)]


def _carry_out(kernel: Netlink, requests: Iterable[Request]) -> tuple[str, ...]:
    pending = list(requests)
    if pending:
        kernel.execute(pending)
    return _purposes(pending)


def _purposes(requests: Iterable[Request]) -> tuple[str, ...]:
    return tuple(request.purpose for request in requests)


@contextmanager
def _inside(path: str) -> Iterator[tuple[Netlink, _Present]]:
    """A netlink socket of the namespace at `path`, and what is there. Raises NetnsGone."""
    with netns.opened(path) as sandbox, netns.entered(sandbox, path), Netlink() as pod:
        yield pod, _Present(pod)
