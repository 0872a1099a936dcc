"""What the controller counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge

from k8sovs.metrics import CollectorRegistry, malformed_records


class ControllerMetrics:
    """The controller's counters and gauges, registered in `registry`."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.malformed = malformed_records(registry)
        self.leader = Gauge("k8sovs_leader", "1 on the controller that leads.", registry=registry)
        self.steps = Counter(
            "k8sovs_namespace_steps_total", "Transactions on namespaces, by outcome.", ["outcome"], registry=registry
        )
        self.withdrawn = Counter(
            "k8sovs_transactions_withdrawn_total",
            "Transactions that failed because a record had changed meanwhile; they are decided again.",
            registry=registry,
        )
        self.namespaces = Gauge("k8sovs_namespaces", "Namespaces that have an id.", registry=registry)
        self.vnis = Gauge("k8sovs_vnis_in_use", "Different ids in use.", registry=registry)
        self.subnets_free = Gauge("k8sovs_subnets_free", "Node subnets that nobody has.", registry=registry)
        self.subnets_total = Gauge("k8sovs_subnets_total", "Node subnets that Network has.", registry=registry)
