"""Waits between attempts."""

from __future__ import annotations

from k8sovs.backoff import Backoff


class Clock:
    def __init__(self) -> None:
        self.time = 0.0

    def __call__(self) -> float:
        return self.time


def test_waits_double_up_to_the_longest() -> None:
    backoff = Backoff(Clock(), lambda: 1.0, shortest=1, longest=5, settled=3)
    assert [backoff.delay() for _ in range(5)] == [1, 2, 4, 5, 5]


def test_jitter_takes_up_to_half_of_a_wait() -> None:
    assert Backoff(Clock(), lambda: 0.0, shortest=1, longest=5, settled=3).delay() == 0.5


def test_waits_are_short_again_after_a_good_while() -> None:
    clock = Clock()
    backoff = Backoff(clock, lambda: 1.0, shortest=1, longest=5, settled=3)
    assert [backoff.delay(), backoff.delay()] == [1, 2]
    clock.time = 2 + 3.1
    assert backoff.delay() == 1
