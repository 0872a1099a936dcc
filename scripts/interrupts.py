"""An interruption is an end like any other: what was set up is taken down."""

from __future__ import annotations

import signal
import sys
from types import FrameType

_ENDINGS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def end_on_signals() -> None:
    """From now on these signals raise SystemExit in the main thread, once: a second one breaks off no clearing up."""
    for number in _ENDINGS:
        signal.signal(number, _end)


def _end(number: int, _: FrameType | None) -> None:
    for each in _ENDINGS:
        signal.signal(each, signal.SIG_IGN)
    sys.exit(128 + number)
