"""A soak: the plan carried out on a cluster, and after every step the cluster held against the oracle."""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from tests.support.soak.cluster import PATIENCE_S, PODS_PER_NODE, SoakCluster, SoakError
from tests.support.soak.oracle import GLOBAL, Oracle
from tests.support.soak.plan import (
    GLOBAL_NAMESPACE,
    Act,
    AddPod,
    CreateNamespace,
    DeleteNamespace,
    DeletePod,
    Operation,
    Step,
    TypeId,
    steps,
)
from tests.support.soak.probe import Leak, Pair, Probe

ROUND_S = 0.5


class Wrong(Exception):
    """The cluster is not as the oracle says."""


@dataclass(slots=True)
class Outcome:
    """How a soak went. `failure` says what was wrong after step number `steps`, counted from 1."""

    seed: int
    steps: int = 0
    failure: str = ""
    operations: Counter[str] = field(default_factory=Counter)
    disturbances: Counter[str] = field(default_factory=Counter)
    datagrams: int = 0
    received: int = 0
    slowest_s: float = 0.0
    seconds: float = 0.0

    def __str__(self) -> str:
        harms = ", ".join(f"{count} {kind}" for kind, count in sorted(self.disturbances.items()))
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(self.operations.items()))
        return (
            f"seed {self.seed}: {self.steps} steps in {self.seconds / 60:.1f} minutes, "
            f"{self.operations.total()} operations ({kinds}), {self.disturbances.total()} disturbances ({harms}), "
            f"{self.datagrams} datagrams sent and {self.received} received, slowest step {self.slowest_s:.1f} s: "
            f"{self.failure or 'nothing wrong'}"
        )


def soak(
    name: str,
    seed: int,
    nodes: int,
    *,
    most_steps: int | None,
    seconds: float,
    tell: Callable[[str], None],
    logs: Path | None = None,
) -> Outcome:
    """Carry out the plan of `seed` until so many steps or seconds are over, then take everything away again."""
    outcome = Outcome(seed)
    begun = time.monotonic()
    with SoakCluster(name, nodes) as cluster:
        run = _Run(cluster, outcome)
        try:
            for number, step in enumerate(islice(steps(seed, nodes), most_steps), start=1):
                if time.monotonic() - begun > seconds:
                    break
                outcome.steps = number
                started = time.monotonic()
                run.step(step)
                took = time.monotonic() - started
                outcome.slowest_s = max(outcome.slowest_s, took)
                tell(f"{number} [{took:.1f} s] {step}")
            run.end()
        except (Wrong, Leak, SoakError) as error:
            outcome.failure = f"{type(error).__name__}: {error}"
            if logs is not None:
                cluster.save_logs(logs)
        finally:
            run.close()
    outcome.seconds = time.monotonic() - begun
    return outcome


class _Run:
    def __init__(self, cluster: SoakCluster, outcome: Outcome) -> None:
        self._cluster = cluster
        self._outcome = outcome
        self._oracle = Oracle()
        self._probe = Probe()
        self._before = cluster.remains()

    def close(self) -> None:
        self._probe.close_all()
        self._outcome.datagrams, self._outcome.received = self._probe.sent, self._probe.received

    def step(self, step: Step) -> None:
        """Do it, and wait until all is as it should be. Raises Wrong, Leak, SoakError."""
        after = self._oracle.after(step)
        allowed = {pair for state in self._oracle.meanwhile(step) for pair in state.pairs()}
        for operation in step.operations:
            self._let_go(operation)
            self._outcome.operations[type(operation).__name__] += 1
        with self._cluster.disturbed(step.disturbance):
            if step.disturbance is not None:
                self._outcome.disturbances[f"{step.disturbance.harm.value} {step.disturbance.process}"] += 1
            if step.spacing_s:
                self._in_a_row(step.operations, step.spacing_s)
            else:
                self._at_once(step.operations)
        self._oracle = after
        self._settle(after, allowed)

    def end(self) -> None:
        """Fill every node, which takes every address, then take everything away. Raises Wrong, Leak, SoakError."""
        self._fill()
        pods = self._cluster.pods()
        for pod in self._oracle.pods:
            self._probe.close(pod)
        self._each(
            lambda pod: self._cluster.remove_pod(DeletePod(pod["namespace"], pod["name"])),
            pods,
        )
        created = [name for name in self._oracle.tenants if name != GLOBAL_NAMESPACE]
        self._each(lambda name: self._cluster.delete_namespace(DeleteNamespace(name)), created)
        self._oracle = Oracle()
        self._settle(self._oracle, set())
        left = self._await_equal()
        if left:
            raise Wrong(f"left behind at the end: {left}")
        complaints = self._cluster.complaints()
        if complaints:
            raise Wrong(f"{len(complaints)} complaints in the logs, the first: {complaints[0]}")

    def _fill(self) -> None:
        taken = Counter(pod["node"] for pod in self._cluster.pods())
        missing = [
            AddPod(GLOBAL_NAMESPACE, f"fill{number}-{count}", number)
            for number in range(1, len(self._cluster.nodes) + 1)
            for count in range(PODS_PER_NODE - taken[f"node{number}"])
        ]
        self._each(self._cluster.add_pod, missing)
        self._check_addresses()

    def _let_go(self, operation: Operation) -> None:
        """Close the sockets of pods that are to go."""
        gone = []
        match operation:
            case DeletePod(_, name):
                gone = [name]
            case DeleteNamespace(namespace):
                gone = [pod for pod, home in self._oracle.pods.items() if home == namespace]
        for pod in gone:
            self._probe.close(pod)

    def _at_once(self, operations: Iterable[Operation]) -> None:
        self._each(self._do, operations)

    def _in_a_row(self, operations: Iterable[Operation], spacing_s: float) -> None:
        for number, operation in enumerate(operations):
            if number:
                time.sleep(spacing_s)  # the plan's, and nothing is waited for
            self._do(operation)

    def _each(self, work: Callable[..., object | None], things: Iterable[object]) -> None:
        with ThreadPoolExecutor(8) as pool:
            for _ in pool.map(work, things):
                pass

    def _do(self, operation: Operation) -> None:
        match operation:
            case CreateNamespace():
                self._cluster.create_namespace(operation)
            case DeleteNamespace():
                self._cluster.delete_namespace(operation)
            case AddPod():
                pod = self._cluster.add_pod(operation)
                self._probe.open(operation.name, pod["netns"], pod["ip"])
            case DeletePod():
                self._cluster.remove_pod(operation)
            case Act():
                self._cluster.act(operation)
            case TypeId():
                self._cluster.type_id(operation)

    def _settle(self, oracle: Oracle, allowed: set[Pair]) -> None:
        """Wait until exactly those reach each other who should, and the records say so."""
        expected = oracle.pairs()
        end = time.monotonic() + PATIENCE_S
        while True:
            arrived = self._probe.arrivals(expected, allowed | expected, ROUND_S)
            problem = (
                _difference(expected, arrived) or self._problem_of_records(oracle) or self._problem_of_flows(oracle)
            )
            if not problem:
                break
            if time.monotonic() > end:
                raise Wrong(f"after {PATIENCE_S:.0f} s: {problem}")
        # What was still allowed a moment ago is not any more.
        self._probe.arrivals(expected, expected, ROUND_S)
        self._check_addresses()

    def _check_addresses(self) -> None:
        held = Counter(pod["ip"] for pod in self._cluster.pods())
        twice = [address for address, count in held.items() if count > 1]
        if twice:
            raise Wrong(f"addresses that two pods have: {twice}")

    def _problem_of_records(self, oracle: Oracle) -> str:
        """Why the records are not as they should be; empty if they are."""
        records = self._cluster.records()
        known = {**oracle.tenants, "kube-system": GLOBAL}
        names = {key.partition("/")[2] for key in records if key.startswith(("vnids/", "netnamespaces/", "uids/"))}
        if not known.keys() <= names or any(name.startswith("soak") and name not in known for name in names):
            return f"records of {sorted(names)}, namespaces {sorted(known)}"
        vnids = {name: json.loads(records.get(f"vnids/{name}", "{}")) for name in known}
        forms = {name: json.loads(records.get(f"netnamespaces/{name}", "{}")) for name in known}
        for name, vnid in vnids.items():
            if vnid.get("Accept") != [vnid.get("Send")] or forms[name].get("Action") != "":
                return f"{name} is still changing: {vnid}, {forms[name]}"
            if forms[name].get("NetID") != vnid["Send"]:
                return f"{name} sends with {vnid['Send']}, its record says {forms[name].get('NetID')}"
            for other, tenant in known.items():
                if (vnid["Send"] == vnids[other].get("Send")) is not (known[name] == tenant):
                    return f"{name} has the id {vnid['Send']}, {other} has {vnids[other].get('Send')}"
            if (vnid["Send"] == 0) is not (known[name] == GLOBAL):
                return f"{name} has the id {vnid['Send']}"
        return ""

    def _problem_of_flows(self, oracle: Oracle) -> str:
        """Which pod's node does not have the present ids in its flows: it would tell nobody as long as nobody tries."""
        records, accepted = self._cluster.records(), self._cluster.accepted()
        for pod, namespace in oracle.pods.items():
            send = json.loads(records[f"vnids/{namespace}"])["Send"]
            found = accepted.get(self._probe.address(pod), set())
            if found != ({None} if send == GLOBAL else {GLOBAL, send}):
                return f"{pod} of {namespace}, which has the id {send}, accepts {found}"
        return ""

    def _await_equal(self) -> str:
        end = time.monotonic() + PATIENCE_S
        while True:
            now = self._cluster.remains()
            different = [
                f"{what}: {now[what]} instead of {was}" for what, was in self._before.items() if now[what] != was
            ]
            if not different or time.monotonic() > end:
                return "; ".join(different)
            time.sleep(0.1)


def _difference(expected: set[Pair], arrived: set[Pair]) -> str:
    missing, extra = sorted(expected - arrived), sorted(arrived - expected)
    parts = [f"{len(missing)} pairs do not reach each other, such as {missing[:3]}"] if missing else []
    parts += [f"{len(extra)} pairs still reach each other, such as {extra[:3]}"] if extra else []
    return "; ".join(parts)


def shortest_failure(fails: Callable[[int], bool], known: int, reruns: int) -> int:
    """The shortest beginning of a plan that was seen to fail: one of `known` steps does, `fails` tries another.

    It halves what is between a beginning that passed and one that failed, at most so many times. A failure that needs
    luck may hide, so the answer is one that did fail, and not proof that none is shorter.
    """
    passed, failed = 0, known
    for _ in range(reruns):
        if failed - passed <= 1:
            break
        middle = (passed + failed) // 2
        if fails(middle):
            failed = middle
        else:
            passed = middle
    return failed
