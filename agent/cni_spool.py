"""DELs that are to be carried out later: one file each, in the form of the socket.

The CNI executable keeps them for an agent that is away, the agent while it cannot carry them out. A file is renamed
into place when it is complete, so every visible file is whole. Names sort by time.
"""

from __future__ import annotations

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cni.errors import CniError, ErrorCode
from cni.request import AttachmentKey, Command, NetConf, Request
from cni.wire import CALL_LIMIT, decode_call
from k8sovs.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SpooledCall:
    """A DEL to be carried out; its file is removed when that is done."""

    path: Path
    key: AttachmentKey
    content: bytes


def read_spool(directory: Path) -> list[SpooledCall]:
    """The spooled calls, oldest first. A file that cannot be a DEL is logged and removed: nobody could carry it out."""
    calls = []
    for path in sorted(directory.glob("[!.]*")):
        try:
            with path.open("rb") as file:
                content = file.read(CALL_LIMIT + 1)
            key = _check(content)
        except OSError as error:
            log.warning("cni-spool-unreadable", path=str(path), reason=error.strerror)
        except CniError as error:
            log.warning("cni-spool-dropped", path=str(path), reason=error.message)
            with suppress(OSError):  # it is dropped again at the next start
                path.unlink(missing_ok=True)
        else:
            calls.append(SpooledCall(path, key, content))
    return calls


def keep_call(directory: Path, content: bytes, now_ns: int) -> SpooledCall:
    """Keep a DEL; it is on the disk on return. Raises CniError for what is none, OSError."""
    key = _check(content)
    directory.mkdir(mode=0o700, exist_ok=True)
    name = f"{now_ns // 10**9:012}.{now_ns % 10**9:09}-{os.getpid()}"
    hidden, path = directory / f".{name}", directory / name
    try:
        with open(os.open(hidden, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        hidden.rename(path)
    except OSError:
        hidden.unlink(missing_ok=True)
        raise
    _sync(directory)
    return SpooledCall(path, key, content)


def _sync(directory: Path) -> None:
    """Put the names in a directory on the disk (fsync(2))."""
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _check(content: bytes) -> AttachmentKey:
    """Whose DEL it is. Raises CniError."""
    environment, stdin = decode_call(content)
    request = Request.parse(environment, NetConf.parse(stdin))
    if request.command is not Command.DEL:
        raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"only DEL is kept for later, not {request.command.value}")
    return request.key
