"""Doing to a process of the lab what happens to processes."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from tests.support.lab import eventually


@contextmanager
def hanging(process: int) -> Iterator[None]:
    """The process with this id stands still, as if swapped out: each of its threads does before the block begins."""
    os.kill(process, signal.SIGSTOP)
    try:
        eventually(lambda: _stopped(process), f"process {process} stands still")
        yield
    finally:
        os.kill(process, signal.SIGCONT)


def _stopped(process: int) -> bool:
    """proc(5): the state follows the command's name, which stands in parentheses and may hold any character."""
    threads = Path(f"/proc/{process}/task").iterdir()
    return all((thread / "stat").read_text().rpartition(")")[2].split()[0] in "Tt" for thread in threads)
