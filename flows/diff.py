"""The least that turns the flows a switch has into the flows it should have.

What is already right is not touched, so its counters go on. What is missing or different is added (an add replaces
the flow with the same key). What should not be there is deleted, unless it may only seem so because the source behind
it has not been heard yet: an unsynced source adds and never removes.

Adds come before deletes: make before break, should anybody send the changes in several bundles. Within one atomic
bundle the order is of no consequence, as no key occurs twice.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from flows.flow import Flow, FlowKey, Source


@dataclass(frozen=True, slots=True)
class AddFlow:
    """Install `flow`, in place of the one with the same key if there is one."""

    flow: Flow


@dataclass(frozen=True, slots=True)
class DeleteFlow:
    """Remove the flow with exactly this key."""

    key: FlowKey


FlowChange = AddFlow | DeleteFlow


def difference(
    installed: Mapping[FlowKey, Flow], desired: Mapping[FlowKey, Flow], synced: frozenset[Source]
) -> list[FlowChange]:
    """The changes that lead from `installed` to `desired`, as far as the `synced` sources allow.

    `Source.PIPELINE` is always synced. A flow that is nobody's of ours is removed: the bridge has one writer.
    """
    adds = [AddFlow(flow) for key, flow in desired.items() if installed.get(key) != flow]
    may_go = synced | {Source.PIPELINE, None}
    deletes = [DeleteFlow(key) for key, flow in installed.items() if key not in desired and flow.source in may_go]
    return [*adds, *deletes]
