"""The one writer of the node's filters and NAT: put in place before the first port, and kept there.

Others change the same rules and know nothing of us: restarting nftables flushes every table, Docker sets a chain to
DROP when it starts. The kernel tells nobody whom to ask, so the rules are looked at now and then.
"""

from __future__ import annotations

import asyncio
from contextlib import suppress

from agent.nftables import FilterSpec, Nftables, NftablesError, ruleset
from agent.signal import Signal
from k8sovs.logs import get_logger

log = get_logger(__name__)

AUDIT_S = 5.0


class Filters:
    """Makes and keeps what `spec` says."""

    def __init__(self, nftables: Nftables, spec: FilterSpec, audit_s: float = AUDIT_S) -> None:
        self._nftables = nftables
        self.spec = spec
        self._audit_s = audit_s
        self._right = ""
        self._changed = Signal()

    def become(self, spec: FilterSpec) -> None:
        """Make and keep what `spec` says from now on."""
        if spec != self.spec:
            self.spec = spec
            self._changed.notify()

    async def prepare(self) -> None:
        """Put everything in place, whatever is there. Raises NftablesError."""
        await self._replace()
        await self._admit()
        for advice in await self._nftables.advice(self.spec):
            log.warning("firewall-in-the-way", advice=advice)

    async def run(self) -> None:
        """Repair what somebody took away, for ever."""
        made = 0
        while True:
            with suppress(TimeoutError):
                await asyncio.wait_for(self._changed.wait_beyond(made), self._audit_s)
            try:
                if made != self._changed.count:
                    made = self._changed.count
                    await self._replace()
                elif await self._nftables.own_tables() != self._right:
                    log.warning("filters-touched", action="putting them back")
                    await self._replace()
                await self._admit()
            except NftablesError as error:
                log.error("filters-not-kept", error=str(error), action="trying again")

    async def _replace(self) -> None:
        await self._nftables.apply(ruleset(self.spec))
        self._right = await self._nftables.own_tables()

    async def _admit(self) -> None:
        for command in await self._nftables.admit(self.spec):
            log.info("firewall-opened", command=command)
