"""The CNI server: takes calls from the CNI executable on a Unix socket, in order for each attachment.

It owns the socket file and the spool directory beside it; what a call does to the node is the handler's business.
Calls for one attachment run one after the other, in the order in which they arrived; others run side by side. A DEL
that was spooled while no agent ran takes its place before any call that comes in by the socket. One that cannot be
done now, because the switch's database is away, is spooled too and succeeds: nobody need repeat it. A call goes on to
its end when the caller hangs up: the runtime sends a DEL after an ADD whose answer it did not see.

Callers are root's, but may be broken: each has a few seconds to say its call and to take the answer, and so many are
served at once; the rest wait in the queue of the socket. So neither descriptors nor memory run out.

The socket file stays when the agent stops, and is replaced by a rename when the next one starts, so two agents that
overlap in an upgrade do not take the socket from each other; a caller finds somebody, or nobody, never half a server.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractAsyncContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, TypeAlias

from agent.cni_spool import SpooledCall, keep_call, read_spool
from agent.metrics import CniMetrics
from agent.turns import Turns
from cni.errors import CniError, ErrorCode
from cni.request import Command, NetConf, Request
from cni.result import Result
from cni.versions import LATEST
from cni.wire import CALL_LIMIT, decode_call, encode_answer
from k8sovs.logs import get_logger
from k8sovs.metrics import CollectorRegistry

log = get_logger(__name__)

BACKLOG = 1024
READ_DEADLINE_S = 5.0
CALL_DEADLINE_S = 100.0
"""Below the executable's own 110 s, so that the runtime gets the agent's answer."""
SPOOL_RETRY_S = 5.0
ACCEPT_RETRY_S = 0.1
CONNECTION_LIMIT = 512
"""Calls at once: more than a node has pods, and half the descriptors that a process has where nobody allowed more."""
_NO_ROOM = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_PEER_CREDENTIALS = struct.Struct("3i")  # struct ucred: pid, uid, gid

_Turn: TypeAlias = AbstractAsyncContextManager[None]


class Handler(Protocol):
    """What a call does. Each raises CniError for what the runtime should be told."""

    async def add(self, request: Request) -> Result:
        """Attach; returns when the pod can send."""

    async def delete(self, request: Request) -> None:
        """Detach; succeeds if nothing is attached."""

    async def check(self, request: Request) -> None:
        """Raise unless the attachment is as ADD left it."""

    async def gc(self, request: Request, turns: Turns) -> None:
        """Detach whatever is not among the valid attachments of the request, each in its turn."""

    async def status(self) -> None:
        """Raise unless ADD can be served now."""


@dataclass(frozen=True, slots=True)
class _Outcome:
    """What became of a call. `later`: it is a DEL that cannot be done now."""

    status: int
    output: bytes
    later: bool = False


class CniServer:
    """Serves `handler` at `socket_path`. Deadlines are in seconds."""

    def __init__(
        self,
        socket_path: Path,
        handler: Handler,
        *,
        read_deadline_s: float = READ_DEADLINE_S,
        call_deadline_s: float = CALL_DEADLINE_S,
        spool_retry_s: float = SPOOL_RETRY_S,
        connection_limit: int = CONNECTION_LIMIT,
        now: Callable[[], float] = time.monotonic,
        metrics: CniMetrics | None = None,
        wall_clock_ns: Callable[[], int] = time.time_ns,
    ) -> None:
        self._path = socket_path
        self._spool = socket_path.parent / "spool"
        self._handler = handler
        self._read_deadline_s = read_deadline_s
        self._call_deadline_s = call_deadline_s
        self._spool_retry_s = spool_retry_s
        self._now = now
        self._metrics = metrics or CniMetrics(CollectorRegistry())
        self._wall_clock_ns = wall_clock_ns
        self._room = asyncio.Semaphore(connection_limit)
        self._serving = asyncio.Event()
        self._turns = Turns()

    async def wait_serving(self) -> None:
        """Wait until the socket is there and calls are accepted."""
        await self._serving.wait()

    async def run(self) -> None:
        """Serve until cancelled; calls under way are cancelled too. Raises OSError if the socket cannot be made."""
        with _listen(self._path) as listener:
            async with asyncio.TaskGroup() as group:
                # The socket is there first: an executable that finds nobody writes its file before it looks again,
                # so a DEL is either in the spool by now or comes by the socket.
                for call in read_spool(self._spool):
                    group.create_task(self._carry_out(call))
                # Tasks start in the order of their making: these queue for their attachments before any later call.
                self._serving.set()
                while True:
                    await self._room.acquire()
                    group.create_task(self._serve(await _accept(listener), group))

    async def _carry_out(self, call: SpooledCall) -> None:
        async with self._turns.of(call.key):
            while True:
                if (await self._outcome(call.content, lambda _: nullcontext())).status == 0:
                    call.path.unlink(missing_ok=True)
                    return
                # It failed for a reason that was logged, which may pass; until then the file stays.
                await asyncio.sleep(self._spool_retry_s)

    async def _serve(self, connection: socket.socket, group: asyncio.TaskGroup) -> None:
        try:
            await self._converse(connection, group)
        finally:
            self._room.release()

    async def _converse(self, connection: socket.socket, group: asyncio.TaskGroup) -> None:
        with connection:
            try:
                call = await self._read_call(connection)
            except CniError as error:
                log.warning("cni-call-refused", code=int(error.code), message=error.message)
                answer = encode_answer(1, error.render())
            else:
                outcome = await self._outcome(call, self._turn)
                done = outcome.later and await self._keep(call, group)
                answer = encode_answer(0, b"") if done else encode_answer(outcome.status, outcome.output)
            try:
                async with asyncio.timeout(self._read_deadline_s):
                    await asyncio.get_running_loop().sock_sendall(connection, answer)
            except (OSError, TimeoutError) as error:
                log.warning("cni-answer-not-taken", reason=str(error) or "the caller does not read")

    async def _read_call(self, connection: socket.socket) -> bytes:
        _, uid, _ = _PEER_CREDENTIALS.unpack(
            connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER_CREDENTIALS.size)
        )
        if uid not in (0, os.geteuid()):
            raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"user {uid} may not call this plugin, only root")
        call = bytearray()
        length = 0
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._read_deadline_s):
                while chunk := await loop.sock_recv(connection, 1 << 16):
                    length += len(chunk)
                    if length <= CALL_LIMIT:  # the rest is read and dropped, or the answer would not get through
                        call += chunk
        except TimeoutError:
            raise CniError(ErrorCode.IO_FAILURE, "the call did not arrive in time") from None
        except OSError as error:
            raise CniError(ErrorCode.IO_FAILURE, f"the call did not arrive: {error.strerror}") from None
        if length > CALL_LIMIT:
            raise CniError(ErrorCode.DECODING_FAILURE, f"the call has {length} bytes, more than {CALL_LIMIT}")
        return bytes(call)

    async def _keep(self, call: bytes, group: asyncio.TaskGroup) -> bool:
        """Keep a DEL and have it carried out later. Whether that could be done."""
        try:
            kept = await asyncio.to_thread(keep_call, self._spool, call, self._wall_clock_ns())
        except OSError as error:
            log.error(
                "cni-del-not-kept", spool=str(self._spool), reason=error.strerror, action="the runtime repeats it"
            )
            return False
        log.warning(
            "cni-del-kept", attachment=str(kept.key), path=str(kept.path), action="trying again until it is done"
        )
        group.create_task(self._carry_out(kept))
        return True

    async def _outcome(self, call: bytes, turn: Callable[[Request], _Turn]) -> _Outcome:
        """What becomes of `call`, in its turn; logs and counts it."""
        started = self._now()
        context: dict[str, str] = {}
        try:
            return await self._answered(call, turn, context, started)
        finally:
            self._metrics.call_done(context.get("command", ""), self._now() - started)

    async def _answered(
        self, call: bytes, turn: Callable[[Request], _Turn], context: dict[str, str], started: float
    ) -> _Outcome:
        """The same; what identifies the call is put into `context` as soon as it is known."""
        version = LATEST
        try:
            environment, stdin = decode_call(call)
            context |= {label: environment.get(name, "") for label, name in _LOGGED.items()}
            conf = NetConf.parse(stdin)
            version = conf.cni_version
            request = Request.parse(environment, conf)
            result = await self._perform(request, turn(request))
            rendered = b"" if result is None else result.render(version, request.previous)
        except CniError as error:
            _level(context, log.warning)("cni-call-failed", **context, code=int(error.code), message=error.message)
            self._metrics.call_failed(context.get("command", ""), error)
            later = error.code is ErrorCode.TRY_AGAIN_LATER and context.get("command") == Command.DEL.value
            return _Outcome(1, error.render(version), later)
        except Exception as error:  # whatever it is, the runtime must get an answer
            log.exception("cni-call-broke", **context)
            told = CniError(ErrorCode.INTERNAL, f"internal error of the agent: {error!r}")
            self._metrics.call_failed(context.get("command", ""), told)
            return _Outcome(1, told.render(version))
        milliseconds = round((self._now() - started) * 1000, 1)
        _level(context, log.info)("cni-call-done", **context, milliseconds=milliseconds)
        return _Outcome(0, rendered)

    def _turn(self, request: Request) -> _Turn:
        """What a call has to wait for."""
        alone = request.command not in (Command.GC, Command.STATUS)
        return self._turns.of(request.key) if alone else nullcontext()

    async def _perform(self, request: Request, turn: _Turn) -> Result | None:
        timeout = asyncio.timeout(self._call_deadline_s)
        try:
            async with timeout, turn:
                return await self._dispatch(request)
        except TimeoutError:
            if not timeout.expired():
                raise
            raise CniError(
                ErrorCode.TRY_AGAIN_LATER, f"{request.command.value} was not done within {self._call_deadline_s:g} s"
            ) from None

    async def _dispatch(self, request: Request) -> Result | None:
        match request.command:
            case Command.ADD:
                return await self._handler.add(request)
            case Command.DEL:
                await self._handler.delete(request)
            case Command.CHECK:
                await self._handler.check(request)
            case Command.GC:
                await self._handler.gc(request, self._turns)
            case Command.STATUS:
                await self._handler.status()
        return None


_LOGGED = {"command": "CNI_COMMAND", "container_id": "CNI_CONTAINERID", "ifname": "CNI_IFNAME", "args": "CNI_ARGS"}


def _level(context: Mapping[str, str], usual: Callable[..., object]) -> Callable[..., object]:
    # Runtimes ask for the status every few seconds: that is nothing that happened.
    return log.debug if context.get("command") == Command.STATUS.value else usual


def _listen(path: Path) -> socket.socket:
    """A listening socket for root alone, put at `path` in one step, whatever was there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_name(f".{path.name}.{os.getpid()}")
    new.unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    try:
        os.fchmod(listener.fileno(), 0o600)  # unix(7): the file that bind() makes gets the socket's own mode
        listener.bind(str(new))
        listener.listen(BACKLOG)
        new.rename(path)
    except BaseException:  # nothing is swallowed
        listener.close()
        new.unlink(missing_ok=True)
        raise
    return listener


async def _accept(listener: socket.socket) -> socket.socket:
    loop = asyncio.get_running_loop()
    while True:
        try:
            connection, _ = await loop.sock_accept(listener)
        except OSError as error:
            if error.errno not in _NO_ROOM:
                raise
            # Calls that end give descriptors back; the caller waits in the queue of the socket meanwhile.
            log.warning("cni-accept-failed", reason=error.strerror)
            await asyncio.sleep(ACCEPT_RETRY_S)
        else:
            return connection
