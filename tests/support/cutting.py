"""A relay before a switch's management socket that cuts the connection when a message of one kind passes."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path


class Relay:
    """Passes messages on from `path` to `switch`, until the first for which `cut` holds: there the connection ends.

    If it is `delivered` the switch gets it all the same, and nobody its answer. Later connections are left alone.
    `passed` are the messages of the client that the switch got.
    """

    def __init__(self, path: Path, switch: Path, cut: Callable[[bytes], bool], *, delivered: bool) -> None:
        self.passed: list[bytes] = []
        self.done = False
        self._path = path
        self._switch = switch
        self._cut = cut
        self._delivered = delivered

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Serve while the block runs."""
        server = await asyncio.start_unix_server(self._serve, self._path)
        try:
            yield
        finally:
            server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        answers, switch = await asyncio.open_unix_connection(self._switch)
        answering = asyncio.create_task(_copy(answers, writer))
        try:
            while True:
                header = await reader.readexactly(8)
                message = header + await reader.readexactly(int.from_bytes(header[2:4], "big") - 8)
                last = not self.done and self._cut(message)
                if not last or self._delivered:
                    switch.write(message)
                    self.passed.append(message)
                if last:
                    self.done = True
                    await switch.drain()
                    return
        except (asyncio.IncompleteReadError, ConnectionError):
            return
        finally:
            answering.cancel()
            switch.close()
            writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(1 << 16):
        writer.write(data)
