"""One flow, and the cookie that tells whose it is."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import IntEnum

from flows.actions import Action
from flows.match import Match

COOKIE_OWNER = 0x6B38736F  # "k8so": the upper half of every cookie of ours
COOKIE_OWNER_MASK = 0xFFFFFFFF_00000000

PASSING_COOKIE = COOKIE_OWNER << 32 | 0xFE
"""Of flows that go when unused, of which nobody keeps account: those the switch learned, and those for connections of
endpoints that are no longer listed."""


class Source(IntEnum):
    """Where the knowledge behind a flow comes from; a source that is not synced may add flows, never remove them.

    The number is the lowest byte of the cookie.
    """

    PIPELINE = 0
    """The program itself: classification, explicit drops. Always known."""
    NODE = 1
    """This node's own subnet and the network configuration (etcd)."""
    ATTACHMENTS = 2
    """Pods attached to this node (OVSDB), with the tenancy recorded beside them."""
    PEERS = 3
    """Subnets of other nodes (etcd)."""
    SERVICES = 4
    """Services and their endpoints (Kubernetes)."""

    @property
    def cookie(self) -> int:
        """The cookie of this source's flows."""
        return COOKIE_OWNER << 32 | self.value

    @classmethod
    def of_cookie(cls, cookie: int) -> Source | None:
        """Whose flow carries `cookie`; None if it is nobody's of ours."""
        if cookie >> 32 != COOKIE_OWNER:
            return None
        try:
            return cls(cookie & 0xFFFFFFFF)
        except ValueError:
            return None


@dataclass(frozen=True, slots=True)
class FlowKey:
    """What makes a flow the same flow for the switch: table, priority, match."""

    table: int
    priority: int
    match: Match
    _hash: int = field(init=False, repr=False, compare=False)
    """Flows are looked up by their keys over and over, and the hash of a match takes longer than the rest."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.table, self.priority, self.match)))

    def __hash__(self) -> int:
        return self._hash


@dataclass(frozen=True, slots=True)
class Flow:
    """A flow: its key, then what it does. `goto` is the next table, or None.

    `source` is None only for a flow that was read from a switch and is nobody's of ours.
    """

    table: int
    priority: int
    match: Match
    actions: tuple[Action, ...]
    goto: int | None
    source: Source | None

    @property
    def key(self) -> FlowKey:
        """What the switch identifies this flow by."""
        return FlowKey(self.table, self.priority, self.match)

    @property
    def cookie(self) -> int:
        """What tells the switch whose flow this is; 0 for nobody's of ours."""
        return 0 if self.source is None else self.source.cookie
