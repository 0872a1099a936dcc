"""Commands of `k8sovs` that cannot be carried out: one line says what and why."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.lab import K8SOVS, LabUnderTest, k8sovs

LAB_OPTIONS = ("--nodes", "1")

FAILURE = 1
READER_GONE = 141

BACKENDS = ("edge", "backends", "red/web", "--format", "json")
FAILURES = {
    ("net", "join", "red", ""): "'' cannot be the name of a namespace",
    ("net", "join", "default", "\x1b[31m"): r"'\x1b[31m' cannot be the name of a namespace",
    ("net", "join", "default", "nobody", "--wait"): "there is no namespace 'nobody' to join",
    ("net", "isolate", "../vnids/default"): "'../vnids/default' cannot be the name of a namespace",
    ("net", "global", "nobody"): "there is no namespace nobody",
    ("net", "ls", "--prefix", "/nowhere"): "/nowhere/config does not exist",
    ("net", "ls", "--prefix", "x/"): "prefix: 'x/' (from flag --prefix) cannot be used",
    ("net", "ls", "--config", "/nowhere"): "configuration file /nowhere cannot be read",
    ("net", "ls", "--etcd-endpoints", "http://127.0.0.1:99999"): "'http://127.0.0.1:99999' is not of the form",
    ("status", "--etcd-endpoints", "http://127.0.0.1:1"): "etcd at http://127.0.0.1:1: no connection",
    ("status", "--config", "/etc/hostname"): "configuration file /etc/hostname cannot be read",
    ("edge", "ls", "--etcd-endpoints", "http://127.0.0.1:1"): "etcd at http://127.0.0.1:1: no connection",
    (
        "edge",
        "add",
        "192.0.2.77",
        "--etcd-endpoints",
        "http://127.0.0.1:1",
    ): "etcd at http://127.0.0.1:1: no connection",
    ("edge", "rm", "192.0.2.77", "--etcd-endpoints", "http://127.0.0.1:1"): "etcd at http://127.0.0.1:1: no connection",
    ("edge", "rm", "192.0.2.77"): "there is no host 192.0.2.77: see k8sovs edge ls",
    (*BACKENDS, "--kubeconfig", "/nowhere"): "Kubernetes configuration of /nowhere",
    (*BACKENDS, "--kubeconfig", "/dev/null"): "Kubernetes configuration of /dev/null",
}


@pytest.mark.parametrize(("words", "said"), FAILURES.items(), ids=[repr(" ".join(words)) for words in FAILURES])
def test_a_command_that_fails_says_why_in_one_line(lab: LabUnderTest, words: tuple[str, ...], said: str) -> None:
    done = k8sovs(*words, env=lab.env)
    assert (done.returncode, done.stdout) == (FAILURE, "")
    assert len(done.stderr.splitlines()) == 1
    assert said in done.stderr


def test_a_reader_who_leaves_early_is_no_reason_for_a_traceback(lab: LabUnderTest) -> None:
    reader, writer = os.pipe()
    os.close(reader)
    with os.fdopen(writer) as output:
        command = [K8SOVS, "net", "ls"]
        done = subprocess.run(command, stdout=output, stderr=subprocess.PIPE, text=True, env=lab.env, check=False)
    assert (done.returncode, done.stderr) == (READER_GONE, "")


@pytest.mark.parametrize(
    "output", ["/nowhere/list", "/proc/list", "/"], ids=["no-directory", "no-new-file", "directory"]
)
def test_a_list_that_cannot_be_written_is_said_with_its_file(lab: LabUnderTest, output: str) -> None:
    lab.run("kubectl", "create", "service", "clusterip", f"web{len(output)}", "--tcp=80")
    words = ("edge", "backends", f"default/web{len(output)}", "--format", "json", "--output", output)
    done = k8sovs(*words, env=lab.env)
    assert (done.returncode, done.stdout) == (FAILURE, "")
    assert len(done.stderr.splitlines()) == 1
    assert f"file='{output}'" in done.stderr


@pytest.mark.parametrize("verb", ["start", "stop"])
def test_an_absent_host_is_said_with_those_that_are_there(lab: LabUnderTest, verb: str) -> None:
    done = k8sovs("lab", verb, "--name", lab.name, "agent", "edge7")
    assert (done.returncode, done.stdout) == (FAILURE, "")
    assert f"lab '{lab.name}' has no 'agent edge7'; it has agent node1" in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_command_on_an_absent_host_names_the_hosts(lab: LabUnderTest) -> None:
    done = k8sovs("lab", "exec", "--name", lab.name, "edge7", "--", "true")
    assert (done.returncode, done.stdout) == (FAILURE, "")
    assert "there is no host 'edge7': the hosts are node1" in done.stderr
