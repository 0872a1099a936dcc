"""How the command line talks to a lab's supervisor: one JSON line asks, one JSON line answers, over a Unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import socket
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any

from k8sovs.lab.layout import Lab, LabError

LINE_LIMIT_BYTES = 16 * 2**20
ANSWER_TIMEOUT_S = 300.0

Handler = Callable[[Mapping[str, Any]], Awaitable[object]]


async def serve(path: Path, handlers: Mapping[str, Handler]) -> asyncio.Server:
    """Answer requests `{"command": NAME, ...}` with the handler of that name; its LabError goes to the asker."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(OSError):  # an asker that left wants no answer
            request = json.loads(await reader.readline())
            try:
                reply = {"result": await handlers[request["command"]](request)}
            except LabError as error:
                reply = {"error": str(error)}
            writer.write(json.dumps(reply).encode() + b"\n")
            await writer.drain()
            writer.close()

    return await asyncio.start_unix_server(answer, path, limit=LINE_LIMIT_BYTES)


def ask(lab: Lab, command: str, **arguments: object) -> Any:  # noqa: ANN401 - JSON, of the shape that the command has
    """The supervisor's answer. LabError: what it refused and why, or that it is gone."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.settimeout(ANSWER_TIMEOUT_S)
        try:
            connection.connect(str(lab.control_socket))
            connection.sendall(json.dumps({"command": command, **arguments}).encode() + b"\n")
            with connection.makefile("rb") as lines:
                line = lines.readline()
        except OSError as error:
            raise _gone(lab, str(error)) from error
    if not line:
        raise _gone(lab, "it hung up")
    reply = json.loads(line)
    if "error" in reply:
        raise LabError(reply["error"])
    return reply["result"]


def _gone(lab: Lab, reason: str) -> LabError:
    return LabError(
        f"the supervisor of lab '{lab.name}' does not answer ({reason}): "
        f"see {lab.logs / 'supervisor.log'}, and clean up with 'k8sovs lab down --name {lab.name}'"
    )
