"""What the agent counts while it works, and what it looks at when it is asked.

The parts that count are handed their counters; none of them knows where those are shown. What is looked at is taken
together as `NodeFigures`, from which a pure function makes the metrics.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from cni.errors import CniError
from cni.request import Command
from k8sovs.metrics import StateCollector, flag_by

_CALL_BUCKETS_S = (0.005, 0.01, 0.015, 0.02, 0.03, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 100)
"""Fine where a good call lies, and up to its deadline."""
_SWITCH_BUCKETS_S = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
"""From a few flows, 0.1 ms, to a switch that hangs."""


class CniMetrics:
    """Calls of the runtime."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self._duration = Histogram(
            "k8sovs_cni_call_duration_seconds",
            "Calls of the CNI executable, from the call to its answer, failed ones too.",
            ["verb"],
            buckets=_CALL_BUCKETS_S,
            registry=registry,
        )
        self._errors = Counter(
            "k8sovs_cni_errors_total",
            "Calls of the CNI executable that were answered with an error, by its code (docs/cni.md).",
            ["verb", "code"],
            registry=registry,
        )
        for verb in (Command.ADD, Command.DEL):
            self._duration.labels(verb.value)  # shown before the first call, so that a rate can be taken of it

    def call_done(self, verb: str, seconds: float) -> None:
        """A call was answered; `verb` is what the caller says."""
        self._duration.labels(_known(verb)).observe(seconds)

    def call_failed(self, verb: str, error: CniError) -> None:
        """The answer was an error."""
        self._errors.labels(_known(verb), str(int(error.code))).inc()


def _known(verb: str) -> str:
    """`verb` if there is such a command: a caller's typing must not make new time series."""
    return verb if verb in Command.__members__ else "other"


class FlowMetrics:
    """The writer of flows."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.reconcile = Histogram(
            "k8sovs_flow_reconcile_duration_seconds",
            "Making the switch's flows what they should be: computing, comparing, committing.",
            buckets=_SWITCH_BUCKETS_S,
            registry=registry,
        )
        self.bundle = Histogram(
            "k8sovs_bundle_duration_seconds",
            "Atomic bundles of changes, from the first message to the switch's commit.",
            buckets=_SWITCH_BUCKETS_S,
            registry=registry,
        )
        self.bundle_errors = Counter(
            "k8sovs_bundle_errors_total",
            "Bundles that the switch did not commit: it refused a change (rejected), or the bundle as such (refused), "
            "or went away (disconnected).",
            ["cause"],
            registry=registry,
        )
        self.changes = Counter(
            "k8sovs_flow_changes_total", "Flows and groups that were added, changed or deleted.", registry=registry
        )
        self.touched = Counter(
            "k8sovs_flows_touched_total",
            "Times that the switch was found with other flows than ours: somebody else writes there.",
            registry=registry,
        )
        for cause in ("rejected", "refused", "disconnected"):
            self.bundle_errors.labels(cause)


@dataclass(frozen=True, slots=True)
class TableFigures:
    """One table of the pipeline: its flows, and the packets that its drops have dropped."""

    name: str
    flows: int
    dropped: int


@dataclass(frozen=True, slots=True)
class NodeFigures:
    """A node, or an edge host, at one moment. `connected` is by peer: etcd, kubernetes, ovsdb, switch."""

    connected: Mapping[str, bool] = field(default_factory=dict)
    tables: tuple[TableFigures, ...] = ()
    """Empty while the switch does not answer."""
    backlog: int | None = None
    """Requests for flows that are not committed yet."""
    flows_current: bool | None = None
    namespaces: int | None = None
    peers: int | None = None
    pods: int | None = None
    vnis: int | None = None
    addresses_used: int | None = None
    addresses_free: int | None = None


_UNKNOWN = NodeFigures()

_PLAIN: Mapping[str, tuple[str, Callable[[NodeFigures], int | None]]] = {
    "k8sovs_flow_backlog": ("Requests for other flows that the switch has not committed yet.", lambda it: it.backlog),
    "k8sovs_flows_current": (
        "1 if the switch is there and has been given its flows since it came.",
        lambda it: it.flows_current,
    ),
    "k8sovs_namespaces": ("Namespaces that have an id.", lambda it: it.namespaces),
    "k8sovs_peers": ("Other nodes and edge hosts that have a subnet.", lambda it: it.peers),
    "k8sovs_pods": ("Attachments of this node; a pod with two interfaces counts twice.", lambda it: it.pods),
    "k8sovs_vnis_local": ("Different ids that the pods of this node send with.", lambda it: it.vnis),
    "k8sovs_pod_addresses_used": ("Addresses of this node's subnet that pods have.", lambda it: it.addresses_used),
    "k8sovs_pod_addresses_free": ("Addresses of this node's subnet for further pods.", lambda it: it.addresses_free),
}


class NodeMetrics:
    """Shows the figures that were taken last."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.figures = _UNKNOWN
        StateCollector(registry, lambda: families(self.figures))


def families(figures: NodeFigures) -> Iterator[Metric]:
    """The metrics of `figures`; one whose value is not known has no samples."""
    connected = GaugeMetricFamily(
        "k8sovs_connected", "1 while the connection to etcd, kubernetes, ovsdb or switch stands.", labels=["to"]
    )
    for peer, state in flag_by(figures.connected).items():
        connected.add_metric([peer], state)
    yield connected
    flows = GaugeMetricFamily("k8sovs_flows", "Flows in each table of the pipeline.", labels=["table"])
    dropped = CounterMetricFamily(
        "k8sovs_dropped_packets",
        "Packets that each table of the pipeline has dropped; it begins at 0 when the switch restarts.",
        labels=["table"],
    )
    for table in figures.tables:
        flows.add_metric([table.name], table.flows)
        dropped.add_metric([table.name], table.dropped)
    yield flows
    yield dropped
    for name, (text, value_of) in _PLAIN.items():
        value = value_of(figures)
        yield GaugeMetricFamily(name, text, value=None if value is None else float(value))
