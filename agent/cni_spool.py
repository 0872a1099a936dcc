"""Calls that the CNI executable kept for an agent that was away: one file each, in the form of the socket.

The executable renames a file into place when it is complete, so every visible file is whole. Names sort by time.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cni.errors import CniError, ErrorCode
from cni.request import Command, NetConf, Request
from cni.wire import CALL_LIMIT, decode_call
from k8sovs.logs import get_logger

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class SpooledCall:
    """A DEL to be carried out; its file is removed when that is done."""

    path: Path
    content: bytes


def read_spool(directory: Path) -> list[SpooledCall]:
    """The spooled calls, oldest first. A file that cannot be a DEL is logged and removed: nobody could carry it out."""
    calls = []
    for path in sorted(directory.glob("[!.]*")):
        try:
            with path.open("rb") as file:
                content = file.read(CALL_LIMIT + 1)
            _check(content)
        except OSError as error:
            log.warning("cni-spool-unreadable", path=str(path), reason=error.strerror)
        except CniError as error:
            log.warning("cni-spool-dropped", path=str(path), reason=error.message)
            path.unlink(missing_ok=True)
        else:
            calls.append(SpooledCall(path, content))
    return calls


def _check(content: bytes) -> None:
    environment, stdin = decode_call(content)
    command = Request.parse(environment, NetConf.parse(stdin)).command
    if command is not Command.DEL:
        raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"only DEL is kept for later, not {command.value}")
