"""Groups: choices between several lists of actions (OpenFlow 1.5.1, section 6.7)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum

from flows.actions import Action
from flows.fields import Field
from flows.flow import Source


class GroupType(IntEnum):
    """Section 7.3.4.3, `ofp_group_type`."""

    ALL = 0
    SELECT = 1
    INDIRECT = 2
    FAST_FAILOVER = 3


@dataclass(frozen=True, slots=True)
class Bucket:
    """One set of actions of a group; `weight` is its share in a select group and must be 0 in any other."""

    identifier: int
    actions: tuple[Action, ...]
    weight: int = 0


class Selection(Enum):
    """How a select group chooses a bucket (ovs-ofctl(8), `selection_method`)."""

    DP_HASH = "dp_hash"
    """By some bits of a hash that the datapath computes, so that few datapath flows serve all connections."""
    HASH = "hash"
    """By a hash of the group's `hash_fields`; the bucket ids decide who moves when buckets come and go."""


@dataclass(frozen=True, slots=True)
class GroupKey:
    """What makes a group the same group for the switch."""

    identifier: int


@dataclass(frozen=True, slots=True)
class GroupEntry:
    """A group: a packet sent to it goes to one or all of its buckets, by type."""

    identifier: int
    type: GroupType
    buckets: tuple[Bucket, ...]
    selection: Selection | None = None
    hash_fields: frozenset[Field] = frozenset()

    @property
    def key(self) -> GroupKey:
        """What the switch identifies this group by."""
        return GroupKey(self.identifier)

    @property
    def source(self) -> Source:
        """Where the knowledge behind a group comes from; nothing else has groups."""
        return Source.SERVICES
