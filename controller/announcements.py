"""Telling people through Kubernetes Events, beside the work and never in its way."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from k8sovs.kubernetes import Kubernetes, KubernetesError, Namespace, Node, ObjectMeta
from k8sovs.logs import get_logger

log = get_logger(__name__)

COMPONENT = "k8s-ovs-controller"
# More than this at once is a flood that nobody reads; the log has them all.
_WAITING = 100


@dataclass(frozen=True, slots=True)
class Announcement:
    """One Event about a Namespace or a Node."""

    about: type[Namespace] | type[Node]
    name: str
    uid: str
    reason: str
    message: str


class Announcer:
    """Creates Events one after another, in a task of its own."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._kubernetes = kubernetes
        self._waiting: asyncio.Queue[Announcement] = asyncio.Queue(_WAITING)

    def announce(self, announcement: Announcement) -> None:
        """Take it on; drop it if too many are waiting."""
        try:
            self._waiting.put_nowait(announcement)
        except asyncio.QueueFull:
            log.warning("event-dropped", name=announcement.name, reason=announcement.reason)

    async def run(self) -> None:
        """Create the Events, for ever. One that the API refuses is logged and passed over."""
        while True:
            each = await self._waiting.get()
            involved = each.about(metadata=ObjectMeta(name=each.name, uid=each.uid or None))
            where = each.name if each.about is Namespace else "default"
            try:
                await self._kubernetes.create_event(where, involved, each.reason, each.message, COMPONENT)
            except KubernetesError as error:
                log.warning("event-not-created", name=each.name, reason=each.reason, error=str(error))
