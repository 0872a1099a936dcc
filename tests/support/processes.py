"""Doing to a process of the lab what happens to processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def hanging(process: int) -> Iterator[None]:
    """The process with this id stands still, as if swapped out."""
    os.kill(process, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(process, signal.SIGCONT)
