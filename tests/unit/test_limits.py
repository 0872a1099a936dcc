"""How limits are written, and what becomes of nonsense."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.limits import (
    HIGHEST,
    LOWEST,
    UNLIMITED,
    LimitError,
    Limits,
    granted_limits,
    limits_of,
    parse_bandwidth,
)

INGRESS, EGRESS = "kubernetes.io/ingress-bandwidth", "kubernetes.io/egress-bandwidth"


@pytest.mark.parametrize(
    ("text", "rate"),
    [
        ("10M", 10_000_000),
        ("1500k", 1_500_000),
        ("1G", 10**9),
        ("0.5G", 500_000_000),
        ("1e7", 10_000_000),
        ("1E7", 10_000_000),
        ("10Mi", 10 * 2**20),
        ("1Ki", 1024),
        ("+5M", 5_000_000),
        (".5M", 500_000),
        ("5.M", 5_000_000),
        ("1000", 1_000),
        ("1k", 1_000),
        ("1P", 10**15),
        ("1000.5", 1_001),
        ("1000000m", 1_000),
        ("1e15", 10**15),
    ],
)
def test_quantities_are_read_as_kubernetes_writes_them(text: str, rate: int) -> None:
    assert parse_bandwidth(text) == rate


@pytest.mark.parametrize(
    "text",
    ["", "fast", "10 M", "10m", "10MB", "10Mbit", "1e", "e7", "10K", "0x10", "1_000", "-10M", "٣M", "10M\n", "1k" * 40],
)
def test_what_is_no_quantity_or_none_in_range_is_refused(text: str) -> None:
    with pytest.raises(LimitError):
        parse_bandwidth(text)


@pytest.mark.parametrize("text", ["0", "999", "0.9k", "1001T", "1.1P", "1E", "1e999", "9" * 60, "1Pi"])
def test_a_rate_below_1k_or_above_1p_is_out_of_range(text: str) -> None:
    with pytest.raises(LimitError, match="out of range"):
        parse_bandwidth(text)


@given(st.integers(min_value=LOWEST, max_value=HIGHEST))
def test_a_plain_number_is_itself(rate: int) -> None:
    assert parse_bandwidth(str(rate)) == rate


@given(st.text())
def test_any_text_gives_a_rate_in_range_or_is_refused(text: str) -> None:
    with suppress(LimitError):
        assert LOWEST <= parse_bandwidth(text) <= HIGHEST


def test_one_direction_alone_is_limited() -> None:
    assert limits_of({INGRESS: "10M"}) == (Limits(ingress=10_000_000), ())
    assert limits_of({EGRESS: "1M"}) == (Limits(egress=1_000_000), ())


def test_a_pod_without_annotations_is_unlimited() -> None:
    assert limits_of({"example.com/x": "y"}) == (UNLIMITED, ())


def test_nonsense_in_one_direction_leaves_the_other_limited_and_is_named() -> None:
    limits, problems = limits_of({INGRESS: "very", EGRESS: "1M"})
    assert limits == Limits(egress=1_000_000)
    (problem,) = problems
    assert INGRESS in problem
    assert "'very'" in problem


def test_a_long_value_is_told_shortened() -> None:
    _, (problem,) = limits_of({INGRESS: "x" * 100_000})
    assert len(problem) < 250


def test_what_containerd_passes_is_understood() -> None:
    passed = {"IngressRate": 10000000, "IngressBurst": 4294967295, "EgressRate": 20000000, "EgressBurst": 4294967295}
    assert granted_limits({"bandwidth": passed}) == (Limits(10_000_000, 20_000_000), ())


def test_the_spelling_of_the_cni_conventions_is_understood_and_0_is_no_limit() -> None:
    granted = {"bandwidth": {"ingressRate": 0, "ingressBurst": 0, "egressRate": 2048, "egressBurst": 1600}}
    assert granted_limits(granted) == (Limits(egress=2048), ())


@pytest.mark.parametrize("bandwidth", [[], "10M", {"ingressRate": True}, {"ingressRate": -5}, {"ingressRate": [1]}])
def test_a_runtime_that_passes_nonsense_limits_nothing_and_is_told_of(bandwidth: object) -> None:
    limits, problems = granted_limits({"bandwidth": bandwidth})
    assert limits == UNLIMITED
    assert problems
