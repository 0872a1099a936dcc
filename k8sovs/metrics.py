"""What every process counts, by the Prometheus conventions. docs/metrics.md has the whole list.

A process makes one `CollectorRegistry`, hands it to the parts that count, and shows it by `k8sovs.exposition`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Info, ProcessCollector
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from k8sovs import __version__

__all__ = ["CollectorRegistry", "StateCollector", "malformed_records", "new_registry"]


def new_registry() -> CollectorRegistry:
    """A registry with what is true of every process: its version, processor time, memory, descriptors."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    Info("k8sovs_build", "The version that runs.", registry=registry).info({"version": __version__})
    return registry


def malformed_records(registry: CollectorRegistry, kinds: Iterable[str]) -> Counter:
    """Records in etcd that could not be read and were passed over, by the label `kind`.

    All `kinds` are shown from the start: Prometheus cannot see the rise of what appears with its first count.
    """
    counter = Counter(
        "k8sovs_malformed_records_total",
        "Records in etcd that could not be read; the last good value stays in force.",
        ["kind"],
        registry=registry,
    )
    for kind in kinds:
        counter.labels(kind)
    return counter


class StateCollector(Collector):
    """Shows what `families` makes of the state that was looked at last; nothing of it before, or while it is unknown.

    State is not counted as it changes but looked at when somebody asks, so it costs nothing otherwise.
    """

    def __init__(self, registry: CollectorRegistry, families: Callable[[], Iterable[Metric]]) -> None:
        self._families = families
        registry.register(self)

    def collect(self) -> Iterator[Metric]:
        """All families, those without samples too. Called from the server's threads."""
        yield from self._families()


def flag_by(states: Mapping[str, bool]) -> dict[str, float]:
    """States as Prometheus has them: 1 for yes."""
    return {name: float(state) for name, state in states.items()}
