"""What a link should have, and the smallest change that leads there."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent import tc
from agent.attachment import PodAttachment
from agent.limits import Limits
from agent.netlink import Request
from agent.podshape import bucket_changes
from agent.shaping import ETHERNET_HEADER, bucket, desired_shapes
from agent.tc import OUR_HANDLE, Qdisc
from cni.request import AttachmentKey, PodIdentity
from flows.snapshot import Tenancy

MTU = 1450
INDEX = 7
WANTED = bucket(10_000_000, MTU)
OURS = Qdisc(INDEX, tc.ROOT, OUR_HANDLE, "tbf", WANTED.rate, WANTED.limit, tc.PEAK_RATE)
LEAF = Qdisc(INDEX, tc.LEAF_PARENT, tc.FAIR_HANDLE, "sfq")
ATTACHED = PodAttachment(
    AttachmentKey("c0ffee", "eth0"),
    PodIdentity("red", "web", "uid"),
    "/run/netns/x",
    IPv4Address("172.11.0.2"),
    Tenancy(10, frozenset({10})),
    Limits(ingress=10_000_000, egress=1_000_000),
)


@pytest.mark.parametrize("rate", [10_000_000, 100_000_000, 10**9, 10**10])
def test_what_waits_delays_others_by_at_most_25_ms(rate: int) -> None:
    assert bucket(rate, MTU).limit * 8 / rate <= 0.025


@pytest.mark.parametrize("rate", [1_000, 10**6, 10**7, 10**8, 10**9, 10**15])
def test_no_packet_that_passes_whole_fills_the_queue(rate: int) -> None:
    made = bucket(rate, MTU)
    assert made.largest >= MTU + ETHERNET_HEADER
    # Beyond the 64 KiB of the largest packet there is nothing to cut.
    assert min(made.largest, 1 << 16) <= made.limit / 8


@pytest.mark.parametrize("rate", [1_000, 10**6, 10**9, 10**15])
@pytest.mark.parametrize("mtu", [1450, 8950])
def test_every_bucket_lets_a_whole_frame_pass_and_fits_into_32_bits(rate: int, mtu: int) -> None:
    made = bucket(rate, mtu)
    assert mtu + 14 < made.burst < 1 << 32
    assert mtu + 14 < made.limit < 1 << 32


def test_limits_count_in_bits_and_buckets_in_bytes() -> None:
    assert bucket(8_000_000, MTU).rate == 1_000_000


def test_each_direction_gets_the_bucket_of_its_own_limit() -> None:
    shape = desired_shapes({"k8oabc": ATTACHED}, MTU, shape_inside=False)["k8oabc"]
    assert shape.ingress == bucket(10_000_000, MTU)
    assert shape.egress == bucket(1_000_000, MTU)
    assert (shape.ifb, shape.needs_ifb) == ("k8iabc", True)


def test_no_ifb_is_needed_where_egress_is_limited_inside_or_not_at_all() -> None:
    inside = desired_shapes({"k8oabc": ATTACHED}, MTU, shape_inside=True)["k8oabc"]
    unlimited = replace(ATTACHED, limits=Limits(ingress=10_000_000))
    outside = desired_shapes({"k8oabc": unlimited}, MTU, shape_inside=False)["k8oabc"]
    assert not inside.needs_ifb
    assert not outside.needs_ifb


def names(requests: list[Request]) -> list[str]:
    return [request.purpose for request in requests]


LIMITED, IN_ORDER, FAIRLY = "limit to 10000000 bit/s", "queue in order", "share fairly, where the kernel can"


@pytest.mark.parametrize("handle", [tc.FIFO_HANDLE, tc.FAIR_HANDLE])
def test_a_link_that_is_right_is_not_touched(handle: int) -> None:
    found = {tc.ROOT: OURS, tc.LEAF_PARENT: replace(LEAF, handle=handle)}
    assert bucket_changes(INDEX, found, WANTED) == []
    assert bucket_changes(INDEX, {}, None) == []


@pytest.mark.parametrize("found", [replace(OURS, rate=1), replace(OURS, limit=1), replace(OURS, peak_rate=0)])
def test_a_bucket_of_ours_that_is_wrong_is_changed_and_keeps_its_queue(found: Qdisc) -> None:
    assert names(bucket_changes(INDEX, {tc.ROOT: found, tc.LEAF_PARENT: LEAF}, WANTED)) == [LIMITED, FAIRLY]


@pytest.mark.parametrize(
    "found",
    [
        {},
        {tc.ROOT: OURS},
        {tc.ROOT: OURS, tc.LEAF_PARENT: replace(LEAF, handle=0x80010000)},
        {tc.ROOT: replace(OURS, handle=0x80010000), tc.LEAF_PARENT: LEAF},
    ],
    ids=["nothing", "no queue", "another queue", "another bucket"],
)
def test_a_link_without_a_bucket_and_queue_of_ours_gets_both(found: Mapping[int, Qdisc]) -> None:
    assert names(bucket_changes(INDEX, found, WANTED)) == [LIMITED, IN_ORDER, FAIRLY]


def test_a_bucket_of_ours_goes_with_its_limit() -> None:
    assert bucket_changes(INDEX, {tc.ROOT: OURS}, None) == [tc.delete_bucket(INDEX)]


def test_somebody_elses_qdisc_stays_on_a_link_without_limit() -> None:
    assert bucket_changes(INDEX, {tc.ROOT: replace(OURS, handle=0x80010000)}, None) == []
