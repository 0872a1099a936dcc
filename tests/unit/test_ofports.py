"""Which number a new port asks for."""

from __future__ import annotations

import pytest

from agent.ofports import NoNumber, Ofports

NUMBERS = range(256, 260)


class Switch:
    """What a switch and a database say of the numbers in use, when they are asked."""

    def __init__(self) -> None:
        self.held: set[int] = set()
        self.used: set[int] = set()
        self.ofports = Ofports(self.ask, lambda: self.used, NUMBERS)

    async def ask(self) -> set[int]:
        return set(self.held)


async def test_a_number_comes_again_only_after_all_others() -> None:
    switch = Switch()
    assert [await switch.ofports.take() for _ in range(6)] == [256, 257, 258, 259, 256, 257]


async def test_a_number_that_the_switch_still_holds_is_not_given_out() -> None:
    switch = Switch()
    switch.held = {256, 258}
    assert [await switch.ofports.take() for _ in range(3)] == [257, 259, 257]


async def test_the_switch_is_asked_again_before_a_number_comes_again() -> None:
    switch = Switch()
    assert [await switch.ofports.take() for _ in range(4)] == list(NUMBERS)
    switch.held = {256}
    assert await switch.ofports.take() == 257


async def test_a_number_that_the_database_tells_of_is_not_given_out() -> None:
    switch = Switch()
    await switch.ofports.begin()
    switch.used = {256}
    assert await switch.ofports.take() == 257


async def test_when_all_numbers_are_in_use_that_is_said() -> None:
    switch = Switch()
    switch.held, switch.used = {256, 257}, {258, 259}
    with pytest.raises(NoNumber, match="all 4 port numbers"):
        await switch.ofports.take()
