"""The cluster that a soak runs on: a lab, driven as its users drive it, and what can be seen of it from outside."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from threading import Thread
from typing import Any

from flows.tables import DELIVER
from k8sovs.lab.control import ask
from k8sovs.lab.layout import LabError, directory_of, load
from k8sovs.lab.waiting import PATIENCE
from tests.support.lab import LabUnderTest
from tests.support.runtime import Node
from tests.support.soak.plan import Act, AddPod, CreateNamespace, DeleteNamespace, DeletePod, Disturbance, Harm, TypeId

FOLDER = "/k8s.ovs.com/ovs/network/k8ssdn/"
HOST_BITS = 4
PODS_PER_NODE = 2**HOST_BITS - 3
"""Less the network's own address, the gateway's and the broadcast address."""
PATIENCE_S = 30.0 * PATIENCE
_API_AWAY = "no answer to"
_BROKEN = re.compile(r"Traceback|cni-call-broke|never retrieved|never awaited")

_DELIVERY = re.compile(rf"table={DELIVER.number},.*nw_dst=([0-9.]+) actions=.*output:[0-9]{{3,}}")
_SENDER = re.compile(r"reg0=(?:0x)?([0-9a-f]+)")


class SoakError(Exception):
    """Something that a person asked for was not done; the text says what."""


class SoakCluster:
    """One lab."""

    def __init__(self, name: str, nodes: int) -> None:
        self._lab = LabUnderTest(name)
        self._nodes = nodes

    def __enter__(self) -> SoakCluster:
        try:
            self._lab("up", "--nodes", str(self._nodes), "--host-subnet-length", str(HOST_BITS))
        except BaseException:
            self._lab("down")
            raise
        self._directory = directory_of(self._lab.name)
        self._running = load(self._directory)
        self.nodes = [Node(one) for one in self.status()["nodes"]]
        return self

    def __exit__(self, *_: object) -> None:
        self._lab("down")

    def status(self) -> dict[str, Any]:
        """`lab status`."""
        found: dict[str, Any] = ask(self._running, "status")
        return found

    def add_pod(self, pod: AddPod) -> Mapping[str, str]:
        """Returns, with its `netns` and `ip`, when the pod can send."""
        place: dict[str, object] = {"node": f"node{pod.node}", "annotations": {}, "labels": {}}
        added = self._ask(pod, "pod-add", fine="exists already", **place)
        return self._ready(pod) if added is None else added

    def remove_pod(self, pod: DeletePod) -> None:
        """Returns when it is gone."""
        self._ask(pod, "pod-delete", fine="there is no pod")

    def pods(self) -> list[Mapping[str, str]]:
        """Every pod."""
        end = time.monotonic() + PATIENCE_S
        while True:
            try:
                found: list[Mapping[str, str]] = ask(self._running, "pod-list")
            except LabError as error:  # the API server has just been killed
                if time.monotonic() > end:
                    raise SoakError(str(error)) from error
                time.sleep(0.1)
            else:
                return found

    def _ask(
        self, pod: AddPod | DeletePod, command: str, *, fine: str, **arguments: object
    ) -> Mapping[str, str] | None:
        """What the lab says, asked again if the API server was killed meanwhile: then `fine` says that it was done."""
        end, away = time.monotonic() + PATIENCE_S, False
        while True:
            try:
                answer: Mapping[str, str] | None = ask(
                    self._running, command, namespace=pod.namespace, name=pod.name, **arguments
                )
            except LabError as error:
                if away and fine in str(error):
                    return None
                away = _API_AWAY in str(error)
                if not away or time.monotonic() > end:
                    raise SoakError(f"{pod}: {error}") from error
                time.sleep(0.1)
            else:
                return answer

    def _ready(self, pod: AddPod) -> Mapping[str, str]:
        """A pod whose making nobody was told of."""
        end = time.monotonic() + PATIENCE_S
        while True:
            for one in self.pods():
                if (one["namespace"], one["name"]) == (pod.namespace, pod.name) and one["ready"]:
                    return one
            if time.monotonic() > end:
                raise SoakError(f"{pod}: it is not ready")
            time.sleep(0.1)

    def create_namespace(self, create: CreateNamespace) -> None:
        """Returns when the API has it."""
        self._insist("kubectl", "create", "namespace", create.namespace, fine="AlreadyExists")

    def delete_namespace(self, delete: DeleteNamespace) -> None:
        """Returns when it is gone, with all that was in it."""
        self._insist("kubectl", "delete", "namespace", delete.namespace, "--timeout=20s", fine="NotFound")

    def act(self, act: Act) -> None:
        """Write an action into the record as it is now, as an operator does."""
        self._edit(act.namespace, {"Action": act.verb.value, "Namespace": act.target})

    def type_id(self, typing: TypeId) -> None:
        """Write another's id into a record."""
        other = self._record(typing.other)
        self._edit(typing.namespace, {"NetID": other.get("NetID", 0)})

    def _edit(self, namespace: str, fields: Mapping[str, object]) -> None:
        end = time.monotonic() + PATIENCE_S
        while not (record := self._record(namespace)):  # its namespace has just been made
            if time.monotonic() > end:
                raise SoakError(f"namespace {namespace} has no record")
            time.sleep(0.05)
        self._insist("etcdctl", "put", f"{FOLDER}netnamespaces/{namespace}", json.dumps({**record, **fields}))

    def _record(self, namespace: str) -> dict[str, object]:
        text = self._insist("etcdctl", "get", "--print-value-only", f"{FOLDER}netnamespaces/{namespace}")
        record: dict[str, object] = json.loads(text or "{}")
        return record

    def records(self) -> dict[str, str]:
        """All keys of the network but those of the election."""
        lines = self._insist("etcdctl", "get", "--prefix", FOLDER).splitlines()
        pairs = dict(zip(lines[::2], lines[1::2], strict=True))
        named = {key.removeprefix(FOLDER): value for key, value in pairs.items()}
        return {key: value for key, value in named.items() if not key.startswith("leader/")}

    def _insist(self, *argv: str, fine: str = "") -> str:
        """The output of a command, tried again while a server is away; an error that says `fine` is one as well."""
        end = time.monotonic() + PATIENCE_S
        while True:
            said = "it did not end"
            with suppress(subprocess.TimeoutExpired):
                done = subprocess.run(argv, capture_output=True, text=True, timeout=25, env=self._lab.env, check=False)
                said = done.stderr.strip()
                if done.returncode == 0 or (fine and fine in said):
                    return done.stdout
            if time.monotonic() > end:
                raise SoakError(f"{' '.join(argv)}: {said}")
            time.sleep(0.1)

    @contextmanager
    def disturbed(self, disturbance: Disturbance | None) -> Iterator[None]:
        """The block runs while a process is killed, or sleeps; at its end every process is awake."""
        pid = self._pid(disturbance) if disturbance else None
        if disturbance is None or pid is None:
            yield
            return
        thread = Thread(target=_harm, args=(disturbance, pid))
        thread.start()
        try:
            yield
        finally:
            thread.join()

    def _pid(self, disturbance: Disturbance) -> int | None:
        """None while the process is being started again after an earlier kill."""
        status = self.status()
        found: int | None
        match disturbance.process:
            case "controller":
                found = next((one["pid"] for one in status["controllers"] if one["leader"]), None)
            case "etcd":
                found = next(iter(status["etcd"]["pids"]), None)
            case "apiserver":
                found = status["apiserver"]["pid"]
            case process:
                found = status["nodes"][disturbance.node - 1][f"{process}_pid"]
        return found

    def complaints(self) -> list[str]:
        """What no process of ours should ever have to log."""
        found = []
        for path in sorted((self._directory / "logs").glob("*.log")):
            if path.name.startswith(("agent-", "controller-")):
                lines = path.read_text(errors="replace").splitlines()
                found += [f"{path.name}: {line}" for line in lines if _BROKEN.search(line)]
        return found

    def remains(self) -> dict[str, object]:
        """What is there beside pods' own things; the same before the first pod and after the last."""
        return {
            "keys in etcd": sorted(self.records()),
            "pod network namespaces": sorted(
                path.name for path in Path("/run/netns").glob(f"{self._lab.name}-pod-*") if path.exists()
            ),
            **{f"flows of {node.name}": sorted(_flows(node)) for node in self.nodes},
            **{f"ports of {node.name}": sorted(node.ports()) for node in self.nodes},
            **{f"links of {node.name}": sorted(node.links()) for node in self.nodes},
        }

    def accepted(self) -> dict[str, set[int | None]]:
        """From which ids the nodes deliver to each address; None: from all."""
        found: dict[str, set[int | None]] = {}
        for node in self.nodes:
            for flow in _flows(node):
                to = _DELIVERY.search(flow)
                if to:
                    sender = _SENDER.search(flow)
                    found.setdefault(to[1], set()).add(int(sender[1] or "0", 16) if sender else None)
        return found

    def save_logs(self, destination: Path) -> None:
        """Keep the logs of a run that failed."""
        subprocess.run(["cp", "-r", str(self._directory / "logs"), str(destination)], check=True)


def _flows(node: Node) -> set[str]:
    try:
        return node.flows()
    except AssertionError:  # its switch is being started again
        return set()


def _harm(disturbance: Disturbance, pid: int) -> None:
    # These times are the plan's: they say when something happens, not how long something takes.
    time.sleep(disturbance.after_s)
    with suppress(ProcessLookupError):
        if disturbance.harm is Harm.KILL:
            os.kill(pid, signal.SIGKILL)
            return
        os.kill(pid, signal.SIGSTOP)
        try:
            time.sleep(disturbance.lasting_s)
        finally:
            os.kill(pid, signal.SIGCONT)
