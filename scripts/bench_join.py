"""From an operator's `etcdctl put` of a join to the first packet through, with 100 pods of the namespace on 3 nodes."""

import json
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import fields

from k8sovs.config import ControllerSettings
from scripts.bench_cni import AT_ONCE, pods
from scripts.bench_figures import Report, p50
from scripts.bench_plugins import Plugin, Pod
from scripts.bench_probe import Probe
from tests.support.lab import LabUnderTest, eventually

PODS = 100
JOINS = 20
PROBE_S = 0.005
FOLDER = "/k8s.ovs.com/ovs/network/k8ssdn"
MOVING, STAYING = "bench-moving", "bench-staying"


class Records:
    """The records in etcd, by `etcdctl`, as an operator has them."""

    def __init__(self, lab: LabUnderTest) -> None:
        self._environment = lab.env

    def get(self, key: str) -> dict[str, object]:
        text = self._etcdctl("get", "--print-value-only", f"{FOLDER}/{key}")
        return json.loads(text) if text.strip() else {}

    def put(self, key: str, record: Mapping[str, object]) -> None:
        self._etcdctl("put", f"{FOLDER}/{key}", json.dumps(record))

    def settled(self, namespace: str) -> bool:
        """Whether the last phase of a change has been written."""
        vnid = self.get(f"vnids/{namespace}")
        return not self.get(f"netnamespaces/{namespace}").get("Action") and vnid["Accept"] == [vnid["Send"]]

    def _etcdctl(self, *arguments: str) -> str:
        command = ["etcdctl", *arguments]
        return subprocess.run(command, env=self._environment, capture_output=True, text=True, check=True).stdout


def measure(report: Report, lab: LabUnderTest, nodes: Sequence[Plugin]) -> None:
    """20 joins, each undone again by an isolate."""
    target = lab.add_pod(f"{STAYING}/target", "node2")["ip"]
    lab.add_pod(f"{MOVING}/first", "node3")  # and with it the namespace
    records = Records(lab)
    with pods(PODS) as crowd, ThreadPoolExecutor(AT_ONCE) as workers:
        placed = [(nodes[number % len(nodes)], pod) for number, pod in enumerate(crowd)]
        list(workers.map(lambda place: place[0].add(place[1], MOVING), placed))
        taken = [_join(records, crowd[0], target) for _ in range(JOINS)]
        list(workers.map(lambda place: place[0].delete(place[1], MOVING), placed))
    delay = next(field.default for field in fields(ControllerSettings) if field.name == "phase_delay_s")
    report.section(f"etcdctl put of a join to the first packet through, {PODS} pods of the namespace on 3 nodes")
    report.samples("put to the first answer of a pod on another node", taken)
    report.value("join_p50_ms", p50(taken), digits=0)
    report.value("join_worst_ms", max(taken), "700, the fixed delay included", digits=0)
    report.value("join_delay_ms", delay * 1000, digits=0)


def _join(records: Records, pod: Pod, target: str) -> float:
    """Milliseconds; afterwards the namespace is by itself again."""
    key = f"netnamespaces/{MOVING}"
    probe = Probe(pod.sandbox)
    assert not probe.answered(target, 0.2), "the two namespaces are one before they are joined"
    action = records.get(key) | {"Action": "join", "Namespace": STAYING}
    with ThreadPoolExecutor(1) as operator:
        began = time.monotonic()
        put = operator.submit(records.put, key, action)
        end = began + 10
        while probe.receive(PROBE_S) is None:
            probe.send(target)
            assert time.monotonic() < end, "the join was not carried out"
        took = (time.monotonic() - began) * 1000
        put.result()
    probe.close()
    eventually(lambda: records.settled(MOVING), "the join is complete")
    records.put(key, records.get(key) | {"Action": "isolate", "Namespace": ""})
    eventually(lambda: records.settled(MOVING), "the isolate is complete")
    return took
