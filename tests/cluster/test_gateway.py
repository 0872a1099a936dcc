"""The node's gateway device, its underlay and its neighbours, on a real kernel, judged by `ip`."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from ipaddress import IPv4Address, IPv4Network

import pytest

from agent.links import (
    DeviceEvent,
    EventKind,
    GatewaySpec,
    LinkError,
    Links,
    Underlay,
    UnderlayError,
)
from tests.support.namespaces import Json, Sandbox, fresh_namespace, run, run_json

DEADLINE_S = 5.0
SPEC = GatewaySpec(
    ifname="tun0",
    address=IPv4Address("172.11.0.1"),
    mtu=1450,
    networks=(IPv4Network("172.11.0.0/16"), IPv4Network("10.96.0.0/12")),
    next_hop=IPv4Address("169.254.77.1"),
)


@pytest.fixture(autouse=True)
def node() -> Iterator[Sandbox]:
    """A node whose tun0 ends in a sandbox, in the place of the switch."""
    with fresh_namespace(), Sandbox() as switch:
        switch.connect("tun0", "tun0-peer")
        yield switch


@pytest.fixture
async def links(node: Sandbox) -> AsyncIterator[Links]:
    async with Links() as links:
        yield links


def state() -> Json:
    """What `ip` says of tun0: link, IPv4 addresses, routes, permanent neighbours."""
    (link,) = run_json("ip", "-json", "link", "show", "tun0")
    (held,) = run_json("ip", "-json", "address", "show", "tun0")
    return {
        "mac": link["address"],
        "mtu": link["mtu"],
        "up": "UP" in link["flags"],
        "addresses": {f"{one['local']}/{one['prefixlen']}" for one in held["addr_info"] if one["family"] == "inet"},
        "routes": {
            (route["dst"], route.get("gateway"), route.get("prefsrc"), "onlink" in route["flags"])
            for route in run_json("ip", "-4", "-json", "route", "show", "dev", "tun0")
        },
        "neighbours": {
            (entry["dst"], entry["lladdr"])
            for entry in run_json("ip", "-4", "-json", "neighbour", "show", "dev", "tun0", "nud", "permanent")
        },
    }


RIGHT = {
    "mac": "0a:58:ac:0b:00:01",
    "mtu": 1450,
    "up": True,
    "addresses": {"172.11.0.1/32"},
    "routes": {
        ("172.11.0.0/16", "169.254.77.1", "172.11.0.1", True),
        ("10.96.0.0/12", "169.254.77.1", "172.11.0.1", True),
    },
    "neighbours": {("169.254.77.1", "0a:58:a9:fe:4d:01")},
}


async def test_a_new_device_becomes_the_gateway(links: Links) -> None:
    assert await links.configure_gateway(SPEC)
    assert state() == RIGHT


async def test_nothing_is_written_when_all_is_right(links: Links) -> None:
    await links.configure_gateway(SPEC)
    assert await links.configure_gateway(SPEC) == ()


@pytest.mark.parametrize(
    "damage",
    [
        "link set tun0 down",
        "link set tun0 mtu 1400",
        "address flush dev tun0",
        "address add 192.0.2.77/24 dev tun0",
        "route del 10.96.0.0/12",
        "route replace 172.11.0.0/16 dev tun0",
        "link set tun0 address 02:00:00:00:00:01",
        "neighbour del 169.254.77.1 dev tun0",
        "neighbour replace 169.254.77.1 dev tun0 lladdr 02:00:00:00:00:01 nud permanent",
        "neighbour replace 169.254.77.1 dev tun0 lladdr 0a:58:a9:fe:4d:01 nud stale",
        "route add 10.200.0.0/16 via 169.254.77.1 dev tun0 onlink proto 107",
    ],
)
async def test_damage_is_repaired(links: Links, damage: str) -> None:
    await links.configure_gateway(SPEC)
    run("ip", *damage.split())
    assert await links.configure_gateway(SPEC)
    assert state() == RIGHT
    assert await links.configure_gateway(SPEC) == ()


async def test_an_address_of_the_wrong_length_is_repaired_with_the_routes_that_go_with_it(links: Links) -> None:
    await links.configure_gateway(SPEC)
    run("ip", "address", "add", "172.11.0.1/22", "dev", "tun0", "noprefixroute")
    run("ip", "address", "del", "172.11.0.1/32", "dev", "tun0")
    await links.configure_gateway(SPEC)
    assert state() == RIGHT


async def test_an_operators_own_route_by_the_device_stays(links: Links) -> None:
    await links.configure_gateway(SPEC)
    run("ip", "route", "add", "198.51.100.0/24", "dev", "tun0")
    await links.configure_gateway(SPEC)
    assert ("198.51.100.0/24", None, None, False) in state()["routes"]


async def test_a_missing_device_is_said(links: Links) -> None:
    run("ip", "link", "del", "tun0")
    with pytest.raises(LinkError, match="tun0 does not exist"):
        await links.configure_gateway(SPEC)


@pytest.mark.parametrize(
    ("damage", "kind"),
    [
        ("route del 10.96.0.0/12", EventKind.ROUTE),
        ("address flush dev tun0", EventKind.ADDRESS),
        ("link set tun0 mtu 1400", EventKind.LINK),
        ("link del tun0", EventKind.LINK),
    ],
)
async def test_damage_is_an_event(links: Links, damage: str, kind: EventKind) -> None:
    await links.configure_gateway(SPEC)
    events = links.events()
    event = await anext(events)
    assert event.kind is EventKind.LOST
    run("ip", *damage.split())
    async with asyncio.timeout(DEADLINE_S):
        while event != DeviceEvent(kind, "tun0"):
            event = await anext(events)


async def test_the_underlay_is_the_device_with_the_nodes_address(links: Links, node: Sandbox) -> None:
    node.connect("eth0", "eth0-peer")
    run("ip", "address", "add", "192.0.2.11/24", "dev", "eth0")
    run("ip", "link", "set", "eth0", "mtu", "1400")
    index = run_json("ip", "-json", "link", "show", "eth0")[0]["ifindex"]
    underlay = await links.underlay(IPv4Address("192.0.2.11"))
    assert underlay == Underlay("eth0", index, 1400, IPv4Network("192.0.2.0/24"))
    assert underlay.pod_mtu == 1350


async def test_a_node_address_that_nobody_holds_is_said(links: Links) -> None:
    with pytest.raises(UnderlayError, match=r"192\.0\.2\.99"):
        await links.underlay(IPv4Address("192.0.2.99"))


@pytest.fixture
def underlay(node: Sandbox) -> Iterator[Sandbox]:
    """Another machine, 192.0.2.12, on the node's eth0."""
    with Sandbox() as peer:
        peer.connect("eth0", "eth0", "192.0.2.12/24")
        run("ip", "address", "add", "192.0.2.11/24", "dev", "eth0")
        yield peer


def mac_in(sandbox: Sandbox) -> str:
    (link,) = run_json(*sandbox.command("ip", "-json", "link", "show", "eth0"))
    return str(link["address"])


async def test_the_mac_of_a_peer_is_asked_for(links: Links, underlay: Sandbox) -> None:
    found = await links.neighbour(IPv4Address("192.0.2.12"), timeout=DEADLINE_S)
    assert found is not None
    assert (found.ifname, str(found.address), found.mac) == ("eth0", "192.0.2.12", mac_in(underlay))


async def test_behind_a_router_it_is_the_routers_mac(links: Links, underlay: Sandbox) -> None:
    run("ip", "route", "add", "203.0.113.0/24", "via", "192.0.2.12")
    found = await links.neighbour(IPv4Address("203.0.113.5"), timeout=DEADLINE_S)
    assert found is not None
    assert (str(found.address), found.mac) == ("192.0.2.12", mac_in(underlay))


async def test_a_silent_peer_has_no_neighbour(links: Links, underlay: Sandbox) -> None:
    assert await links.neighbour(IPv4Address("192.0.2.13"), timeout=0.1) is None


async def test_a_neighbour_that_failed_is_not_believed(links: Links, underlay: Sandbox) -> None:
    run(*["ip", "neighbour", "add", "192.0.2.12", "lladdr", "02:00:00:00:00:0b", "dev", "eth0", "nud", "failed"])
    found = await links.neighbour(IPv4Address("192.0.2.12"), timeout=DEADLINE_S)
    assert found is not None
    assert found.mac == mac_in(underlay)


async def test_a_peer_without_a_route_is_said(links: Links, underlay: Sandbox) -> None:
    with pytest.raises(UnderlayError, match=r"no route to 203\.0\.113\.5"):
        await links.neighbour(IPv4Address("203.0.113.5"))


async def test_receive_offloads_of_an_underlay_device_go_off(links: Links, underlay: Sandbox) -> None:
    run("ethtool", "-K", "eth0", "gro", "on")
    await links.disable_receive_offloads(["eth0"])
    assert "generic-receive-offload: off" in run("ethtool", "-k", "eth0")
