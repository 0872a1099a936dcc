"""The network's configuration: read from etcd, written there once. A cluster that runs keeps the one it has."""

from __future__ import annotations

from contextlib import aclosing

from k8sovs.etcd import Etcd, Put, unchanged
from k8sovs.logs import get_logger
from k8sovs.records import Keys, NetworkConfig, RecordError

log = get_logger(__name__)


async def settled_network(etcd: Etcd, prefix: str, wanted: NetworkConfig | None) -> NetworkConfig:
    """The configuration in force, once there is one.

    Where there is none, or one that cannot be read, `wanted` is written. That is the one write without a leader: the
    election is held under the network's name, and the first to write it has the say. Raises EtcdError.
    """
    key = Keys(prefix).config
    async with aclosing(etcd.watch(key)) as updates:
        async for _ in updates:
            item = await etcd.get(key)
            reason = "there is none"
            if item is not None:
                try:
                    found = NetworkConfig.parse(key, item.value)
                except RecordError as error:
                    reason = error.reason
                else:
                    if wanted not in (None, found):
                        log.error("network-config-change-refused", key=key, wanted=str(wanted), kept=str(found))
                    return found
            if wanted is None:
                log.error("network-config-missing", key=key, reason=reason, remedy="write it, or set `network`")
            else:
                log.info("network-config-written", key=key, reason=reason, name=wanted.name)
                revision = item.mod_revision if item else 0
                await etcd.transact([unchanged(key, revision)], [Put(key, wanted.encode())])
    raise AssertionError("a watch does not end")
