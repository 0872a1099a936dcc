"""An API server that does what a script says, request by request: for faults that a sound one never makes."""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import parse_qsl, urlsplit

from tests.support.apiserver import KUBECONFIG


class Then(Enum):
    """What follows the last line of a stream."""

    END = "a proper end"
    CUT = "the connection breaks"
    HANG = "silence"


@dataclass(frozen=True)
class Answer:
    """One complete answer."""

    body: object
    status: int = 200
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Stream:
    """The lines of a watch."""

    lines: tuple[bytes, ...]
    then: Then = Then.END

    @classmethod
    def of(cls, *events: object, then: Then = Then.END) -> Stream:
        """Events as (word, object) or ready-made bytes."""
        return cls(tuple(event if isinstance(event, bytes) else _event(event) for event in events), then)


@dataclass(frozen=True)
class Request:
    """What was asked, and when."""

    path: str
    query: Mapping[str, str]
    at: float
    authorization: str = ""


def _event(event: object) -> bytes:
    word, body = event  # type: ignore[misc]
    return json.dumps({"type": word, "object": body}).encode() + b"\n"


def silence(request: Request) -> Answer | Stream:
    """The answer to a request that no script foresees."""
    return Stream((), Then.HANG)


class ScriptedApi:
    """Plays one step per request; when the script is over, `afterwards` says what each gets."""

    def __init__(
        self,
        directory: Path,
        steps: Iterable[Answer | Stream] = (),
        tls: ssl.SSLContext | None = None,
        afterwards: Callable[[Request], Answer | Stream] = silence,
    ) -> None:
        self._afterwards = afterwards
        self._steps = iter(list(steps))
        self.requests: list[Request] = []
        self.kubeconfig = directory / "kubeconfig"
        self._tls = tls
        self._server: asyncio.Server | None = None
        self._connections: set[asyncio.Task[None]] = set()
        self._arrived = asyncio.Condition()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0, ssl=self._tls)
        self.kubeconfig.write_text(KUBECONFIG.format(address=f"127.0.0.1:{self.port}"))
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._server is not None
        self._server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)

    @property
    def port(self) -> int:
        """The port of 127.0.0.1 that it listens on."""
        assert self._server is not None
        port: int = self._server.sockets[0].getsockname()[1]
        return port

    async def wait_requests(self, count: int) -> None:
        """Until so many requests came."""
        async with self._arrived:
            await self._arrived.wait_for(lambda: len(self.requests) >= count)

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(self._serve(reader, writer))
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            target = urlsplit(head.split()[1].decode())
            async with self._arrived:
                query = dict(parse_qsl(target.query))
                request = Request(target.path, query, time.monotonic(), _header(head, "authorization"))
                self.requests.append(request)
                self._arrived.notify_all()
            match next(self._steps, None) or self._afterwards(request):
                case Answer() as answer:
                    writer.write(_rendered(answer))
                case Stream() as stream:
                    await self._stream(stream, writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # the client gave up first, as some tests want it to
        finally:
            writer.close()

    async def _stream(self, stream: Stream, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nConnection: close\r\n\r\n")
        for line in stream.lines:
            writer.write(f"{len(line):x}\r\n".encode() + line + b"\r\n")
        await writer.drain()
        match stream.then:
            case Then.END:
                writer.write(b"0\r\n\r\n")
            case Then.HANG:
                await asyncio.Event().wait()
            case Then.CUT:
                writer.transport.abort()


def _header(head: bytes, name: str) -> str:
    lines = (line.partition(":") for line in head.decode().splitlines())
    return next((value.strip() for found, _, value in lines if found.lower() == name), "")


def _rendered(answer: Answer) -> bytes:
    body = answer.body if isinstance(answer.body, bytes) else json.dumps(answer.body).encode()
    headers = {"Content-Length": str(len(body)), "Connection": "close", **answer.headers}
    told = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    return f"HTTP/1.1 {answer.status} X\r\n{told}\r\n".encode() + body
