"""One OpenFlow connection, against a socket that plays the switch with messages that a real one sent."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import pytest

from agent.connection import WRITE_BATCH, Connection, SwitchDisconnected, SwitchRefused
from flows.openflow.messages import BarrierReply, BarrierRequest, FlowDescReply, FlowDescRequest
from flows.openflow.wire import HEADER, VERSION, MessageType
from tests.support import openflow

RECORDED = openflow.recorded()
HELLO_OPENFLOW_1_3 = HEADER.pack(4, MessageType.HELLO, HEADER.size, 1)


class FakeSwitch:
    """The switch's end of one connection, driven by the test."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def receive(self) -> tuple[int, int, bytes]:
        """Type, xid and body of the next message."""
        _, kind, length, xid = HEADER.unpack(await self._reader.readexactly(HEADER.size))
        return kind, xid, await self._reader.readexactly(length - HEADER.size)

    def send(self, data: bytes, xid: int) -> None:
        """A message under the transaction id `xid`."""
        self._writer.write(data[:4] + xid.to_bytes(4, "big") + data[8:])

    async def greet(self) -> None:
        """Hello, and the answer to the first question."""
        self.send(RECORDED["hello"], 1)
        await self.receive()
        _, xid, _ = await self.receive()
        self.send(RECORDED["features-reply"], xid)

    def close(self) -> None:
        """End the connection."""
        self._writer.close()


@asynccontextmanager
async def listening(path: Path) -> AsyncIterator[asyncio.Future[FakeSwitch]]:
    """A socket, and the fake switch that will be behind it once somebody connects."""
    accepted: asyncio.Future[FakeSwitch] = asyncio.get_running_loop().create_future()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        accepted.set_result(FakeSwitch(reader, writer))

    server = await asyncio.start_unix_server(accept, path)
    async with server:
        yield accepted
        if accepted.done():
            accepted.result().close()


@asynccontextmanager
async def connected(path: Path, silence_s: float = 10.0) -> AsyncIterator[tuple[FakeSwitch, Connection]]:
    """A fake switch and a served connection to it."""
    async with listening(path) as accepted:
        opening = asyncio.create_task(Connection.open(str(path), silence_s))
        fake = await accepted
        await fake.greet()
        connection = await opening
        serving = asyncio.create_task(connection.serve())
        yield fake, connection
        serving.cancel()
        with suppress(asyncio.CancelledError, SwitchDisconnected):
            await serving


async def test_an_echo_request_is_answered_with_its_data(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (fake, _):
        fake.send(HEADER.pack(VERSION, MessageType.ECHO_REQUEST, HEADER.size + 2, 0) + b"hi", 77)
        assert await fake.receive() == (MessageType.ECHO_REPLY, 77, b"hi")


async def test_replies_find_their_requests_in_any_order(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (fake, connection):
        barrier = asyncio.create_task(connection.request(BarrierRequest(), BarrierReply))
        _, first, _ = await fake.receive()
        flows = asyncio.create_task(connection.collect(FlowDescRequest(), FlowDescReply))
        _, second, _ = await fake.receive()
        fake.send(RECORDED["flow-desc-reply"], second)
        assert len(await flows) == 8
        fake.send(RECORDED["barrier-reply"], first)
        assert await barrier == BarrierReply()


async def test_a_reply_in_parts_is_collected_to_its_end(tmp_path: Path) -> None:
    last = RECORDED["flow-desc-reply"]
    more = last[: HEADER.size + 2] + b"\x00\x01" + last[HEADER.size + 4 :]
    async with connected(tmp_path / "s") as (fake, connection):
        flows = asyncio.create_task(connection.collect(FlowDescRequest(), FlowDescReply))
        _, xid, _ = await fake.receive()
        fake.send(more, xid)
        fake.send(last, xid)
        assert len(await flows) == 16


async def test_an_error_answers_the_request_it_names(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (fake, connection):
        barrier = asyncio.create_task(connection.request(BarrierRequest(), BarrierReply))
        _, xid, _ = await fake.receive()
        fake.send(RECORDED["bundle-error"], xid)
        with pytest.raises(SwitchRefused, match="BUNDLE_FAILED BAD_ID"):
            await barrier


async def test_a_reply_after_the_asker_went_away_is_ignored(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (fake, connection):
        barrier = asyncio.create_task(connection.request(BarrierRequest(), BarrierReply))
        _, forgotten, _ = await fake.receive()
        barrier.cancel()
        fake.send(RECORDED["barrier-reply"], forgotten)
        barrier = asyncio.create_task(connection.request(BarrierRequest(), BarrierReply))
        _, xid, _ = await fake.receive()
        fake.send(RECORDED["barrier-reply"], xid)
        assert await barrier == BarrierReply()


async def test_news_that_nobody_asked_for_is_ignored(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (fake, connection):
        fake.send(RECORDED["port-status"], 0)
        fake.send(RECORDED["bundle-error"], 4711)
        barrier = asyncio.create_task(connection.request(BarrierRequest(), BarrierReply))
        _, xid, _ = await fake.receive()
        fake.send(RECORDED["barrier-reply"], xid)
        assert await barrier == BarrierReply()


async def test_a_closed_connection_fails_what_waits_for_it(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (fake, connection):
        barrier = asyncio.create_task(connection.request(BarrierRequest(), BarrierReply))
        await fake.receive()
        fake.close()
        with pytest.raises(SwitchDisconnected):
            await barrier


async def test_nonsense_ends_the_connection(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (fake, connection):
        barrier = asyncio.create_task(connection.request(BarrierRequest(), BarrierReply))
        _, xid, _ = await fake.receive()
        fake.send(HEADER.pack(VERSION, MessageType.FEATURES_REPLY, HEADER.size, 0), xid)
        with pytest.raises(SwitchDisconnected):
            await barrier


async def test_an_answer_of_the_wrong_kind_is_not_taken(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (fake, connection):
        barrier = asyncio.create_task(connection.request(BarrierRequest(), BarrierReply))
        _, xid, _ = await fake.receive()
        fake.send(RECORDED["features-reply"], xid)
        with pytest.raises(SwitchDisconnected, match="answered"):
            await barrier


async def test_others_get_their_turn_while_much_is_being_sent(tmp_path: Path) -> None:
    count = 10 * WRITE_BATCH  # short enough for the socket to take it all at once
    async with connected(tmp_path / "s") as (_, connection):
        sending = asyncio.create_task(connection.send([BarrierRequest()] * count, connection.reserve(count)))
        turns = 0
        while not sending.done():
            await asyncio.sleep(0)
            turns += 1
    assert turns >= 10


async def test_a_silent_switch_is_probed_before_it_is_given_up(tmp_path: Path) -> None:
    async with connected(tmp_path / "s", silence_s=0.05) as (fake, connection):
        kind, _, _ = await fake.receive()
        assert kind == MessageType.ECHO_REQUEST
        with pytest.raises(SwitchDisconnected):
            await connection.request(BarrierRequest(), BarrierReply)


async def test_a_bridge_without_openflow_1_5_says_what_to_do(tmp_path: Path) -> None:
    async with listening(tmp_path / "s") as accepted:
        opening = asyncio.create_task(Connection.open(str(tmp_path / "s"), 10.0))
        (await accepted).send(HELLO_OPENFLOW_1_3, 1)
        with pytest.raises(SwitchDisconnected, match="add OpenFlow15 to its protocols"):
            await opening


async def test_no_socket_is_told_by_its_path(tmp_path: Path) -> None:
    with pytest.raises(SwitchDisconnected, match=r"br0\.mgmt: No such file"):
        await Connection.open(str(tmp_path / "br0.mgmt"), 10.0)


async def test_transaction_ids_start_again_before_they_run_out(tmp_path: Path) -> None:
    async with connected(tmp_path / "s") as (_, connection):
        connection.reserve(2**32 - 100)
        assert connection.reserve(1000) == range(1, 1001)
