"""Pod ports in batches, against a private Open vSwitch."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from agent.ovsdb import BridgeSpec, ChangeRefused, Ovsdb, PodPort
from agent.ports import PodPorts
from tests.support.openvswitch import OpenVswitch
from tests.support.processes import hanging

DEADLINE_S = 10.0
SPEC = BridgeSpec("netdev", IPv4Address("192.0.2.11"), 4789, "0a:58:ac:0b:00:01", 1450, {})
PORT = PodPort("k8o256", 256, {"k8sovs-address": "172.11.0.2"})


@pytest.fixture
async def ovsdb(openvswitch: OpenVswitch) -> AsyncIterator[Ovsdb]:
    ovsdb = Ovsdb(str(openvswitch.db_socket))
    task = asyncio.create_task(ovsdb.run())
    await ovsdb.wait_connected()
    await ovsdb.ensure_bridge(SPEC)
    yield ovsdb
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


@pytest.fixture
async def ports(ovsdb: Ovsdb) -> AsyncIterator[PodPorts]:
    ports = PodPorts(ovsdb)
    tasks = [asyncio.create_task(run()) for run in (ports.run_additions, ports.run_removals)]
    yield ports
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def wait_port(ovsdb: Ovsdb, there: bool) -> None:
    async with asyncio.timeout(DEADLINE_S):
        while ovsdb.view is None or (PORT.name in ovsdb.view.ports) != there:
            await ovsdb.changes.wait_beyond(ovsdb.changes.count)


async def test_an_addition_that_was_undone_before_the_database_answered_leaves_no_port(
    openvswitch: OpenVswitch, ovsdb: Ovsdb, ports: PodPorts
) -> None:
    """The removal finds no port yet, and the addition, which was sent, is done after it."""
    with hanging(int((openvswitch.rundir / "ovsdb-server.pid").read_text())):
        adding = asyncio.create_task(ports.add(PORT))
        for _ in range(5):  # turns of the loop in which the batch is made and sent
            await asyncio.sleep(0)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        await ports.remove(PORT.name)
    await wait_port(ovsdb, there=True)
    await wait_port(ovsdb, there=False)
    assert await ports.add(PORT) == PORT.ofport_request, "its name is free again"


async def test_a_port_that_the_database_refuses_holds_up_no_other_of_its_burst(
    openvswitch: OpenVswitch, ovsdb: Ovsdb, ports: PodPorts
) -> None:
    openvswitch.vsctl("add-br", "foreign", "--", "add-port", "foreign", "k8o258")
    burst = [
        PodPort(f"k8o{number}", number, {"k8sovs-address": f"172.11.0.{number - 254}"}) for number in range(256, 263)
    ]
    outcomes = await asyncio.gather(*map(ports.add, burst), return_exceptions=True)
    refused = {
        port.name: outcome for port, outcome in zip(burst, outcomes, strict=True) if not isinstance(outcome, int)
    }
    assert list(refused) == ["k8o258"]
    assert isinstance(refused["k8o258"], ChangeRefused)
    assert "k8o258" in str(refused["k8o258"])
    there = set(openvswitch.vsctl("list-ports", "br0").split())
    assert there == {port.name for port in burst} - {"k8o258"} | {"tun0", "vxlan0"}
    assert openvswitch.vsctl("list-ports", "foreign").split() == ["k8o258"], "what is somebody else's stays"
