"""The CNI server, called by the CNI executable and by clients that behave worse."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import ExitStack, asynccontextmanager, closing, suppress
from ipaddress import IPv4Address, IPv4Interface, IPv4Network
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.cni_server import CniServer
from agent.turns import Turns
from cni.errors import CniError, ErrorCode
from cni.request import Command, Request
from cni.result import Interface, IpConfig, Result, Route
from cni.wire import CALL_LIMIT
from tests.support.cni import EXECUTABLE, conf, encode_call, environment, recorded_calls

DEADLINE_S = 20.0
RESULT = Result(
    (Interface("k8o1", "3e:00:00:00:00:01"), Interface("eth0", "0a:58:ac:0b:00:02", "/var/run/netns/x")),
    (IpConfig(IPv4Interface("172.11.0.2/22"), IPv4Address("172.11.0.1"), 1),),
    (Route(IPv4Network("172.11.0.1/32")), Route(IPv4Network("0.0.0.0/0"), IPv4Address("172.11.0.1"))),
)
PYTHON = os.path.realpath(sys.executable)  # another user may not reach the virtual environment


class Recorder:
    """A handler that notes what it is asked, after `behave` has had its way."""

    def __init__(self, behave: Callable[[Request], Awaitable[None]] | None = None) -> None:
        self.done: list[Request] = []
        self.status_error: CniError | None = None
        self._behave = behave
        self._changed = asyncio.Condition()

    async def _note(self, request: Request) -> None:
        if self._behave is not None:
            await self._behave(request)
        async with self._changed:
            self.done.append(request)
            self._changed.notify_all()

    async def wait_done(self, count: int) -> None:
        """Wait until so many calls were carried out."""
        async with asyncio.timeout(DEADLINE_S), self._changed:
            await self._changed.wait_for(lambda: len(self.done) >= count)

    async def add(self, request: Request) -> Result:
        await self._note(request)
        return RESULT

    async def delete(self, request: Request) -> None:
        await self._note(request)

    async def check(self, request: Request) -> None:
        await self._note(request)

    async def gc(self, request: Request, turns: Turns) -> None:
        await self._note(request)

    async def status(self) -> None:
        if self.status_error is not None:
            raise self.status_error


@asynccontextmanager
async def serving(server: CniServer) -> AsyncIterator[None]:
    async with asyncio.TaskGroup() as group:
        task = group.create_task(server.run())
        async with asyncio.timeout(DEADLINE_S):
            await server.wait_serving()
        yield
        task.cancel()


async def plugin(variables: dict[str, str], stdin: bytes, executable: Path = EXECUTABLE) -> tuple[int, bytes]:
    """Exit status and standard output of the executable."""
    process = await asyncio.create_subprocess_exec(
        executable, env=variables, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    async with asyncio.timeout(DEADLINE_S):
        output, _ = await process.communicate(stdin)
    assert process.returncode is not None
    return process.returncode, output


async def talk(path: Path, call: bytes) -> tuple[int, bytes]:
    """Exit status and standard output as they come over the socket."""
    reader, writer = await asyncio.open_unix_connection(path)
    writer.write(call)
    writer.write_eof()
    async with asyncio.timeout(DEADLINE_S):
        status, _, output = (await reader.read()).partition(b"\n")
    writer.close()
    return int(status), output


def error_code(output: bytes) -> int:
    code = json.loads(output)["code"]
    assert isinstance(code, int)
    return code


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "cni.sock"


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0", "1.0.0"])
async def test_the_reference_plugins_take_our_result_as_the_one_before_theirs(path: Path, version: str) -> None:
    async with serving(CniServer(path, Recorder())):
        status, result = await plugin(environment("ADD"), conf(path, cniVersion=version))
    chained = {"cniVersion": version, "name": "k8s-ovs", "type": "portmap", "prevResult": json.loads(result)}
    judgement, passed_on = await plugin(environment("ADD"), json.dumps(chained).encode(), Path("/usr/lib/cni/portmap"))
    assert (status, judgement) == (0, 0)
    assert json.loads(passed_on) == json.loads(result)


@pytest.mark.parametrize("command", ["DEL", "CHECK", "GC", "STATUS"])
async def test_the_other_commands_succeed_without_output(path: Path, command: str) -> None:
    fields = {"prevResult": {}, "cni.dev/valid-attachments": []}
    async with serving(CniServer(path, Recorder())):
        assert await plugin(environment(command), conf(path, cniVersion="1.1.0", **fields)) == (0, b"")


async def test_everything_that_containerd_sent_is_understood(path: Path) -> None:
    handler, calls = Recorder(), recorded_calls()
    async with serving(CniServer(path, handler)):
        outcomes = [(await plugin(dict(call.environment), call.for_socket(path)))[0] for call in calls]
    assert outcomes == [0] * len(calls)
    assert [request.container_id for request in handler.done] == [call.environment["CNI_CONTAINERID"] for call in calls]
    assert {request.pod.namespace for request in handler.done} == {"tenant1", "tenant2"}
    bandwidth = handler.done[0].conf.runtime_config["bandwidth"]
    assert bandwidth == {
        "IngressRate": 10_000_000,
        "IngressBurst": 4_294_967_295,
        "EgressRate": 20_000_000,
        "EgressBurst": 4_294_967_295,
    }


async def test_an_error_of_the_handler_is_what_the_runtime_sees(path: Path) -> None:
    async def refuse(request: Request) -> None:
        raise CniError(ErrorCode.ALREADY_ATTACHED, f"{request.key} is attached")

    async with serving(CniServer(path, Recorder(refuse))):
        status, output = await plugin(environment("ADD"), conf(path, cniVersion="0.4.0"))
    assert status == 1
    assert json.loads(output) == {"cniVersion": "0.4.0", "code": 100, "msg": "c0ffee/eth0 is attached"}


async def test_a_bug_is_answered_with_an_internal_error_and_the_next_call_is_served(path: Path) -> None:
    async def fail_once(request: Request) -> None:
        if request.container_id == "bad":
            raise ZeroDivisionError("a bug")

    async with serving(CniServer(path, Recorder(fail_once))):
        status, output = await plugin(environment("ADD", "bad"), conf(path))
        assert (status, error_code(output), "a bug" in json.loads(output)["msg"]) == (1, 999, True)
        assert (await plugin(environment("ADD", "good"), conf(path)))[0] == 0


async def test_status_tells_why_pods_cannot_be_added(path: Path) -> None:
    handler = Recorder()
    handler.status_error = CniError(ErrorCode.NOT_AVAILABLE, "the switch is away")
    async with serving(CniServer(path, handler)):
        status, output = await plugin(environment("STATUS"), conf(path))
    assert (status, error_code(output)) == (1, 50)


async def test_calls_for_one_attachment_run_in_order_and_others_beside_them(path: Path) -> None:
    release = asyncio.Event()

    async def hold_the_first(request: Request) -> None:
        if (request.container_id, request.command) == ("slow", Command.ADD):
            await release.wait()

    handler = Recorder(hold_the_first)
    async with serving(CniServer(path, handler)), asyncio.TaskGroup() as group:
        group.create_task(talk(path, encode_call(environment("ADD", "slow"), conf(path))))
        await talk(path, encode_call(environment("ADD", "other"), conf(path)))
        group.create_task(talk(path, encode_call(environment("DEL", "slow"), conf(path))))
        await talk(path, encode_call(environment("DEL", "other"), conf(path)))
        release.set()
        await handler.wait_done(4)
    assert [(call.container_id, call.command.value) for call in handler.done] == [
        ("other", "ADD"),
        ("other", "DEL"),
        ("slow", "ADD"),
        ("slow", "DEL"),
    ]


async def test_a_slow_client_stalls_nobody_and_is_given_up(path: Path) -> None:
    async with serving(CniServer(path, Recorder(), read_deadline_s=0.3)):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(b"CNI_COMMAND=ADD\0")
        assert (await talk(path, encode_call(environment("ADD"), conf(path))))[0] == 0
        async with asyncio.timeout(DEADLINE_S):
            status, _, output = (await reader.read()).partition(b"\n")
        assert (status, error_code(output)) == (b"1", 5)
        writer.close()


async def test_a_client_that_never_ends_its_call_stalls_nobody_and_is_given_up(path: Path) -> None:
    async with serving(CniServer(path, Recorder(), read_deadline_s=0.5)):
        _, writer = await asyncio.open_unix_connection(path)

        async def pour() -> None:
            with suppress(ConnectionError):
                while True:
                    writer.write(b"x" * (1 << 20))
                    await writer.drain()

        pouring = asyncio.create_task(pour())
        assert (await talk(path, encode_call(environment("ADD"), conf(path))))[0] == 0
        async with asyncio.timeout(DEADLINE_S):
            await pouring
        writer.close()


async def test_a_client_that_sends_a_byte_now_and_then_has_no_more_time_than_others(path: Path) -> None:
    async with serving(CniServer(path, Recorder(), read_deadline_s=0.3)), asyncio.timeout(DEADLINE_S):
        reader, writer = await asyncio.open_unix_connection(path)
        ended = asyncio.create_task(reader.read())
        while not ended.done():
            writer.write(b"x")
            await asyncio.wait([ended], timeout=0.05)
        with suppress(ConnectionError):  # a byte that was under way costs it the answer
            assert error_code(ended.result().partition(b"\n")[2]) == 5
        writer.close()


async def test_a_client_that_takes_no_answer_is_given_up_and_makes_room(path: Path) -> None:
    class Talkative(Recorder):
        async def status(self) -> None:
            raise CniError(ErrorCode.NOT_AVAILABLE, "x" * 4_000_000)  # more than a socket holds for its reader

    with closing(socket.socket(socket.AF_UNIX)) as silent:
        async with serving(CniServer(path, Talkative(), read_deadline_s=0.3, connection_limit=1)):
            silent.connect(str(path))
            silent.sendall(encode_call(environment("STATUS"), conf(path)))
            silent.shutdown(socket.SHUT_WR)
            assert (await talk(path, encode_call(environment("ADD"), conf(path))))[0] == 0


async def test_more_clients_than_are_served_at_once_wait_and_use_no_descriptor(path: Path) -> None:
    with ExitStack() as stack:
        idle = [stack.enter_context(closing(socket.socket(socket.AF_UNIX))) for _ in range(40)]
        async with serving(CniServer(path, Recorder(), connection_limit=8)), asyncio.timeout(DEADLINE_S):
            before = descriptors()
            for client in idle:
                client.connect(str(path))
            call = asyncio.create_task(talk(path, encode_call(environment("ADD"), conf(path))))
            own = 1
            for _ in range(300):  # so many turns does the server have, and takes no more than eight
                await asyncio.sleep(0)
            assert descriptors() - before == 8 + own
            assert not call.done()
            for client in idle:
                client.close()
            assert (await call)[0] == 0


async def test_a_call_that_takes_too_long_is_stopped_and_its_attachment_is_free_again(path: Path) -> None:
    stopped = asyncio.Event()

    async def hang(request: Request) -> None:
        if request.command is Command.ADD:
            try:
                await asyncio.Event().wait()
            finally:
                stopped.set()

    async with serving(CniServer(path, Recorder(hang), call_deadline_s=0.2)):
        status, output = await talk(path, encode_call(environment("ADD"), conf(path)))
        assert (status, error_code(output), stopped.is_set()) == (1, 11, True)
        assert (await talk(path, encode_call(environment("DEL"), conf(path))))[0] == 0


async def test_an_add_goes_on_when_its_caller_hangs_up(path: Path) -> None:
    started, release = asyncio.Event(), asyncio.Event()

    async def hold(request: Request) -> None:
        started.set()
        await release.wait()

    handler = Recorder(hold)
    async with serving(CniServer(path, handler)):
        _, writer = await asyncio.open_unix_connection(path)
        writer.write(encode_call(environment("ADD"), conf(path)))
        writer.write_eof()
        async with asyncio.timeout(DEADLINE_S):
            await started.wait()
        writer.close()
        release.set()
        await handler.wait_done(1)
        assert (await talk(path, encode_call(environment("DEL"), conf(path))))[0] == 0


@settings(max_examples=60)
@given(st.binary(max_size=300) | st.binary(max_size=60).map(lambda rest: encode_call(environment("ADD"), rest)))
def test_whatever_bytes_a_client_sends_are_answered_as_the_runtime_expects(call: bytes) -> None:
    async def answer() -> tuple[int, bytes]:
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "cni.sock"
            async with serving(CniServer(path, Recorder())):
                return await talk(path, call)

    status, output = asyncio.run(answer())
    assert status == 0 or error_code(output) in {code.value for code in ErrorCode} - {ErrorCode.INTERNAL.value}


async def test_a_call_beyond_the_limit_is_refused_with_an_answer(path: Path) -> None:
    async with serving(CniServer(path, Recorder())):
        status, output = await talk(path, encode_call(environment("ADD"), b" " * CALL_LIMIT))
    assert (status, error_code(output)) == (1, 6)


async def test_a_hundred_calls_at_once_are_all_answered(path: Path) -> None:
    async with serving(CniServer(path, Recorder())):
        calls = [talk(path, encode_call(environment("ADD", f"c{number}"), conf(path))) for number in range(110)]
        assert {status for status, _ in await asyncio.gather(*calls)} == {0}


async def test_the_socket_is_for_root_alone_from_its_first_moment(path: Path) -> None:
    async with serving(CniServer(path, Recorder())):
        assert [(entry.name, entry.stat().st_mode & 0o777) for entry in os.scandir(path.parent)] == [
            ("cni.sock", 0o600)
        ]


async def test_another_user_is_refused_even_if_the_socket_lets_him_connect() -> None:
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "cni.sock"
        handler = Recorder()
        async with serving(CniServer(path, handler)):
            os.chmod(directory, 0o755)
            path.chmod(0o666)
            program = (
                "import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
                "s.shutdown(socket.SHUT_WR); print(s.recv(65536).decode())"
            )
            process = await asyncio.create_subprocess_exec(
                PYTHON, "-I", "-c", program, path, user=65534, stdout=subprocess.PIPE
            )
            output, _ = await process.communicate()
        assert b"user 65534 may not call this plugin" in output
        assert handler.done == []


async def test_a_stale_socket_file_is_replaced(path: Path) -> None:
    path.parent.mkdir()
    with socket.socket(socket.AF_UNIX) as old:
        old.bind(str(path))
    async with serving(CniServer(path, Recorder())):
        assert (await talk(path, encode_call(environment("STATUS"), conf(path))))[0] == 0


async def test_of_two_agents_that_overlap_the_newer_one_keeps_the_socket(path: Path) -> None:
    handler = Recorder()
    async with asyncio.TaskGroup() as group:
        old = CniServer(path, Recorder())
        old_task = group.create_task(old.run())
        await old.wait_serving()
        async with serving(CniServer(path, handler)):
            old_task.cancel()
            await asyncio.wait([old_task])
            assert (await plugin(environment("ADD"), conf(path)))[0] == 0
    assert len(handler.done) == 1


async def test_a_spooled_del_is_carried_out_before_a_new_add_of_the_same_attachment(path: Path) -> None:
    assert (await plugin(environment("DEL"), conf(path)))[0] == 0
    handler = Recorder()
    async with serving(CniServer(path, handler)):
        assert (await plugin(environment("ADD"), conf(path)))[0] == 0
        assert list((path.parent / "spool").iterdir()) == []
    assert [call.command for call in handler.done] == [Command.DEL, Command.ADD]


async def test_a_spooled_del_that_hangs_holds_up_nobody_else(path: Path) -> None:
    async def hang(request: Request) -> None:
        if request.container_id == "stuck":
            await asyncio.Event().wait()

    await plugin(environment("DEL", "stuck"), conf(path))
    async with serving(CniServer(path, Recorder(hang))):
        assert (await plugin(environment("ADD", "other"), conf(path)))[0] == 0
    assert len(list((path.parent / "spool").iterdir())) == 1


async def test_a_spooled_del_that_fails_is_kept_and_tried_again(path: Path) -> None:
    attempts = 0

    async def fail_twice(_: Request) -> None:
        nonlocal attempts
        attempts += 1
        assert len(list((path.parent / "spool").iterdir())) == 1
        if attempts < 3:
            raise CniError(ErrorCode.IO_FAILURE, "not yet")

    await plugin(environment("DEL"), conf(path))
    handler = Recorder(fail_twice)
    async with serving(CniServer(path, handler, spool_retry_s=0.01)):
        await handler.wait_done(1)
    assert attempts == 3


async def test_a_del_that_cannot_be_done_now_is_kept_and_done_before_any_later_call_for_its_attachment(
    path: Path,
) -> None:
    away = asyncio.Event()
    away.set()

    async def refuse_while_away(_: Request) -> None:
        if away.is_set():
            raise CniError(ErrorCode.TRY_AGAIN_LATER, "not yet")

    handler = Recorder(refuse_while_away)
    async with serving(CniServer(path, handler, spool_retry_s=0.01)):
        assert await plugin(environment("DEL"), conf(path)) == (0, b"")
        (kept,) = (path.parent / "spool").iterdir()
        assert kept.stat().st_mode & 0o777 == 0o600
        adding = asyncio.create_task(plugin(environment("ADD"), conf(path)))
        away.clear()
        assert (await adding)[0] == 0
        assert list((path.parent / "spool").iterdir()) == []
    assert [call.command for call in handler.done] == [Command.DEL, Command.ADD]


async def test_a_del_that_was_kept_is_done_by_the_next_agent(path: Path) -> None:
    async def refuse(_: Request) -> None:
        raise CniError(ErrorCode.TRY_AGAIN_LATER, "not yet")

    async with serving(CniServer(path, Recorder(refuse))):
        assert await plugin(environment("DEL"), conf(path)) == (0, b"")
    handler = Recorder()
    async with serving(CniServer(path, handler)):
        await handler.wait_done(1)
    assert [call.command for call in handler.done] == [Command.DEL]


async def test_a_del_that_can_neither_be_done_nor_kept_fails(path: Path) -> None:
    async def refuse(_: Request) -> None:
        raise CniError(ErrorCode.TRY_AGAIN_LATER, "not yet")

    path.parent.mkdir(exist_ok=True)
    async with serving(CniServer(path, Recorder(refuse))):
        (path.parent / "spool").write_text("not a directory")
        status, output = await plugin(environment("DEL"), conf(path))
    assert (status, error_code(output)) == (1, ErrorCode.TRY_AGAIN_LATER)


@pytest.mark.parametrize("content", [b"", b"junk", encode_call(environment("ADD"), conf(Path("/x"))), b"\0{}"])
async def test_a_spooled_file_that_is_no_del_is_dropped_and_the_rest_is_carried_out(path: Path, content: bytes) -> None:
    await plugin(environment("DEL"), conf(path))
    junk = path.parent / "spool" / "000"
    junk.write_bytes(content)
    handler = Recorder()
    async with serving(CniServer(path, handler)):
        await handler.wait_done(1)
        assert not junk.exists()
    assert [call.command for call in handler.done] == [Command.DEL]


async def test_a_file_that_is_still_being_spooled_is_left_alone(path: Path) -> None:
    half = path.parent / "spool" / ".000"
    half.parent.mkdir(parents=True)
    half.write_bytes(b"CNI_COMM")
    async with serving(CniServer(path, Recorder())):
        assert half.exists()


async def test_a_server_that_was_stopped_leaves_no_task_and_no_descriptor(path: Path) -> None:
    async def hang(_: Request) -> None:
        await asyncio.Event().wait()

    async with serving(CniServer(path, Recorder())):
        pass
    before = descriptors(), len(asyncio.all_tasks())
    async with serving(CniServer(path, Recorder(hang))):
        reader, writer = await asyncio.open_unix_connection(path)
        writer.write(encode_call(environment("ADD"), conf(path)))
        writer.write_eof()
        assert (await talk(path, encode_call(environment("STATUS"), conf(path))))[0] == 0
    assert await reader.read() == b""
    writer.close()
    await writer.wait_closed()
    assert (descriptors(), len(asyncio.all_tasks())) == before
