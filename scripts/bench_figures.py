"""Figures of a benchmark run: samples, the table for a person, the JSON line for a machine."""

import json
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field


def p50(samples: Sequence[float]) -> float:
    """The median."""
    return statistics.median(samples)


def percentile(samples: Sequence[float], percent: int) -> float:
    """The smallest sample that `percent` of all do not exceed."""
    ordered = sorted(samples)
    return ordered[max(0, -(-len(ordered) * percent // 100) - 1)]


@dataclass
class Report:
    """Collects lines for people and values for machines."""

    values: dict[str, float] = field(default_factory=dict)

    def section(self, title: str) -> None:
        print(f"\n{title}", flush=True)

    def samples(self, name: str, milliseconds: Sequence[float]) -> None:
        """One line with the distribution."""
        columns = "  ".join(f"p{percent} {percentile(milliseconds, percent):7.1f}" for percent in (50, 95, 99))
        print(f"  {name:44}  {columns}  ms  ({len(milliseconds)})", flush=True)

    def value(self, key: str, value: float, reach: str = "", digits: int = 2) -> None:
        """A figure of the JSON line; `reach` is what it is held against."""
        self.values[key] = round(value, digits)
        print(f"  {key:44}  {self.values[key]:>11g}{'   reach: ' + reach if reach else ''}", flush=True)

    def last_line(self, extra: Mapping[str, float] | None = None) -> None:
        print(json.dumps(self.values | dict(extra or {})), flush=True)
