"""One supervised process: started, watched, started again when it dies, stopped when an operator wants an outage."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from k8sovs.logs import get_logger

FIRST_RESTART_DELAY_S = 0.5
LONGEST_RESTART_DELAY_S = 3.0
STEADY_AFTER_S = 30.0
STOP_TIMEOUT_S = 10.0

log = get_logger(__name__)


@dataclass(slots=True)
class Daemon:
    """A process that should run until it is told to stop.

    It dies with nobody: `down` finds it by its environment. One that dies is started again after half a second, twice
    as long after each early death, at most 3 s.
    """

    name: str
    argv: Sequence[str]
    log_file: Path
    env: Mapping[str, str] = field(default_factory=dict)
    cwd: Path = Path("/")
    pid: int | None = None
    restarts: int = 0
    _task: asyncio.Task[None] | None = None
    _turn: asyncio.Lock = field(default_factory=asyncio.Lock)

    async def start(self) -> None:
        """Start it, and keep it running; nothing new if it is wanted already."""
        async with self._turn:
            if self._task is None:
                self._task = asyncio.create_task(self._supervise(await self._spawn()), name=self.name)

    async def stop(self) -> None:
        """End it (SIGTERM, after 10 s SIGKILL), and leave it stopped."""
        async with self._turn:
            if self._task is not None:
                self._task.cancel()
                await asyncio.wait([self._task])
                self._task = None

    def last_words(self, lines: int = 3) -> str:
        """The end of its log, for a person who wonders why it died."""
        text = self.log_file.read_text(errors="replace") if self.log_file.exists() else ""
        return "\n".join(text.splitlines()[-lines:])

    async def _spawn(self) -> asyncio.subprocess.Process:
        with self.log_file.open("ab") as output:
            process = await asyncio.create_subprocess_exec(
                *self.argv,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env={**os.environ, **self.env},
                cwd=self.cwd,
                start_new_session=True,
            )
        self.pid = process.pid
        log.info("process-started", process=self.name, pid=process.pid)
        return process

    async def _supervise(self, process: asyncio.subprocess.Process) -> None:
        loop = asyncio.get_running_loop()
        delay = FIRST_RESTART_DELAY_S
        try:
            while True:
                started = loop.time()
                status = await process.wait()
                self.pid = None
                if loop.time() - started > STEADY_AFTER_S:
                    delay = FIRST_RESTART_DELAY_S
                log.warning(
                    "process-died", process=self.name, status=status, restart_in_s=delay, log=str(self.log_file)
                )
                await asyncio.sleep(delay)
                delay = min(2 * delay, LONGEST_RESTART_DELAY_S)
                self.restarts += 1
                process = await self._spawn()
        finally:
            await _end(process)
            self.pid = None


async def _end(process: asyncio.subprocess.Process) -> None:
    if process.returncode is not None:
        return
    process.send_signal(signal.SIGTERM)
    try:
        async with asyncio.timeout(STOP_TIMEOUT_S):
            await process.wait()
    except TimeoutError:
        process.kill()
        await process.wait()
