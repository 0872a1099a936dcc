"""Which id a namespace gets: upwards from a cursor, so that a freed id is not given to another tenant soon.

A node that lags behind, or is cut off, goes on sending with an id that has been freed. The cursor passes all other
ids before it comes back to that one. It is stored beside the records and moves in the transaction that uses an id.
"""

from __future__ import annotations

from collections.abc import Collection

from k8sovs.records import VNI_FIRST, VNI_MAX

_IDS = VNI_MAX + 1 - VNI_FIRST


class VnisExhausted(Exception):
    """Every id from 10 to 2^24 - 1 is in use."""


def next_free(cursor: int, in_use: Collection[int]) -> int:
    """The first id from `cursor` upwards that is not in `in_use`, going round at the end. Raises VnisExhausted."""
    if len(in_use) >= _IDS and all(vni in in_use for vni in range(VNI_FIRST, VNI_MAX + 1)):
        raise VnisExhausted(f"all ids from {VNI_FIRST} to {VNI_MAX} are in use: remove namespaces, or join some")
    vni = cursor
    while vni in in_use:
        vni = following(vni)
    return vni


def following(vni: int) -> int:
    """The cursor after `vni` has been given away, or has been the highest in use."""
    return VNI_FIRST if vni >= VNI_MAX else max(vni + 1, VNI_FIRST)


def is_behind(found: int, cursor: int) -> bool:
    """Whether `found` would lead back to ids that `cursor` has just passed; half of the way round counts as ahead."""
    return (found - cursor) % _IDS > _IDS // 2
