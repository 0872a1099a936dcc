"""The pods on this node's switch, read from the ports in OVSDB: there is no other list of them.

Also keeps at each port what is in force for its namespace and its pod, so that a restart knows it without asking.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager

from agent.attachment import PREFIX, PodAttachment, tenancy_ids
from agent.bandwidth import Bandwidth
from agent.cluster import ClusterSource
from agent.limits import Limits, limit_ids
from agent.links import HOST_LINK_PREFIX, host_link_name
from agent.ovsdb import BridgeView, Ovsdb, OvsdbError, PortView
from agent.signal import Signal
from agent.snapshot import current_tenancy
from cni.request import AttachmentKey
from k8sovs.logs import get_logger

log = get_logger(__name__)

RETRY_S = 1.0
SETTLE_S = 0.05
"""Changes that follow each other within this time are looked at once: no pod should wait for what nobody waits for."""


class Attachments:
    """What hangs on the switch now. Cheap to ask again: a port that did not change is not read again.

    The ports in OVSDB are the truth. Beside them stands what calls under way are about to make of them: a pod whose
    port is being added is `expected`, so that its flows are there when the port is; one that is `leaving` has its
    flows taken away before its port. Neither outlives the agent, and need not: then the ports alone count.
    """

    def __init__(self, ovsdb: Ovsdb) -> None:
        self._ovsdb = ovsdb
        self._view: BridgeView | None = None
        self._known: dict[str, tuple[PortView, PodAttachment | None]] = {}
        self._expected: dict[str, tuple[PodAttachment, int]] = {}
        self._leaving: set[str] = set()
        self._forwarding: Mapping[PodAttachment, int] = {}

    @property
    def changes(self) -> Signal:
        """Notified whenever the database, and so perhaps an attachment, has changed."""
        return self._ovsdb.changes

    def by_port(self) -> dict[str, PodAttachment]:
        """Every attachment, by the name of its port."""
        self._refresh()
        return {name: attachment for name, (_, attachment) in self._known.items() if attachment is not None}

    def forwarding(self) -> Mapping[PodAttachment, int]:
        """Every attachment that the switch is to have flows for, with its ofport; the same object until that changes.

        Those are the ones whose port it forwards for, and those expected; but none that is leaving.
        """
        self._refresh()
        return self._forwarding

    def get(self, key: AttachmentKey) -> PodAttachment | None:
        """The attachment of this container and interface."""
        self._refresh()
        _, attachment = self._known.get(host_link_name(key.container_id, key.ifname), (None, None))
        return attachment

    def limited(self) -> dict[str, Limits]:
        """The limits of those that have any, by the name of the port."""
        attached = self.by_port().items()
        return {name: found.limits for name, found in attached if found.limits.ingress or found.limits.egress}

    def numbers(self) -> set[int]:
        """Every ofport that a port of the bridge has or asks for, or an expected one."""
        ports = [] if self._ovsdb.view is None else self._ovsdb.view.ports.values()
        asked = {number for port in ports for number in (port.ofport, port.ofport_request) if number is not None}
        return asked | {number for _, number in self._expected.values()}

    def expect(self, name: str, attachment: PodAttachment, ofport: int) -> None:
        """The port `name` is about to be added, and will most likely get the number `ofport`."""
        self._expected[name] = (attachment, ofport)
        self._view = None

    def expect_no_more(self, name: str) -> None:
        """From here on the port in OVSDB counts, if there is one."""
        del self._expected[name]
        self._view = None

    @contextmanager
    def leaving(self, name: str) -> Iterator[bool]:
        """Inside, the port `name` counts as gone. Yields whether it did not before."""
        self._refresh()
        known = name in self._expected or self._known.get(name, (None, None))[1] is not None
        self._expected.pop(name, None)
        self._leaving.add(name)
        self._view = None
        try:
            yield known
        finally:
            self._leaving.discard(name)
            self._view = None

    def _refresh(self) -> None:
        view, known = self._ovsdb.view, self._known
        if view is None or view is self._view:
            return
        self._view, self._known = view, {}
        for name, port in view.ports.items():
            before = known.get(name)
            self._known[name] = before if before is not None and before[0] is port else (port, _read(port))
        there = {
            name: (attachment, port.ofport)
            for name, (port, attachment) in self._known.items()
            if attachment is not None and port.ofport is not None
        }
        counted = {name: place for name, place in (self._expected | there).items() if name not in self._leaving}
        forwarding = dict(counted.values())
        if forwarding != self._forwarding:
            self._forwarding = forwarding


def _read(port: PortView) -> PodAttachment | None:
    attachment = PodAttachment.from_external_ids(port.external_ids)
    if attachment is None and port.name.startswith(HOST_LINK_PREFIX):
        log.error("port-not-understood", port=port.name, consequence="its pod has no network", action="delete the pod")
    return attachment


Outdated = Mapping[str, Mapping[str, str]]
"""What to write to which port."""


async def keep_remembered(ovsdb: Ovsdb, sources: Iterable[Signal], outdated: Callable[[], Outdated]) -> None:
    """Write to the ports what `outdated` says, whenever one of the sources has changed, for ever.

    Nobody waits for this: it is what a restart will know.
    """
    changed = Signal()
    for source in (*sources, ovsdb.changes):
        source.follow(changed.notify)
    while True:
        seen = changed.count
        wanted = outdated()
        try:
            if wanted:
                await ovsdb.set_port_ids(wanted)
            await changed.wait_beyond(seen)
            await asyncio.sleep(SETTLE_S)  # not a guess at readiness: it is what coalesces the looks
        except OvsdbError as error:
            log.warning("port-not-updated", ports=sorted(wanted), error=str(error), action="trying again")
            await asyncio.sleep(RETRY_S)


def outdated_tenancies(attachments: Attachments, cluster: ClusterSource) -> Outdated:
    """Where the port remembers another tenancy than the cluster's records say."""
    if cluster.view is None:
        return {}
    current = {name: (found, current_tenancy(cluster.view, found)) for name, found in attachments.by_port().items()}
    return {name: tenancy_ids(tenancy) for name, (found, tenancy) in current.items() if tenancy != found.tenancy}


def outdated_limits(attachments: Attachments, bandwidth: Bandwidth) -> Outdated:
    """Where the port remembers other limits than the pod's annotations say."""
    current = {name: (found, bandwidth.current(found)) for name, found in attachments.by_port().items()}
    return {name: limit_ids(limits, PREFIX) for name, (found, limits) in current.items() if limits != found.limits}
