"""CNI specification 1.1.0, section 4: what a plugin that delegates must do. For one with an `ipam` section."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from tests.conformance.runtime import Subject

_RECORDER = """#!/bin/sh
cat >{calls}/$CNI_COMMAND.json
env >{calls}/$CNI_COMMAND.env
if [ -e {calls}/fail-$CNI_COMMAND ]; then
  echo '{{"cniVersion": "1.0.0", "code": 111, "msg": "told to fail"}}'
  exit 1
fi
exec {real} <{calls}/$CNI_COMMAND.json
"""


@dataclass(frozen=True)
class Delegate:
    """The delegated plugin, with somebody in front of it who notes what it is asked."""

    subject: Subject
    calls: Path

    def environment(self, command: str) -> dict[str, str]:
        lines = (self.calls / f"{command}.env").read_text().splitlines()
        return dict(line.split("=", 1) for line in lines if line.startswith("CNI_"))

    def conf(self, command: str) -> dict[str, object]:
        conf: dict[str, object] = json.loads((self.calls / f"{command}.json").read_text())
        return conf

    def fail(self, command: str) -> None:
        (self.calls / f"fail-{command}").touch()


@pytest.fixture
def delegate(subject: Subject, tmp_path: Path) -> Delegate:
    ipam = subject.conf.get("ipam")
    if not ipam:
        pytest.skip("the plugin delegates nothing")
    real = next(Path(one, ipam["type"]) for one in subject.cni_path.split(":") if Path(one, ipam["type"]).exists())
    recorder = tmp_path / ipam["type"]
    recorder.write_text(_RECORDER.format(calls=tmp_path, real=real))
    recorder.chmod(0o755)
    return Delegate(replace(subject, cni_path=f"{tmp_path}:{subject.cni_path}"), tmp_path)


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
def test_delegation_a_plugin_must_execute_its_delegates_with_its_own_environment(
    delegate: Delegate, command: str
) -> None:
    with delegate.subject.container() as container:
        result = container.add().result
        container.check(result)
        container.delete()
        assert delegate.environment(command) == container.variables(command)


@pytest.mark.parametrize("command", ["ADD", "CHECK", "DEL"])
def test_delegation_delegates_are_provided_the_complete_network_configuration(delegate: Delegate, command: str) -> None:
    with delegate.subject.container() as container:
        result = container.add().result
        container.check(result)
        container.delete()
    assert delegate.conf(command).items() >= json.loads(delegate.subject.request()).items()


@pytest.mark.parametrize("command", ["ADD", "CHECK"])
def test_delegation_if_a_delegate_returns_an_error_it_should_be_returned(delegate: Delegate, command: str) -> None:
    with delegate.subject.container() as container:
        result = container.add().result if command == "CHECK" else {}
        delegate.fail(command)
        outcome = container.check(result) if command == "CHECK" else container.add()
        assert "told to fail" in outcome.message


def test_delegation_if_a_delegate_fails_on_add_the_plugin_should_execute_it_with_del(delegate: Delegate) -> None:
    delegate.fail("ADD")
    with delegate.subject.container() as container:
        assert container.add().status != 0
        assert delegate.environment("DEL")["CNI_CONTAINERID"] == container.identifier
