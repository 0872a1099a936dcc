"""The HTTP endpoint of a process: `/metrics`, and the probes `/livez` and `/readyz`.

It is served from threads of its own, and asks the event loop: so a loop that is stuck is told as such instead of
leaving the question unanswered, and writing the text of the metrics does not hold up the loop's work.

- `/livez` fails only if the loop does not answer: a process that waits for etcd, the switch or the API is not helped by
  being started again.
- `/readyz` fails with the reason while the process could not do its work if it were asked to now.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Coroutine
from concurrent.futures import Future
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import Thread
from types import TracebackType
from typing import Self, TypeVar
from urllib.parse import urlsplit

from prometheus_client import CollectorRegistry
from prometheus_client.exposition import choose_encoder

from k8sovs.logs import get_logger

log = get_logger(__name__)

LIVE_DEADLINE_S = 5.0
"""So long may the loop be busy before it counts as stuck."""
READY_DEADLINE_S = 2.0
REFRESH_DEADLINE_S = 2.0
READ_DEADLINE_S = 5.0
"""Who connects and says nothing is let go."""

T = TypeVar("T")


class ExpositionError(Exception):
    """Nothing can be served where the settings say."""


async def _starting() -> str:
    return "starting"


async def _nothing() -> None:
    return None


class Exposition:
    """Serves `registry` at `address` (host:port) while the context is open; nothing if that is empty.

    Until `ready_when` was called the process is not ready.
    """

    def __init__(self, registry: CollectorRegistry, address: str, *, live_deadline_s: float = LIVE_DEADLINE_S) -> None:
        self.registry = registry
        self.live_deadline_s = live_deadline_s
        self._address = address
        self._server: ThreadingHTTPServer | None = None
        self._why_not_ready: Callable[[], Awaitable[str]] = _starting
        self._refresh: Callable[[], Awaitable[None]] = _nothing

    def ready_when(self, why_not: Callable[[], Awaitable[str]]) -> None:
        """Let `why_not` answer `/readyz` from now on: the reason not to be ready, or an empty text."""
        self._why_not_ready = why_not

    def refresh_with(self, refresh: Callable[[], Awaitable[None]]) -> None:
        """Call `refresh` on the loop before the metrics are shown, to look at what nobody counts."""
        self._refresh = refresh

    async def __aenter__(self) -> Self:
        """Raises ExpositionError."""
        if self._address:
            host, _, port = self._address.rpartition(":")
            loop = asyncio.get_running_loop()
            handler = type("Handler", (_Handler,), {"shown": self, "loop": loop})
            try:
                self._server = _Server((host.strip("[]") or "0.0.0.0", int(port)), handler)
            except OSError as error:
                reason = f"metrics-address: cannot listen on {self._address}: {error.strerror}"
                raise ExpositionError(reason) from error
            Thread(target=self._server.serve_forever, name="exposition", daemon=True).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._server is not None:
            await asyncio.to_thread(self._server.shutdown)
            self._server.server_close()

    async def why_not_ready(self) -> str:
        """The reason not to be ready, or an empty text."""
        try:
            async with asyncio.timeout(READY_DEADLINE_S):
                return await self._why_not_ready()
        except TimeoutError:
            return f"no answer within {READY_DEADLINE_S:g} s"

    async def look(self) -> None:
        """Bring what is looked at, and not counted, up to date; what does not answer in time stays unknown."""
        try:
            async with asyncio.timeout(REFRESH_DEADLINE_S):
                await self._refresh()
        except TimeoutError:
            log.warning("metrics-incomplete", reason=f"no answer within {REFRESH_DEADLINE_S:g} s")


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def server_bind(self) -> None:
        """Without the name of the address, which the library looks up: no daemon waits for a name server to start."""
        TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])


class _Handler(BaseHTTPRequestHandler):
    """One request; `shown` and `loop` are set for the server that it is of."""

    shown: Exposition
    loop: asyncio.AbstractEventLoop
    timeout = READ_DEADLINE_S

    def do_GET(self) -> None:
        """Answer one of the three paths."""
        match urlsplit(self.path).path:
            case "/livez":
                self._tell("" if self._ask(_nothing()) is not None else self._stuck)
            case "/readyz":
                answer = self._ask(self.shown.why_not_ready())
                self._tell(self._stuck if answer is None else answer[0])
            case "/metrics":
                self._show()
            case _:
                self._answer(HTTPStatus.NOT_FOUND, "text/plain", b"there are /metrics, /livez and /readyz\n")

    def log_message(self, format: str, *arguments: object) -> None:  # noqa: A002 - the name of the base class
        """Nobody wants a line for each question."""

    @property
    def _stuck(self) -> str:
        return f"the event loop has not answered for {self.shown.live_deadline_s:g} s"

    def _show(self) -> None:
        # Whatever the loop is at: the counters can be shown, and one of them may say why.
        self._ask(self.shown.look())
        encode, content_type = choose_encoder(self.headers.get("Accept", ""))
        self._answer(HTTPStatus.OK, content_type, encode(self.shown.registry))

    def _tell(self, trouble: str) -> None:
        status = HTTPStatus.SERVICE_UNAVAILABLE if trouble else HTTPStatus.OK
        self._answer(status, "text/plain; charset=utf-8", f"{trouble or 'ok'}\n".encode())

    def _ask(self, question: Coroutine[None, None, T]) -> tuple[T] | None:
        """What the loop answers; None if it does not."""
        try:
            asked: Future[T] = asyncio.run_coroutine_threadsafe(question, self.loop)
        except RuntimeError:  # the loop has just been closed
            question.close()
            return None
        try:
            return (asked.result(self.shown.live_deadline_s),)
        except TimeoutError:
            asked.cancel()
            return None

    def _answer(self, status: HTTPStatus, content_type: str, body: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
