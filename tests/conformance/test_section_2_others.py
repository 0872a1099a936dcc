"""CNI specification 1.1.0, section 2: STATUS, VERSION, GC. Each test is one of its sentences."""

from __future__ import annotations

import json

import pytest

from tests.conformance.runtime import Container, Outcome, Subject

NOT_AVAILABLE = {50, 51}


def status(subject: Subject, **fields: object) -> Outcome:
    return subject.execute({"CNI_COMMAND": "STATUS", "CNI_PATH": subject.cni_path}, subject.request(**fields))


@pytest.mark.since("1.1.0")
def test_status_must_exit_with_0_if_the_plugin_is_ready_to_service_add(subject: Subject) -> None:
    assert status(subject).status == 0
    with subject.container() as container:
        assert container.add().status == 0


@pytest.mark.since("1.1.0")
def test_status_must_exit_with_another_code_and_an_error_if_it_cannot_service_add(
    subject: Subject, container: Container
) -> None:
    if subject.unavailable is None:
        pytest.skip("nobody has said with which configuration this plugin cannot serve")
    variables = container.variables("ADD")
    assert subject.execute(variables, subject.request(**subject.unavailable)).status != 0
    assert status(subject, **subject.unavailable).error["code"] in NOT_AVAILABLE


@pytest.mark.since("1.1.0")
def test_status_needs_no_parameter_but_the_command(subject: Subject) -> None:
    assert subject.execute({"CNI_COMMAND": "STATUS"}, subject.request()).status == 0


@pytest.mark.since("1.1.0")
def test_status_must_not_be_relied_on_by_other_operations(subject: Subject, container: Container) -> None:
    if subject.unavailable is not None:
        status(subject, **subject.unavailable)
    assert container.add().status == 0


@pytest.mark.parametrize("version", ["0.4.0", "1.0.0", "1.1.0"])
def test_version_must_output_the_version_of_the_input_and_a_list(subject: Subject, version: str) -> None:
    said = subject.execute({"CNI_COMMAND": "VERSION"}, json.dumps({"cniVersion": version}).encode()).result
    assert said["cniVersion"] == version
    assert said["supportedVersions"]
    assert all(isinstance(one, str) for one in said["supportedVersions"])


def test_version_supported_versions_are_those_that_are_served(subject: Subject) -> None:
    for version in subject.versions:
        with subject.container() as container:
            assert container.add(cniVersion=version).status == 0


def gc(subject: Subject, *valid: Container) -> Outcome:
    listed = [{"containerID": one.identifier, "ifname": "eth0"} for one in valid]
    fields = {"cni.dev/valid-attachments": listed}
    return subject.execute({"CNI_COMMAND": "GC", "CNI_PATH": subject.cni_path}, subject.request(**fields))


@pytest.mark.since("1.1.0")
def test_gc_leaves_the_valid_attachments(subject: Subject, container: Container) -> None:
    result = container.add().result
    assert gc(subject, container).status == 0
    assert container.check(result).status == 0


@pytest.mark.since("1.1.0")
def test_gc_should_remove_as_many_stale_resources_as_possible(subject: Subject, container: Container) -> None:
    with subject.container() as gone:
        gone.add()
        gone.used.clear()
    result = container.add().result
    assert gc(subject, container).status == 0
    with subject.container() as again:
        again.identifier = gone.identifier
        assert again.add().status == 0
    assert container.check(result).status == 0


@pytest.mark.since("1.1.0")
def test_gc_concerns_this_network_alone(subject: Subject, container: Container) -> None:
    result = container.add().result
    variables = {"CNI_COMMAND": "GC", "CNI_PATH": subject.cni_path}
    fields = {"name": "another", "cni.dev/valid-attachments": []}
    assert subject.execute(variables, subject.request(**fields)).status == 0
    assert container.check(result).status == 0


@pytest.mark.since("1.1.0")
def test_gc_should_complete_without_error_where_there_is_nothing_and_say_nothing(subject: Subject) -> None:
    for _ in range(2):
        done = gc(subject)
        assert (done.status, done.stdout) == (0, b"")
