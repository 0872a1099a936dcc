"""JSON-RPC 1.0 over a Unix socket, as the switch's database speaks it (RFC 7047, section 4): one connection.

Requests of ours are answered in any order; between the answers the server tells what has changed (notifications) and
asks whether we are alive (echo), which is answered here.
"""

from __future__ import annotations

import asyncio
import codecs
import json
from collections.abc import Callable, Sequence
from typing import TypeAlias

Json: TypeAlias = "dict[str, Json] | list[Json] | str | int | float | bool | None"

LONGEST = 256 << 20
"""Bytes of a message that is still believed to come to an end."""


class Disconnected(Exception):
    """The connection ended, or there was none: what was asked may or may not have been done."""


class RequestFailed(Exception):
    """The server answered a request with an error, which is the text."""


class JsonRpc(asyncio.Protocol):
    """One connection. `notified` is called with the method and the parameters of each notification."""

    def __init__(self, notified: Callable[[str, Json], None]) -> None:
        self.ended: asyncio.Future[str] = asyncio.get_running_loop().create_future()
        """Done when the connection has ended, with the reason."""
        self._notified = notified
        self._transport: asyncio.Transport | None = None
        self._decode = codecs.getincrementaldecoder("utf-8")().decode
        self._scan = json.JSONDecoder().raw_decode
        self._text = ""
        self._heard = False
        self._next = 0
        self._answers: dict[int, asyncio.Future[Json]] = {}

    @classmethod
    async def connect(cls, path: str, notified: Callable[[str, Json], None]) -> JsonRpc:
        """A connection to the socket at `path`. Raises Disconnected."""
        try:
            _, connection = await asyncio.get_running_loop().create_unix_connection(lambda: cls(notified), path)
        except OSError as error:
            raise Disconnected(f"{path}: {error.strerror or error}") from error
        return connection

    async def request(self, method: str, parameters: Sequence[Json]) -> Json:
        """Ask, and wait for the result. Raises RequestFailed or Disconnected."""
        number = self._next = self._next + 1
        answer = self._answers[number] = asyncio.get_running_loop().create_future()
        try:
            self._send({"method": method, "params": list(parameters), "id": number})
            result: Json = await answer
            return result
        finally:
            del self._answers[number]

    async def keep_alive(self, silence_s: float) -> None:
        """Ask a server that has been silent for `silence_s` for a sign of life, and hang up on one that gives none."""
        asked = False
        while True:
            self._heard = False
            await asyncio.sleep(silence_s)
            if self._heard:
                asked = False
            elif asked:
                self.close("the server does not answer")
                return
            else:
                asked = True
                self._send({"method": "echo", "params": [], "id": "echo"})

    def close(self, reason: str = "closed") -> None:
        """End the connection and whatever waits for it."""
        if self._transport is not None:
            self._transport.abort()
        self._end(reason)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Called by asyncio."""
        assert isinstance(transport, asyncio.Transport), "a stream has a transport to write to"
        self._transport = transport

    def connection_lost(self, exc: Exception | None) -> None:
        """Called by asyncio."""
        self._end(str(exc) if exc else "the server closed the connection")

    def data_received(self, data: bytes) -> None:
        """Called by asyncio."""
        self._heard = True
        try:
            self._text += self._decode(data)
        except UnicodeDecodeError as error:
            self.close(f"the server sends no text: {error}")
        position = 0
        while position < len(self._text) and not self.ended.done():
            try:
                message, position = self._scan(self._text, position)
            except ValueError:  # not yet whole
                break
            self._receive(message)
        self._text = self._text[position:]
        if len(self._text) > LONGEST:
            self.close("the server sends no JSON")

    def _receive(self, message: Json) -> None:
        match message:
            case {"method": "echo", "params": said, "id": number}:
                self._send({"result": said, "error": None, "id": number})
            case {"method": str(method), "params": parameters}:
                self._notified(method, parameters)
            case {"id": int(number), "error": error, "result": result}:
                answer = self._answers.get(number)
                if answer is None or answer.done():
                    return
                if error is None:
                    answer.set_result(result)
                else:
                    answer.set_exception(RequestFailed(_in_words(error)))

    def _send(self, message: dict[str, Json]) -> None:
        if self._transport is None or self.ended.done():
            raise Disconnected("the connection has ended")
        self._transport.write(json.dumps(message).encode())

    def _end(self, reason: str) -> None:
        if not self.ended.done():
            self.ended.set_result(reason)
            for answer in self._answers.values():
                if not answer.done():
                    answer.set_exception(Disconnected(reason))


def _in_words(error: Json) -> str:
    """RFC 7047, section 4.1.3: an object with a word and details; other servers say other things."""
    if isinstance(error, dict):
        return ": ".join(str(error[key]) for key in ("error", "details") if key in error)
    return str(error)
