"""Ports whose devices are real: what the switch refuses, and what becomes of tun0, on the userspace datapath."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from agent.ovsdb import BridgeSpec, Ovsdb, PodPort, PortRefused
from tests.support.namespaces import fresh_namespace, run, run_json
from tests.support.openvswitch import OpenVswitch

SPEC = BridgeSpec(
    datapath_type="netdev",
    local_ip=IPv4Address("192.0.2.11"),
    vxlan_port=4789,
    gateway_mac="0a:58:ac:0b:00:01",
    mtu=1400,
    external_ids={},
)


@pytest.fixture
def switch() -> Iterator[OpenVswitch]:
    """A switch of the userspace datapath in a namespace of its own, where the test is too."""
    with fresh_namespace(), OpenVswitch(dummy=False) as switch:
        yield switch


@pytest.fixture
async def ovsdb(switch: OpenVswitch) -> AsyncIterator[Ovsdb]:
    ovsdb = Ovsdb(str(switch.db_socket))
    task = asyncio.create_task(ovsdb.run())
    yield ovsdb
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


async def test_a_port_without_a_device_is_refused_alone_and_removed(switch: OpenVswitch, ovsdb: Ovsdb) -> None:
    await ovsdb.ensure_bridge(SPEC)
    run("ip", "link", "add", "k8oreal", "type", "veth", "peer", "name", "peer")
    await ovsdb.insert_ports([PodPort("k8oreal", 256, {}), PodPort("k8ogone", 257, {})])
    assert await ovsdb.wait_forwarding("k8oreal") == 256
    with pytest.raises(PortRefused, match="No such device"):
        await ovsdb.wait_forwarding("k8ogone")
    async with asyncio.timeout(10):
        while ovsdb.view is None or "k8ogone" in ovsdb.view.ports:
            await ovsdb.changes.wait_beyond(ovsdb.changes.count)
    assert set(switch.vsctl("list-ports", "br0").split()) == {"vxlan0", "tun0", "k8oreal"}


async def test_tun0_has_its_mac_and_keeps_its_mtu_when_the_bridge_changes(switch: OpenVswitch, ovsdb: Ovsdb) -> None:
    await ovsdb.ensure_bridge(SPEC)
    run("ip", "link", "add", "k8osmall", "mtu", "1300", "type", "veth", "peer", "name", "peer")
    await ovsdb.insert_ports([PodPort("k8osmall", 256, {})])
    await ovsdb.wait_forwarding("k8osmall")
    switch.vsctl("set", "bridge", "br0", "external_ids:settled=yes")  # returns when the switch has done all before it
    (link,) = run_json("ip", "-json", "link", "show", "tun0")
    assert (link["address"], link["mtu"]) == ("0a:58:ac:0b:00:01", 1400)
