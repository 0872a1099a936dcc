"""What counts as attached while calls are under way: the ports in a real database, and what will become of them."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from ipaddress import IPv4Address

import pytest

from agent.attachment import PodAttachment
from agent.attachments import Attachments
from agent.links import host_link_name
from agent.ovsdb import BridgeSpec, Ovsdb, PodPort
from cni.request import AttachmentKey, PodIdentity
from flows.snapshot import Tenancy
from tests.support.openvswitch import OpenVswitch

SPEC = BridgeSpec("netdev", IPv4Address("192.0.2.11"), 4789, "0a:58:ac:0b:00:01", 1450, {})
POD = PodAttachment(
    AttachmentKey("container", "eth0"),
    PodIdentity("red", "web", "1"),
    "/run/netns/x",
    IPv4Address("172.11.0.2"),
    Tenancy(10, frozenset({10})),
)
NAME = host_link_name("container", "eth0")


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


async def add(ovsdb: Ovsdb, ofport: int) -> int:
    await ovsdb.insert_ports([PodPort(NAME, ofport, POD.external_ids())])
    return await ovsdb.wait_forwarding(NAME)


async def test_an_expected_pod_counts_before_it_has_a_port(ovsdb: Ovsdb) -> None:
    attachments = Attachments(ovsdb)
    attachments.expect(NAME, POD, 300)
    assert attachments.forwarding() == {POD: 300}
    assert attachments.get(POD.key) is None, "it is not attached yet"
    attachments.expect_no_more(NAME)
    assert attachments.forwarding() == {}


async def test_the_number_that_the_switch_gave_counts_and_not_the_expected_one(ovsdb: Ovsdb) -> None:
    attachments = Attachments(ovsdb)
    attachments.expect(NAME, POD, 300)
    assert await add(ovsdb, 301) == 301
    assert attachments.forwarding() == {POD: 301}
    attachments.expect_no_more(NAME)
    assert attachments.forwarding() == {POD: 301}


async def test_a_leaving_pod_does_not_count_and_one_that_stays_after_all_does(ovsdb: Ovsdb) -> None:
    attachments = Attachments(ovsdb)
    await add(ovsdb, 300)
    with attachments.leaving(NAME) as known:
        assert known
        assert attachments.forwarding() == {}
        assert attachments.get(POD.key) == POD, "its port is there still"
    assert attachments.forwarding() == {POD: 300}


async def test_an_expected_pod_that_leaves_is_expected_no_more(ovsdb: Ovsdb) -> None:
    attachments = Attachments(ovsdb)
    attachments.expect(NAME, POD, 300)
    with attachments.leaving(NAME) as known:
        assert known
    assert attachments.forwarding() == {}
    with attachments.leaving(NAME) as known:
        assert not known


async def test_numbers_are_those_of_all_ports_and_of_expected_pods(ovsdb: Ovsdb) -> None:
    attachments = Attachments(ovsdb)
    attachments.expect("k8oother", POD, 305)
    await add(ovsdb, 300)
    assert {1, 2, 300, 305} <= attachments.numbers()


async def test_what_has_not_changed_is_the_same_object(ovsdb: Ovsdb) -> None:
    attachments = Attachments(ovsdb)
    await add(ovsdb, 300)
    before = attachments.forwarding()
    await ovsdb.set_port_ids({NAME: {"operator": "me"}})
    assert attachments.forwarding() is before
