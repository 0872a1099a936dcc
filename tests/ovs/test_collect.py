"""Garbage collection of attachments, with the ports in a private database."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from agent.attachment import PodAttachment
from agent.attachments import Attachments
from agent.bridge import BridgeSpec, PodPort
from agent.collect import Collector
from agent.links import host_link_name
from agent.ovsdb import Ovsdb, OvsdbError
from agent.turns import Turns
from cni.errors import CniError, ErrorCode
from cni.request import AttachmentKey, NetConf, PodIdentity, Request
from flows.snapshot import Tenancy
from tests.support.openvswitch import OpenVswitch

SPEC = BridgeSpec("netdev", IPv4Address("192.0.2.11"), 4789, "0a:58:ac:0b:00:01", 1450, {})
KEYS = [AttachmentKey(f"pod{number}", "eth0") for number in range(4)]


@pytest.fixture
async def ovsdb(openvswitch: OpenVswitch) -> AsyncIterator[Ovsdb]:
    """A database with a port for each of KEYS."""
    ovsdb = Ovsdb(str(openvswitch.db_socket))
    task = asyncio.create_task(ovsdb.run())
    await ovsdb.wait_connected()
    await ovsdb.ensure_bridge(SPEC)
    await ovsdb.insert_ports([port(key, number) for number, key in enumerate(KEYS)])
    for key in KEYS:
        await ovsdb.wait_forwarding(host_link_name(key.container_id, key.ifname))
    yield ovsdb
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task


def port(key: AttachmentKey, number: int) -> PodPort:
    address, pod = IPv4Address(f"172.11.0.{number + 2}"), PodIdentity("red", key.container_id, "")
    attachment = PodAttachment(key, pod, "/run/netns/x", address, Tenancy(10, frozenset({10})))
    return PodPort(host_link_name(key.container_id, key.ifname), 256 + number, attachment.external_ids())


def gc(*valid: AttachmentKey) -> Request:
    listed = [{"containerID": key.container_id, "ifname": key.ifname} for key in valid]
    raw = {"cniVersion": "1.1.0", "name": "k8s-ovs", "type": "k8s-ovs", "cni.dev/valid-attachments": listed}
    return Request.parse({"CNI_COMMAND": "GC"}, NetConf.parse(json.dumps(raw).encode()))


async def test_one_that_cannot_be_detached_holds_up_no_other_and_is_named(ovsdb: Ovsdb) -> None:
    attachments = Attachments(ovsdb)

    async def detach(key: AttachmentKey) -> None:
        if key == KEYS[1]:
            raise OvsdbError("the database is in a bad mood")
        await ovsdb.remove_ports([host_link_name(key.container_id, key.ifname)])

    with pytest.raises(CniError) as refused:
        await Collector(attachments, detach).collect(gc(KEYS[0]), Turns())
    assert refused.value.code is ErrorCode.TRY_AGAIN_LATER
    assert "pod1/eth0: the database is in a bad mood" in refused.value.details
    assert {found.key for found in attachments.by_port().values()} == {KEYS[0], KEYS[1]}


async def test_what_a_call_is_under_way_for_is_left_to_that_call(ovsdb: Ovsdb) -> None:
    turns, collected = Turns(), []

    async def detach(key: AttachmentKey) -> None:
        assert turns.taken(key)
        collected.append(key)

    async with turns.of(KEYS[2]):
        await Collector(Attachments(ovsdb), detach).collect(gc(KEYS[0]), turns)
    assert set(collected) == {KEYS[1], KEYS[3]}
