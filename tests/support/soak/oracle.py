"""Who may reach whom: the rules of README.md in the plainest words, to judge the cluster by. It shares no code with it.

Tenants are numbers that mean nothing; only whether two are equal counts, and 0 is global.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from copy import deepcopy
from itertools import permutations

from tests.support.soak.plan import (
    GLOBAL_NAMESPACE,
    Act,
    AddPod,
    CreateNamespace,
    DeleteNamespace,
    DeletePod,
    Operation,
    Step,
    Verb,
)

GLOBAL = 0


class Oracle:
    """What a cluster should be like after the operations that were `done`."""

    def __init__(self) -> None:
        self.tenants = {GLOBAL_NAMESPACE: GLOBAL}
        self.pods: dict[str, str] = {}
        self._fresh = 1

    def done(self, operation: Operation) -> None:
        """Take note of one operation."""
        match operation:
            case CreateNamespace(namespace):
                self.tenants[namespace] = self._new_tenant()
            case DeleteNamespace(namespace):
                del self.tenants[namespace]
                self.pods = {pod: home for pod, home in self.pods.items() if home != namespace}
            case AddPod(namespace, name, _):
                self.pods[name] = namespace
            case DeletePod(_, name):
                del self.pods[name]
            case Act(namespace, Verb.JOIN, target):
                if target in self.tenants:  # else it is refused
                    self.tenants[namespace] = self.tenants[target]
            case Act(namespace, Verb.GLOBAL):
                self.tenants[namespace] = GLOBAL
            case Act(namespace, Verb.ISOLATE):
                mine = self.tenants[namespace]
                if mine == GLOBAL or list(self.tenants.values()).count(mine) > 1:
                    self.tenants[namespace] = self._new_tenant()
            case _:
                pass  # an id that somebody types changes nothing

    def after(self, step: Step) -> Oracle:
        """What it should be like after a step."""
        return _after(self, step.operations)

    def meanwhile(self, step: Step) -> Iterator[Oracle]:
        """All that it may be like while a step is being done, its beginning and its end among them."""
        orders = [step.operations] if step.spacing_s else permutations(step.operations)
        for order in orders:
            for count in range(len(order) + 1):
                yield _after(self, order[:count])

    def pairs(self) -> set[tuple[str, str]]:
        """Every sender and receiver among the pods that may talk."""
        return {(a, b) for a in self.pods for b in self.pods if a != b and self._may(self.pods[a], self.pods[b])}

    def _may(self, sender: str, receiver: str) -> bool:
        one, other = self.tenants[sender], self.tenants[receiver]
        return one == other or GLOBAL in (one, other)

    def _new_tenant(self) -> int:
        self._fresh += 1
        return self._fresh


def _after(before: Oracle, operations: Sequence[Operation]) -> Oracle:
    oracle = deepcopy(before)
    for operation in operations:
        oracle.done(operation)
    return oracle
