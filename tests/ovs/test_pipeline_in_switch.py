"""The pipeline over our own codec into a real switch, and back: what was sent is what is read."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, suppress

import pytest
from hypothesis import given, settings

from agent.switch import Switch
from flows.desired import desired_flows
from flows.diff import difference
from flows.flow import Flow, FlowKey, Source
from flows.openflow import MeterEntry
from flows.snapshot import Mode, Tenancy
from flows.tables import ARP_METER, ARP_RATE
from tests.support.openvswitch import OpenVswitch
from tests.support.pipeline_switch import PipelineSwitch
from tests.support.worlds import Pod, World, tenant, worlds

DEADLINE_S = 10.0
ALL = frozenset(Source)


@pytest.fixture(scope="module")
def management() -> Iterator[str]:
    with OpenVswitch() as openvswitch:
        PipelineSwitch(openvswitch, nodes=1)
        yield str(openvswitch.mgmt("br0"))


@asynccontextmanager
async def connected(management: str) -> AsyncIterator[Switch]:
    switch = Switch(management)
    running = asyncio.create_task(switch.run())
    try:
        async with asyncio.timeout(DEADLINE_S):
            await switch.wait_connected()
            yield switch
    finally:
        running.cancel()
        with suppress(asyncio.CancelledError):
            await running


async def held_by(switch: Switch) -> dict[FlowKey, Flow]:
    return {entry.flow.key: entry.flow for entry in await switch.dump_flows()}


async def bring_to(switch: Switch, world: World) -> dict[FlowKey, Flow]:
    """Install the flows of node 0 of `world`, and return what the switch then holds."""
    await switch.set_meter(MeterEntry(ARP_METER, rate=ARP_RATE, burst=ARP_RATE))
    await switch.commit(difference(await held_by(switch), desired_flows(world.snapshot(0)), ALL))
    return await held_by(switch)


@settings(max_examples=15, deadline=None, database=None)
@given(before=worlds(), after=worlds())
def test_after_the_difference_the_switch_holds_exactly_the_desired_flows(
    management: str, before: World, after: World
) -> None:
    async def change() -> None:
        async with connected(management) as switch:
            await bring_to(switch, before)
            assert await bring_to(switch, after) == desired_flows(after.snapshot(0))

    asyncio.run(change())


async def test_a_restarted_agent_finds_nothing_to_change(management: str) -> None:
    world = World(Mode.MULTITENANT, 3, (Pod(0, 0, tenant(10)), Pod(0, 1, Tenancy(10, frozenset({10, 11})))))
    async with connected(management) as switch:
        await bring_to(switch, world)
    async with connected(management) as switch:
        assert difference(await held_by(switch), desired_flows(world.snapshot(0)), ALL) == []
