"""What is to be done next for one namespace: birth, the three actions in their three phases, repair, removal. Pure.

A change of id must lose no packet although nodes learn of it at different moments, so it goes in three steps, each a
transaction: accept the new id everywhere (`Phase.OPENING`), then send it (`Phase.DRAINING`), then accept it alone
(`Phase.SETTLED`). The delays between them are the controller's; agents do what the records say and hold no timers.

`next_step` looks at a namespace and at the situation around it, and says one of: this transaction, wait so long, wait
for that namespace, or nothing. It never looks at an id that an operator typed, except to import an old store.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from enum import Enum

from controller.tenants import Phase, Tenant, Tenants
from k8sovs.records import VNI_FIRST, VNI_GLOBAL, Mode, NetNamespaceRecord, VnidRecord

NEVER_ISOLATED = "kube-system"


class Outcome(Enum):
    """What a step comes to; the value is its event in the log."""

    IMPORTED = "vni-imported"
    BORN = "vni-allocated"
    REBORN = "vni-replaced"
    STARTED = "action-started"
    CARRIED_OUT = "action-carried-out"
    REFUSED = "action-refused"
    SETTLED = "change-completed"
    REPAIRED = "record-repaired"
    REMOVED = "namespace-removed"


@dataclass(frozen=True, slots=True)
class Rules:
    """What the operator of the cluster chose."""

    mode: Mode
    born_global: frozenset[str]
    phase_delay_s: float
    drain_delay_s: float


@dataclass(frozen=True, slots=True)
class Situation:
    """All that a decision about one namespace depends on besides its own records.

    `namespaces` are the UIDs of what Kubernetes has, None while it is not known: then nobody is born, and nobody gone.
    `fresh` is the id that the next allocation gives, None while none may be given. `importing`: this store has never
    had a controller of ours, and the ids in its records are those that its nodes use.
    """

    tenants: Tenants
    namespaces: Mapping[str, str] | None
    rules: Rules
    fresh: int | None
    importing: bool = False

    def is_gone(self, name: str) -> bool:
        """Whether Kubernetes is known not to have that namespace."""
        return self.namespaces is not None and name not in self.namespaces

    def uid(self, name: str) -> str:
        """The UID of the namespace; empty while it is not known."""
        return (self.namespaces or {}).get(name, "")


@dataclass(frozen=True, slots=True)
class Step:
    """One transaction on the records of a namespace. `after` is None when they are to be deleted.

    `message` is for the log; what is also in the record belongs to whoever wrote it (`is_answer`).
    `rewrites_record` says that the record is written although it stays as it is, `takes_fresh` that the step uses up
    `Situation.fresh`; `target` is the namespace that is joined, whose id the transaction relies upon.
    """

    before: Tenant
    after: Tenant | None
    outcome: Outcome
    message: str = ""
    rewrites_record: bool = False
    takes_fresh: bool = False
    target: str = ""

    @property
    def is_answer(self) -> bool:
        """Whether the operator is told something, in the record: then it is worth an Event, too."""
        record = self.after.record if self.after else None
        return bool(self.message) and record is not None and record.message == self.message


@dataclass(frozen=True, slots=True)
class Wait:
    """Nothing to do for the next `seconds`."""

    seconds: float


@dataclass(frozen=True, slots=True)
class Behind:
    """Nothing to do until something happens to namespace `name`."""

    name: str


Decision = Step | Wait | Behind | None


def next_step(tenant: Tenant, situation: Situation, age_s: float) -> Decision:
    """What to do about `tenant`, whose phase has lasted for `age_s` seconds."""
    uid = situation.uid(tenant.name)
    if tenant.tenancy is None:
        return _birth(tenant, situation, uid, age_s)
    if situation.is_gone(tenant.name):
        return Step(tenant, None, Outcome.REMOVED)
    if uid and tenant.uid and uid != tenant.uid:
        return _first_id(tenant, situation, uid, Outcome.REBORN)
    known = replace(tenant, uid=uid or tenant.uid)
    decision = _repair_of_tenancy(known) or _phase_step(known, situation, age_s)
    if known.uid != known.noted_uid and not isinstance(decision, Step):
        return Step(known, known, Outcome.REPAIRED, "its UID was not noted")
    return decision


def _birth(tenant: Tenant, situation: Situation, uid: str, age_s: float) -> Decision:
    """A namespace without an id gets one, if Kubernetes has it, or if it comes from an old store."""
    record = tenant.record
    if situation.importing and record is not None and is_importable(record.net_id):
        assert record.net_id is not None
        return _with_id(tenant, uid, record.net_id, Outcome.IMPORTED)
    if uid:
        return _first_id(tenant, situation, uid, Outcome.BORN)
    if tenant.uid_revision and situation.is_gone(tenant.name):
        return Step(tenant, None, Outcome.REMOVED)
    if record is not None and record.action and situation.is_gone(tenant.name):
        # The Namespace may be so young that we have not heard of it yet.
        return _later(situation.rules.phase_delay_s - age_s) or _refusal(tenant, "Kubernetes has no such Namespace")
    return None


def is_importable(net_id: int | None) -> bool:
    """Whether an id that is found in a record of an old store can be in use there."""
    return net_id is not None and (net_id == VNI_GLOBAL or net_id >= VNI_FIRST)


def _first_id(tenant: Tenant, situation: Situation, uid: str, outcome: Outcome) -> Decision:
    """The id of a new Namespace: nobody sends or accepts yet, so there are no phases."""
    if tenant.name in situation.rules.born_global:
        return _with_id(tenant, uid, VNI_GLOBAL, outcome)
    if situation.fresh is None:
        return None
    return replace(_with_id(tenant, uid, situation.fresh, outcome), takes_fresh=True)


def _with_id(tenant: Tenant, uid: str, vni: int, outcome: Outcome) -> Step:
    """Give `vni` at once. What the record asks for, or what is wrong with it, is the next step's matter.

    But what was asked for another Namespace of that name must not be done to this one.
    """
    message = ""
    record = tenant.record
    if record is None and not tenant.fault:
        record = NetNamespaceRecord(tenant.name, vni)
    elif record is not None:
        record = replace(record, net_id=vni, message="")
        if record.action and uid and tenant.uid and uid != tenant.uid:
            message = f"{record.action[:40]!r} was for the former Namespace of this name: ask again"
            record = replace(record, action="", namespace="", message=message)
    after = replace(tenant, record=record, tenancy=VnidRecord(vni, frozenset({vni})), uid=uid)
    return Step(tenant, after, outcome, message)


def _repair_of_tenancy(tenant: Tenant) -> Step | None:
    """`vnids/<ns>` is ours alone: what somebody else made of it is put right from the last good form."""
    assert tenant.tenancy is not None
    if tenant.intact and tenant.tenancy.send in tenant.tenancy.accept:
        return None
    tenancy = replace(tenant.tenancy, accept=tenant.tenancy.accept | {tenant.tenancy.send})
    message = "somebody else wrote vnids, which is ours alone"
    # An action that waits must stay younger than `tenancy`, or the next leader would take it for one that has begun.
    waits = tenant.awaits_action
    return Step(tenant, replace(tenant, tenancy=tenancy), Outcome.REPAIRED, message, rewrites_record=waits)


def _phase_step(tenant: Tenant, situation: Situation, age_s: float) -> Decision:
    if tenant.phase is Phase.OPENING:
        return _later(situation.rules.phase_delay_s - age_s) or _switch(tenant)
    if tenant.phase is Phase.SETTLED:
        return _on_record(tenant, situation)
    drained = _later(situation.rules.drain_delay_s - age_s)
    if drained is None:
        return _settle(tenant)
    # Only one change at a time; what needs none is answered at once.
    decision = _on_record(tenant, situation)
    return decision if isinstance(decision, Step) and decision.outcome is not Outcome.STARTED else drained


def _later(seconds: float) -> Wait | None:
    return Wait(seconds) if seconds > 0 else None


def _switch(tenant: Tenant) -> Step:
    """Second phase: every node accepts both ids by now, so pods may send the new one."""
    assert tenant.tenancy is not None
    assert tenant.newest is not None
    after = replace(tenant, tenancy=VnidRecord(tenant.newest, tenant.tenancy.accept))
    return Step(tenant, replace(after, record=_mirror(after)), Outcome.CARRIED_OUT)


def _settle(tenant: Tenant) -> Step:
    """Third phase: the last packet with the old id has arrived."""
    assert tenant.tenancy is not None
    tenancy = replace(tenant.tenancy, accept=frozenset({tenant.tenancy.send}))
    return Step(tenant, replace(tenant, tenancy=tenancy), Outcome.SETTLED)


def _on_record(tenant: Tenant, situation: Situation) -> Decision:
    """What the operator's record asks for, or what must be put right in it."""
    if tenant.record is not None and tenant.record.action:
        return _act(tenant, tenant.record, situation)
    if tenant.fault:
        return _refusal(tenant, f"the record was malformed and has been replaced: {tenant.fault}")
    mirror = _mirror(tenant, tenant.record.message if tenant.record else "")
    return None if mirror == tenant.record else Step(tenant, replace(tenant, record=mirror), Outcome.REPAIRED)


def _act(tenant: Tenant, record: NetNamespaceRecord, situation: Situation) -> Decision:
    rival = situation.tenants.earlier_rival(tenant)
    if rival is not None:
        return Behind(rival)
    if situation.rules.mode is Mode.SUBNET:
        return _refusal(tenant, "this cluster is single-tenant (k8s-ovs-subnet): namespaces are not kept apart")
    match record.action.strip().lower():
        case "join":
            return _join(tenant, record.namespace, situation)
        case "isolate":
            return _isolate(tenant, situation)
        case "global":
            return _change(tenant, VNI_GLOBAL)
    return _refusal(tenant, f"unknown action {record.action[:40]!r}: write join, isolate or global")


def _join(tenant: Tenant, target: str, situation: Situation) -> Decision:
    if not target:
        return _refusal(tenant, "join needs the name of the other namespace in the field Namespace")
    if target == tenant.name:
        return _refusal(tenant, f"namespace {target} cannot join itself")
    vni = situation.tenants[target].newest
    if situation.is_gone(target) or (vni is None and not situation.uid(target)):
        return _refusal(tenant, f"there is no namespace {target[:63]!r} to join")
    if vni is None:  # Kubernetes has it, so it is about to be born
        return Behind(target)
    return replace(_change(tenant, vni), target=target)


def _isolate(tenant: Tenant, situation: Situation) -> Decision:
    if tenant.name == NEVER_ISOLATED:
        return _refusal(tenant, f"{NEVER_ISOLATED} serves every namespace and cannot be isolated")
    vni = tenant.newest
    assert vni is not None
    if vni != VNI_GLOBAL and not situation.tenants.is_shared(vni):
        return _change(tenant, vni)
    if situation.fresh is None:
        return None
    return replace(_change(tenant, situation.fresh), takes_fresh=True)


def _change(tenant: Tenant, vni: int) -> Step:
    """First phase of a change to `vni`; nothing but the answer if the namespace has that id already."""
    assert tenant.tenancy is not None
    if vni == tenant.tenancy.send:
        return Step(tenant, replace(tenant, record=_mirror(tenant)), Outcome.CARRIED_OUT)
    tenancy = replace(tenant.tenancy, accept=tenant.tenancy.accept | {vni})
    return Step(tenant, replace(tenant, tenancy=tenancy), Outcome.STARTED)


def _refusal(tenant: Tenant, reason: str) -> Step:
    return Step(tenant, replace(tenant, record=_mirror(tenant, reason)), Outcome.REFUSED, reason)


def _mirror(tenant: Tenant, message: str = "") -> NetNamespaceRecord:
    """The record with nothing left to do in it."""
    record = tenant.record or NetNamespaceRecord(tenant.name, None)
    return replace(
        record,
        net_id=tenant.tenancy.send if tenant.tenancy else None,
        action="",
        namespace="",
        message=message,
    )
