"""The etcd store: reads, transactions, leases, and a watch that never ends.

`Etcd` is the whole of it; the rest are the values it takes and returns. Of the modules, `model`
is pure, `messages` alone knows the stubs of `aetcd`, `wire` speaks gRPC, `watching` is the loop that resumes, `store`
the face.

A name given to `Etcd.list` or `Etcd.watch` that ends in `/` is a folder and stands for everything below it; any other
name is one key.
"""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

# Both are read when grpc is imported. Its fork handlers crash a process that forks beside a live channel, and ours do
# not fork; its C core writes lines of its own for every lost connection, and we log those ourselves.
os.environ["GRPC_ENABLE_FORK_SUPPORT"] = "0"
os.environ.setdefault("GRPC_VERBOSITY", "NONE")

from k8sovs.etcd.model import (
    Changes,
    Compare,
    Delete,
    EtcdCompacted,
    EtcdConfig,
    EtcdError,
    EtcdPermissionDenied,
    EtcdUnavailable,
    KeyValue,
    LeaseLost,
    Listing,
    Operation,
    Put,
    TransactionResult,
    absent,
    exists,
    unchanged,
)

if TYPE_CHECKING:
    from k8sovs.etcd.store import Etcd

__all__ = [
    "Changes",
    "Compare",
    "Delete",
    "Etcd",
    "EtcdCompacted",
    "EtcdConfig",
    "EtcdError",
    "EtcdPermissionDenied",
    "EtcdUnavailable",
    "KeyValue",
    "LeaseLost",
    "Listing",
    "Operation",
    "Put",
    "TransactionResult",
    "absent",
    "exists",
    "unchanged",
]


def __getattr__(name: str) -> object:
    """`Etcd`, imported when it is asked for: it needs grpc, and who only reads settings should not wait for that."""
    if name != "Etcd":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from k8sovs.etcd.store import Etcd

    globals()[name] = Etcd
    return Etcd
