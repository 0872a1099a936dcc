"""One OpenFlow connection to a bridge, from its handshake to its end.

It reads all the time, also while something long is being written: a switch whose error replies nobody reads stops
reading itself. Replies find their request by transaction id. The connection ends when the switch closes it, sends
nonsense or stays silent; everybody who waits for a reply then gets `SwitchDisconnected`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import TypeVar

from flows.openflow import Decoder, OpenFlowError, Received, encode
from flows.openflow.messages import (
    EchoReply,
    EchoRequest,
    Error,
    FeaturesRequest,
    Hello,
    MultipartReply,
    MultipartRequest,
    Reply,
    Request,
)
from flows.openflow.wire import VERSION
from k8sovs.logs import get_logger

READ_SIZE = 64 * 1024
WRITE_BATCH = 200  # messages encoded at a stretch, about 3 ms, before other tasks get their turn
XID_MAX = 2**32 - 1

Item = TypeVar("Item")
Expected = TypeVar("Expected", bound=Reply)

log = get_logger(__name__)


class SwitchDisconnected(Exception):
    """There is no connection to the switch, or it ended before the answer: what was asked may or may not be done."""


class SwitchRefused(Exception):
    """The switch answered a request with `error`."""

    def __init__(self, request: Request, error: Error) -> None:
        super().__init__(f"the switch refused {request}: {error}")
        self.request = request
        self.error = error


class _Exchange:
    """A request under way: the parts of its answer so far, and a future that is done with the last one."""

    def __init__(self, request: Request) -> None:
        self.request = request
        self.parts: list[Reply] = []
        self.done: asyncio.Future[None] = asyncio.get_running_loop().create_future()

    def receive(self, reply: Reply) -> None:
        if self.done.done():
            return
        if isinstance(reply, Error):
            self.done.set_exception(SwitchRefused(self.request, reply))
            return
        self.parts.append(reply)
        if not (isinstance(reply, MultipartReply) and reply.more):
            self.done.set_result(None)

    def abandon(self) -> None:
        """Nobody waits any more; an error that nobody took is not to be complained about."""
        if not self.done.cancel() and not self.done.cancelled():
            self.done.exception()


class Connection:
    """Get one with `Connection.open`, keep `serve` running in a task, and send requests meanwhile.

    After `silence_s` seconds without a word the switch is probed, after twice as long it is given up.
    """

    def __init__(self, path: str, silence_s: float, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._path = path
        self._silence_s = silence_s
        self._reader = reader
        self._writer = writer
        self._decoder = Decoder()
        self._next_xid = 1
        self._exchanges: dict[int, _Exchange] = {}
        self._watched: list[tuple[range, dict[int, Error]]] = []
        self._closed = False

    @classmethod
    async def open(cls, path: str, silence_s: float) -> Connection:
        """A connection to the bridge whose management socket is `path`, once the switch has answered a first request.

        Raises SwitchDisconnected if there is no such socket, or nobody who speaks OpenFlow 1.5 behind it.
        """
        try:
            reader, writer = await asyncio.open_unix_connection(path)
        except OSError as error:
            raise SwitchDisconnected(f"{path}: {error.strerror or error}") from error
        connection = cls(path, silence_s, reader, writer)
        try:
            await connection._shake_hands()
        except BaseException:
            connection.close()
            raise
        return connection

    async def serve(self) -> None:
        """Read until the connection ends. Always raises, SwitchDisconnected unless cancelled."""
        try:
            while True:
                await self._receive()
        finally:
            self.close()

    def close(self) -> None:
        """End the connection and whatever waits for it."""
        self._closed = True
        self._writer.transport.abort()
        for exchange in self._exchanges.values():
            if not exchange.done.done():
                exchange.done.set_exception(SwitchDisconnected(f"{self._path}: the connection ended"))

    async def request(self, request: Request, expected: type[Expected]) -> Expected:
        """Send `request` and return its answer.

        Raises SwitchRefused, or SwitchDisconnected.
        """
        *_, last = await self._exchange(request)
        if not isinstance(last, expected):
            raise SwitchDisconnected(f"{self._path}: the switch answered {request} with {last}")
        return last

    async def collect(self, request: MultipartRequest, part: type[MultipartReply[Item]]) -> list[Item]:
        """Send `request` and return the items of all parts of its answer.

        Raises SwitchRefused, or SwitchDisconnected.
        """
        items: list[Item] = []
        for reply in await self._exchange(request):
            if not isinstance(reply, part):
                raise SwitchDisconnected(f"{self._path}: the switch answered {request} with {reply}")
            items += reply.items
        return items

    def reserve(self, count: int) -> range:
        """Transaction ids for `count` messages."""
        if self._next_xid + count > XID_MAX:
            self._next_xid = 1
        first = self._next_xid
        self._next_xid += count
        return range(first, first + count)

    @contextmanager
    def errors_of(self, xids: range) -> Iterator[dict[int, Error]]:
        """Collects, by transaction id, the errors that answer messages to which no reply is awaited."""
        errors: dict[int, Error] = {}
        self._watched.append((xids, errors))
        try:
            yield errors
        finally:
            self._watched.remove((xids, errors))

    async def send(self, messages: Iterable[Request], xids: range) -> None:
        """Send messages that are answered only if they fail, one for each of `xids`.

        Raises SwitchDisconnected.
        """
        batch: list[bytes] = []
        for message, xid in zip(messages, xids, strict=True):
            batch.append(encode(message, xid))
            if len(batch) == WRITE_BATCH:
                await self._flush(batch)
                batch = []
                await asyncio.sleep(0)
        await self._flush(batch)

    def send_and_forget(self, message: Request) -> None:
        """Send a message whose answer nobody waits for; nothing happens if the connection has ended."""
        if not self._closed:
            self._writer.write(encode(message, self.reserve(1)[0]))

    async def _flush(self, batch: list[bytes]) -> None:
        if self._closed:
            raise SwitchDisconnected(f"{self._path}: the connection ended")
        self._writer.write(b"".join(batch))
        try:
            await self._writer.drain()
        except OSError as error:
            raise SwitchDisconnected(f"{self._path}: {error}") from error

    async def _exchange(self, request: Request) -> list[Reply]:
        with self._expect(request) as (xid, exchange):
            await self._flush([encode(request, xid)])
            await exchange.done
            return exchange.parts

    @contextmanager
    def _expect(self, request: Request) -> Iterator[tuple[int, _Exchange]]:
        (xid,) = self.reserve(1)
        exchange = self._exchanges[xid] = _Exchange(request)
        try:
            yield xid, exchange
        finally:
            del self._exchanges[xid]
            exchange.abandon()

    async def _shake_hands(self) -> None:
        """Greet, and ask a first question, as nobody else reads yet."""
        self.send_and_forget(Hello())
        with self._expect(FeaturesRequest()) as (xid, exchange):
            await self._flush([encode(FeaturesRequest(), xid)])
            while not exchange.done.done():
                await self._receive()
            exchange.done.result()
            log.debug("openflow-connected", path=self._path, switch=str(exchange.parts[-1]))

    async def _receive(self) -> None:
        data = await self._read()
        if not data:
            raise SwitchDisconnected(f"{self._path}: the switch closed the connection")
        try:
            for received in self._decoder.feed(data):
                self._dispatch(received)
        except OpenFlowError as error:
            raise SwitchDisconnected(f"{self._path}: {error}") from error

    async def _read(self) -> bytes:
        """What the switch says next, after a probe if it is silent."""
        for _ in range(2):
            try:
                async with asyncio.timeout(self._silence_s):
                    return await self._reader.read(READ_SIZE)
            except TimeoutError:
                self.send_and_forget(EchoRequest())
            except OSError as error:
                raise SwitchDisconnected(f"{self._path}: {error.strerror or error}") from error
        raise SwitchDisconnected(f"{self._path}: the switch has been silent for {2 * self._silence_s:g} s")

    def _dispatch(self, received: Received) -> None:
        message = received.message
        if isinstance(message, EchoRequest):
            self._writer.write(encode(EchoReply(message.data), received.xid))
        elif isinstance(message, Hello):
            if VERSION not in message.versions:
                raise SwitchDisconnected(
                    f"{self._path}: the bridge does not speak OpenFlow 1.5; add OpenFlow15 to its protocols"
                )
        elif received.xid in self._exchanges:
            self._exchanges[received.xid].receive(message)
        elif isinstance(message, Error):
            self._note_error(received.xid, message)

    def _note_error(self, xid: int, error: Error) -> None:
        for xids, errors in self._watched:
            if xid in xids:
                errors.setdefault(xid, error)
                return
        log.debug("openflow-error-of-nobody", path=self._path, xid=xid, error=str(error))
