"""The least that turns the flows a switch has into the flows it should have.

What is already right is not touched, so its counters go on. What is missing or different is added (an add replaces
the flow with the same key). What should not be there is deleted, unless it may only seem so because the source behind
it has not been heard yet: an unsynced source adds and never removes.

Adds come before deletes: make before break, should anybody send the changes in several bundles. Within one atomic
bundle the order among flows is of no consequence, as no key occurs twice; a group is there before the flows that name
it, and goes after them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.flow import Flow, FlowKey, Source
from flows.group import GroupEntry, GroupKey
from flows.service_parts import Rule, RuleKey


@dataclass(frozen=True, slots=True)
class AddFlow:
    """Install `flow`, in place of the one with the same key if there is one."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class AddPassingFlow:
    """Install `flow` until it has not been used for `idle_s` seconds. Nobody keeps account of it."""

    flow: Flow
    idle_s: int


@dataclass(frozen=True, slots=True)
class DeleteFlow:
    """Remove the flow with exactly this key."""

    key: FlowKey


@dataclass(frozen=True, slots=True)
class PutGroup:
    """Make the group with this number what `group` says."""

    group: GroupEntry


@dataclass(frozen=True, slots=True)
class DeleteGroup:
    """Remove the group with this key; flows that still name it would go with it."""

    key: GroupKey


FlowChange = AddFlow | AddPassingFlow | DeleteFlow | PutGroup | DeleteGroup


def difference(
    installed: Mapping[RuleKey, Rule], desired: Mapping[RuleKey, Rule], synced: frozenset[Source]
) -> list[FlowChange]:
    """The changes that lead from `installed` to `desired`, as far as the `synced` sources allow.

    `Source.PIPELINE` is always synced. A flow that is nobody's of ours is removed: the bridge has one writer.
    """
    puts: list[FlowChange] = []
    adds: list[FlowChange] = []
    for key, rule in desired.items():
        if installed.get(key) != rule:
            if isinstance(rule, Flow):
                adds.append(AddFlow(rule))
            else:
                puts.append(PutGroup(rule))
    may_go = synced | {Source.PIPELINE, None}
    gone = [key for key, rule in installed.items() if key not in desired and rule.source in may_go]
    deletes: list[FlowChange] = [DeleteFlow(key) for key in gone if isinstance(key, FlowKey)]
    group_deletes: list[FlowChange] = [DeleteGroup(key) for key in gone if isinstance(key, GroupKey)]
    return [*puts, *adds, *deletes, *group_deletes]
