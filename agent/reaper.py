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

    def __init__(self, links: Links, retry_s: float = RETRY_S) -> None:
        self._links = links
        self._retry_s = retry_s
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
            failures = await self._delete(batch)
            self._doomed.difference_update(name for name in batch if name not in failures)
            self._deleted.notify()
            if failures:
                log.warning("links-not-deleted", links=failures, action="trying again")
                asyncio.get_running_loop().call_later(self._retry_s, self._wake.set)

    async def _delete(self, names: list[str]) -> dict[str, str]:
        """Delete links, together if that works, else one by one, so that one holds up no other. Why some failed."""
        try:
            await self._links.delete_links(names)
        except OSError as error:
            if len(names) == 1:
                return {names[0]: str(error)}
        else:
            return {}
        failures: dict[str, str] = {}
        for name in names:
            failures |= await self._delete([name])
        return failures
