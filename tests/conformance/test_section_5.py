"""CNI specification 1.1.0, section 5: results and errors. Each test is one of its sentences."""

from __future__ import annotations

import json
from ipaddress import ip_interface, ip_network
from typing import Any

import pytest

from tests.conformance.runtime import Container, Subject, numbers

CODE_INCOMPATIBLE, CODE_INVALID_ENVIRONMENT, CODE_DECODING, CODE_INVALID_CONFIG = 1, 4, 6, 7


def inside(result: dict[str, Any]) -> dict[str, Any]:
    """The interface inside the container."""
    (interface,) = [one for one in result["interfaces"] if one.get("sandbox")]
    found: dict[str, Any] = interface
    return found


def test_result_cni_version_is_the_same_as_supplied_on_input(subject: Subject) -> None:
    for version in subject.versions:
        with subject.container() as container:
            assert container.add(cniVersion=version).result["cniVersion"] == version


def test_result_interfaces_are_all_those_that_were_created_the_hosts_among_them(container: Container) -> None:
    before = {link["ifname"] for link in json.loads(container.subject.host("ip", "-json", "link"))}
    result = container.add().result
    made = {link["ifname"] for link in json.loads(container.subject.host("ip", "-json", "link"))} - before
    told = {one["name"] for one in result["interfaces"] if not one.get("sandbox")}
    assert made <= told <= made | before
    assert inside(result)["name"] == "eth0"


def test_result_the_mac_is_the_hardware_address(container: Container) -> None:
    interface = inside(container.add().result)
    link = container.link()
    assert link is not None
    assert interface["mac"] == link["address"]


@pytest.mark.since("1.1.0")
def test_result_the_mtu_is_that_of_the_interface(container: Container) -> None:
    interface = inside(container.add().result)
    link = container.link()
    assert link is not None
    assert interface["mtu"] == link["mtu"]


def test_result_the_sandbox_is_the_value_passed_by_cni_netns(container: Container) -> None:
    assert inside(container.add().result)["sandbox"] == container.sandbox.path


def test_result_the_ips_are_those_assigned(container: Container) -> None:
    result = container.add().result
    assert {str(ip_interface(ip["address"])) for ip in result["ips"]} == container.addresses()


def test_result_the_gateway_is_in_the_subnet_of_the_address(container: Container) -> None:
    for ip in container.add().result["ips"]:
        assert ip_interface(ip["gateway"]).ip in ip_interface(ip["address"]).network


def test_result_the_interface_of_an_ip_is_an_index_into_the_interfaces(container: Container) -> None:
    result = container.add().result
    assert {result["interfaces"][ip["interface"]]["name"] for ip in result["ips"]} == {"eth0"}


def test_result_the_routes_are_those_created(container: Container) -> None:
    result = container.add().result
    assert {str(ip_network(route["dst"])) for route in result["routes"]} <= container.routes()


def test_result_the_dns_is_a_dictionary(container: Container) -> None:
    assert isinstance(container.add().result.get("dns", {}), dict)


@pytest.mark.parametrize("version", ["9.9.9", "2.0.0", None], ids=str)
def test_error_1_incompatible_version(container: Container, version: str | None) -> None:
    outcome = container.subject.execute(container.variables("ADD"), container.subject.request(cniVersion=version))
    assert outcome.error["code"] == CODE_INCOMPATIBLE
    assert container.link() is None


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME", "CNI_COMMAND"])
def test_error_4_must_contain_the_names_of_missing_variables(container: Container, variable: str) -> None:
    variables = container.variables("ADD", **{variable: None})
    outcome = container.subject.execute(variables, container.subject.request())
    assert outcome.error["code"] == CODE_INVALID_ENVIRONMENT
    assert variable in outcome.message


@pytest.mark.parametrize("variable", ["CNI_CONTAINERID", "CNI_IFNAME"])
def test_error_4_must_contain_the_names_of_invalid_variables(container: Container, variable: str) -> None:
    variables = container.variables("ADD", **{variable: "not/possible"})
    outcome = container.subject.execute(variables, container.subject.request())
    assert outcome.error["code"] == CODE_INVALID_ENVIRONMENT
    assert variable in outcome.message


@pytest.mark.parametrize("stdin", [b"", b"no json", b"[]", b'{"cniVersion": '], ids=["empty", "word", "list", "half"])
def test_error_6_failed_to_decode_content(container: Container, stdin: bytes) -> None:
    assert container.subject.execute(container.variables("ADD"), stdin).error["code"] == CODE_DECODING


def test_error_7_invalid_network_configuration(container: Container) -> None:
    outcome = container.subject.execute(container.variables("ADD"), container.subject.request(name=None))
    assert outcome.error["code"] == CODE_INVALID_CONFIG


def test_error_cni_version_is_the_protocol_version_in_use(subject: Subject) -> None:
    for version in subject.versions:
        with subject.container() as container:
            variables = container.variables("ADD", CNI_NETNS="/run/netns/not-there")
            error = subject.execute(variables, subject.request(cniVersion=version)).error
            assert error["cniVersion"] == version


def test_error_codes_are_numbers_well_known_or_at_least_100(container: Container) -> None:
    variables = container.variables("ADD", CNI_NETNS="/run/netns/not-there")
    code = container.subject.execute(variables, container.subject.request()).error["code"]
    assert code in {1, 2, 3, 4, 5, 6, 7, 11} or code >= 100


def test_versions_are_of_the_form_that_semantic_versioning_gives_them(subject: Subject) -> None:
    assert all(len(numbers(version)) == 3 for version in subject.versions)
