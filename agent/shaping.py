"""Bandwidth limits: what each pod's link should have, and the one writer that keeps it so.

The limits stand at the pod's port in OVSDB with all else that is known of it, so this follows from OVSDB alone: after
a restart, or without Kubernetes, as on any other day. It repairs what others change: ovs-vswitchd, for one, removes
the qdiscs of its ports when it starts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence

from agent.attachment import PodAttachment
from agent.links import HOST_LINK_PREFIX, EventKind, Links, host_link_name
from agent.podshape import IFB_PREFIX, PodShape
from agent.signal import Signal
from agent.tc import TokenBucket
from k8sovs.logs import get_logger

log = get_logger(__name__)

BURST_S = 0.04
"""What may pass at once, in seconds of the rate: what a stream could not send while sender or switch waited for a
processor, it makes up for afterwards. Over 10 s it is 0.4 % of the rate."""
QUEUE_S = 0.025
"""What may wait, in seconds of the rate. It is the delay that a saturating stream adds for everybody else."""
STREAMS_QUEUE = 2
"""How many times as much may wait where streams do so apart: there it delays none but itself."""
LARGEST_S = 0.002
"""A larger packet is cut into frames: whole, it would find no room in the queue, or hold up all others."""
LEAST_BURST_FRAMES = 4
LEAST_QUEUE_FRAMES = 20
LEAST_LARGEST_FRAMES = 2
"""At low rates a few frames are more than the times above; TCP needs them."""
ETHERNET_HEADER = 14

AUDIT_S = 5.0
"""How often limited links are looked at although nothing was heard: nobody tells what happens in a pod's namespace."""


def bucket(rate: int, mtu: int) -> TokenBucket:
    """The token bucket for `rate` bit/s on a link of `mtu` bytes."""
    frame = mtu + ETHERNET_HEADER
    bytes_per_s = rate // 8
    limit = _clamped(max(bytes_per_s * QUEUE_S, LEAST_QUEUE_FRAMES * frame))
    return TokenBucket(
        rate=bytes_per_s,
        burst=_clamped(max(bytes_per_s * BURST_S, LEAST_BURST_FRAMES * frame)),
        limit=limit,
        largest=_clamped(max(bytes_per_s * LARGEST_S, LEAST_LARGEST_FRAMES * frame)),
        packets=limit * STREAMS_QUEUE // frame,
    )


def _clamped(size: float) -> int:
    """Sizes have 32 bits in tc."""
    return min(int(size), (1 << 32) - 1)


def desired_shapes(attachments: Mapping[str, PodAttachment], mtu: int, shape_inside: bool) -> dict[str, PodShape]:
    """What every pod's link should have, by host end."""

    def limited(rate: int | None) -> TokenBucket | None:
        return None if rate is None else bucket(rate, mtu)

    return {
        name: PodShape(
            host_name=name,
            netns=attachment.netns,
            ifname=attachment.key.ifname,
            mtu=mtu,
            ingress=limited(attachment.limits.ingress),
            egress=limited(attachment.limits.egress),
            shape_inside=shape_inside,
        )
        for name, attachment in attachments.items()
    }


class Shaper:
    """Keeps the links of pods as `demand()` says.

    `tell_failure` is given the host end and the reason whenever a link cannot be limited.
    """

    def __init__(
        self,
        links: Links,
        demand: Callable[[], Mapping[str, PodShape]],
        tell_failure: Callable[[str, str], object],
    ) -> None:
        self._links = links
        self._demand = demand
        self._tell_failure = tell_failure
        self._wanted = Signal()
        self._applied = Signal()
        self._applied_upto = 0
        self._known: Mapping[str, PodShape] | None = None
        self._disturbed: set[str] = set()

    def request(self) -> None:
        """Say that the demand may have changed."""
        self._wanted.notify()

    async def reconcile(self) -> None:
        """Wait until all that is demanded now has been applied, or has failed."""
        self.request()
        number = self._wanted.count
        while self._applied_upto < number:
            await self._applied.wait_beyond(self._applied.count)

    async def faults(self, attachment: PodAttachment) -> Sequence[str]:
        """The limits that an attachment lacks, in words. What can be put back has been."""
        name = host_link_name(attachment.key.container_id, attachment.key.ifname)
        shape = self._demand().get(name)
        try:
            if shape is None or not await self._links.missing_limits(shape):
                return ()
            self._disturbed.add(name)
            await self.reconcile()
            missing = await self._links.missing_limits(shape)
        except OSError as error:
            return (f"its bandwidth limits cannot be looked at: {error.strerror}",)
        return [f"a bandwidth limit is not in force: {change}" for change in missing]

    async def run(self) -> None:
        """Apply what is demanded, and repair it, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._watch_devices())
            tasks.create_task(self._apply_for_ever())

    async def _watch_devices(self) -> None:
        async for event in self._links.events():
            if event.kind is EventKind.LOST:
                self._disturbed.update(self._demand())
                self.request()
            elif event.kind is EventKind.QDISC and event.ifname is not None:
                prefix, rest = event.ifname[: len(HOST_LINK_PREFIX)], event.ifname[len(HOST_LINK_PREFIX) :]
                if prefix in (HOST_LINK_PREFIX, IFB_PREFIX) and self._is_limited(HOST_LINK_PREFIX + rest):
                    self._disturbed.add(HOST_LINK_PREFIX + rest)
                    self.request()

    def _is_limited(self, name: str) -> bool:
        """Every new device has a qdisc to tell of; only those of pods with limits concern us."""
        shape = None if self._known is None else self._known.get(name)
        return shape is not None and shape.is_limited

    async def _apply_for_ever(self) -> None:
        number = 0
        while True:
            await self._apply(number)
            try:
                async with asyncio.timeout(AUDIT_S):
                    number = await self._wanted.wait_beyond(number)
            except TimeoutError:
                self._disturbed.update(name for name, shape in (self._known or {}).items() if shape.is_limited)

    async def _apply(self, number: int) -> None:
        """Bring every link to its shape that has another, or may have, as of request `number`.

        What is unlimited and was not there before is right as it is; except at the start, when nothing is known.
        """
        demand, disturbed = self._demand(), self._disturbed
        self._disturbed = set()
        known = self._known
        todo = [
            shape
            for name, shape in demand.items()
            if known is None or name in disturbed or (known[name] != shape if name in known else shape.is_limited)
        ]
        if todo:
            for name, outcome in (await self._links.shape(todo)).items():
                if isinstance(outcome, OSError):
                    self._tell_failure(name, outcome.strerror or str(outcome))
                elif outcome:
                    log.info("bandwidth-changed", link=name, changes=outcome)
        await self._remove_ifbs(demand)
        self._known = dict(demand)
        self._applied_upto = number
        self._applied.notify()

    async def _remove_ifbs(self, demand: Mapping[str, PodShape]) -> None:
        """An ifb without a pod is left over: the kernel removes it with nobody."""
        needed = {shape.ifb for shape in demand.values() if shape.needs_ifb}
        stale = set(await self._links.links(IFB_PREFIX)) - needed
        try:
            await self._links.delete_links(sorted(stale))
        except OSError as error:
            log.warning("ifbs-not-deleted", links=sorted(stale), error=str(error), action="trying again")
