"""CHECK: whether an attachment still is what its ADD left. What is missing in the switch is put back first.

It looks, in order, at what OVSDB remembers, at what the runtime believes (`prevResult`), at both ends of the link, at
the flows that the switch itself shows, and at whatever `extra` looks at. Nothing is reported that may still come: a
port that the switch has not taken yet, or flows that somebody removed, have CONVERGENCE_S seconds.

A plugin that comes later in the chain may have changed what is in the pod, and `prevResult` then tells of it; so a
route that is not in there is not missed. The address and its MAC are another matter: the switch lets no other pass.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence

from agent.attachment import PodAttachment
from agent.attachments import Attachments
from agent.flow_reconciler import FlowReconciler
from agent.links import EVERYWHERE, Links, NetnsGone, PodLinkSpec, PodLinkView, mac_text
from agent.switch import SwitchDisconnected, SwitchRefused
from cni.errors import CniError, ErrorCode
from cni.previous import PreviousResult
from cni.request import AttachmentKey, Request
from flows.snapshot import mac_of
from flows.text import flow_text

CONVERGENCE_S = 5.0

ExtraCheck = Callable[[PodAttachment], Awaitable[Sequence[str]]]
"""What is wrong with an attachment in some other respect, in words."""


class Checker:
    """Judges attachments. `intended` gives the link that an attachment should have."""

    def __init__(
        self,
        attachments: Attachments,
        links: Links,
        flows: FlowReconciler,
        intended: Callable[[PodAttachment], PodLinkSpec],
        extra: Sequence[ExtraCheck] = (),
        convergence_s: float = CONVERGENCE_S,
    ) -> None:
        self._attachments = attachments
        self._links = links
        self._flows = flows
        self._intended = intended
        self._extra = extra
        self._convergence_s = convergence_s

    async def check(self, request: Request) -> None:
        """Raise CniError with CHECK_FAILED, and with everything that is wrong, unless all is right."""
        attachment = self._attachments.get(request.key)
        if attachment is None:
            raise CniError(ErrorCode.CHECK_FAILED, f"{request.key} is not attached to this node's switch")
        previous = request.previous or PreviousResult.parse({})
        faults = [
            *await self._link_faults(attachment, request.netns, previous),
            *await self._switch_faults(attachment.key),
        ]
        for look in self._extra:
            faults += await look(attachment)
        if faults:
            raise CniError(ErrorCode.CHECK_FAILED, f"{request.key}: {faults[0]}", "; ".join(faults[1:]))

    async def _link_faults(self, attachment: PodAttachment, netns: str, previous: PreviousResult) -> list[str]:
        spec = self._intended(attachment)
        try:
            view = await self._links.view_pod_link(spec.host_name, netns, spec.ifname)
        except NetnsGone as error:
            return [str(error)]
        except OSError as error:
            return [f"its link cannot be looked at: {error.strerror}"]
        return [*told_faults(spec, previous), *link_faults(spec, previous, view)]

    async def _switch_faults(self, key: AttachmentKey) -> list[str]:
        """What the switch lacks although it had time."""
        try:
            async with asyncio.timeout(self._convergence_s):
                ofport = await self._wait_ofport(key)
                await self._flows.reconcile()
                missing = await self._flows.missing(ofport)
                if missing:
                    self._flows.distrust()
                    await self._flows.reconcile()
                    missing = await self._flows.missing(ofport)
        except TimeoutError:
            return [f"the switch does not forward for its port, {self._convergence_s:g} s on: is ovs-vswitchd running?"]
        except (SwitchDisconnected, SwitchRefused) as error:
            return [f"the switch does not show its flows: {error}"]
        return [f"the switch lacks a flow: {flow_text(flow)}" for flow in missing]

    async def _wait_ofport(self, key: AttachmentKey) -> int:
        changes = self._attachments.changes
        while True:
            seen = changes.count
            attachment = self._attachments.get(key)
            ofport = None if attachment is None else self._attachments.forwarding().get(attachment)
            if ofport is not None:
                return ofport
            await changes.wait_beyond(seen)


def told_faults(spec: PodLinkSpec, previous: PreviousResult) -> Iterator[str]:
    """Where `prevResult` is not the result of this attachment."""
    address = f"{spec.address}/{spec.prefix_length}"
    if address not in previous.addresses:
        told = ", ".join(sorted(previous.addresses)) or "none"
        yield f"it has the address {address}, prevResult says {told}"
    if previous.interface(spec.ifname) is None:
        yield f"prevResult tells of no interface {spec.ifname} in the container"


def link_faults(spec: PodLinkSpec, previous: PreviousResult, view: PodLinkView) -> Iterator[str]:
    """Where the link's two ends are not what they should be."""
    if view.host is None or not view.host.up:
        yield f"the node's end of its link, {spec.host_name}, is {'gone' if view.host is None else 'down'}"
    pod = view.pod
    if pod is None:
        yield f"there is no interface {spec.ifname} in the container"
        return
    if not pod.up:
        yield f"{spec.ifname} is down"
    mac = mac_text(mac_of(spec.address))
    if pod.mac != mac:
        yield f"{spec.ifname} has the MAC address {pod.mac}; the switch lets only {mac} pass"
    told = (previous.interface(spec.ifname) or {}).get("mtu")
    if isinstance(told, int) and pod.mtu > told:
        yield f"{spec.ifname} has an MTU of {pod.mtu}; packets longer than {told} bytes are lost"
    if spec.address not in view.addresses:
        yield f"{spec.ifname} has lost its address {spec.address}"
    for destination in (*spec.networks, EVERYWHERE):
        if str(destination) in previous.destinations and (destination, spec.gateway) not in view.routes:
            yield f"the route to {destination} via {spec.gateway} is gone"
