"""GC: detaching what the runtime no longer knows of. One attachment that cannot be detached holds up no other."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

from agent.attachment import PodAttachment
from agent.attachments import Attachments
from agent.turns import Turns
from cni.errors import CniError, ErrorCode
from cni.request import AttachmentKey, Request
from k8sovs.logs import get_logger

log = get_logger(__name__)


class Collector:
    """Collects garbage with `detach`, which raises for an attachment that must stay for now."""

    def __init__(self, attachments: Attachments, detach: Callable[[AttachmentKey], Awaitable[None]]) -> None:
        self._attachments = attachments
        self._detach = detach

    async def collect(self, request: Request, turns: Turns) -> None:
        """Detach every attachment of the request's network that it does not name as valid.

        What a call is under way for is left to that call: an ADD that is not answered yet is in nobody's list. Raises
        CniError with TRY_AGAIN_LATER, once all is done that can be done.
        """
        valid = request.conf.valid_attachments or frozenset()
        stale = [
            found
            for found in self._attachments.by_port().values()
            if found.network == request.conf.name and found.key not in valid and not turns.taken(found.key)
        ]
        outcomes = await asyncio.gather(*(self._collect(one, turns) for one in stale), return_exceptions=True)
        failures = [f"{one.key}: {outcome}" for one, outcome in zip(stale, outcomes, strict=True) if outcome]
        if stale:
            log.info("garbage-collected", network=request.conf.name, attachments=len(stale) - len(failures))
        if failures:
            raise CniError(
                ErrorCode.TRY_AGAIN_LATER,
                f"{len(failures)} of {len(stale)} stale attachments are left",
                "; ".join(failures),
            )

    async def _collect(self, stale: PodAttachment, turns: Turns) -> None:
        async with turns.of(stale.key):
            await self._detach(stale.key)
