"""What no runtime should ever send: each call gets the code of its fault, and leaves the node as it was."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.support.cni import environment, run_plugin
from tests.support.lab import LabUnderTest, eventually
from tests.support.namespaces import Sandbox
from tests.support.runtime import Node
from tests.support.traces import traces

LAB_OPTIONS = ("--nodes", "1", "--host-subnet-length", "3")

PODS_THAT_FIT = 5  # of 8 addresses: not the network's, the gateway's, the broadcast
VERSION, UNKNOWN_CONTAINER, ENVIRONMENT, IO, DECODING, CONFIG = 1, 3, 4, 5, 6, 7
ALREADY_ATTACHED, SUBNET_FULL, INTERFACE_EXISTS, NOT_AVAILABLE = 100, 101, 102, 50

MISSING = object()
"""As the value of a variable: it is not set."""


@pytest.fixture(scope="module")
def node(lab: LabUnderTest) -> Node:
    lab.run("kubectl", "create", "namespace", "red")
    return Node(lab.status()["nodes"][0])


@pytest.fixture(scope="module")
def before(node: Node) -> Mapping[str, object]:
    return traces(node)


@pytest.fixture(autouse=True)
def nothing_is_left(node: Node, before: Mapping[str, object]) -> Iterator[None]:
    yield
    with suppress(AssertionError):
        eventually(lambda: traces(node) == before, "nothing is left", deadline_s=3)
    assert traces(node) == before


@pytest.fixture(scope="module")
def sandbox() -> Iterator[Sandbox]:
    """A sandbox that no call should touch."""
    with Sandbox() as sandbox:
        sandbox.run("ip", "link", "set", "lo", "up")
        yield sandbox


@dataclass(frozen=True, slots=True)
class BadCall:
    """A call that is right but for one thing: standard input, a field of it, or a variable.

    `says`: in `msg`, what happened and to what; `hint`: in `details`, what to do. What the executable refuses by
    itself it says in `msg` alone.
    """

    name: str
    code: int
    says: tuple[str, ...]
    hint: str
    command: str = "ADD"
    stdin: bytes | None = None
    fields: Mapping[str, object] = field(default_factory=dict)
    variables: Mapping[str, object] = field(default_factory=dict)


HINTS = {
    "CNI_COMMAND": "one of ADD, DEL, CHECK, GC, STATUS, VERSION",
    "CNI_CONTAINERID": "begin with a letter or a digit",
    "CNI_IFNAME": "at most 15 bytes",
    "CNI_NETNS": "the absolute path of the sandbox's network namespace",
    "CNI_ARGS": "K8S_POD_NAMESPACE and K8S_POD_NAME",
    "cniVersion": "supported are 0.3.0, 0.3.1, 0.4.0, 1.0.0, 1.1.0",
    "name": "correct the network configuration file",
    "type": "correct the network configuration file",
    "socket": "",
    "prevResult": "the runtime puts this in",
    "runtimeConfig": "the runtime puts this in",
    "cni.dev/valid-attachments": "the runtime puts this in",
}
"""What is to be done about a field or a variable."""
GONE = "no DEL is needed; make a new sandbox"


def of_stdin(name: str, stdin: bytes, says: str = "is not a JSON object") -> BadCall:
    return BadCall(name, DECODING, ("network configuration on standard input", says), "", stdin=stdin)


def of_field(name: str, value: object, says: str, code: int = CONFIG, command: str = "ADD") -> BadCall:
    called = f"{command}-{name}={str(value)[:20]}"
    return BadCall(called, code, (name, says), HINTS[name], command, fields={name: value})


def of_variable(name: str, value: object, command: str = "ADD", says: str = "is not valid") -> BadCall:
    shown = "missing" if value is MISSING else str(value)[:20]
    said = (f"{command} needs {name}",) if value is MISSING else (f"{name}: ", says)
    return BadCall(f"{command}-{name}={shown}", ENVIRONMENT, said, HINTS[name], command, variables={name: value})


def of_sandbox(name: str, value: str, code: int, hint: str, *says: str) -> BadCall:
    return BadCall(f"ADD-{name}={value}", code, ("badinput/", value, *says), hint, variables={name: value})


TEN_MB = 10 * 2**20
CONF = b'{"cniVersion": "1.0.0", "name": "k8s-ovs", "type": "k8s-ovs"'

BAD_CALLS = (
    of_stdin("empty", b""),
    of_stdin("blank", b" \n"),
    of_stdin("word", b"hello"),
    of_stdin("half", CONF),
    of_stdin("list", b"[]"),
    of_stdin("null", b"null"),
    of_stdin("zero-bytes", bytes(100)),
    of_stdin("ten-megabytes-of-junk", b"x" * TEN_MB, "longer than 1 MiB"),
    of_stdin("ten-megabytes-of-json", CONF + b', "filler": "' + b"x" * TEN_MB + b'"}', "longer than 1 MiB"),
    of_field("cniVersion", None, "None is not supported", VERSION),
    of_field("cniVersion", 1, "1 is not supported", VERSION),
    of_field("cniVersion", "0.1.0", "'0.1.0' is not supported", VERSION),
    of_field("cniVersion", ["1.0.0"], "['1.0.0'] is not supported", VERSION),
    of_field("name", None, "must be a text, not None"),
    of_field("name", 7, "must be a text, not 7"),
    of_field("name", "a/b", "'a/b' has characters that the specification forbids"),
    of_field("type", {}, "must be a text, not {}"),
    of_field("name", "a\x00b", r"'a\x00b' has characters that the specification forbids"),
    of_field("socket", 7, "must be an absolute path of less than 108 plain characters"),
    of_field("socket", "cni.sock", "must be an absolute path of less than 108 plain characters"),
    of_field("socket", "/" + "x" * 200, "must be an absolute path of less than 108 plain characters"),
    of_field("prevResult", [], "must be an object"),
    of_field("runtimeConfig", "fast", "must be an object"),
    of_field("prevResult", None, "CHECK needs the result of the ADD", command="CHECK"),
    of_field("cni.dev/valid-attachments", "all", "must be a list", command="GC"),
    of_field("cni.dev/valid-attachments", [{"containerID": 1}], "must have containerID and ifname", command="GC"),
    of_field("cni.dev/valid-attachments", ["eth0"], "must have containerID and ifname", command="GC"),
    BadCall("no-command", ENVIRONMENT, ("CNI_COMMAND is not set",), "", variables={"CNI_COMMAND": MISSING}),
    of_variable("CNI_COMMAND", "add"),
    of_variable("CNI_COMMAND", "DETONATE"),
    of_variable("CNI_CONTAINERID", MISSING),
    of_variable("CNI_CONTAINERID", "../../etc"),
    of_variable("CNI_CONTAINERID", "x\ny"),
    of_variable("CNI_CONTAINERID", "x" * 100_000),
    of_variable("CNI_CONTAINERID", MISSING, command="DEL"),
    of_variable("CNI_CONTAINERID", "a b", command="DEL"),
    of_variable("CNI_IFNAME", MISSING),
    of_variable("CNI_IFNAME", ".."),
    of_variable("CNI_IFNAME", "eth0/1"),
    of_variable("CNI_IFNAME", "eth%d"),
    of_variable("CNI_IFNAME", "x" * 16),
    of_variable("CNI_IFNAME", "all"),
    of_variable("CNI_IFNAME", "default"),
    of_variable("CNI_IFNAME", "eth\x01"),
    of_sandbox("CNI_IFNAME", "lo", INTERFACE_EXISTS, "ADD with another CNI_IFNAME", "exists in /proc/"),
    of_variable("CNI_IFNAME", MISSING, command="DEL"),
    of_variable("CNI_NETNS", MISSING),
    of_variable("CNI_NETNS", "run/netns/x"),
    of_sandbox("CNI_NETNS", "/run/netns/badinput-none", UNKNOWN_CONTAINER, GONE, "No such file or directory"),
    of_sandbox("CNI_NETNS", "/etc/hostname", UNKNOWN_CONTAINER, GONE, "no network namespace at"),
    of_sandbox("CNI_NETNS", "/tmp", UNKNOWN_CONTAINER, GONE, "no network namespace at"),
    of_sandbox("CNI_NETNS", "/proc/self/ns/mnt", UNKNOWN_CONTAINER, GONE, "no network namespace at"),
    of_sandbox("CNI_NETNS", "/proc/self/ns/net", IO, "nothing was left", "the node's own network namespace"),
    of_variable("CNI_NETNS", "/" + "x" * 5000),
    BadCall(
        "no-args", ENVIRONMENT, ("CNI_ARGS: 'K8S_POD_NAMESPACE='",), HINTS["CNI_ARGS"], variables={"CNI_ARGS": MISSING}
    ),
    of_variable("CNI_ARGS", "nonsense", says="'nonsense' is not valid"),
    of_variable("CNI_ARGS", "K8S_POD_NAMESPACE=red", says="'K8S_POD_NAME=' is not valid"),
    of_variable("CNI_ARGS", "K8S_POD_NAMESPACE=../vnids;K8S_POD_NAME=web", says="'K8S_POD_NAMESPACE=../vnids'"),
    of_variable("CNI_ARGS", "K8S_POD_NAMESPACE=red;K8S_POD_NAME=web\nx", says=r"'K8S_POD_NAME=web\nx' is not valid"),
    of_variable("CNI_ARGS", "K8S_POD_NAMESPACE=red;K8S_POD_NAME=" + "x" * 100_000, says="K8S_POD_NAME=xxx"),
)


def make(call: BadCall, node: Node, sandbox: Sandbox) -> tuple[int, dict[str, Any]]:
    """Exit status and answer. A field that is None is left out."""
    usual = environment(
        call.command, "badinput", CNI_NETNS=sandbox.path, CNI_ARGS="K8S_POD_NAMESPACE=red;K8S_POD_NAME=web"
    )
    variables = {name: str(value) for name, value in {**usual, **call.variables}.items() if value is not MISSING}
    conf = {name: value for name, value in {**node.conf(), **call.fields}.items() if value is not None}
    stdin = json.dumps(conf).encode() if call.stdin is None else call.stdin
    done = run_plugin(variables, stdin, node.executable)
    return done.returncode, json.loads(done.stdout)


@pytest.mark.parametrize("call", BAD_CALLS, ids=lambda call: call.name)
def test_a_bad_call_is_answered_with_its_fault(node: Node, sandbox: Sandbox, call: BadCall) -> None:
    status, answer = make(call, node, sandbox)
    assert status == 1
    assert answer["code"] == call.code
    assert [said for said in call.says if said not in answer["msg"]] == []
    assert call.hint in answer.get("details", "")
    assert len(json.dumps(answer)) < 1000
    assert sandbox.run("ip", "-brief", "link").split()[0] == "lo"


def test_bad_calls_use_up_no_address_and_no_descriptor(node: Node, sandbox: Sandbox) -> None:
    def descriptors() -> int:
        return len(os.listdir(f"/proc/{node.agent_pid}/fd"))

    make(BAD_CALLS[0], node, sandbox)
    held = descriptors()
    for call in BAD_CALLS:
        if call.stdin is None:
            make(call, node, sandbox)
    eventually(lambda: descriptors() <= held, "no descriptor is left open")
    with ExitStack() as pods:
        for number in range(PODS_THAT_FIT):
            pods.enter_context(node.attached("red", f"web{number}"))


@pytest.mark.parametrize("filler", [b'"\xff"', b"[" * 100_000 + b"]" * 100_000, b"{1:2}", b"nul"])
def test_what_only_looks_like_json_is_refused_by_the_agent(node: Node, sandbox: Sandbox, filler: bytes) -> None:
    stdin = json.dumps(node.conf()).encode()[:-1] + b', "filler": ' + filler + b"}"
    status, answer = make(of_stdin("looks", stdin, ""), node, sandbox)
    assert (status, answer["code"]) == (1, DECODING)
    assert answer["msg"].startswith("standard input is not JSON: ")


def test_a_network_namespace_that_is_a_pipe_is_none_and_blocks_nobody(node: Node, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with node.pod("red") as pod:
        answer = node.call("ADD", pod, CNI_NETNS=str(tmp_path / "pipe"))
        assert answer.code == UNKNOWN_CONTAINER
        assert str(tmp_path / "pipe") in answer.said["msg"]
        assert GONE in answer.said["details"]
        assert node.status() == 0


def test_a_full_subnet_is_said_with_its_name_and_has_room_after_a_del(node: Node) -> None:
    with ExitStack() as pods, node.pod("red", "late") as late:
        first, *_ = [pods.enter_context(node.attached("red", f"web{number}"))[0] for number in range(PODS_THAT_FIT)]
        full = traces(node)
        refused = node.call("ADD", late)
        assert refused.code == SUBNET_FULL
        assert node.status() == NOT_AVAILABLE
        assert "172.11.0.0/29" in refused.said["msg"]
        assert "red/late" in refused.said["msg"]
        assert "delete pods of this node" in refused.said["details"]
        assert not late.has_interface
        eventually(lambda: traces(node) == full, "the pods that are there notice nothing")
        node.delete(first)
        assert node.status() == 0
        assert node.call("ADD", late).status == 0


def test_an_address_goes_from_a_leaving_pod_to_a_coming_one_and_belongs_to_it_alone(node: Node) -> None:
    with ExitStack() as pods:
        held = [pods.enter_context(node.attached("red", f"web{number}")) for number in range(PODS_THAT_FIT)]
        for number in range(2 * PODS_THAT_FIT):
            leaving, answer = held.pop(0)
            coming = pods.enter_context(node.pod("red", f"late{number}"))
            deleting = node.start("DEL", leaving)
            added = node.call("ADD", coming)
            while added.code == SUBNET_FULL:  # it was asked before the DEL was done, and that is no error
                added = node.call("ADD", coming)
            assert (deleting.wait(20), added.status, added.address) == (0, 0, answer.address)
            assert coming.reaches(held[-1][1].address)
            assert not leaving.has_interface or not leaving.reaches(held[-1][1].address, "-W0.2")
            held.append((coming, added))


def test_a_del_of_what_never_was_succeeds_however_often(node: Node) -> None:
    with node.pod("red") as pod:
        assert [node.call("DEL", pod).status for _ in range(3)] == [0, 0, 0]
        assert node.call("DEL", pod, CNI_NETNS="", CNI_ARGS="").status == 0


def test_a_del_of_an_attachment_by_another_interface_leaves_it(node: Node) -> None:
    with node.attached("red") as (pod, _):
        attached = traces(node)
        assert node.call("DEL", pod, CNI_IFNAME="eth1").status == 0
        assert traces(node) == attached


def test_an_interface_that_exists_stays_as_it_is(node: Node) -> None:
    with node.pod("red") as pod:
        pod.sandbox.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other")
        made = pod.sandbox.run("ip", "-json", "link")
        answer = node.call("ADD", pod)
        assert answer.code == INTERFACE_EXISTS
        assert f"eth0 exists in {pod.sandbox.path}" in answer.said["msg"]
        assert "ADD with another CNI_IFNAME" in answer.said["details"]
        assert pod.sandbox.run("ip", "-json", "link") == made


def test_a_check_with_nonsense_for_the_result_of_its_add_is_refused(node: Node) -> None:
    with node.attached("red") as (pod, answer):
        nonsense = ("x", 7, {"address": "x"}, ["x"], [{}], [{"address": 7}], [{"address": "x"}])
        assert {node.check(pod, {**answer.said, "ips": ips}).code for ips in nonsense} == {CONFIG}
        assert {node.check(pod, {**answer.said, "interfaces": said}).code for said in ("x", 7, ["x"])} == {CONFIG}
        assert node.check(pod, answer.said).code == 0


def test_a_second_add_leaves_the_first_attachment_as_it_is(node: Node) -> None:
    with node.attached("red") as (pod, _):
        attached = traces(node)
        answer = node.call("ADD", pod)
        assert answer.code == ALREADY_ATTACHED
        assert f"{pod.container_id}/eth0 of pod red/web is attached already" in answer.said["msg"]
        assert "DEL it before another ADD" in answer.said["details"]
        assert traces(node) == attached


def test_status_and_version_need_no_other_variable(node: Node) -> None:
    assert node.run({"CNI_COMMAND": "STATUS"}).status == 0
    assert node.run({"CNI_COMMAND": "VERSION"}).said["supportedVersions"][-1] == "1.1.0"
