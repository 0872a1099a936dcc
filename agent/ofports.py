"""Numbers for new ports. A number comes again as late as possible, and never while the switch still has it in use.

A port that was removed from the database keeps its number in the switch until the switch has looked. Flows for a new
pod that asked for the same one would be the old pod's meanwhile. So numbers have nothing to do with addresses: they go
upwards, and what the switch holds, it says itself.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Collection

from flows.tables import FIRST_POD_PORT

LIMIT = 0xFF00
"""First number that is no port's: OpenFlow 1.0, which operators' tools speak, has 16 bits and reserves the top."""


class NoNumber(Exception):
    """Every number is in use."""


class Ofports:
    """Gives out each number once, then asks the switch which it still `held` before it gives them out again.

    `used` are those that the database tells of.
    """

    def __init__(
        self,
        held: Callable[[], Awaitable[Collection[int]]],
        used: Callable[[], Collection[int]],
        numbers: range = range(FIRST_POD_PORT, LIMIT),
    ) -> None:
        self._ask = held
        self._used = used
        self._numbers = numbers
        self._given = len(numbers)
        self._held: frozenset[int] = frozenset()
        self._turn = asyncio.Lock()

    async def take(self) -> int:
        """A number for a new port. Raises NoNumber, and what asking the switch raises."""
        async with self._turn:
            number = self._next()
            if number is None:
                await self.begin()
                number = self._next()
            if number is None:
                raise NoNumber(f"all {len(self._numbers)} port numbers are in use")
            return number

    async def begin(self) -> None:
        """Ask the switch, and begin with the lowest number. Raises what asking raises."""
        self._held = frozenset(await self._ask())
        self._given = 0

    def _next(self) -> int | None:
        used = self._used()
        while self._given < len(self._numbers):
            number = self._numbers[self._given]
            self._given += 1
            if number not in self._held and number not in used:
                return number
        return None
