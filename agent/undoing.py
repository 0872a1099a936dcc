"""Undoes later what a failed ADD could not undo at once, because the switch's database was away."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent.ovsdb import OvsdbError
from agent.signal import Signal
from cni.request import AttachmentKey
from k8sovs.logs import get_logger

log = get_logger(__name__)

RETRY_S = 5.0


class Undoing:
    """Calls `undo` for each attachment that it is told of, until it succeeds; before, it waits for `possible`.

    It need not outlive the agent: after a restart what the database does not have is free, and a port of it without a
    device is removed.
    """

    def __init__(
        self,
        undo: Callable[[AttachmentKey], Awaitable[None]],
        possible: Callable[[], Awaitable[None]],
        retry_s: float = RETRY_S,
    ) -> None:
        self._undo = undo
        self._possible = possible
        self._retry_s = retry_s
        self._pending: dict[AttachmentKey, None] = {}
        self._wake = asyncio.Event()
        self._undone = Signal()

    def undo_later(self, key: AttachmentKey) -> None:
        """Have it undone as soon as the database is there."""
        self._pending[key] = None
        self._wake.set()

    async def wait_undone(self, key: AttachmentKey) -> None:
        """Wait until nothing of `key` waits to be undone, so that an ADD may begin anew."""
        while key in self._pending:
            await self._undone.wait_beyond(self._undone.count)

    async def run(self) -> None:
        """Undo for ever."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            await self._possible()
            for key in list(self._pending):
                try:
                    await self._undo(key)
                except OvsdbError as error:
                    log.warning("add-not-undone", attachment=str(key), error=str(error), action="trying again")
                else:
                    del self._pending[key]
                    log.info("add-undone", attachment=str(key))
                    self._undone.notify()
            if self._pending:
                asyncio.get_running_loop().call_later(self._retry_s, self._wake.set)
