"""CNI specification 1.1.0, section 2, CHECK. Each test is one of its sentences."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

import pytest

from tests.conformance.runtime import Container

pytestmark = pytest.mark.since("0.4.0")


def test_check_must_consult_the_prev_result_for_the_expected_addresses(container: Container) -> None:
    result = container.add().result
    other = copy.deepcopy(result)
    other["ips"][0]["address"] = "203.0.113.99/24"
    assert container.check(other).status != 0
    assert container.check(result).status == 0


def test_check_must_consult_the_prev_result_for_the_expected_interfaces(container: Container) -> None:
    result = container.add().result
    other = copy.deepcopy(result)
    other["interfaces"] = [one for one in other["interfaces"] if not one.get("sandbox")]
    for ip in other["ips"]:
        ip.pop("interface", None)
    assert container.check(other).status != 0


def test_check_must_allow_for_a_later_plugin_to_have_added_routes(container: Container) -> None:
    result = container.add().result
    gateway = result["ips"][0]["gateway"]
    container.sandbox.run("ip", "route", "add", "203.0.113.0/24", "via", gateway, "dev", "eth0", "onlink")
    result.setdefault("routes", []).append({"dst": "203.0.113.0/24", "gw": gateway})
    assert container.check(result).status == 0


def test_check_must_allow_for_a_later_plugin_to_have_removed_routes(container: Container) -> None:
    result = container.add().result
    container.sandbox.run("ip", "route", "delete", "default")
    result["routes"] = [route for route in result["routes"] if route["dst"] != "0.0.0.0/0"]
    assert container.check(result).status == 0


def test_check_must_allow_for_a_later_plugin_to_have_added_interfaces(container: Container) -> None:
    result = container.add().result
    container.sandbox.run("ip", "link", "add", "later0", "type", "veth", "peer", "name", "later1")
    result["interfaces"].append({"name": "later0", "sandbox": container.sandbox.path})
    assert container.check(result).status == 0


MISSING: dict[str, Callable[[Container], Any]] = {
    "interface": lambda container: container.sandbox.run("ip", "link", "delete", "eth0"),
    "address": lambda container: container.sandbox.run("ip", "address", "flush", "dev", "eth0"),
    "route": lambda container: container.sandbox.run("ip", "route", "delete", "default"),
}


@pytest.mark.parametrize("resource", MISSING)
def test_check_should_return_an_error_if_what_the_result_lists_is_missing(container: Container, resource: str) -> None:
    result = container.add().result
    assert container.check(result).status == 0
    MISSING[resource](container)
    assert container.check(result).error["code"] > 0


def test_check_should_return_an_error_if_the_container_is_generally_unreachable(container: Container) -> None:
    result = container.add().result
    container.subject.host("ip", "link", "set", container.peer(), "down")
    assert container.check(result).error["code"] > 0


def test_check_must_handle_being_called_immediately_after_an_add(container: Container) -> None:
    assert container.check(container.add().result).status == 0


def test_check_may_be_executed_up_until_the_delete_and_changes_nothing(container: Container) -> None:
    result = container.add().result
    before = container.link(), container.routes()
    assert [container.check(result).status for _ in range(3)] == [0, 0, 0]
    assert (container.link(), container.routes()) == before


def test_check_has_no_output_on_success(container: Container) -> None:
    assert container.check(container.add().result).stdout == b""
