"""What etcd holds of every namespace, indexed by what decisions ask for. No I/O."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from enum import Enum, auto

from k8sovs.records import NetNamespaceRecord, VnidRecord


class Phase(Enum):
    """How far a namespace is with its newest id. A change goes through all three, beginning and ending in SETTLED."""

    SETTLED = auto()
    OPENING = auto()
    """Every node is told to accept the new id beside the old one; pods still send the old one."""
    DRAINING = auto()
    """Pods send the new id; the old one is accepted until the last packet with it has arrived."""


@dataclass(frozen=True, slots=True)
class Tenant:
    """A namespace in etcd: its two records and the UID, with their mod revisions (0: the key is absent).

    `record` is None while it is absent or malformed, `fault` says what is wrong with a malformed one. `tenancy` is
    the last good one, since `tenancy_since`; `intact` says whether etcd holds it just so. `attempted` is one that we
    tried to write, without learning whether it was done. `uid` is the Kubernetes Namespace that the id was given to,
    empty while it is not known: another one of the same name is another tenant. `noted_uid` is what etcd holds of that.
    """

    name: str
    record: NetNamespaceRecord | None = None
    record_revision: int = 0
    fault: str = ""
    tenancy: VnidRecord | None = None
    tenancy_revision: int = 0
    tenancy_since: int = 0
    intact: bool = True
    attempted: VnidRecord | None = None
    uid: str = ""
    noted_uid: str = ""
    uid_revision: int = 0

    @property
    def phase(self) -> Phase:
        """Follows from the records alone, so that a new leader goes on where the last one stopped.

        OPENING writes `tenancy` alone, over a record that asks for the change; DRAINING writes both at once. A record
        that is newer than `tenancy` therefore asks for something that has not begun. (What somebody else made of
        `tenancy` meanwhile, and that it was put right, does not count.)
        """
        if self.tenancy is None or self.tenancy.accept == {self.tenancy.send}:
            return Phase.SETTLED
        begun = self.record is not None and bool(self.record.action) and self.record_revision < self.tenancy_since
        return Phase.OPENING if begun and len(self._others) == 1 else Phase.DRAINING

    @property
    def newest(self) -> int | None:
        """The id that the namespace has, or is about to have; None: it never had one."""
        if self.tenancy is None:
            return None
        if self.phase is Phase.OPENING:
            (target,) = self._others
            return target
        return self.tenancy.send

    @property
    def awaits_action(self) -> bool:
        """Whether the record asks for an action that has not begun."""
        return self.record is not None and bool(self.record.action) and self.phase is not Phase.OPENING

    @property
    def ids(self) -> frozenset[int]:
        """Every id that means this namespace to some node."""
        return frozenset() if self.tenancy is None else self.tenancy.accept | {self.tenancy.send}

    @property
    def _others(self) -> frozenset[int]:
        return frozenset() if self.tenancy is None else self.tenancy.accept - {self.tenancy.send}


class Tenants:
    """All tenants by name; keeps count of who holds which id, and of who waits to join whom."""

    def __init__(self) -> None:
        self._tenants: dict[str, Tenant] = {}
        self._holders: Counter[int] = Counter()
        self._in_use: Counter[int] = Counter()
        self._joiners: dict[str, set[str]] = {}

    def __getitem__(self, name: str) -> Tenant:
        """The tenant; one without records if etcd has none."""
        return self._tenants.get(name) or Tenant(name)

    def __iter__(self) -> Iterator[Tenant]:
        return iter(self._tenants.values())

    def __len__(self) -> int:
        return len(self._tenants)

    @property
    def in_use(self) -> Collection[int]:
        """The ids that some node may send or accept, now or soon."""
        return self._in_use.keys()

    def is_shared(self, vni: int) -> bool:
        """Whether more than one namespace has, or is about to have, this id."""
        return self._holders[vni] > 1

    def put(self, tenant: Tenant) -> None:
        """Take in a tenant in its new form."""
        self.discard(tenant.name)
        self._tenants[tenant.name] = tenant
        self._in_use.update(tenant.ids)
        if tenant.newest is not None:
            self._holders[tenant.newest] += 1
        if tenant.record is not None and tenant.awaits_action:
            self._joiners.setdefault(tenant.record.namespace, set()).add(tenant.name)

    def discard(self, name: str) -> None:
        """Forget a tenant."""
        tenant = self._tenants.pop(name, None)
        if tenant is None:
            return
        for vni in tenant.ids:
            self._in_use[vni] -= 1
            if not self._in_use[vni]:
                del self._in_use[vni]
        if tenant.newest is not None:
            self._holders[tenant.newest] -= 1
            if not self._holders[tenant.newest]:
                del self._holders[tenant.newest]
        if tenant.record is not None and tenant.awaits_action:
            joiners = self._joiners[tenant.record.namespace]
            joiners.discard(name)
            if not joiners:
                del self._joiners[tenant.record.namespace]

    def earlier_rival(self, tenant: Tenant) -> str | None:
        """A namespace whose older action must begin first: it changes the target's id, or takes this one's."""
        assert tenant.record is not None
        rivals = [self[tenant.record.namespace], *(self[name] for name in self._joiners.get(tenant.name, ()))]
        for rival in rivals:
            if rival.awaits_action and rival.record_revision < tenant.record_revision:
                return rival.name
        return None
