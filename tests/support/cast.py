"""Pods of several tenants in the sandboxes of a lab's nodes, and the streams between them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

from tests.support.lab import LabUnderTest
from tests.support.runtime import Answer, Node, Pod
from tests.support.traffic import Stream


@dataclass(frozen=True, slots=True)
class Member:
    """A pod that is attached."""

    pod: Pod
    answer: Answer
    node: str

    @property
    def address(self) -> str:
        """Its address."""
        return self.answer.address

    @property
    def mac(self) -> str:
        """The MAC of its end of the link."""
        mac: str = self.answer.said["interfaces"][1]["mac"]
        return mac

    def to(self, other: Member, kind: str = "udp", *, every: int = 1) -> Stream:
        """A stream from here to there."""
        return Stream(self.pod.sandbox.path, other.pod.sandbox.path, other.address, kind, every)

    def towards(self, other: Member) -> Stream:
        """A stream that need not be dense: it should not arrive, or not always."""
        return self.to(other, every=10)


@contextmanager
def cast(lab: LabUnderTest, where: Mapping[str, Sequence[str]]) -> Iterator[dict[str, Member]]:
    """Pods for as long as the block runs: `where` has NAMESPACE/NAME for each node, which is named. By that name."""
    nodes = {entry["name"]: Node(entry) for entry in lab.status()["nodes"]}
    with ExitStack() as pods:
        yield {
            full: Member(*pods.enter_context(nodes[node].attached(*full.split("/"))), node)
            for node, names in where.items()
            for full in names
        }


def create_namespaces(lab: LabUnderTest, *names: str) -> None:
    """Make namespaces; they have their ids when the first pod is attached."""
    for name in names:
        lab.run("kubectl", "create", "namespace", name)
