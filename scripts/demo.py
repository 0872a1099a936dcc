"""demo: a three-node cluster, tenants on it, and a table of who reaches whom after each action.

The actions are plain `etcdctl put`s of the records described in docs/state-in-etcd.md. Exit status 0 only if every cell
of every table is what the semantics say.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from itertools import product
from pathlib import Path

from k8sovs.lab.layout import RUN_ROOT
from k8sovs.lab.reach import Place, judge, table

LAB_PREFIX = "demo-"
LAB = f"{LAB_PREFIX}{os.getpid()}"
K8SOVS = str(Path(sys.executable).parent / "k8sovs")
FOLDER = "/k8s.ovs.com/ovs/network/k8ssdn"
OUTSIDE = "198.51.100.10"
ACTION_DEADLINE_S = 10.0

# Two on one node and one on the next, and every node has pods of two tenants.
PODS = {
    "helloworld1": ("node1", "node1", "node2"),
    "helloworld2": ("node2", "node2", "node3"),
    "helloworld3": ("node3", "node3", "node1"),
}
GLOBAL = "global"


@dataclass(frozen=True)
class Step:
    """An action, and the tenants after it: namespaces of one colour reach each other, and a global one everybody."""

    title: str
    title_when_flat: str
    action: tuple[str, str, str] | None
    colours: Mapping[str, str]


APART = {"helloworld1": "1", "helloworld2": "2", "helloworld3": "3"}
STEPS = (
    Step("three tenants, each by itself", "three namespaces, one network", None, APART),
    Step(
        "helloworld1 joins helloworld2",
        "a join changes nothing",
        ("helloworld1", "join", "helloworld2"),
        APART | {"helloworld1": "2"},
    ),
    Step("helloworld1 is isolated again", "nor does isolating", ("helloworld1", "isolate", ""), APART),
    Step(
        "helloworld3 is made global",
        "nor does making global",
        ("helloworld3", "global", ""),
        APART | {"helloworld3": GLOBAL},
    ),
)


class DemoError(Exception):
    """The demo cannot go on."""


def say(text: str) -> None:
    print(text, flush=True)


def command(*argv: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, env={**os.environ, **(env or {})})
    if done.returncode != 0:
        raise DemoError(f"'{' '.join(argv)}' failed")
    return done.stdout


def lab(*argv: str) -> str:
    return command(K8SOVS, "lab", *argv, "--name", LAB)


class Etcd:
    """What an operator does: get and put, with etcdctl."""

    def __init__(self) -> None:
        status = json.loads(lab("status", "--json"))
        self._env = {"ETCDCTL_API": "3", "ETCDCTL_ENDPOINTS": ",".join(status["etcd"]["endpoints"])}

    def get(self, key: str) -> dict[str, object]:
        text = command("etcdctl", "get", "--print-value-only", key, env=self._env)
        return json.loads(text) if text.strip() else {}

    def put(self, key: str, record: Mapping[str, object]) -> None:
        value = json.dumps(record)
        say(f"  $ etcdctl put {key} '{value}'")
        command("etcdctl", "put", key, value, env=self._env)


def wait_for(condition: Callable[[], bool], what: str) -> float:
    """Poll, as an operator would; returns the seconds that it took."""
    began = time.monotonic()
    while not condition():
        if time.monotonic() - began > ACTION_DEADLINE_S:
            raise DemoError(f"{what}: not within {ACTION_DEADLINE_S:.0f} s")
        time.sleep(0.05)
    return time.monotonic() - began


def act(etcd: Etcd, namespace: str, netid: object, action: str, target: str, *, multitenant: bool) -> None:
    """Put the namespace's record with an action, and wait until it is carried out, or refused."""
    key = f"{FOLDER}/netnamespaces/{namespace}"
    etcd.put(key, {"NetName": namespace, "NetID": netid, "Action": action, "Namespace": target})
    took = wait_for(lambda: not etcd.get(key).get("Action"), f"the controller takes the action of {namespace}")
    if multitenant:
        vnid = f"{FOLDER}/vnids/{namespace}"
        took += wait_for(lambda: _settled(etcd.get(vnid)), f"{namespace} is switched over everywhere")
        say(f"  done after {took:.1f} s")
    elif message := etcd.get(key).get("message"):
        say(f"  refused after {took:.1f} s: {message}")
    else:
        raise DemoError(f"{action} of {namespace} in single-tenant mode was not refused")


def _settled(vnid: Mapping[str, object]) -> bool:
    """The last phase: packets are accepted from the id that the namespace itself sends with, and from no other."""
    return vnid.get("Accept") == [vnid.get("Send")]


def places() -> tuple[list[Place], list[Place], Place]:
    """Pods, nodes, the outside."""
    pods = json.loads(lab("pod", "ls", "--json"))
    nodes = json.loads(lab("status", "--json"))["nodes"]
    return (
        [Place(pod["name"], pod["netns"], pod["ip"], pod["namespace"], pod["node"]) for pod in pods],
        [Place(node["name"], node["netns"], node["ip"]) for node in nodes],
        Place("outside", f"/run/netns/{LAB}-outside", OUTSIDE),
    )


def should_reach(sender: Place, target: Place, colours: Mapping[str, str]) -> bool:
    if sender.namespace is None or target.namespace is None:
        return True  # a node, or the outside
    pair = {colours[sender.namespace], colours[target.namespace]}
    return len(pair) == 1 or GLOBAL in pair


def show(colours: Mapping[str, str]) -> tuple[int, int]:
    """Measure and print one table; how many cells are right, and how many there are."""
    pods, nodes, outside = places()
    pairs = [pair for pair in product([*pods, *nodes], [*pods, *nodes, outside]) if _is_measured(*pair)]
    reach, wrong = judge(pairs, lambda sender, target: should_reach(sender, target, colours))
    say("")
    for line in table(reach, wrong):
        say(f"  {line}")
    say(
        f"\n  {len(pairs) - len(wrong)} of {len(pairs)} cells are right" + (" (wrong ones have a '!')" if wrong else "")
    )
    return len(pairs) - len(wrong), len(pairs)


def _is_measured(sender: Place, target: Place) -> bool:
    return sender != target and (sender.namespace is not None or target.namespace is not None)


def run_mode(mode: str) -> tuple[int, int]:
    """One lab from up to down, with all its tables."""
    multitenant = mode == "multitenant"
    say(f"\n=== {mode} mode: a lab of three nodes ===")
    try:
        lab("up", "--nodes", "3", "--mode", mode)
        for namespace, nodes in PODS.items():
            for number, node in enumerate(nodes, start=1):
                say("  " + lab("pod", "add", f"{namespace}/{_pod(namespace, number)}", "--node", node).strip())
        etcd = Etcd()
        # As an operator has them in an old note: later actions change them, and what is typed in here is not applied.
        netids = {namespace: etcd.get(f"{FOLDER}/netnamespaces/{namespace}")["NetID"] for namespace in PODS}
        right = cells = 0
        for step in STEPS:
            title = step.title if multitenant else step.title_when_flat
            say(f"\n--- {mode}: {title} ---")
            if step.action is not None:
                namespace, action, target = step.action
                act(etcd, namespace, netids[namespace], action, target, multitenant=multitenant)
            colours = step.colours if multitenant else dict.fromkeys(step.colours, "flat")
            good, measured = show(colours)
            right, cells = right + good, cells + measured
        return right, cells
    finally:
        lab("down")


def _pod(namespace: str, number: int) -> str:
    return f"hw{namespace.removeprefix('helloworld')}-{number}"


def remove_labs_of_dead_demos() -> None:
    """A demo that was killed could not clean up; the name of its lab ends in its process id."""
    for directory in RUN_ROOT.glob(f"{LAB_PREFIX}*"):
        if not Path("/proc", directory.name.removeprefix(LAB_PREFIX)).exists():
            command(K8SOVS, "lab", "down", "--name", directory.name)


def main() -> int:
    began = time.monotonic()
    remove_labs_of_dead_demos()
    results = {mode: run_mode(mode) for mode in ("multitenant", "subnet")}
    say(f"\n=== summary, after {time.monotonic() - began:.0f} s ===")
    for mode, (right, cells) in results.items():
        say(f"  {mode}: {right} of {cells} cells are what the semantics say")
    complete = all(right == cells for right, cells in results.values())
    say("demo: passed" if complete else "demo: FAILED")
    return 0 if complete else 1


if __name__ == "__main__":
    try:
        sys.exit(main())
    except DemoError as error:
        print(f"demo: {error}", file=sys.stderr)
        sys.exit(1)
    except KeyboardInterrupt:
        print("demo: interrupted", file=sys.stderr)
        sys.exit(130)
