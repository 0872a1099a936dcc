"""What a soak does: an endless row of steps that follows from a seed alone, so any beginning of it can be repeated.

Pure. Every step is possible after those before it; what it should lead to is for the oracle to say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TypeAlias

NAMESPACES = tuple(f"soak{number}" for number in range(6))
GLOBAL_NAMESPACE = "default"
"""Born global, and there from the beginning: pods go there and namespaces join it, but nobody acts on it."""
MOST_PODS = 12


class Verb(Enum):
    """What an operator asks for; the value is the record's `Action`."""

    JOIN = "join"
    ISOLATE = "isolate"
    GLOBAL = "global"


@dataclass(frozen=True, slots=True)
class CreateNamespace:
    namespace: str

    def __str__(self) -> str:
        return f"create {self.namespace}"


@dataclass(frozen=True, slots=True)
class DeleteNamespace:
    """With everything that is in it."""

    namespace: str

    def __str__(self) -> str:
        return f"delete {self.namespace}"


@dataclass(frozen=True, slots=True)
class AddPod:
    """`node` is a number from 1. No two pods of a soak have the same name."""

    namespace: str
    name: str
    node: int

    def __str__(self) -> str:
        return f"add {self.namespace}/{self.name} on node{self.node}"


@dataclass(frozen=True, slots=True)
class DeletePod:
    namespace: str
    name: str

    def __str__(self) -> str:
        return f"remove {self.namespace}/{self.name}"


@dataclass(frozen=True, slots=True)
class Act:
    """An operator writes an action. `target` may be nobody, or the namespace itself: that is refused."""

    namespace: str
    verb: Verb
    target: str = ""

    def __str__(self) -> str:
        return f"{self.verb.value} {self.namespace} {self.target}".strip()


@dataclass(frozen=True, slots=True)
class TypeId:
    """An operator types the id of `other` into the record of `namespace`."""

    namespace: str
    other: str

    def __str__(self) -> str:
        return f"type the id of {self.other} for {self.namespace}"


Operation: TypeAlias = CreateNamespace | DeleteNamespace | AddPod | DeletePod | Act | TypeId


class Harm(Enum):
    """What happens to a process."""

    KILL = "kill"
    FREEZE = "freeze"


@dataclass(frozen=True, slots=True)
class Disturbance:
    """`after_s` seconds into the step; one that is frozen goes on `lasting_s` seconds later. `node` 0: not a node's."""

    harm: Harm
    process: str
    node: int
    after_s: float
    lasting_s: float = 0.0

    def __str__(self) -> str:
        where = f" node{self.node}" if self.node else ""
        how_long = f" for {self.lasting_s} s" if self.lasting_s else ""
        return f"{self.harm.value} {self.process}{where}{how_long} after {self.after_s} s"


@dataclass(frozen=True, slots=True)
class Step:
    """Operations: all at once, or, if there is a `spacing_s`, one so many seconds after the other, in their order.

    Those at once do not depend on each other. Those in a row are actions on one namespace, where one may take back the
    one before it if that has not been carried out; the last one is not refused, so it counts, whatever became of them.
    """

    operations: tuple[Operation, ...]
    spacing_s: float = 0.0
    disturbance: Disturbance | None = None

    def __str__(self) -> str:
        between = f", {self.spacing_s} s later " if self.spacing_s else "; "
        done = between.join(map(str, self.operations)) or "nothing"
        return f"{done} | {self.disturbance}" if self.disturbance else done


def steps(seed: int, nodes: int) -> Iterator[Step]:
    """The plan of a seed, for a cluster of so many nodes that has no namespaces and pods but those it is born with."""
    planner = _Planner(Random(seed), nodes)
    while True:
        yield planner.step()


class _Planner:
    def __init__(self, random: Random, nodes: int) -> None:
        self._random = random
        self._nodes = nodes
        self._namespaces: list[str] = []
        self._pods: list[DeletePod] = []
        self._named = 0
        self._touched: set[str] = set()
        self._homes: set[str] = set()

    def step(self) -> Step:
        random = self._random
        self._touched, self._homes = set(), set()
        disturbance = self._disturbance() if random.random() < 0.4 else None
        if self._namespaces and random.random() < 0.15:
            namespace = random.choice(self._namespaces)
            chain = (*(self._action(namespace) for _ in range(random.randint(1, 3))), self._sound_action(namespace))
            return Step(chain, random.choice((0.05, 0.2, 0.5)), disturbance)
        chosen = [self._operation() for _ in range(random.randint(1, 4))]
        return Step(tuple(operation for operation in chosen if operation is not None), 0.0, disturbance)

    def _operation(self) -> Operation | None:
        """One that does not depend on those of this step; None if chance wants one that would."""
        free = [name for name in self._namespaces if name not in self._touched]
        kind = self._random.random()
        if len(self._namespaces) < 2 or (kind < 0.08 and len(self._namespaces) < len(NAMESPACES)):
            return self._create()
        if len(self._pods) < 4 or (kind < 0.38 and len(self._pods) < MOST_PODS):
            return self._add()
        if kind < 0.55:
            return self._remove()
        if not free:
            return None
        namespace = self._random.choice(free)
        if kind < 0.61:
            return self._delete(namespace)
        operation: Operation = self._action(namespace)
        if kind < 0.66:
            operation = TypeId(namespace, self._random.choice([*free, GLOBAL_NAMESPACE]))
        return operation

    def _create(self) -> Operation | None:
        unused = [name for name in NAMESPACES if name not in self._namespaces and name not in self._touched]
        if not unused:
            return None
        name = self._random.choice(unused)
        self._namespaces.append(name)
        self._touched.add(name)
        return CreateNamespace(name)

    def _delete(self, namespace: str) -> Operation | None:
        if namespace in self._homes:
            return None
        self._namespaces.remove(namespace)
        self._touched.add(namespace)
        self._pods = [pod for pod in self._pods if pod.namespace != namespace]
        return DeleteNamespace(namespace)

    def _add(self) -> Operation | None:
        homes = [name for name in self._namespaces if name not in self._touched]
        if not homes:
            return None
        namespace = self._random.choice([*homes, *homes, *homes, GLOBAL_NAMESPACE])
        self._named += 1
        pod = DeletePod(namespace, f"pod{self._named}")
        self._pods.append(pod)
        self._touched.add(pod.name)
        self._homes.add(namespace)
        return AddPod(namespace, pod.name, self._random.randint(1, self._nodes))

    def _remove(self) -> Operation | None:
        settled = [pod for pod in self._pods if not {pod.name, pod.namespace} & self._touched]
        if not settled:
            return None
        pod = self._random.choice(settled)
        self._pods.remove(pod)
        self._touched.add(pod.name)
        self._homes.add(pod.namespace)
        return pod

    def _action(self, namespace: str) -> Act:
        verb = self._random.choice((Verb.JOIN, Verb.JOIN, Verb.JOIN, Verb.ISOLATE, Verb.ISOLATE, Verb.GLOBAL))
        self._touched.add(namespace)
        if verb is not Verb.JOIN:
            return Act(namespace, verb)
        others = [name for name in self._namespaces if name not in self._touched]
        odd = self._random.choice((namespace, "nobody", GLOBAL_NAMESPACE))
        target = odd if not others or self._random.random() < 0.15 else self._random.choice(others)
        if target != GLOBAL_NAMESPACE:
            self._touched.add(target)
        return Act(namespace, verb, target)

    def _sound_action(self, namespace: str) -> Act:
        """One that is not refused."""
        while True:
            action = self._action(namespace)
            if action.target not in (namespace, "nobody"):
                return action

    def _disturbance(self) -> Disturbance:
        random = self._random
        process = random.choice(("agent", "agent", "agent", "vswitchd", "ovsdb", "controller", "etcd", "apiserver"))
        harm = Harm.FREEZE if random.random() < 0.25 else Harm.KILL
        node = random.randint(1, self._nodes) if process in ("agent", "vswitchd", "ovsdb") else 0
        after_s = random.choice((0.0, 0.02, 0.1, 0.3, 0.6))
        # A frozen leader sleeps past its lease of 5 s now and then.
        lasting_s = random.choice((0.5, 2.0, 6.5)) if harm is Harm.FREEZE else 0.0
        return Disturbance(harm, process, node, after_s, lasting_s)
