from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from ipaddress import IPv4Address
from pathlib import Path

import pytest

from agent.unixctl import ControlError, call, set_tunnel_neighbour, set_tunnel_route, vswitchd_socket
from tests.support.openvswitch import OpenVswitch


@asynccontextmanager
async def daemon(path: Path, *answer: bytes) -> AsyncIterator[None]:
    """A daemon that answers any question with these pieces, then hangs up."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.read(1)
        for piece in answer:
            writer.write(piece)
            await writer.drain()
        writer.close()

    server = await asyncio.start_unix_server(serve, path)
    async with server:
        yield


async def test_the_switch_daemon_answers(openvswitch: OpenVswitch) -> None:
    answer = await call(vswitchd_socket(openvswitch.rundir), "version")
    assert isinstance(answer, str)
    assert answer.startswith("ovs-vswitchd (Open vSwitch)")


async def test_a_tunnel_neighbour_is_set(openvswitch: OpenVswitch) -> None:
    openvswitch.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=netdev")
    address, mac = IPv4Address("192.0.2.12"), "02:00:00:00:00:0c"
    await set_tunnel_neighbour(openvswitch.rundir, "br-phy", address, mac)
    shown = openvswitch.appctl("tnl/neigh/show").splitlines()
    assert any(line.split() == ["192.0.2.12", mac, "br-phy"] for line in shown)


@pytest.mark.parametrize(
    ("gateway", "shown"),
    [
        (None, "User: 192.0.2.12/32 dev br-phy SRC 192.0.2.11"),
        (IPv4Address("192.0.2.1"), "User: 192.0.2.12/32 dev br-phy GW 192.0.2.1 SRC 192.0.2.11"),
    ],
)
async def test_a_tunnel_route_is_set(openvswitch: OpenVswitch, gateway: IPv4Address | None, shown: str) -> None:
    openvswitch.vsctl("add-br", "br-phy", "--", "set", "bridge", "br-phy", "datapath_type=dummy")
    openvswitch.appctl("netdev-dummy/ip4addr", "br-phy", "192.0.2.11/24")
    await set_tunnel_route(openvswitch.rundir, IPv4Address("192.0.2.12"), "br-phy", gateway)
    assert shown in openvswitch.appctl("ovs/route/show").splitlines()


async def test_a_refused_command_is_said_in_the_daemons_words(openvswitch: OpenVswitch) -> None:
    with pytest.raises(ControlError, match="not a valid command"):
        await call(vswitchd_socket(openvswitch.rundir), "no/such/command")


async def test_without_a_daemon_there_is_no_socket(tmp_path: Path) -> None:
    with pytest.raises(ControlError, match="ovs-vswitchd is not running"):
        vswitchd_socket(tmp_path)


async def test_a_dead_socket_is_said(openvswitch: OpenVswitch) -> None:
    path = vswitchd_socket(openvswitch.rundir)
    openvswitch.kill_vswitchd()
    with pytest.raises(ControlError, match="is Open vSwitch running"):
        await call(path, "version")


async def test_an_answer_in_pieces_is_put_together(tmp_path: Path) -> None:
    pieces = [b'{"id": 0, "error": null, "resu', b'lt": "gr\xc3', b'\xbc\xc3\x9fe"}']
    async with daemon(tmp_path / "ctl", *pieces):
        assert await call(tmp_path / "ctl", "version") == "grüße"


async def test_an_answer_cut_short_is_an_error(tmp_path: Path) -> None:
    async with daemon(tmp_path / "ctl", b'{"id": 0,'):
        with pytest.raises(ControlError, match="in the middle of an answer"):
            await call(tmp_path / "ctl", "version")


async def test_a_daemon_that_says_nothing_is_given_up(tmp_path: Path) -> None:
    server = await asyncio.start_unix_server(lambda reader, writer: reader.read(), tmp_path / "ctl")
    async with server:
        with pytest.raises(ControlError, match=r"no answer from .* within 0\.1 s"):
            await call(tmp_path / "ctl", "version", timeout=0.1)
