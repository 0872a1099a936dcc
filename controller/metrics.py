"""What the controller counts, and what it looks at when it is asked."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import Counter, Gauge, Histogram
from prometheus_client.core import GaugeMetricFamily, Metric

from controller.actions import Outcome
from k8sovs.metrics import CollectorRegistry, StateCollector, flag_by, malformed_records

RECORD_KINDS = ("config", "netnamespace", "vnid", "uid", "subnet", "vni-cursor")
"""The kinds of records that may be unreadable."""

_WRITE_BUCKETS_S = (0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5)
_PLAN_BUCKETS_S = (0.0001, 0.001, 0.01, 0.05, 0.1, 0.5, 1, 5)


class ControllerMetrics:
    """The controller's metrics, registered in `registry`. Those of the records are known to the leader alone.

    `connected` is asked for the connections by peer, from the server's threads.
    """

    def __init__(self, registry: CollectorRegistry, connected: Callable[[], Mapping[str, bool]] = dict) -> None:
        self.malformed = malformed_records(registry, RECORD_KINDS)
        self.leader = Gauge("k8sovs_leader", "1 on the controller that leads.", registry=registry)
        self.terms = Counter("k8sovs_leadership_won_total", "Elections that this replica has won.", registry=registry)
        self.lost = Counter(
            "k8sovs_leadership_lost_total",
            "Times that this replica lost the lead, or its candidacy, before it gave it back.",
            registry=registry,
        )
        self.steps = Counter(
            "k8sovs_namespace_steps_total",
            "What was done about namespaces, actions among it, by outcome.",
            ["outcome"],
            registry=registry,
        )
        for outcome in Outcome:
            self.steps.labels(outcome.value)
        self.withdrawn = Counter(
            "k8sovs_transactions_withdrawn_total",
            "Transactions that failed because a record had changed meanwhile; they are decided again.",
            registry=registry,
        )
        self.transaction = Histogram(
            "k8sovs_transaction_duration_seconds",
            "Writing to etcd what was planned, one transaction each.",
            buckets=_WRITE_BUCKETS_S,
            registry=registry,
        )
        self.transaction_errors = Counter(
            "k8sovs_transaction_errors_total", "Transactions that etcd did not answer, or refused.", registry=registry
        )
        self.planning = Histogram(
            "k8sovs_plan_duration_seconds",
            "Looking through what has changed for the next transaction.",
            buckets=_PLAN_BUCKETS_S,
            registry=registry,
        )
        self.backlog = Gauge(
            "k8sovs_controller_backlog", "Updates of etcd and Kubernetes that are not looked at yet.", registry=registry
        )
        self.namespaces = Gauge("k8sovs_namespaces", "Namespaces that have an id.", registry=registry)
        self.vnis = Gauge("k8sovs_vnis_in_use", "Different ids in use.", registry=registry)
        self.subnets_free = Gauge("k8sovs_subnets_free", "Node subnets that nobody has.", registry=registry)
        self.subnets = Gauge("k8sovs_subnets", "Node subnets that Network has.", registry=registry)
        self.subnet_problems = Gauge(
            "k8sovs_subnet_problems", "Nodes and records of subnets with which something is wrong.", registry=registry
        )
        StateCollector(registry, lambda: _connections(connected()))


def _connections(states: Mapping[str, bool]) -> Iterator[Metric]:
    family = GaugeMetricFamily(
        "k8sovs_connected", "1 while the connection to etcd or kubernetes stands.", labels=["to"]
    )
    for peer, state in flag_by(states).items():
        family.add_metric([peer], state)
    yield family
