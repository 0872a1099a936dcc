"""Counters and gauges, by the Prometheus conventions, and the endpoint that shows them.

A process makes one `prometheus_client.CollectorRegistry`, hands it to the parts that count, and serves it.
"""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, start_http_server

__all__ = ["CollectorRegistry", "malformed_records", "serve"]


def malformed_records(registry: CollectorRegistry) -> Counter:
    """Records in etcd that could not be read and were passed over; label `kind`: config, subnet, vnid ..."""
    return Counter(
        "k8sovs_malformed_records_total",
        "Records in etcd that could not be read; the last good value stays in force.",
        ["kind"],
        registry=registry,
    )


class MetricsError(Exception):
    """Metrics cannot be served where the settings say."""


def serve(registry: CollectorRegistry, address: str) -> None:
    """Serve /metrics on `address` (host:port) from a thread of its own; an empty address serves nothing.

    Raises MetricsError.
    """
    if address:
        host, _, port = address.rpartition(":")
        try:
            start_http_server(int(port), host or "0.0.0.0", registry)
        except OSError as error:
            raise MetricsError(f"metrics-address: cannot listen on {address}: {error.strerror}") from error
