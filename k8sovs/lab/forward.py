"""TCP forwarding from the machine's loopback into a network namespace, so that etcdctl and kubectl just work."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import socket
from concurrent.futures import ThreadPoolExecutor
from ipaddress import IPv4Address
from pathlib import Path
from types import TracebackType
from typing import Self

_CLONE_NEWNET = 0x40000000
_CHUNK_BYTES = 65536


class Forward:
    """Listens on a free port of 127.0.0.1 and connects each client to `address:port` inside the namespace.

    A socket stays in the namespace it was made in, whoever uses it later; so one thread lives in there and makes them.
    """

    def __init__(self, netns: Path, address: IPv4Address, port: int) -> None:
        self._target = (str(address), port)
        self._inside = ThreadPoolExecutor(1, f"inside-{netns.name}", initializer=_enter, initargs=(netns,))
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            self._server.close()
        self._inside.shutdown(wait=False)

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 on which the machine's own programs find the service."""
        assert self._server is not None, "used as a context manager"
        found: int = self._server.sockets[0].getsockname()[1]
        return found

    def _accept(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        # The event loop itself knows a task only while one of its sockets is waited for.
        relay = asyncio.create_task(self._relay(client_in, client_out))
        self._relays.add(relay)
        relay.add_done_callback(self._relays.discard)

    async def _relay(self, client_in: asyncio.StreamReader, client_out: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # whoever is cut off sees it; nobody else needs to know
            async with contextlib.AsyncExitStack() as open_writers:
                open_writers.push_async_callback(_close, client_out)
                service_in, service_out = await self._connect()
                open_writers.push_async_callback(_close, service_out)
                async with asyncio.TaskGroup() as both:
                    both.create_task(_copy(client_in, service_out))
                    both.create_task(_copy(service_in, client_out))

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        loop = asyncio.get_running_loop()
        inner = await loop.run_in_executor(self._inside, socket.socket, socket.AF_INET, socket.SOCK_STREAM)
        inner.setblocking(False)
        try:
            await loop.sock_connect(inner, self._target)
            return await asyncio.open_connection(sock=inner)
        except BaseException:
            inner.close()
            raise


def _enter(netns: Path) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = os.open(netns, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.setns(descriptor, _CLONE_NEWNET) != 0:
            error = ctypes.get_errno()
            raise OSError(error, os.strerror(error), str(netns))
    finally:
        os.close(descriptor)


async def _copy(source: asyncio.StreamReader, target: asyncio.StreamWriter) -> None:
    """Until the end of `source`, which is passed on; a broken connection counts as its end."""
    with contextlib.suppress(OSError):
        while chunk := await source.read(_CHUNK_BYTES):
            target.write(chunk)
            await target.drain()
    with contextlib.suppress(OSError):
        target.write_eof()


async def _close(writer: asyncio.StreamWriter) -> None:
    writer.close()
    with contextlib.suppress(OSError):
        await writer.wait_closed()
