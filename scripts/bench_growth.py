"""How a cost grows with the size of a cluster; and how sure a median is."""

from collections.abc import Mapping, Sequence
from math import comb, log10

NOISE_MS = 5.0
"""Below this a figure is the machine's."""


def growth_exponent(tenth: float, full: float) -> float:
    """x, if a tenth of the cluster costs `tenth` and all of it `full`, and the cost grows with its size to the x.

    0: the cost is the same at any size; 1: it is proportional; 2: it is quadratic. Both costs are above 0.
    """
    return log10(full / tenth)


def exponents(tenth: Mapping[str, float], full: Mapping[str, float], suffix: str) -> dict[str, float]:
    """The exponent of each time in `full` that is above the noise, by key.

    Times are known by their unit, the end of the key: `_ms`, `_s`. In `tenth` the keys have `suffix` behind that.
    """
    found = {}
    for key, value in full.items():
        small = tenth.get(key + suffix)
        milliseconds = {"ms": 1, "s": 1000}.get(key.rpartition("_")[2])
        if small and milliseconds and value * milliseconds > NOISE_MS:
            found[key] = growth_exponent(small, value)
    return found


def median_interval(samples: Sequence[float], confidence: float = 0.95) -> tuple[float, float]:
    """Between which two of `samples` the true median lies, with at least that confidence; at best the outermost two.

    By order statistics, so it asks nothing of the distribution: each sample is below the median with one half.
    """
    ordered, count = sorted(samples), len(samples)
    outside, skipped = 0.0, 0
    while skipped + 1 < count / 2 and outside + 2 * comb(count, skipped) / 2**count <= 1 - confidence:
        outside += 2 * comb(count, skipped) / 2**count
        skipped += 1
    rank = max(0, skipped - 1)
    return ordered[rank], ordered[count - 1 - rank]
