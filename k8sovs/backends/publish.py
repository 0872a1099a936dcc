"""Writes the lists where a load balancer reads them, and has it read them again.

The file is replaced as a whole, and only when it would change. A reload that fails is tried again until it works or
there is something newer: the load balancer would go on with the list before.
"""

from __future__ import annotations

import asyncio
import os
import signal
import stat
import sys
import tempfile
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NoReturn

from k8sovs.backends.follow import BackendSource
from k8sovs.backends.model import BackendList
from k8sovs.logs import get_logger

log = get_logger(__name__)

SPACING_S = 1.0
"""The least time between two reloads: each costs a load balancer a process or more."""
RETRY_S = 5.0
RELOAD_TIMEOUT_S = 60.0
_NEW_FILE_MODE = 0o644


def write_atomically(path: Path, text: str) -> bool:
    """Make `text` the content of the file; False if it is already. A reader sees the old or the new. Raises OSError."""
    try:
        if path.read_text() == text:
            return False
        mode = stat.S_IMODE(path.stat().st_mode)
    except (FileNotFoundError, UnicodeDecodeError):
        mode = _NEW_FILE_MODE
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(descriptor, "w") as file:
            file.write(text)
            file.flush()
            os.fchmod(descriptor, mode)
            os.fsync(descriptor)
        temporary.replace(path)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    return True


async def reload(command: str, *, timeout: float = RELOAD_TIMEOUT_S) -> str:
    """Run `command` in a shell; why it failed, empty if it did not. What it prints goes to standard error."""
    process = await asyncio.create_subprocess_shell(
        command, stdin=asyncio.subprocess.DEVNULL, stdout=sys.stderr, start_new_session=True
    )
    try:
        async with asyncio.timeout(timeout):
            status = await process.wait()
    except TimeoutError:
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        await process.wait()
        return f"not done after {timeout:.0f} s"
    return f"exit status {status}" if status else ""


class Publisher:
    """Keeps the file at `output` equal to `written(lists)`, and runs `command` (if any) after each change.

    Without an output the text goes to `out`, whenever it is another one.
    """

    def __init__(
        self,
        written: Callable[[tuple[BackendList, ...]], str],
        output: Path | None,
        command: str,
        out: Callable[[str], object],
        *,
        spacing_s: float = SPACING_S,
        retry_s: float = RETRY_S,
    ) -> None:
        self._written = written
        self._output = output
        self._command = command
        self._out = out
        self._spacing_s = spacing_s
        self._retry_s = retry_s
        self._last = ""
        self._seen: frozenset[str] = frozenset()
        self._told: frozenset[str] = frozenset()

    async def run(self, source: BackendSource) -> NoReturn:
        """Follow `source` for ever. Trouble with the file or the command is logged, and tried again."""
        lists = await source.wait_changed()
        is_done = True
        while True:
            is_told = self._tell(lists)
            is_done = await self.publish(lists, again=not is_done)
            await asyncio.sleep(self._spacing_s)  # not a guess: what changes meanwhile shares one reload
            try:
                async with asyncio.timeout(None if is_done and is_told else self._retry_s):
                    lists = await source.wait_changed()
            except TimeoutError:
                continue

    async def publish(self, lists: tuple[BackendList, ...], *, again: bool = False) -> bool:
        """Write the lists, and reload if they are new, or if `again`; whether all of it worked."""
        text = self._written(lists)
        if self._output is None:
            if text != self._last:
                self._last = text
                self._out(text)
            return True
        try:
            is_new = await asyncio.to_thread(write_atomically, self._output, text)
        except OSError as error:
            log.error("backends-not-written", file=str(self._output), error=str(error), action="trying again")
            return False
        if is_new:
            counts = {each.target.name: len(each.backends) for each in lists}
            log.info("backends-written", file=str(self._output), **counts)
        if not self._command or not (is_new or again):
            return True
        failure = await reload(self._command)
        if failure:
            log.error("reload-failed", command=self._command, error=failure, action="trying again")
        return not failure

    def _tell(self, lists: tuple[BackendList, ...]) -> bool:
        """Log the problems that were there the last time, too; whether there are no others.

        A pod that has just gone is in its EndpointSlice a moment longer, which is nothing to tell.
        """
        problems = frozenset(problem for each in lists for problem in each.problems)
        lasting = problems & self._seen
        for problem in sorted(lasting - self._told):
            log.warning("backends-left-out", reason=problem)
        self._seen, self._told = problems, lasting
        return problems == lasting
