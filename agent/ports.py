"""Pod ports on the switch: one OVSDB transaction for all that are wanted at the same moment."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from agent.batch import Batch
from agent.ovsdb import Ovsdb, OvsdbError, PodPort


class PodPorts:
    """Adds and removes ports in batches."""

    def __init__(self, ovsdb: Ovsdb) -> None:
        self._ovsdb = ovsdb
        self._additions: Batch[PodPort, int] = Batch(self._add)
        self._removals: Batch[str, None] = Batch(self._remove)

    async def add(self, port: PodPort) -> int:
        """Add one port; returns its ofport once the switch forwards. Raises PortRefused or OvsdbError."""
        return await self._additions.submit(port)

    async def remove(self, name: str) -> None:
        """Remove one port with all that is remembered at it; no error if it is not there. Raises OvsdbError."""
        await self._removals.submit(name)

    async def run_additions(self) -> None:
        """Serve `add` for ever."""
        await self._additions.run()

    async def run_removals(self) -> None:
        """Serve `remove` for ever."""
        await self._removals.run()

    @property
    def connected(self) -> bool:
        """Whether the database is there."""
        return self._ovsdb.connected

    async def _add(self, ports: Sequence[PodPort]) -> Mapping[int, int | Exception]:
        try:
            results = await self._ovsdb.add_ports(ports)
        except OvsdbError as error:
            return dict.fromkeys(range(len(ports)), error)
        return {position: results[port.name] for position, port in enumerate(ports)}

    async def _remove(self, names: Sequence[str]) -> Mapping[int, Exception | None]:
        try:
            await self._ovsdb.remove_ports(names)
        except OvsdbError as error:
            return dict.fromkeys(range(len(names)), error)
        return dict.fromkeys(range(len(names)))
