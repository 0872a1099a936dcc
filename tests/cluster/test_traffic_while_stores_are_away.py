"""etcd and the Kubernetes API are away, or answer nonsense: pods notice nothing, and nothing is deleted for it."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

import pytest

from k8sovs.lab.layout import API_PORT, CONTROL_ADDRESS
from tests.support.cast import Member, cast, create_namespaces
from tests.support.events import OUTAGE_S, RUN_TIMEOUT_S, node_now, stay_away
from tests.support.lab import LabUnderTest, eventually
from tests.support.partition import Fault, broken, redirected
from tests.support.tenants import KEYS, Operator
from tests.support.traffic import Stream, Traffic, conclusive

pytestmark = pytest.mark.timeout(RUN_TIMEOUT_S)

LAB_OPTIONS = ("--nodes", "2", "--etcd-members", "3")
ETCD_PORTS = (2379, 2389, 2399)
BACK_WITHIN_S = 30.0

INSIDE = ("near", "out", "in", "tcp")
STRANGE = ("strange", "strange far")

Outage = Callable[[LabUnderTest], "contextmanager[None]"]


@pytest.fixture(scope="module")
def people(lab: LabUnderTest) -> Iterator[dict[str, Member]]:
    create_namespaces(lab, "red", "blue", "yellow", "green")
    where = {
        "node1": ["red/a", "red/b", "blue/c", "yellow/y", "green/one", "green/two"],
        "node2": ["red/d", "blue/e", "green/three"],
    }
    with cast(lab, where) as members:
        yield members


@pytest.fixture
def operator(lab: LabUnderTest, people: dict[str, Member]) -> Operator:
    return Operator(lab)


@pytest.fixture
def streams(people: dict[str, Member]) -> dict[str, Stream]:
    one = people["green/one"]
    return {
        "near": people["red/a"].to(people["red/b"]),
        "out": people["red/a"].to(people["red/d"]),
        "in": people["red/d"].to(people["red/b"]),
        "tcp": people["red/d"].to(people["red/a"], "tcp"),
        "red to blue": people["red/b"].towards(people["blue/e"]),
        "strange": people["yellow/y"].towards(people["red/b"]),
        "strange far": people["yellow/y"].towards(people["blue/e"]),
        "control": one.to(people["green/two"]),
        "control out": one.to(people["green/three"]),
        "control in": people["green/three"].to(people["green/two"]),
    }


def netns(lab: LabUnderTest, *parts: str) -> list[str]:
    return [f"/run/netns/{lab.name}-{part}" for part in parts]


@contextmanager
def stopped(lab: LabUnderTest) -> Iterator[None]:
    for member in "123":
        lab("stop", "etcd", member)
    try:
        yield
    finally:
        for member in "123":
            lab("start", "etcd", member)


@contextmanager
def silent(lab: LabUnderTest) -> Iterator[None]:
    with broken(Fault.SILENT, ETCD_PORTS, *netns(lab, "control", "node1", "node2")):
        yield


@pytest.mark.outage
@pytest.mark.parametrize("outage", [stopped, silent], ids=lambda outage: str(outage.__name__))
def test_without_etcd_traffic_goes_on_pods_come_and_what_changed_meanwhile_is_carried_out_later(
    lab: LabUnderTest, operator: Operator, streams: dict[str, Stream], outage: Outage
) -> None:
    def measure() -> Traffic:
        name = f"born-{time.monotonic_ns()}"
        with Traffic(streams) as traffic:
            with outage(lab), node_now(lab, "node1").attached("red", "meanwhile"):
                lab.run("kubectl", "create", "namespace", name)
                stay_away()
            eventually(lambda: operator.vnid(name), "the namespace has an id", deadline_s=BACK_WITHIN_S)
        lab.run("kubectl", "delete", "namespace", name)
        assert traffic.crossed([*STRANGE, "red to blue"]) == []
        return traffic

    assert conclusive(measure).lossy(INSIDE) == []


def test_a_leader_of_etcd_that_dies_holds_up_no_change(
    lab: LabUnderTest, operator: Operator, streams: dict[str, Stream]
) -> None:
    def measure() -> Traffic:
        member = etcd_leader(lab)
        with Traffic(streams) as traffic:
            lab("stop", "etcd", member)
            try:
                operator.do("red", "join", "blue")
                operator.do("red", "isolate")
            finally:
                lab("start", "etcd", member)
        assert traffic.crossed(STRANGE) == []
        assert traffic["red to blue"].received > 0
        return traffic

    assert conclusive(measure).lossy(INSIDE) == []


def etcd_leader(lab: LabUnderTest) -> str:
    """Its number."""
    members = json.loads(lab.run("etcdctl", "endpoint", "status", "--write-out=json"))
    endpoints = lab.status()["etcd"]["endpoints"]
    (leading,) = [
        entry["Endpoint"] for entry in members if entry["Status"]["leader"] == entry["Status"]["header"]["member_id"]
    ]
    return str(endpoints.index(leading) + 1)


@pytest.mark.outage
def test_a_node_that_was_cut_off_without_a_word_catches_up_although_the_history_is_gone(
    lab: LabUnderTest, operator: Operator, people: dict[str, Member], streams: dict[str, Stream]
) -> None:
    """What its pods exchange with other nodes is lost while these have an id that it cannot know of; no more than that.

    (A TCP connection that had nothing through for 10 s is not tried again at once.)
    """
    back = end = 0.0

    def measure() -> Traffic:
        nonlocal back, end
        with Traffic(streams) as traffic:
            with broken(Fault.SILENT, ETCD_PORTS, *netns(lab, "node1")):
                operator.do("red", "join", "blue")
                stay_away()
                compact(lab)
            eventually(
                lambda: people["red/a"].pod.reaches(people["blue/e"].address), "node1 knows", deadline_s=BACK_WITHIN_S
            )
            back = time.monotonic()
            operator.do("red", "isolate")
            end = time.monotonic()
        assert traffic.crossed(STRANGE) == []
        return traffic

    traffic = conclusive(measure)
    assert traffic.lossy(["near"]) == []
    assert [name for name in ("near", "out", "in") if traffic[name].lost_between(back, end)] == []


def compact(lab: LabUnderTest) -> None:
    """Forget all history of the store."""
    (first, *_) = json.loads(lab.run("etcdctl", "endpoint", "status", "--write-out=json"))
    lab.run("etcdctl", "compact", str(first["Status"]["header"]["revision"]))


ANSWERS = """
import http.server, sys

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def answer(self):
        body = b'{"kind":"Status","apiVersion":"v1","status":"Failure","message":"no","reason":"Expired","code":%s}'
        body = body.replace(b"%s", sys.argv[2].encode())
        self.send_response(int(sys.argv[2]))
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.send_header("Retry-After", "1")
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PATCH = do_PUT = answer

server = http.server.ThreadingHTTPServer((sys.argv[1], 7443), Handler)
print("ready", flush=True)
server.serve_forever()
"""


@contextmanager
def api_fault(lab: LabUnderTest, fault: Fault | int) -> Iterator[None]:
    """The API is away, or answers everything with one status. Open connections are cut, unless all is silent."""
    places = netns(lab, "control", "node1", "node2")
    with ExitStack() as stack:
        if isinstance(fault, int):
            command = ["nsenter", f"--net={places[0]}", "--", sys.executable, "-c", ANSWERS, str(CONTROL_ADDRESS)]
            server = subprocess.Popen([*command, str(fault)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
            stack.callback(server.communicate)
            stack.callback(server.kill)
            assert server.stdout is not None
            assert server.stdout.readline() == b"ready\n"
            stack.enter_context(redirected(API_PORT, f"{CONTROL_ADDRESS}:7443", *places))
        kind = Fault.SILENT if fault is Fault.SILENT else Fault.REFUSED
        stack.enter_context(broken(kind, [API_PORT], *places))
        yield


@pytest.mark.outage
@pytest.mark.parametrize("fault", [Fault.REFUSED, Fault.SILENT, 410, 429, 500], ids=lambda fault: str(fault).lower())
def test_an_api_server_in_trouble_deletes_nothing_and_is_found_again_without_a_restart(
    lab: LabUnderTest, operator: Operator, streams: dict[str, Stream], fault: Fault | int
) -> None:
    def measure() -> Traffic:
        before, processes = state(lab), pids(lab)
        name = f"later-{time.monotonic_ns()}"
        with Traffic(streams) as traffic:
            with api_fault(lab, fault):
                time.sleep(OUTAGE_S if fault is Fault.SILENT else OUTAGE_S / 3)
                assert state(lab) == before
            assert state(lab) == before
            lab.run("kubectl", "create", "namespace", name)
            eventually(lambda: operator.vnid(name), "the namespace has an id", deadline_s=BACK_WITHIN_S)
        lab.run("kubectl", "delete", "namespace", name)
        eventually(lambda: operator.vnid(name) is None, "its id is free", deadline_s=BACK_WITHIN_S)
        assert pids(lab) == processes
        assert traffic.crossed([*STRANGE, "red to blue"]) == []
        return traffic

    assert conclusive(measure).lossy(INSIDE) == []


def state(lab: LabUnderTest) -> dict[str, str]:
    """All records of namespaces and nodes."""
    folders = (KEYS.netnamespaces, KEYS.vnids, KEYS.uids, KEYS.subnets)
    return {folder: lab.run("etcdctl", "get", "--prefix", folder) for folder in folders}


def pids(lab: LabUnderTest) -> list[int]:
    """The processes of controllers and agents."""
    status = lab.status()
    return [entry["pid"] for entry in status["controllers"]] + [entry["agent_pid"] for entry in status["nodes"]]
