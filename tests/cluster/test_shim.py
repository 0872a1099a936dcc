"""The CNI executable against sockets that answer in the agent's place."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from cni.conf import render_conflist
from cni.versions import LATEST, SUPPORTED
from cni.wire import decode_call
from tests.support.cni import EXECUTABLE, FakeAgent, Recorded, conf, environment, recorded_calls, run_plugin

SHIM = EXECUTABLE.parent


def error_code(output: bytes) -> int:
    code = json.loads(output)["code"]
    assert isinstance(code, int)
    return code


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "cni.sock"


def test_the_agent_gets_the_variables_and_standard_input_as_they_were(path: Path) -> None:
    variables, stdin = environment("ADD", CNI_ARGS="A=ü;B=="), conf(path, cluster="x" * 500_000)
    with FakeAgent(path, [b"0\n"]) as agent:
        run_plugin({**variables, "HOME": "/root", "XCNI_X": "1"}, stdin)
    assert decode_call(agent.calls[0]) == (variables, stdin)


@pytest.mark.parametrize("call", recorded_calls(), ids=lambda call: call.name)
def test_what_containerd_really_sends_reaches_the_agent_unchanged(path: Path, call: Recorded) -> None:
    with FakeAgent(path, [b"0\n"]) as agent:
        run_plugin(call.environment, call.for_socket(path))
    assert decode_call(agent.calls[0]) == (call.environment, call.for_socket(path))


def test_output_and_exit_status_are_the_agents(path: Path) -> None:
    answer = b'{"cniVersion": "1.0.0"}' * 20_000
    with FakeAgent(path, [b"3\n" + answer]):
        outcome = run_plugin(environment("ADD"), conf(path))
    assert (outcome.returncode, outcome.stdout, outcome.stderr) == (3, answer, b"")


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("CHECK", 11), ("GC", 11), ("STATUS", 50)])
def test_without_an_agent_a_call_fails_at_once(path: Path, command: str, code: int) -> None:
    before = time.monotonic()
    outcome = run_plugin(environment(command), conf(path))
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, code)
    assert str(path) in json.loads(outcome.stdout)["msg"]
    assert time.monotonic() - before < 1.0


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("STATUS", 50)])
def test_an_agent_that_ends_before_it_answers_is_away(path: Path, command: str, code: int) -> None:
    with FakeAgent(path, [None]):
        outcome = run_plugin(environment(command), conf(path))
    assert error_code(outcome.stdout) == code


def test_a_stale_socket_file_is_no_agent(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
    assert error_code(run_plugin(environment("ADD"), conf(path)).stdout) == 11


def test_without_an_agent_a_del_is_kept_for_it_and_succeeds(path: Path) -> None:
    variables, stdin = environment("DEL", CNI_NETNS=""), conf(path)
    outcome = run_plugin(variables, stdin)
    spooled = list((path.parent / "spool").iterdir())
    assert (outcome.returncode, outcome.stdout, len(spooled)) == (0, b"", 1)
    assert decode_call(spooled[0].read_bytes()) == (variables, stdin)
    assert spooled[0].stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    ("container_id", "fields", "code"),
    [
        ("", {}, 4),
        ("_x", {}, 4),
        ("a/b", {}, 4),
        ("x" * 256, {}, 4),
        ("c0ffee", {"cniVersion": "9.9.9"}, 1),
        ("c0ffee", {"cniVersion": "1.0"}, 1),
        ("c0ffee", {"cniVersion": "new"}, 1),
        ("c0ffee", {"cniVersion": None}, 1),
    ],
    ids=str,
)
def test_a_del_that_could_never_be_carried_out_is_refused_and_not_kept(
    path: Path, container_id: str, fields: dict[str, str | None], code: int
) -> None:
    outcome = run_plugin(environment("DEL", container_id), conf(path, **fields))
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, code)
    assert list(path.parent.iterdir()) == []


@pytest.mark.parametrize("command", ["ADD", "DEL", "CHECK", "GC", "STATUS"])
def test_without_standard_input_nobody_is_asked_and_nothing_kept(command: str) -> None:
    before = Path("/run/k8sovs").exists()
    outcome = run_plugin(environment(command), b"")
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 6)
    assert Path("/run/k8sovs").exists() is before


def test_a_del_that_names_no_socket_is_not_kept() -> None:
    before = Path("/run/k8sovs").exists()
    outcome = run_plugin(environment("DEL"), b'{"cniVersion": "1.0.0"}')
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 7)
    assert Path("/run/k8sovs").exists() is before


def test_spooled_calls_sort_by_time(path: Path) -> None:
    for number in range(5):
        run_plugin(environment("DEL", f"container{number}"), conf(path))
    calls = [decode_call(file.read_bytes())[0] for file in sorted((path.parent / "spool").iterdir())]
    assert [call["CNI_CONTAINERID"] for call in calls] == [f"container{number}" for number in range(5)]


def test_a_del_is_kept_even_where_the_directory_of_the_socket_is_missing(tmp_path: Path) -> None:
    assert run_plugin(environment("DEL"), conf(tmp_path / "run" / "cni.sock")).returncode == 0
    assert len(list((tmp_path / "run" / "spool").iterdir())) == 1


def test_a_del_whose_agent_comes_back_meanwhile_is_answered_by_it_and_not_kept(path: Path) -> None:
    with FakeAgent(path, [None, b"0\n"]) as agent:
        assert run_plugin(environment("DEL"), conf(path)).returncode == 0
    assert len(agent.calls) == 2
    assert list((path.parent / "spool").iterdir()) == []


def test_a_del_that_cannot_be_kept_fails_with_the_reason(path: Path) -> None:
    (path.parent / "spool").write_text("not a directory")
    outcome = run_plugin(environment("DEL"), conf(path))
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 5)
    assert "Not a directory" in json.loads(outcome.stdout)["msg"]


@pytest.mark.parametrize("answer", [b"x", b"0", b"\n{}", b"1234\n", b"-1\n"])
def test_an_answer_that_is_none_is_an_error_not_a_success(path: Path, answer: bytes) -> None:
    with FakeAgent(path, [answer]):
        outcome = run_plugin(environment("ADD"), conf(path))
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 5)


def test_standard_input_of_a_mebibyte_is_the_limit(path: Path) -> None:
    filling = (1 << 20) - len(conf(path, filling=""))
    with FakeAgent(path, [b"0\n"]):
        assert run_plugin(environment("ADD"), conf(path, filling="x" * filling)).returncode == 0
    outcome = run_plugin(environment("ADD"), conf(path, filling="x" * (filling + 1)))
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 6)


def test_version_is_answered_without_an_agent_in_the_version_of_the_call() -> None:
    for version in SUPPORTED:
        outcome = run_plugin({"CNI_COMMAND": "VERSION"}, json.dumps({"cniVersion": version}).encode())
        assert json.loads(outcome.stdout) == {"cniVersion": version, "supportedVersions": list(SUPPORTED)}
        assert outcome.returncode == 0


def test_version_needs_no_standard_input() -> None:
    assert json.loads(run_plugin({"CNI_COMMAND": "VERSION"}, b"").stdout)["cniVersion"] == LATEST


def test_without_a_command_the_executable_says_what_it_is() -> None:
    outcome = run_plugin({}, b"")
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 4)


NO_OBJECTS = (
    *(b"[]", b"1", b"x", b" ", b"{", b"{a:1}", b"{}{}", b'{"a"}', b'{"a":}', b'{"a":]}', b'{"a":1,}', b'{,"a":1}'),
    *(b'{"a":1 "b":2}', b'{"a":[}', b'{"a":"x}', b'{"a":1}x', b'{"a":"\\', b'{"a":{"b":[1,2}'),
)


@pytest.mark.parametrize("stdin", NO_OBJECTS)
def test_what_is_no_json_object_goes_to_no_agent(stdin: bytes) -> None:
    outcome = run_plugin(environment("ADD"), stdin)
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 6)


@pytest.mark.parametrize("value", [7, None, "", "cni.sock", "/a\nb", '/a"b', "/" + "x" * 108, ["/run/cni.sock"]])
def test_a_socket_that_cannot_be_one_is_an_error_of_the_configuration(path: Path, value: object) -> None:
    outcome = run_plugin(environment("ADD"), conf(path, socket=value))
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 7)


def test_only_the_socket_at_the_top_of_the_configuration_counts(path: Path) -> None:
    document = b'{"a": {"socket": "/no"}, "b": [{"socket": "/no"}], "socket" : "%b", "c": "socket\\":\\"/no"}'
    with FakeAgent(path, [b"0\n"]):
        assert run_plugin(environment("ADD"), document % os.fsencode(path)).returncode == 0


def test_the_executable_finds_the_socket_in_the_installed_configuration(path: Path) -> None:
    plugin = json.dumps(json.loads(render_conflist(path))["plugins"][0]).encode()
    with FakeAgent(path, [b"0\n"]):
        assert run_plugin(environment("ADD"), plugin).returncode == 0


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@settings(max_examples=80, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.text().filter(lambda key: key != "socket"), JSON), st.sampled_from([None, 2]))
def test_every_json_object_is_understood(document: dict[str, object], indent: int | None) -> None:
    stdin = json.dumps({**document, "cniVersion": "0.4.0"}, indent=indent).encode()
    outcome = run_plugin({"CNI_COMMAND": "VERSION"}, stdin)
    assert (outcome.returncode, json.loads(outcome.stdout)["cniVersion"]) == (0, "0.4.0")


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The executable with a deadline of one second."""
    target = tmp_path_factory.mktemp("impatient") / "k8s-ovs"
    subprocess.run(
        ["musl-gcc", "-static", "-D_GNU_SOURCE", "-DDEADLINE_S=1", "-o", target, SHIM / "k8s-ovs.c"], check=True
    )
    return target


@pytest.mark.parametrize(("command", "code"), [("ADD", 11), ("DEL", 11), ("STATUS", 50)])
def test_an_agent_that_never_answers_is_given_up(path: Path, impatient: Path, command: str, code: int) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(path))
        listener.listen()
        outcome = run_plugin(environment(command), conf(path, filling="x" * 900_000), impatient)
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, code)
    assert "1 s" in json.loads(outcome.stdout)["msg"]


def test_an_agent_whose_queue_stays_full_is_given_up(path: Path, impatient: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener, socket.socket(socket.AF_UNIX) as other:
        listener.bind(str(path))
        listener.listen(0)
        other.connect(str(path))
        outcome = run_plugin(environment("ADD"), conf(path), impatient)
    assert (outcome.returncode, error_code(outcome.stdout)) == (1, 11)


def test_standard_input_that_stays_open_is_given_up(impatient: Path) -> None:
    with subprocess.Popen(
        [impatient], stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment("ADD")
    ) as process:
        assert process.stdout is not None
        assert error_code(process.stdout.read()) == 5


def test_the_executable_needs_nothing_of_the_host(tmp_path: Path) -> None:
    target = tmp_path / "k8s-ovs"
    target.write_bytes(EXECUTABLE.read_bytes())
    target.chmod(0o755)
    variables = {"CNI_COMMAND": "VERSION", "PATH": os.environ["PATH"]}
    command = ["chroot", tmp_path, "/k8s-ovs"]
    outcome = subprocess.run(command, stdin=subprocess.DEVNULL, env=variables, capture_output=True)
    assert json.loads(outcome.stdout)["supportedVersions"] == list(SUPPORTED)


def test_building_again_does_nothing_and_says_nothing() -> None:
    before = EXECUTABLE.stat()
    outcome = subprocess.run(["make", "--silent", "--directory", SHIM], capture_output=True, check=True)
    assert (outcome.stdout, outcome.stderr, EXECUTABLE.stat().st_mtime_ns) == (b"", b"", before.st_mtime_ns)
