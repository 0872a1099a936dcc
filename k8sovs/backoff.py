"""How long to wait before something that failed is tried again."""

from __future__ import annotations

from collections.abc import Callable


class Backoff:
    """Waits that double up to a longest one, each with jitter, until a good while passes without a failure."""

    def __init__(
        self,
        now: Callable[[], float],
        randomness: Callable[[], float],
        *,
        shortest: float = 0.05,
        longest: float = 3.0,
        settled: float = 3.0,
    ) -> None:
        """`now` is a clock in seconds, `randomness` gives numbers from 0 to 1; the rest is in seconds.

        A failure more than `settled` after the end of the last wait has nothing to do with those before.
        """
        self._now = now
        self._randomness = randomness
        self._shortest = shortest
        self._longest = longest
        self._settled = settled
        self._ceiling = shortest
        self._until = now()

    def delay(self) -> float:
        """Seconds to wait after the failure that has just happened: between half of the ceiling and all of it."""
        if self._now() - self._until > self._settled:
            self._ceiling = self._shortest
        delay = self._ceiling * (0.5 + self._randomness() / 2)
        self._ceiling = min(self._ceiling * 2, self._longest)
        self._until = self._now() + delay
        return delay
