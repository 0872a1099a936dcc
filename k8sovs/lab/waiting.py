"""Waiting: for something that another process does, and for several steps at once."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Awaitable, Callable, Coroutine

from k8sovs.lab.layout import LabError

PATIENCE = float(os.environ.get("K8SOVS_LAB_PATIENCE", "1"))
"""How many times as long as usual to wait before giving up: on an emulated machine all takes longer."""
_INTERVAL_S = 0.1 * PATIENCE
"""Between two questions: each takes processor time from what is waited for, and a slow machine has little of it."""


async def wait_until(problem: Callable[[], Awaitable[str | None]], *, timeout_s: float) -> None:
    """Ask `problem` again and again until it has none to tell; LabError with the last one at the deadline."""
    timeout_s *= PATIENCE
    last = "it was never asked"
    try:
        async with asyncio.timeout(timeout_s):
            while (found := await problem()) is not None:
                last = found
                await asyncio.sleep(_INTERVAL_S)
    except TimeoutError:
        raise LabError(f"{last} (waited {timeout_s:.0f} s)") from None


async def all_of(*steps: Coroutine[None, None, None]) -> None:
    """Take all steps at once. The first LabError ends the others and is raised as itself, not as a group."""
    try:
        async with asyncio.TaskGroup() as group:
            for step in steps:
                group.create_task(step)
    except* LabError as failed:
        first: BaseException = failed
        while isinstance(first, BaseExceptionGroup):
            first = first.exceptions[0]
    else:
        return
    raise first
