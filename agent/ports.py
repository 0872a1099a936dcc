"""Pod ports on the switch: one OVSDB transaction for all that are wanted at the same moment."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import TypeVar

from agent.batch import Batch
from agent.ovsdb import ChangeRefused, Ovsdb, OvsdbError, PodPort

Item = TypeVar("Item")


class PodPorts:
    """Adds and removes ports in batches."""

    def __init__(self, ovsdb: Ovsdb) -> None:
        self._ovsdb = ovsdb
        self._insertions: Batch[PodPort, None] = Batch(_in_one_go(ovsdb.insert_ports))
        self._removals: Batch[str, None] = Batch(_in_one_go(ovsdb.remove_ports))

    async def add(self, port: PodPort) -> int:
        """Add one port; returns its ofport once the switch forwards. Raises PortRefused or OvsdbError.

        Whoever is cancelled while the transaction is under way leaves no port: it goes as soon as it is seen.
        """
        with self._ovsdb.removed_on_failure([port.name]):
            await self._insertions.submit(port)
            return await self._ovsdb.wait_forwarding(port.name)

    async def remove(self, name: str) -> None:
        """Remove one port with all that is remembered at it; no error if it is not there. Raises OvsdbError."""
        await self._removals.submit(name)

    async def run_additions(self) -> None:
        """Serve `add` for ever."""
        await self._insertions.run()

    async def run_removals(self) -> None:
        """Serve `remove` for ever."""
        await self._removals.run()

    async def wait_connected(self) -> None:
        """Wait until the database is there."""
        await self._ovsdb.wait_connected()

    @property
    def connected(self) -> bool:
        """Whether the database is there."""
        return self._ovsdb.connected


def _in_one_go(
    change: Callable[[Sequence[Item]], Awaitable[None]],
) -> Callable[[Sequence[Item]], Awaitable[Mapping[int, Exception | None]]]:
    """The outcomes of a transaction, which is made for all of its items or for none.

    One that the database refuses is tried again in halves, so that the refusal meets the item that it is about.
    """

    async def commit(items: Sequence[Item]) -> Mapping[int, Exception | None]:
        try:
            await change(items)
        except ChangeRefused as error:
            half = len(items) // 2
            if half == 0:
                return {0: error}
            outcomes = dict(await commit(items[:half]))
            later = await commit(items[half:])
            return outcomes | {half + position: outcome for position, outcome in later.items()}
        except OvsdbError as error:
            return dict.fromkeys(range(len(items)), error)
        return dict.fromkeys(range(len(items)))

    return commit
