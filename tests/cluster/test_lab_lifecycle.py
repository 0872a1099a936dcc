"""`k8sovs lab` from up to down: nothing of it remains, and nothing that is not its own is touched."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from k8sovs.lab.layout import route_metric
from tests.support.lab import K8SOVS, LabUnderTest, eventually, k8sovs
from tests.support.namespaces import Sandbox

NAME = "life"
DIRECTORY = Path("/run/k8sovs-lab", NAME)


def machine() -> dict[str, object]:
    """What a lab could leave behind on the machine, without what belongs to other labs."""
    routes = json.loads(subprocess.check_output(["ip", "-json", "route", "show", "table", "all"]))
    links = json.loads(subprocess.check_output(["ip", "-json", "link"]))
    mounts = Path("/proc/self/mountinfo").read_text().splitlines()
    return {
        "links": sorted(link["ifname"] for link in links),
        "routes": sorted(json.dumps(route) for route in routes if _is_of_interest(route)),
        "namespaces": sorted(path.name for path in Path("/run/netns").glob(f"{NAME}-*")),
        "mounts": sorted(line.split()[4] for line in mounts if f"/{NAME}-" in line),
        "run directory": DIRECTORY.exists(),
    }


def _is_of_interest(route: dict[str, object]) -> bool:
    """Other labs come and go with blackhole routes of their own."""
    return route.get("type") != "blackhole" or route.get("metric") == route_metric(NAME)


def lab_processes(lab: LabUnderTest) -> list[int]:
    """Every process of the lab: those inside its namespaces, and its supervisor."""
    inside = {path.stat().st_ino for path in Path("/run/netns").glob(f"{NAME}-*")}
    found = [lab.status()["supervisor_pid"]]
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            inode = os.stat(entry / "ns" / "net").st_ino
        except OSError:
            continue  # it ended
        if inode in inside:
            found.append(int(entry.name))
    return found


def is_running(pid: int) -> bool:
    """A zombie waits for init to take notice of it, and is nobody's business any more."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@contextmanager
def running_lab() -> Iterator[LabUnderTest]:
    lab = LabUnderTest(NAME)
    k8sovs("lab", "down", "--name", NAME)
    try:
        lab("up", "--nodes", "1")
        yield lab
    finally:
        lab("down")


@dataclass
class Life:
    """A lab that was up and is down again: what there was before, meanwhile and after it."""

    before: dict[str, object]
    meanwhile: dict[str, object]
    after: dict[str, object]
    survivors: list[int]
    left_by_exec: int
    stranger: subprocess.Popen[bytes]
    second_up: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module", params=["orderly", "crashed"])
def life(request: pytest.FixtureRequest) -> Iterator[Life]:
    """One lab with a pod, with strangers in it, ended by `down`: while it works, or after its supervisor was killed."""
    before = machine()
    with running_lab() as lab:
        lab.add_pod("tenant/pod", "node1")
        meanwhile = machine()
        subprocess.run(["ip", "netns", "add", f"{NAME}-stranger"], check=True)
        left_by_exec = int(lab("exec", "node1", "--", "sh", "-c", "sleep 300 >/dev/null 2>&1 & echo $!"))
        processes = lab_processes(lab)
        netns = lab.status()["nodes"][0]["netns"]
        stranger = subprocess.Popen(["nsenter", f"--net={netns}", "--", "sleep", "300"])
        second_up = k8sovs("lab", "up", "--name", NAME)
        if request.param == "crashed":
            os.kill(lab.status()["supervisor_pid"], signal.SIGKILL)
    try:
        survivors = [pid for pid in processes if is_running(pid)]
        yield Life(before, meanwhile, machine(), survivors, left_by_exec, stranger, second_up)
    finally:
        stranger.kill()
        stranger.wait()
        subprocess.run(["ip", "netns", "delete", f"{NAME}-stranger"], check=True)


def test_down_leaves_the_machine_as_it_was(life: Life) -> None:
    assert life.meanwhile != life.before
    assert life.after == life.before | {"namespaces": [f"{NAME}-stranger"], "mounts": life.after["mounts"]}


def test_down_ends_every_process_of_the_lab(life: Life) -> None:
    assert life.survivors == []


def test_down_ends_what_exec_left_running(life: Life) -> None:
    assert not is_running(life.left_by_exec)


def test_down_spares_a_stranger_process_in_a_namespace_of_the_lab(life: Life) -> None:
    assert life.stranger.poll() is None


def test_down_spares_a_namespace_that_only_looks_like_the_labs(life: Life) -> None:
    assert Path("/run/netns", f"{NAME}-stranger").exists()


def test_a_second_up_of_the_same_name_is_refused_in_words(life: Life) -> None:
    assert life.second_up.returncode == 1
    assert f"'k8sovs lab down --name {NAME}'" in life.second_up.stderr.splitlines()[-1]


def test_down_without_a_lab_is_no_error() -> None:
    assert k8sovs("lab", "down", "--name", "neverwas").returncode == 0


GUARD = """
from k8sovs.lab import layout, topology
lab = layout.Lab("guard", 1, layout.LabMode.MULTITENANT, layout.Datapath.AUTO)
print(*topology.guard_routes(lab))
"""


@pytest.mark.parametrize(
    ("address", "unguarded"),
    [
        ("10.200.0.1/24", ""),
        ("172.11.3.1/16", "172.11.0.0/16"),
        ("172.11.3.1/24", "172.11.0.0/16"),
        ("172.8.0.1/13", "172.11.0.0/16"),
    ],
    ids=["elsewhere", "the same", "a part", "wider"],
)
def test_a_prefix_that_the_machine_routes_itself_is_told_to_be_unguarded(address: str, unguarded: str) -> None:
    with Sandbox() as machine:
        machine.run("ip", "link", "add", "lan", "type", "bridge")
        machine.run("ip", "address", "add", address, "dev", "lan")
        machine.run("ip", "link", "set", "lan", "up")
        told = machine.run(sys.executable, "-c", GUARD)
        blackholes = machine.run("ip", "route", "show", "type", "blackhole")
    assert told.strip() == unguarded
    assert ("172.11.0.0/16" in blackholes) is not bool(unguarded)


def test_an_interrupted_up_leaves_the_machine_as_it_was() -> None:
    before = machine()
    as_from_a_terminal = ("env", "--default-signal=INT")  # who runs tests in the background has them ignore it
    argv = [*as_from_a_terminal, K8SOVS, "lab", "up", "--name", NAME, "--nodes", "1"]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as up:
        assert up.stderr is not None
        up.stderr.readline()  # the fabric is there
        up.send_signal(signal.SIGINT)
        up.communicate(timeout=30)
    assert up.returncode != 0
    assert machine() == before


def test_up_refuses_to_take_over_a_namespace_that_is_there_already() -> None:
    stranger = f"{NAME}-node1"
    subprocess.run(["ip", "netns", "add", stranger], check=True)
    try:
        refused = k8sovs("lab", "up", "--name", NAME, "--nodes", "1")
        assert refused.returncode == 1
        assert stranger in refused.stderr.splitlines()[-1]
        assert Path("/run/netns", stranger).exists()
        assert not DIRECTORY.exists()
    finally:
        subprocess.run(["ip", "netns", "delete", stranger], check=True)


@pytest.mark.parametrize(
    "argv",
    [("status",), ("env",), ("pod", "ls"), ("exec", "node1", "--", "true"), ("stop", "agent", "node1")],
    ids=" ".join,
)
def test_a_command_for_a_lab_that_is_not_up_says_how_to_start_it(argv: tuple[str, ...]) -> None:
    verb = 2 if argv[0] == "pod" else 1
    refused = k8sovs("lab", *argv[:verb], "--name", "neverwas", *argv[verb:])
    assert refused.returncode == 1
    assert "k8sovs lab up --name neverwas" in refused.stderr.splitlines()[-1]


def test_two_labs_run_beside_each_other_and_only_from_outside_are_they_taken_down() -> None:
    other = LabUnderTest(f"{NAME}2")
    k8sovs("lab", "down", "--name", other.name)
    with running_lab() as lab:
        try:
            other("up", "--nodes", "1")
            assert lab.run("etcdctl", "put", "/mine", "1") == "OK\n"
            assert other.run("etcdctl", "get", "/mine") == ""
            assert lab.status()["nodes"][0]["ip"] == other.status()["nodes"][0]["ip"]
            inside = k8sovs("lab", "exec", "--name", NAME, "node1", "--", K8SOVS, "lab", "down", "--name", NAME)
            assert inside.returncode == 1
            assert "network namespace" in inside.stderr.splitlines()[-1]
        finally:
            other("down")
        eventually(lambda: lab.status()["nodes"][0]["agent_pid"], "the first lab goes on without the second")
