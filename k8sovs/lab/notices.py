"""What a daemon tells its service manager (sd_notify(3)), for which the supervisor stands in."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from types import TracebackType
from typing import Self

_LENGTH = 4096


class Notices:
    """The socket that a daemon finds as `NOTIFY_SOCKET`; `is_ready` says whether it has ever been ready.

    The socket is read all the time, as a full one would hold the daemon up.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self.is_ready = False
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)

    async def __aenter__(self) -> Self:
        self._socket.bind(str(self._path))
        asyncio.get_running_loop().add_reader(self._socket, self._read)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        asyncio.get_running_loop().remove_reader(self._socket)
        self._socket.close()

    def _read(self) -> None:
        if b"READY=1" in self._socket.recv(_LENGTH).splitlines():
            self.is_ready = True
