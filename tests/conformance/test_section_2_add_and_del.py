"""CNI specification 1.1.0, section 2: parameters, errors, ADD, DEL. Each test is one of its sentences."""

from __future__ import annotations

import pytest

from tests.conformance.runtime import Container, Subject, numbers

CODE_INVALID_ENVIRONMENT = 4


@pytest.mark.parametrize("identifier", ["", None], ids=["empty", "missing"])
@pytest.mark.parametrize("command", ["ADD", "DEL"])
def test_parameters_the_container_id_must_not_be_empty(
    container: Container, command: str, identifier: str | None
) -> None:
    variables = container.variables(command, CNI_CONTAINERID=identifier)
    assert container.subject.execute(variables, container.subject.request()).error["code"] == CODE_INVALID_ENVIRONMENT


@pytest.mark.parametrize("identifier", [".a", "-a", "_a", "a/b", "a b", "../a", "a\nb"])
def test_parameters_the_container_id_must_start_with_an_alphanumeric_character_and_go_on_with_few_others(
    container: Container, identifier: str
) -> None:
    variables = container.variables("ADD", CNI_CONTAINERID=identifier)
    assert container.subject.execute(variables, container.subject.request()).error["code"] == CODE_INVALID_ENVIRONMENT
    assert container.link() is None


@pytest.mark.parametrize("identifier", ["0", "a_b.c-d", "A" * 64])
def test_parameters_a_container_id_of_such_characters_is_accepted(container: Container, identifier: str) -> None:
    container.identifier = identifier
    assert container.add().status == 0


@pytest.mark.parametrize("ifname", ["x" * 16, "a/b", "a b", ".", ".."])
def test_parameters_if_the_plugin_is_unable_to_use_the_interface_name_it_must_return_an_error(
    container: Container, ifname: str
) -> None:
    variables = container.variables("ADD", ifname)
    assert container.subject.execute(variables, container.subject.request()).error["code"] > 0


@pytest.mark.parametrize("missing", ["CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"])
def test_add_required_environment_parameters(container: Container, missing: str) -> None:
    variables = container.variables("ADD", **{missing: None})
    error = container.subject.execute(variables, container.subject.request())
    assert error.error["code"] == CODE_INVALID_ENVIRONMENT
    assert container.link() is None


@pytest.mark.parametrize("optional", ["CNI_PATH", "CNI_ARGS"])
def test_del_optional_environment_parameters(container: Container, optional: str) -> None:
    variables = container.variables("DEL", **{optional: None, "CNI_PATH": container.subject.cni_path})
    assert container.subject.execute(variables, container.subject.request()).status == 0


def test_errors_a_plugin_must_exit_with_0_on_success(container: Container) -> None:
    assert container.add().status == 0
    assert container.delete().status == 0


def test_errors_a_plugin_must_exit_with_another_code_on_failure(container: Container) -> None:
    assert container.subject.execute(container.variables("ADD"), b"no json").status != 0


def test_errors_a_plugin_should_output_an_error_result_structure(container: Container) -> None:
    error = container.subject.execute(container.variables("ADD", CNI_IFNAME=None), container.subject.request()).error
    assert isinstance(error["code"], int)
    assert isinstance(error["msg"], str)


@pytest.mark.parametrize("command", ["", "add", "SUBTRACT", None])
def test_operations_there_are_no_others(container: Container, command: str | None) -> None:
    variables = container.variables("ADD", CNI_COMMAND=command)
    assert container.subject.execute(variables, container.subject.request()).error["code"] == CODE_INVALID_ENVIRONMENT


@pytest.mark.parametrize("ifname", ["eth0", "net1", "a", "eth0.100", "x" * 15])
def test_add_should_create_the_interface_defined_by_cni_ifname(container: Container, ifname: str) -> None:
    container.add(ifname)
    assert container.link(ifname) is not None


def test_add_if_successful_must_output_a_result_on_standard_out(container: Container) -> None:
    assert container.add().result["ips"]


PREVIOUS = {
    "interfaces": [{"name": "other0", "mac": "02:00:00:00:00:01", "sandbox": "/run/netns/elsewhere"}],
    "ips": [{"address": "203.0.113.5/24", "gateway": "203.0.113.1", "interface": 0}],
    "routes": [{"dst": "203.0.113.0/24"}],
    "dns": {"nameservers": ["203.0.113.53"]},
}


def test_add_if_supplied_a_prev_result_must_pass_it_through_or_modify_it(container: Container) -> None:
    result = container.add(prevResult={"cniVersion": container.subject.version, **PREVIOUS}).result
    assert "203.0.113.5/24" in {ip["address"] for ip in result["ips"]}
    assert "other0" in {interface["name"] for interface in result["interfaces"]}
    for ip in result["ips"]:
        named = result["interfaces"][ip["interface"]]["name"]
        assert named == ("other0" if ip["address"] == "203.0.113.5/24" else "eth0")


def test_add_if_an_interface_of_the_requested_name_exists_must_return_an_error(container: Container) -> None:
    container.sandbox.run("ip", "link", "add", "eth0", "type", "veth", "peer", "name", "other0")
    before = container.link()
    assert container.subject.execute(container.variables("ADD"), container.subject.request()).error["code"] > 0
    assert container.link() == before


def test_add_a_container_may_be_added_more_than_once_with_different_interface_names(container: Container) -> None:
    first, second = container.add("eth0").result, container.add("net1").result
    assert container.link("eth0") is not None
    assert container.link("net1") is not None
    assert first["ips"][0]["address"] != second["ips"][0]["address"]
    if numbers(container.subject.version) >= (0, 4, 0):
        assert container.check(first, "eth0").status == 0
        assert container.check(second, "net1").status == 0


def test_del_should_delete_the_interface_defined_by_cni_ifname(container: Container) -> None:
    container.add()
    assert container.delete().status == 0
    container.wait_without()


def test_del_should_leave_the_other_interfaces(container: Container) -> None:
    container.add("eth0")
    container.add("net1")
    container.delete("net1")
    container.wait_without("net1")
    assert container.link("eth0") is not None


@pytest.mark.parametrize("previous", [None, {}], ids=["missing", "empty"])
def test_del_should_still_return_without_error_if_prev_result_is_empty(
    container: Container, previous: dict[str, object] | None
) -> None:
    container.add()
    assert container.delete(prevResult=previous).status == 0
    container.wait_without()


def test_del_must_take_a_prev_result(container: Container) -> None:
    result = container.add().result
    assert container.delete(prevResult=result).status == 0


def test_del_should_complete_without_error_though_the_interface_is_missing(container: Container) -> None:
    container.add()
    container.sandbox.run("ip", "link", "delete", "eth0")
    assert container.delete().status == 0


@pytest.mark.parametrize("told", [True, False], ids=["named", "not-named"])
def test_del_should_complete_without_error_though_the_network_namespace_is_gone(subject: Subject, told: bool) -> None:
    with subject.container() as container:
        container.add()
        path = container.sandbox.path
        container.used.clear()
    assert container.delete(netns=path if told else None).status == 0


def test_del_must_be_accepted_several_times_for_the_same_pair(container: Container) -> None:
    container.add()
    assert [container.delete().status for _ in range(3)] == [0, 0, 0]


def test_del_must_succeed_if_there_never_was_an_add(container: Container) -> None:
    assert container.delete().status == 0
