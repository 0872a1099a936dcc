"""The qdiscs of pod links, made in real namespaces and judged by `tc`."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.links import Links, PodLinkSpec, host_link_name
from agent.podshape import PodShape
from agent.shaping import bucket
from tests.support.namespaces import Sandbox, fresh_namespace, run, run_json

HOST = host_link_name("container-1", "eth0")
MTU = 1450


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with fresh_namespace():
        yield


@pytest.fixture
async def links(node: None) -> AsyncIterator[Links]:
    async with Links() as links:
        yield links


@pytest.fixture
async def sandbox(links: Links) -> AsyncIterator[Sandbox]:
    """A pod's namespace, linked."""
    with Sandbox() as sandbox:
        await links.make_pod_link(
            PodLinkSpec(
                host_name=HOST,
                netns=sandbox.path,
                ifname="eth0",
                address=IPv4Address("172.11.0.5"),
                prefix_length=22,
                gateway=IPv4Address("172.11.0.1"),
                networks=(IPv4Network("172.11.0.0/16"),),
                mtu=MTU,
                offloads_off=True,
            ),
            lambda: None,
        )
        yield sandbox


def shape_of(sandbox: Sandbox, ingress: int | None, egress: int | None, *, inside: bool = False) -> PodShape:
    buckets = [None if rate is None else bucket(rate, MTU) for rate in (ingress, egress)]
    return PodShape(HOST, sandbox.path, "eth0", MTU, buckets[0], buckets[1], inside)


async def shaped(links: Links, shape: PodShape) -> tuple[str, ...]:
    outcome = (await links.shape([shape]))[HOST]
    assert isinstance(outcome, tuple), outcome
    return outcome


def qdiscs(device: str) -> set[str]:
    return {qdisc["kind"] for qdisc in run_json("tc", "-json", "qdisc", "show", "dev", device)}


def rate(device: str) -> int:
    """Bit/s of the device's token bucket, as tc reads it."""
    (root,) = (one for one in run_json("tc", "-json", "qdisc", "show", "dev", device) if one["kind"] == "tbf")
    return int(root["options"]["rate"]) * 8


@pytest.mark.parametrize("wanted", [1_000, 1_500_000, 10**9, 10**11, 10**15])
async def test_a_rate_arrives_in_the_kernel_as_it_was_asked_for(links: Links, sandbox: Sandbox, wanted: int) -> None:
    await shaped(links, shape_of(sandbox, wanted, None))
    assert rate(HOST) == wanted


async def test_what_the_pod_sends_is_redirected_to_a_device_that_limits_it(links: Links, sandbox: Sandbox) -> None:
    await shaped(links, shape_of(sandbox, None, 8_000_000))
    ifb = HOST.replace("k8o", "k8i")
    assert rate(ifb) == 8_000_000
    assert f"Egress Redirect to device {ifb}" in run("tc", "filter", "show", "dev", HOST, "parent", "ffff:")
    assert "tbf" not in qdiscs(HOST)


@pytest.mark.parametrize(
    "theft",
    [
        ("filter", "del", "dev", HOST, "parent", "ffff:"),
        ("qdisc", "del", "dev", HOST, "ingress"),
        ("qdisc", "del", "dev", HOST.replace("k8o", "k8i"), "root"),
    ],
    ids=["filter", "ingress", "ifb"],
)
async def test_a_redirection_that_is_half_gone_is_made_whole(
    links: Links, sandbox: Sandbox, theft: tuple[str, ...]
) -> None:
    shape = shape_of(sandbox, None, 8_000_000)
    await shaped(links, shape)
    run("tc", *theft)
    assert await shaped(links, shape)
    ifb = HOST.replace("k8o", "k8i")
    assert rate(ifb) == 8_000_000
    assert f"Egress Redirect to device {ifb}" in run("tc", "filter", "show", "dev", HOST, "parent", "ffff:")
    assert await shaped(links, shape) == ()


async def test_inside_the_pod_its_own_end_is_limited_and_no_device_is_made(links: Links, sandbox: Sandbox) -> None:
    await shaped(links, shape_of(sandbox, None, 8_000_000, inside=True))
    assert "rate 8Mbit" in sandbox.run("tc", "qdisc", "show", "dev", "eth0")
    assert await links.links("k8i") == []


@pytest.mark.parametrize("inside", [False, True])
async def test_a_link_that_is_right_is_left_alone(links: Links, sandbox: Sandbox, inside: bool) -> None:
    shape = shape_of(sandbox, 10**7, 10**6, inside=inside)
    assert await shaped(links, shape)
    assert await shaped(links, shape) == ()


@pytest.mark.parametrize("inside", [False, True])
async def test_what_is_missing_is_told_without_being_changed(links: Links, sandbox: Sandbox, inside: bool) -> None:
    shape = shape_of(sandbox, 10**7, 10**6, inside=inside)
    assert await links.missing_limits(shape)
    assert "tbf" not in qdiscs(HOST)
    await shaped(links, shape)
    assert await links.missing_limits(shape) == ()
    changed = shape_of(sandbox, 2 * 10**7, 10**6, inside=inside)
    assert (await links.missing_limits(changed))[0] == "limit to 20000000 bit/s"


@pytest.mark.parametrize("inside", [False, True])
async def test_nothing_is_left_when_the_limits_go(links: Links, sandbox: Sandbox, inside: bool) -> None:
    before = run("tc", "qdisc"), sandbox.run("tc", "qdisc")
    await shaped(links, shape_of(sandbox, 10**7, 10**6, inside=inside))
    await shaped(links, shape_of(sandbox, None, None, inside=inside))
    assert (run("tc", "qdisc"), sandbox.run("tc", "qdisc")) == before
    assert await links.links("k8i") == []


async def test_a_changed_limit_replaces_no_qdisc(links: Links, sandbox: Sandbox) -> None:
    await shaped(links, shape_of(sandbox, 10**7, None))
    await shaped(links, shape_of(sandbox, 2 * 10**7, None))
    assert rate(HOST) == 2 * 10**7
    assert qdiscs(HOST) <= {"tbf", "bfifo", "sfq"}


async def test_a_queue_that_somebody_removes_from_a_limit_comes_back(links: Links, sandbox: Sandbox) -> None:
    shape = shape_of(sandbox, 10**7, None)
    await shaped(links, shape)
    before = run("tc", "qdisc")
    run("tc", "qdisc", "del", "dev", HOST, "parent", "6b38:1")
    assert await shaped(links, shape)
    assert run("tc", "qdisc") == before


async def test_somebody_elses_qdisc_stays_where_there_is_no_limit(links: Links, sandbox: Sandbox) -> None:
    run("tc", "qdisc", "add", "dev", HOST, "root", "tbf", "rate", "1mbit", "burst", "3000", "limit", "15000")
    assert await shaped(links, shape_of(sandbox, None, None)) == ()
    assert rate(HOST) == 1_000_000


@pytest.mark.parametrize("inside", [False, True])
async def test_hundreds_of_limits_that_come_and_go_leave_nothing(links: Links, sandbox: Sandbox, inside: bool) -> None:
    before = run("tc", "qdisc"), sandbox.run("tc", "qdisc"), run("ip", "-brief", "link")
    for number in range(200):
        await shaped(links, shape_of(sandbox, 10**6 + 8 * number, 10**6 + 8 * number, inside=inside))
        await shaped(links, shape_of(sandbox, None, None, inside=inside))
    assert (run("tc", "qdisc"), sandbox.run("tc", "qdisc"), run("ip", "-brief", "link")) == before


async def test_a_pod_that_is_gone_needs_nothing_and_holds_up_no_other(links: Links, sandbox: Sandbox) -> None:
    gone = replace(shape_of(sandbox, 10**7, 10**6, inside=True), host_name="k8o00000000000", netns="/run/netns/none")
    outcomes = await links.shape([gone, shape_of(sandbox, 10**7, None)])
    assert outcomes["k8o00000000000"] == ()
    assert rate(HOST) == 10**7
