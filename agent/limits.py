"""A pod's bandwidth limits: how Kubernetes writes them, how a runtime passes them on, how a port remembers them. Pure.

A limit is in bit/s and counts Ethernet frames. A value that cannot be used is no limit, and somebody is told: an
annotation must not keep a pod from starting.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal

LOWEST = 1_000
HIGHEST = 10**15
"""The range of Kubernetes, 1k to 1P (pkg/util/bandwidth of its source)."""

ANNOTATIONS = {"ingress": "kubernetes.io/ingress-bandwidth", "egress": "kubernetes.io/egress-bandwidth"}

_QUANTITY = re.compile(
    r"(?P<number>[+-]?(?:\d+\.?\d*|\.\d+))(?:[eE](?P<exponent>[+-]?\d{1,3})|(?P<suffix>[numkMGTPE]|[KMGTPE]i)?)",
    re.ASCII,
)
_SUFFIXES = {
    letter: Decimal(10) ** power for letter, power in zip("numkMGTPE", (-9, -6, -3, 3, 6, 9, 12, 15, 18), strict=True)
}
_SUFFIXES |= {f"{letter}i": Decimal(1024) ** power for power, letter in enumerate("KMGTPE", start=1)}
_LONGEST = 64
"""Characters; no number in the range needs as many."""


class LimitError(ValueError):
    """A limit that cannot be used; the text says why."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Bit/s into the pod (`ingress`) and out of it (`egress`); None: no limit."""

    ingress: int | None = None
    egress: int | None = None


UNLIMITED = Limits()


def parse_bandwidth(text: str) -> int:
    """A Kubernetes quantity (`10M`, `1500k`, `0.5G`, `1e7`, `10Mi`) in bit/s, rounded up. Raises LimitError."""
    match = _QUANTITY.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise LimitError("is no quantity: write for example 10M, 1500k or 0.5G")
    number, exponent, suffix = match["number"], match["exponent"], match["suffix"]
    scale = Decimal(10) ** int(exponent) if exponent else _SUFFIXES.get(suffix or "", Decimal(1))
    return _in_range(Decimal(number) * scale)


def limits_of(annotations: Mapping[str, str]) -> tuple[Limits, tuple[str, ...]]:
    """The limits that a pod's annotations ask for, and what is wrong with those that cannot be used."""
    return _collected({direction: annotations.get(name) for direction, name in ANNOTATIONS.items()}, ANNOTATIONS)


def granted_limits(runtime_config: Mapping[str, object]) -> tuple[Limits, tuple[str, ...]]:
    """The limits in a runtime's `runtimeConfig` (CNI conventions, capability bandwidth), and what is wrong with them.

    containerd writes `IngressRate`, the conventions `ingressRate`; a rate of 0 is no limit. The bursts are not used:
    the rate decides (containerd passes 2^32 - 1).
    """
    granted = runtime_config.get("bandwidth")
    if granted is None:
        return UNLIMITED, ()
    if not isinstance(granted, Mapping):
        return UNLIMITED, ("runtimeConfig.bandwidth is no object",)
    rates = {str(name).lower(): value for name, value in granted.items()}
    names = {"ingress": "ingressRate", "egress": "egressRate"}
    return _collected({direction: rates.get(name.lower()) or None for direction, name in names.items()}, names)


def limit_ids(limits: Limits, prefix: str) -> dict[str, str]:
    """As `external_ids` of a port; an empty text is no limit."""
    rates = {"ingress": limits.ingress, "egress": limits.egress}
    return {f"{prefix}{direction}-bandwidth": "" if rate is None else str(rate) for direction, rate in rates.items()}


def limits_from_ids(ids: Mapping[str, str], prefix: str) -> Limits:
    """What `limit_ids` wrote. Nothing, or nonsense, is no limit: it must not make the port look like nobody's."""
    ingress, egress = (ids.get(f"{prefix}{direction}-bandwidth", "") for direction in ANNOTATIONS)
    return Limits(_remembered(ingress), _remembered(egress))


def _remembered(text: str) -> int | None:
    try:
        return parse_bandwidth(text)
    except LimitError:
        return None


def _collected(values: Mapping[str, object], names: Mapping[str, str]) -> tuple[Limits, tuple[str, ...]]:
    rates: dict[str, int] = {}
    problems: list[str] = []
    for direction, value in values.items():
        if value is None:
            continue
        try:
            rates[direction] = _rate(value)
        except LimitError as error:
            problems.append(f"{names[direction]}: {str(value)[:_LONGEST]!r} {error}")
    return Limits(rates.get("ingress"), rates.get("egress")), tuple(problems)


def _rate(value: object) -> int:
    if isinstance(value, str):
        return parse_bandwidth(value)
    if isinstance(value, int) and not isinstance(value, bool):
        return _in_range(value)
    raise LimitError("is no number")


def _in_range(rate: Decimal | int) -> int:
    if not LOWEST <= rate <= HIGHEST:
        raise LimitError("is out of range: a limit is from 1k to 1P")
    return math.ceil(rate)
