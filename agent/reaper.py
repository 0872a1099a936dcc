"""Deletes the veth pairs of pods that are gone, behind everybody's back and many at a time.

Deleting a link takes the kernel some 20 ms, most of it waiting, and 50 links in one request hardly more. The name of
a veth of ours that has no port on the switch is the durable note that it must go: after a crash the agent finds it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from agent.links import Links
from agent.signal import Signal
from k8sovs.logs import get_logger

log = get_logger(__name__)

RETRY_S = 5.0


class Reaper:
    """Deletes the links that it is told of. One task at a time does it, so a name is never deleted twice at once."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._doomed: set[str] = set()
        self._wake = asyncio.Event()
        self._deleted = Signal()

    def delete_later(self, names: Iterable[str]) -> None:
        """Have these links deleted soon."""
        self._doomed.update(names)
        self._wake.set()

    async def wait_deleted(self, name: str) -> None:
        """Wait until `name` is not waiting to be deleted, so that a new link may have it."""
        while name in self._doomed:
            await self._deleted.wait_beyond(self._deleted.count)

    async def run(self) -> None:
        """Delete links for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            batch = sorted(self._doomed)
            try:
                await self._links.delete_links(batch)
            except OSError as error:
                log.warning("links-not-deleted", links=batch, error=str(error), action="trying again")
                await asyncio.sleep(RETRY_S)
                self._wake.set()
                continue
            self._doomed.difference_update(batch)
            self._deleted.notify()
