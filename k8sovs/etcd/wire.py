"""etcd over gRPC with typed values: the choice of a server, the user's token, deadlines, and what errors mean."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import grpc.aio

from k8sovs.etcd import messages
from k8sovs.etcd.messages import Message, Page, Stubs, WatchMessage
from k8sovs.etcd.model import (
    Compare,
    Endpoint,
    EtcdCompacted,
    EtcdConfig,
    EtcdError,
    EtcdPermissionDenied,
    EtcdUnavailable,
    LeaseLost,
    Operation,
    Range,
    TransactionResult,
)

Metadata = tuple[tuple[str, str], ...]

_CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", -1),  # a page of the largest values that etcd takes
    ("grpc.keepalive_time_ms", 10_000),  # etcd refuses pings more often than every 5 s
    ("grpc.keepalive_timeout_ms", 5_000),
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),  # also the patience with one connection attempt
    ("grpc.max_reconnect_backoff_ms", 2_000),
    ("grpc.enable_http_proxy", 0),  # a proxy set for downloads has no business between us and etcd
)

# Conditions that etcd tells apart by the text alone.
_STALE_TOKEN = ("invalid auth token", "revision of auth store is old", "user name is empty")
_WRONG_PASSWORD = "authentication failed"
_DENIED = "permission denied"
_COMPACTED = "has been compacted"


class _StreamEnded(Exception):
    """The server closed a stream without an error."""


class _Server:
    """One endpoint: its channel and the stubs on it."""

    def __init__(self, endpoint: Endpoint, credentials: grpc.ChannelCredentials | None) -> None:
        target = f"dns:///{endpoint.address}"
        self.address = endpoint.address
        self.channel = (
            grpc.aio.secure_channel(target, credentials, _CHANNEL_OPTIONS)
            if endpoint.tls and credentials is not None
            else grpc.aio.insecure_channel(target, _CHANNEL_OPTIONS)
        )
        self.stubs = Stubs(self.channel)

    async def accepts_connections(self) -> bool:
        """Wait for the outcome of connecting, which is at hand while the channel is connected."""
        states = grpc.ChannelConnectivity
        while (state := self.channel.get_state(try_to_connect=True)) in (states.IDLE, states.CONNECTING):
            await self.channel.wait_for_state_change(state)
        return state is states.READY


_Method = Callable[[_Server], Callable[..., Awaitable[Message]]]


class Wire:
    """The servers of a cluster, the one in use among them, and the user's token.

    The server in use stays so until it refuses connections, fails or is silent; then it is the next one's turn. A call
    ends with its result or an `EtcdError` within the deadline.
    """

    def __init__(self, config: EtcdConfig, timeout: float) -> None:
        self._config = config
        self._timeout = timeout
        self._servers: list[_Server] = []
        self._streams: set[WatchStream] = set()
        self._current = 0
        self._token: str | None = None
        self._authenticating = asyncio.Lock()

    def open(self) -> None:
        """Make the channels; they connect when first used. Raises `EtcdError` if a certificate cannot be read."""
        endpoints = self._config.servers
        credentials = _credentials(self._config) if any(endpoint.tls for endpoint in endpoints) else None
        self._servers = [_Server(endpoint, credentials) for endpoint in endpoints]

    async def close(self) -> None:
        """Close the channels and end what runs on them."""
        servers, self._servers = self._servers, []
        for server in servers:
            await server.channel.close()

    async def read(self, ranges: Sequence[Range], *, limit: int, revision: int = 0) -> Page:
        """Up to `limit` keys of each range, all at one revision: at `revision`, or the newest if that is 0."""
        request = messages.read_request(ranges, limit, revision)
        return messages.page(ranges, await self._call(lambda server: server.stubs.transaction, request))

    async def transact(
        self, compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]
    ) -> TransactionResult:
        """See `Etcd.transact`."""
        request = messages.transaction_request(compares, then, otherwise)
        return messages.transaction_result(await self._call(lambda server: server.stubs.transaction, request))

    async def grant_lease(self, ttl_s: int) -> int:
        """See `Etcd.grant_lease`."""
        return int((await self._call(lambda server: server.stubs.grant, messages.grant_request(ttl_s))).ID)

    async def renew_lease(self, lease: int, timeout: float) -> int:
        """The seconds that `lease` lives from now on; 0 or less if it is no more."""
        return int((await self._call(_renewal, messages.renew_request(lease), timeout)).TTL)

    async def revoke_lease(self, lease: int) -> None:
        """See `Etcd.revoke_lease`."""
        await self._call(lambda server: server.stubs.revoke, messages.revoke_request(lease))

    @asynccontextmanager
    async def watch(self, starts: Sequence[tuple[Range, int]]) -> AsyncIterator[WatchStream]:
        """A stream of what happens in each range from its revision on. Raises `EtcdError` if it cannot be opened."""
        stream = await self._open_watch(starts)
        self._streams.add(stream)
        try:
            yield stream
        finally:
            self._streams.discard(stream)
            await stream.close()

    def doubt(self) -> None:
        """See `Etcd.doubt`."""
        for stream in self._streams:
            stream.doubt()

    async def _open_watch(self, starts: Sequence[tuple[Range, int]]) -> WatchStream:
        async with self._attempt(self._timeout) as server:
            call = server.stubs.watch(metadata=_metadata(await self._login(server)))
            stream = WatchStream(self, server, call)
            try:
                for index, (each, revision) in enumerate(starts):
                    await call.write(messages.watch_request(index, each, revision))
            except BaseException:  # cancellation included: nobody else can close the stream yet
                await stream.close()
                raise
        return stream

    async def _call(self, method: _Method, request: Message, timeout: float | None = None) -> Message:
        """One call of one server. A token that is no longer good is renewed once."""
        async with self._attempt(self._timeout if timeout is None else timeout) as server:
            token = await self._login(server)
            try:
                return await method(server)(request, metadata=_metadata(token))
            except grpc.aio.AioRpcError as error:
                if self._config.user is None or not _says(error, *_STALE_TOKEN):
                    raise
            self.forget_token(token)
            return await method(server)(request, metadata=_metadata(await self._login(server)))

    @asynccontextmanager
    async def _attempt(self, timeout: float) -> AsyncIterator[_Server]:
        """A server to talk to. What goes wrong in the block becomes an `EtcdError`, as does its taking too long."""
        server = None
        try:
            async with asyncio.timeout(timeout):
                server = await self._connected()
                yield server
        except TimeoutError:
            raise self.unavailable(server, f"no answer within {timeout:.1f} s") from None
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError, _StreamEnded) as error:
            raise self.failure(server, error) from None

    async def _connected(self) -> _Server:
        """The server in use, or the first after it that accepts connections."""
        for _ in self._servers:
            server = self._servers[self._current]
            if await server.accepts_connections():
                return server
            self._avoid(server)
        raise self.unavailable(None, "no connection")

    def _avoid(self, server: _Server | None) -> None:
        """Let it be the next server's turn, unless that has happened already."""
        if self._servers and server in (None, self._servers[self._current]):
            self._current = (self._current + 1) % len(self._servers)

    async def _login(self, server: _Server) -> str:
        """The user's token; empty without a user, or where the cluster asks for none."""
        if self._config.user is None:
            return ""
        async with self._authenticating:
            if self._token is None:
                self._token = await _authenticate(server, self._config.user, self._config.password or "")
            return self._token

    def forget_token(self, token: str | None = None) -> None:
        """Authenticate again before the next call: `token`, or whichever there is, was refused."""
        if token is None or token == self._token:
            self._token = None

    def unavailable(self, server: _Server | None, reason: str) -> EtcdUnavailable:
        """The error for a server that does not answer; the next call goes to the next one."""
        self._avoid(server)
        where = server.address if server else ", ".join(self._config.endpoints)
        return EtcdUnavailable(f"etcd at {where}: {reason}")

    def denied(self, reason: str) -> EtcdPermissionDenied:
        """The error for a user without the right."""
        who = f"user {self._config.user!r}" if self._config.user else "a client without user"
        return EtcdPermissionDenied(f"etcd refuses {who}: {reason}; check user, password, and what the role may do")

    def failure(
        self, server: _Server | None, error: grpc.aio.AioRpcError | asyncio.InvalidStateError | _StreamEnded
    ) -> EtcdError:
        """What an error of gRPC means. An InvalidStateError is its answer to a write to a stream that has ended."""
        if not isinstance(error, grpc.aio.AioRpcError):
            return self.unavailable(server, "the server closed the stream")
        code, codes = error.code(), grpc.StatusCode
        reason = error.details() or code.name
        if code in (codes.PERMISSION_DENIED, codes.UNAUTHENTICATED) or _says(error, _WRONG_PASSWORD, *_STALE_TOKEN):
            return self.denied(reason)
        if code is codes.NOT_FOUND:
            return LeaseLost(f"etcd: {reason}")
        if _says(error, _COMPACTED):
            return EtcdCompacted(f"etcd: {reason}")
        if code in (codes.INVALID_ARGUMENT, codes.OUT_OF_RANGE, codes.RESOURCE_EXHAUSTED, codes.FAILED_PRECONDITION):
            return EtcdError(f"etcd: {reason}")
        return self.unavailable(server, reason)


class WatchStream:
    """An open watch. The messages of each range come in the order of revisions."""

    def __init__(self, wire: Wire, server: _Server, call: grpc.aio.StreamStreamCall[Message, Message]) -> None:
        self._wire = wire
        self._server = server
        self._call = call
        self._reading: asyncio.Task[Message] | None = None
        self._doubt = asyncio.Event()

    def doubt(self) -> None:
        """Let the present wait for a message end as if it had been silent for long."""
        self._doubt.set()

    async def receive(self, timeout: float, *, doubting: bool = True) -> WatchMessage | None:
        """The next message, None after `timeout` seconds of silence. Raises `EtcdError` when the watch is at its end.

        Silence takes nothing away: the next call goes on waiting for the same message.
        """
        if self._reading is None:
            self._reading = asyncio.ensure_future(self._call.read())
        self._doubt.clear()
        doubted = asyncio.ensure_future(self._doubt.wait())
        # Not wait_for: a read that is cancelled takes the stream down with it.
        waited = [self._reading, doubted] if doubting else [self._reading]
        try:
            await asyncio.wait(waited, timeout=timeout, return_when=asyncio.FIRST_COMPLETED)
        finally:
            doubted.cancel()
        if not self._reading.done():
            return None
        reading, self._reading = self._reading, None
        try:
            message = reading.result()
            if message is grpc.aio.EOF:
                raise _StreamEnded
        except (grpc.aio.AioRpcError, _StreamEnded) as error:
            raise self._wire.failure(self._server, error) from None
        if message.canceled:
            raise self._cancelled(message)
        return messages.watch_message(message)

    def _cancelled(self, message: Message) -> EtcdError:
        if message.compact_revision:
            return EtcdCompacted(f"etcd: the history before revision {message.compact_revision} is compacted")
        if any(text in message.cancel_reason for text in (_DENIED, *_STALE_TOKEN)):
            self._wire.forget_token()  # some versions of etcd say "denied" of a token that has expired
            return self._wire.denied(message.cancel_reason)
        return self._wire.unavailable(self._server, message.cancel_reason or "the server cancelled the watch")

    async def request_progress(self) -> None:
        """Ask for a sign of life. Raises `EtcdError` if the stream has ended."""
        try:
            await self._call.write(messages.progress_request())
        except (grpc.aio.AioRpcError, asyncio.InvalidStateError) as error:
            raise self._wire.failure(self._server, error) from None

    def silent(self) -> EtcdUnavailable:
        """The error for a stream that gives no sign of life."""
        return self._wire.unavailable(self._server, "the watch is silent, and a progress request was not answered")

    async def close(self) -> None:
        """End the stream, whatever its state."""
        self._call.cancel()
        if self._reading is not None:
            await asyncio.gather(self._reading, return_exceptions=True)


def _renewal(server: _Server) -> Callable[..., Awaitable[Message]]:
    """The renewal of a lease, a stream in etcd's API, as a call of one question and one answer."""

    async def renew(request: Message, metadata: Metadata) -> Message:
        call = server.stubs.renew(metadata=metadata)
        try:
            await call.write(request)
            answer = await call.read()
        finally:
            call.cancel()
        if answer is grpc.aio.EOF:
            raise _StreamEnded
        return answer

    return renew


async def _authenticate(server: _Server, user: str, password: str) -> str:
    try:
        return str((await server.stubs.authenticate(messages.authenticate_request(user, password))).token)
    except grpc.aio.AioRpcError as error:
        if error.code() is grpc.StatusCode.FAILED_PRECONDITION:  # authentication is not enabled
            return ""
        raise


def _metadata(token: str) -> Metadata:
    # A server cut off from the majority then says so, instead of going on with what it last knew.
    leader = (("hasleader", "true"),)
    return (*leader, ("token", token)) if token else leader


def _says(error: grpc.aio.AioRpcError, *texts: str) -> bool:
    return any(text in (error.details() or "") for text in texts)


def _credentials(config: EtcdConfig) -> grpc.ChannelCredentials:
    ca, cert, key = (_read(path) for path in (config.ca, config.cert, config.key))
    return grpc.ssl_channel_credentials(root_certificates=ca, private_key=key, certificate_chain=cert)


def _read(path: Path | None) -> bytes | None:
    try:
        return None if path is None else path.read_bytes()
    except OSError as error:
        raise EtcdError(f"cannot read {path} for TLS with etcd: {error.strerror}") from error
