"""An operator of a lab, with etcdctl: actions on namespaces, and what has become of them."""

from __future__ import annotations

import json
import time
from collections.abc import Callable

from k8sovs.records import Keys
from tests.support.lab import LabUnderTest, eventually

KEYS = Keys("/k8s.ovs.com/ovs/network", "k8ssdn")


class Operator:
    """Writes and reads the records as the predecessor's documentation says."""

    def __init__(self, lab: LabUnderTest) -> None:
        self._lab = lab

    def act(self, namespace: str, action: str, target: str = "") -> float:
        """Ask for an action, and do not wait; the second of CLOCK_MONOTONIC at which it was asked for."""
        record = {"NetName": namespace, "NetID": 300924, "Action": action, "Namespace": target}
        asked = time.monotonic()
        self._lab.run("etcdctl", "put", KEYS.netnamespace(namespace), json.dumps(record))
        return asked

    def vnid(self, namespace: str) -> tuple[int, list[int]] | None:
        """Send and Accept; None while there is no record."""
        found = self._lab.run("etcdctl", "get", KEYS.vnid(namespace), "--print-value-only")
        return (json.loads(found)["Send"], json.loads(found)["Accept"]) if found.strip() else None

    def pending(self, namespace: str) -> str:
        """The action that the record still asks for."""
        found = self._lab.run("etcdctl", "get", KEYS.netnamespace(namespace), "--print-value-only")
        action: str = json.loads(found)["Action"]
        return action

    def settled(self, namespace: str) -> float:
        """Wait until nothing is asked for and one id alone is accepted; the second at which that was seen."""

        def done() -> bool:
            vnid = self.vnid(namespace)
            return vnid is not None and vnid[1] == [vnid[0]] and not self.pending(namespace)

        eventually(done, f"the change of {namespace} is complete", deadline_s=30)
        return time.monotonic()

    def do(self, namespace: str, action: str, target: str = "") -> tuple[float, float]:
        """Ask for an action and wait until it is complete; when it was asked for, and when it was done."""
        asked = self.act(namespace, action, target)
        return asked, self.settled(namespace)

    def leader(self) -> str:
        """The number of the leading controller."""
        leading = next(each for each in self._lab.status()["controllers"] if each["leader"])
        name: str = leading["name"]
        return name.removeprefix("controller-")


def each(seconds: float, *acts: Callable[[], object]) -> None:
    """Do one thing after another, so many seconds apart."""
    due = time.monotonic()
    for act in acts:
        time.sleep(max(0.0, due - time.monotonic()))
        act()
        due += seconds
