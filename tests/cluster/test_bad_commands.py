"""Commands of `k8sovs` that cannot be carried out: one line says what and why."""

from __future__ import annotations

import os
import subprocess

import pytest

from tests.support.lab import K8SOVS, LabUnderTest, k8sovs

LAB_OPTIONS = ("--nodes", "1")

FAILURE = 1
READER_GONE = 141

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
