"""CNI specification 1.1.0, section 1 (configuration) and 3 (execution), as far as plugins are meant."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from tests.conformance.runtime import Container, Subject

AT_ONCE = 8
CODE_INVALID_CONFIG = 7


@pytest.mark.parametrize("name", ["", ".a", "-a", "a/b", "../a", "a\\b", "a b"])
def test_configuration_the_name_must_start_with_an_alphanumeric_character_and_go_on_with_few_others(
    container: Container, name: str
) -> None:
    variables = container.variables("ADD")
    assert (
        container.subject.execute(variables, container.subject.request(name=name)).error["code"] == CODE_INVALID_CONFIG
    )
    assert container.link() is None


def test_configuration_unknown_fields_are_accepted_or_refused_in_words(container: Container) -> None:
    outcome = container.add(**{"example.com/unknown": {"a": [1]}})
    assert outcome.status == 0 or "example.com/unknown" in outcome.message


def test_lifecycle_plugins_must_handle_being_executed_concurrently_across_containers(subject: Subject) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as runtime:
        containers = [stack.enter_context(subject.container()) for _ in range(AT_ONCE)]
        results = [outcome.result for outcome in runtime.map(Container.add, containers)]
        assert len({result["ips"][0]["address"] for result in results}) == AT_ONCE
        assert all(container.link() is not None for container in containers)
        assert [outcome.status for outcome in runtime.map(Container.delete, containers)] == [0] * AT_ONCE
        for container in containers:
            container.wait_without()


def test_lifecycle_plugins_must_lock_what_they_share_while_containers_come_and_go(subject: Subject) -> None:
    with ExitStack() as stack, ThreadPoolExecutor(AT_ONCE) as runtime:
        containers = [stack.enter_context(subject.container()) for _ in range(AT_ONCE)]
        stays, goes = containers[: AT_ONCE // 2], containers[AT_ONCE // 2 :]
        for container in goes:
            container.add()
        leaving = [runtime.submit(container.delete) for container in goes]
        results = [outcome.result for outcome in runtime.map(Container.add, stays)]
        assert all(done.result().status == 0 for done in leaving)
        assert len({result["ips"][0]["address"] for result in results}) == len(stays)


def test_lifecycle_a_delete_must_still_be_executed_even_if_the_add_fails(container: Container) -> None:
    container.sandbox.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other0")
    assert container.add().status != 0
    container.sandbox.run("ip", "link", "delete", "eth0")
    assert container.delete().status == 0
    assert container.add().status == 0


def test_lifecycle_delete_may_be_followed_by_an_add(container: Container) -> None:
    for _ in range(3):
        assert container.add().status == 0
        assert container.delete().status == 0


@pytest.mark.since("1.1.0")
def test_deriving_reserved_keys_with_the_prefix_of_the_protocol_are_no_unknown_fields(container: Container) -> None:
    assert container.add(**{"cni.dev/attachments": []}).status == 0
