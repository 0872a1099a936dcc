"""Whatever the switch's database says: the agent follows, or asks anew, and does not end."""

from __future__ import annotations

import asyncio
import json
import tempfile
from collections.abc import AsyncIterator
from contextlib import suppress
from pathlib import Path
from uuid import UUID

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from agent.ovsdb import Ovsdb

DEADLINE_S = 30.0
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=6,
)
UUIDS = st.integers(0, 3).map(lambda number: str(UUID(int=number)))
VALUES = (
    JSON
    | st.tuples(st.just("uuid"), UUIDS)
    | st.tuples(st.just("set"), st.lists(st.tuples(st.just("uuid"), UUIDS) | JSON, max_size=3))
    | st.tuples(st.just("map"), st.lists(st.tuples(JSON, JSON), max_size=2))
)
COLUMNS = st.sampled_from(["name", "ports", "bridges", "interfaces", "ofport", "external_ids", "type", "error", "x"])
ROWS = st.dictionaries(COLUMNS, VALUES, max_size=4) | JSON
CHANGES = st.dictionaries(st.sampled_from(["initial", "insert", "modify", "delete", "x"]), ROWS, max_size=2) | JSON
TABLES = st.sampled_from(["Open_vSwitch", "Bridge", "Port", "Interface", "Nobody"])
UPDATES = st.dictionaries(TABLES, st.dictionaries(UUIDS | st.text(max_size=3), CHANGES, max_size=2) | JSON, max_size=3)


class Database:
    """A server of OVSDB (RFC 7047) whose monitor answers `first` and then tells of `later`, whatever that is."""

    def __init__(self, first: object, later: list[object]) -> None:
        self._first = first
        self._later = later
        self.heard = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        told = False
        with suppress(ConnectionError):
            async for message in _messages(reader):
                if message.get("method") is None:
                    self.heard.set()  # it answered the echo, so it has read all before that
                    continue
                writer.write(json.dumps({"id": message["id"], **self._answer(message)}).encode())
                if message["method"].startswith("monitor"):
                    told = True
                    for update in self._later:
                        notice = {"method": "update2", "id": None, "params": [message["params"][1], update]}
                        writer.write(json.dumps(notice).encode())
                    writer.write(b'{"method": "echo", "id": "echo", "params": []}')
        if told:
            self.heard.set()  # it hung up instead
        writer.close()

    def _answer(self, message: dict[str, object]) -> dict[str, object]:
        method, params = message["method"], message["params"]
        if isinstance(method, str) and method.startswith("monitor"):
            return {"result": self._first, "error": None}
        if method == "echo":
            return {"result": params, "error": None}
        return {"result": None, "error": {"error": "unknown database"}}


async def _messages(reader: asyncio.StreamReader) -> AsyncIterator[dict[str, object]]:
    text, decoder = "", json.JSONDecoder()
    while chunk := await reader.read(1 << 16):
        text += chunk.decode()
        while text:
            try:
                message, end = decoder.raw_decode(text)
            except ValueError:
                break
            text = text[end:]
            yield message


async def survives(first: object, later: list[object]) -> bool:
    """Whether the agent's replica goes on after such a server."""
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "db.sock"
        database = Database(first, later)
        async with await asyncio.start_unix_server(database.serve, path):
            ovsdb = Ovsdb(str(path))
            running = asyncio.create_task(ovsdb.run())
            hearing = asyncio.create_task(database.heard.wait())
            try:
                await asyncio.wait({running, hearing}, timeout=DEADLINE_S, return_when=asyncio.FIRST_COMPLETED)
                assert running.done() or hearing.done(), "neither has the server been heard nor the replica ended"
                await asyncio.sleep(0)
                if running.done():
                    await running
                return not running.done()
            finally:
                running.cancel()
                hearing.cancel()
                await asyncio.wait({running, hearing})


ROOT = {"Open_vSwitch": {str(UUID(int=0)): {"initial": {"bridges": ["uuid", str(UUID(int=1))]}}}}
BRIDGE = {"Bridge": {str(UUID(int=1)): {"initial": {"name": "br0", "ports": ["uuid", str(UUID(int=2))]}}}}
PORT = {"Port": {str(UUID(int=2)): {"initial": {"name": "p", "interfaces": ["uuid", str(UUID(int=3))]}}}}
INTERFACE = {"Interface": {str(UUID(int=3)): {"initial": {"name": "p", "ofport": 256}}}}
SOUND = {**ROOT, **BRIDGE, **PORT, **INTERFACE}


async def test_a_sound_database_is_followed() -> None:
    assert await survives(SOUND, [{"Interface": {str(UUID(int=3)): {"modify": {"ofport": 257}}}}])


@settings(max_examples=40)
@given(first=UPDATES | JSON)
@example(first={"Open_vSwitch": {str(UUID(int=0)): {"initial": {"bridges": []}}}})
@example(first={"Open_vSwitch": {str(UUID(int=0)): {"initial": {"bridges": ["uuid"]}}}})
@example(first={"Bridge": {str(UUID(int=1)): {"initial": {"external_ids": []}}}})
def test_the_agent_survives_whatever_the_database_answers(first: object) -> None:
    assert asyncio.run(survives(first, []))


@settings(max_examples=40)
@given(later=st.lists(UPDATES | JSON, min_size=1, max_size=4))
def test_the_agent_survives_whatever_the_database_tells_later(later: list[object]) -> None:
    assert asyncio.run(survives(SOUND, later))


@pytest.mark.parametrize("gone", ["bridges", "ports", "interfaces"])
async def test_the_agent_survives_a_reference_to_nothing(gone: str) -> None:
    rows = {"bridges": ROOT, "ports": {**ROOT, **BRIDGE}, "interfaces": {**ROOT, **BRIDGE, **PORT}}[gone]
    assert await survives(rows, [])
