"""Pod links, made in real namespaces and judged by `ip`, `ethtool` and the frames themselves."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import os
import resource
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from dataclasses import replace
from ipaddress import IPv4Address, IPv4Network
from pathlib import Path

import pytest

from agent.links import (
    InterfaceExists,
    LinkError,
    LinkExists,
    Links,
    NetnsGone,
    PodLink,
    PodLinkSpec,
    host_link_name,
)
from agent.reaper import Reaper
from tests.support.namespaces import Sandbox, fresh_namespace, run, run_json

GATEWAY_MAC = "0a:58:ac:0b:00:01"
POD_MAC = "0a:58:ac:0b:00:05"
NODE_SETTLES_S = 5.0
SIOCGIFFLAGS, IFF_RUNNING = 0x8913, 0x40  # netdevice(7): running is up with a carrier that the kernel has acted on


@pytest.fixture(autouse=True)
def node() -> Iterator[None]:
    with fresh_namespace():
        yield


@pytest.fixture
def sandbox() -> Iterator[Sandbox]:
    with Sandbox() as sandbox:
        yield sandbox


@pytest.fixture
async def links(node: None) -> AsyncIterator[Links]:
    async with Links() as links:
        yield links


def spec_for(sandbox: Sandbox, **changes: object) -> PodLinkSpec:
    spec = PodLinkSpec(
        host_name=host_link_name("container-1", "eth0"),
        netns=sandbox.path,
        ifname="eth0",
        address=IPv4Address("172.11.0.5"),
        prefix_length=22,
        gateway=IPv4Address("172.11.0.1"),
        networks=(IPv4Network("172.11.0.0/16"), IPv4Network("10.96.0.0/12")),
        mtu=1450,
        offloads_off=True,
    )
    return replace(spec, **changes)


async def make(links: Links, spec: PodLinkSpec) -> PodLink:
    made, _ = await links.make_pod_link(spec, lambda: None)
    return made


def host_links() -> list[str]:
    return [link["ifname"] for link in run_json("ip", "-json", "link") if link["ifname"].startswith("k8o")]


def test_a_host_link_name_fits_the_kernel_and_differs_by_container_and_interface() -> None:
    names = {host_link_name(container, ifname) for container in ("a" * 64, "b" * 64) for ifname in ("eth0", "net1")}
    assert len(names) == 4
    assert all(len(name) == 14 and name.startswith("k8o") for name in names)


async def test_both_ends_are_up_with_mac_and_mtu_as_asked(links: Links, sandbox: Sandbox) -> None:
    made = await make(links, spec_for(sandbox))
    (inside,) = run_json(*sandbox.command("ip", "-json", "link", "show", "eth0"))
    (outside,) = run_json("ip", "-json", "link", "show", made.host_name)
    assert (inside["address"], inside["mtu"], inside["operstate"]) == (POD_MAC, 1450, "UP")
    assert (outside["address"], outside["mtu"], outside["operstate"]) == (made.host_mac, 1450, "UP")
    assert made.mac == POD_MAC


async def test_the_nodes_end_passes_frames_the_moment_it_is_made(links: Links, sandbox: Sandbox) -> None:
    made = await make(links, spec_for(sandbox))
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as inet:
        answer = fcntl.ioctl(inet, SIOCGIFFLAGS, struct.pack("16s16x", made.host_name.encode()))
    (flags,) = struct.unpack_from("H", answer, 16)
    assert flags & IFF_RUNNING


async def test_the_pod_routes_everything_by_its_gateway_and_nothing_by_the_subnet(
    links: Links, sandbox: Sandbox
) -> None:
    await make(links, spec_for(sandbox))
    routes = {route["dst"]: route.get("gateway") for route in run_json(*sandbox.command("ip", "-4", "-json", "route"))}
    gateway = "172.11.0.1"
    assert routes == {gateway: None, "default": gateway, "172.11.0.0/16": gateway, "10.96.0.0/12": gateway}


async def test_the_address_has_the_length_of_the_nodes_subnet(links: Links, sandbox: Sandbox) -> None:
    await make(links, spec_for(sandbox))
    (device,) = run_json(*sandbox.command("ip", "-4", "-json", "address", "show", "eth0"))
    assert [(held["local"], held["prefixlen"]) for held in device["addr_info"]] == [("172.11.0.5", 22)]


async def test_the_first_packet_to_a_neighbour_goes_to_the_gateways_mac_without_arp(
    links: Links, sandbox: Sandbox
) -> None:
    made = await make(links, spec_for(sandbox))
    frame = await first_ipv4_or_arp_frame(sandbox, made.host_name)
    assert frame[12:14] == b"\x08\x00"
    assert frame[:6].hex(":") == GATEWAY_MAC
    assert frame[6:12].hex(":") == POD_MAC


async def test_with_offloads_off_the_pod_sends_complete_checksums(links: Links, sandbox: Sandbox) -> None:
    made = await make(links, spec_for(sandbox, offloads_off=True))
    assert udp_checksum_is_right(await first_ipv4_or_arp_frame(sandbox, made.host_name))


async def test_with_offloads_on_the_kernel_leaves_checksums_to_the_device(links: Links, sandbox: Sandbox) -> None:
    made = await make(links, spec_for(sandbox, offloads_off=False))
    assert not udp_checksum_is_right(await first_ipv4_or_arp_frame(sandbox, made.host_name))


async def test_the_node_speaks_no_ipv6_to_a_pod(links: Links, sandbox: Sandbox) -> None:
    made = await make(links, spec_for(sandbox))
    (device,) = run_json("ip", "-json", "address", "show", made.host_name)
    assert device["addr_info"] == []


async def test_a_missing_namespace_is_said_and_leaves_nothing(links: Links, sandbox: Sandbox) -> None:
    with pytest.raises(NetnsGone, match="/run/netns/dev-nowhere"):
        await make(links, spec_for(sandbox, netns="/run/netns/dev-nowhere"))
    assert host_links() == []


async def test_a_file_that_is_no_namespace_is_a_namespace_gone(links: Links, sandbox: Sandbox, tmp_path: Path) -> None:
    leftover = tmp_path / "netns"
    leftover.touch()
    with pytest.raises(NetnsGone):
        await make(links, spec_for(sandbox, netns=str(leftover)))


async def test_the_nodes_own_namespace_is_refused(links: Links, sandbox: Sandbox) -> None:
    with pytest.raises(LinkError, match="node's own"):
        await make(links, spec_for(sandbox, netns="/proc/thread-self/ns/net"))


async def test_a_second_interface_of_the_same_name_is_refused_and_the_first_stays(
    links: Links, sandbox: Sandbox
) -> None:
    first = await make(links, spec_for(sandbox))
    with pytest.raises(InterfaceExists, match="eth0"):
        await make(links, spec_for(sandbox, host_name=host_link_name("container-2", "eth0")))
    assert host_links() == [first.host_name]


async def test_an_existing_host_end_is_refused_and_stays(links: Links, sandbox: Sandbox) -> None:
    first = await make(links, spec_for(sandbox))
    with pytest.raises(LinkExists, match=first.host_name):
        await make(links, spec_for(sandbox, ifname="eth1"))
    assert host_links() == [first.host_name]


async def test_a_failure_half_way_leaves_no_link(links: Links, sandbox: Sandbox) -> None:
    with pytest.raises(LinkError, match="address"):
        await make(links, spec_for(sandbox, prefix_length=33))
    assert host_links() == []


async def test_a_cancelled_creation_leaves_no_link(links: Links, sandbox: Sandbox) -> None:
    events = links.events()
    await anext(events)
    creation = asyncio.create_task(make(links, spec_for(sandbox)))
    await asyncio.sleep(0)  # a worker has the creation
    creation.cancel()
    with pytest.raises(asyncio.CancelledError):
        await creation
    assert host_links() == []
    async with asyncio.timeout(NODE_SETTLES_S):
        assert (await anext(events)).ifname == spec_for(sandbox).host_name, "it had been made"


async def test_a_cancelled_creation_that_cannot_be_undone_is_still_a_cancelled_one(
    links: Links, sandbox: Sandbox
) -> None:
    usual = resource.getrlimit(resource.RLIMIT_NOFILE)

    def cancel() -> None:
        creation.cancel()
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, usual[1]))  # nothing can be opened any more

    creation = asyncio.create_task(links.make_pod_link(spec_for(sandbox), cancel))
    try:
        with pytest.raises(asyncio.CancelledError):
            await creation
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, usual)
    assert host_links() == [spec_for(sandbox).host_name], "it was left to whoever undoes the ADD"


async def test_many_links_are_deleted_at_once_and_no_others(links: Links) -> None:
    with contextlib.ExitStack() as stack:
        sandboxes = [stack.enter_context(Sandbox()) for _ in range(20)]
        specs = [
            spec_for(sandbox, host_name=host_link_name(str(number), "eth0")) for number, sandbox in enumerate(sandboxes)
        ]
        made = await asyncio.gather(*(make(links, spec) for spec in specs))
        names = [link.host_name for link in made]
        assert sorted(await links.links("k8o")) == sorted(names)
        await links.delete_links([*names[1:], "k8ogone"])
        assert host_links() == names[:1]
        assert [box.succeeds("ip", "link", "show", "eth0") for box in sandboxes] == [True] + 19 * [False]


async def test_deleting_a_link_that_is_gone_is_no_error(links: Links) -> None:
    await links.delete_links(["k8ogone"])


async def test_a_whole_nodes_links_are_deleted_at_once(links: Links) -> None:
    """The kernel answers for all of a request before any answer is read: they must fit the socket."""
    await links.delete_links([f"k8o{number}" for number in range(1000)])


async def test_a_link_that_cannot_be_deleted_holds_up_no_other_and_is_tried_again(links: Links) -> None:
    """The kernel never deletes its loopback device, whatever its name is."""
    run("ip", "link", "set", "lo", "down")
    run("ip", "link", "set", "lo", "name", "k8ostubborn")
    run("ip", "link", "add", "k8oother", "type", "veth", "peer", "name", "peer")
    reaper = Reaper(links, retry_s=0.01)
    reaping = asyncio.create_task(reaper.run())
    reaper.delete_later(["k8oother", "k8ostubborn"])
    async with asyncio.timeout(NODE_SETTLES_S):
        await reaper.wait_deleted("k8oother")
    assert host_links() == ["k8ostubborn"]
    waiting = asyncio.create_task(reaper.wait_deleted("k8ostubborn"))
    run("ip", "link", "set", "k8ostubborn", "name", "lo")
    async with asyncio.timeout(NODE_SETTLES_S):
        await waiting
    reaping.cancel()


async def test_the_worker_threads_come_home(links: Links, sandbox: Sandbox) -> None:
    made = await make(links, spec_for(sandbox))
    assert await links.links("k8o") == [made.host_name]
    assert all("eth0" not in names for names in await asyncio.gather(*(links.links("eth") for _ in range(8))))


async def test_no_descriptor_is_left_open(links: Links, sandbox: Sandbox) -> None:
    await make(links, spec_for(sandbox))
    await links.delete_links(host_links())
    before = len(os.listdir("/proc/self/fd"))
    await make(links, spec_for(sandbox))
    with contextlib.suppress(LinkError):
        await make(links, spec_for(sandbox))
    await links.delete_links(host_links())
    assert len(os.listdir("/proc/self/fd")) == before


async def first_ipv4_or_arp_frame(sandbox: Sandbox, host_name: str) -> bytes:
    """The first frame that the pod sends when it talks to another pod of the node's subnet."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(3)) as tap:
        tap.bind((host_name, 3))
        tap.setblocking(False)
        sandbox.run("bash", "-c", "echo -n hello > /dev/udp/172.11.0.9/99")
        async with asyncio.timeout(NODE_SETTLES_S):
            while True:
                frame = await asyncio.get_running_loop().sock_recv(tap, 2048)
                if frame[12:14] in (b"\x08\x00", b"\x08\x06"):
                    return frame


def udp_checksum_is_right(frame: bytes) -> bool:
    packet = frame[14 : 14 + struct.unpack_from("!H", frame, 16)[0]]
    datagram = packet[20:]
    covered = packet[12:20] + struct.pack("!HH", 17, len(datagram)) + datagram + bytes(len(datagram) % 2)
    total = sum(struct.unpack(f"!{len(covered) // 2}H", covered))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return total == 0xFFFF


def test_the_checksum_judge_knows_wrong_from_right() -> None:
    datagram = struct.pack("!HHHH", 1, 2, 9, 0) + b"x"
    header = struct.pack("!BBHHHBBH4s4s", 0x45, 0, 29, 0, 0, 64, 17, 0, b"\x0a\0\0\1", b"\x0a\0\0\2")
    assert not udp_checksum_is_right(bytes(12) + b"\x08\x00" + header + datagram)
