"""Finding out which VNI a new pod belongs to, however young its namespace is."""

from __future__ import annotations

import asyncio

from agent.cluster import ClusterSource
from agent.snapshot import from_record, tenancy_of
from flows.snapshot import Tenancy
from k8sovs.etcd import EtcdError


class NoTenancy(Exception):
    """The namespace has no VNI, and did not get one in time; the text says what is known of the reason."""


async def wait_tenancy(cluster: ClusterSource, namespace: str, deadline_s: float) -> Tenancy:
    """Wait for what is in force for `namespace`: from the view, from etcd if the watch lags, or once it is written.

    Raises NoTenancy after `deadline_s` seconds.
    """
    seen = cluster.changed.count
    known = None if cluster.view is None else tenancy_of(cluster.view, namespace)
    if known is not None:
        return known
    try:
        record = await cluster.read_tenancy(namespace)
        if record is not None:
            return from_record(record)
        async with asyncio.timeout(deadline_s):
            while True:
                seen = await cluster.changed.wait_beyond(seen)
                known = None if cluster.view is None else tenancy_of(cluster.view, namespace)
                if known is not None:
                    return known
    except EtcdError as error:
        raise NoTenancy(f"namespace {namespace} is not known here, and etcd cannot be asked: {error}") from error
    except TimeoutError:
        raise NoTenancy(
            f"namespace {namespace} got no VNI within {deadline_s:g} s: is a controller leading? (k8sovs status)"
        ) from None
