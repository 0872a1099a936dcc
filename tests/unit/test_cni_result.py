import json
from ipaddress import IPv4Address, IPv4Interface, IPv4Network

import pytest

from cni.errors import CniError, ErrorCode
from cni.result import Dns, Interface, IpConfig, Result, Route
from cni.versions import SUPPORTED

RESULT = Result(
    interfaces=(
        Interface("k8o0123456789a", "3e:00:00:00:00:01", mtu=1450),
        Interface("eth0", "0a:58:ac:0b:00:02", sandbox="/var/run/netns/x", mtu=1450),
    ),
    ips=(IpConfig(IPv4Interface("172.11.0.2/22"), IPv4Address("172.11.0.1"), 1),),
    routes=(Route(IPv4Network("172.11.0.1/32")), Route(IPv4Network("0.0.0.0/0"), IPv4Address("172.11.0.1"))),
)


@pytest.mark.parametrize("version", SUPPORTED)
def test_a_result_says_in_every_version_what_the_container_has(version: str) -> None:
    rendered = json.loads(RESULT.render(version))
    assert rendered["cniVersion"] == version
    assert [interface["name"] for interface in rendered["interfaces"]] == ["k8o0123456789a", "eth0"]
    assert rendered["interfaces"][rendered["ips"][0]["interface"]]["sandbox"] == "/var/run/netns/x"
    assert rendered["ips"][0]["address"] == "172.11.0.2/22"
    assert rendered["routes"] == [{"dst": "172.11.0.1/32"}, {"dst": "0.0.0.0/0", "gw": "172.11.0.1"}]
    assert rendered["dns"] == {}


def test_an_interface_on_the_host_has_no_sandbox() -> None:
    assert "sandbox" not in json.loads(RESULT.render("1.0.0"))["interfaces"][0]


@pytest.mark.parametrize("version", ["0.3.0", "0.3.1", "0.4.0"])
def test_an_address_names_its_family_before_version_1(version: str) -> None:
    assert json.loads(RESULT.render(version))["ips"][0]["version"] == "4"


@pytest.mark.parametrize("version", ["1.0.0", "1.1.0"])
def test_an_address_has_no_family_field_from_version_1(version: str) -> None:
    assert "version" not in json.loads(RESULT.render(version))["ips"][0]


def test_the_mtu_is_told_from_version_1_1_only() -> None:
    told = {version: "mtu" in json.loads(RESULT.render(version))["interfaces"][1] for version in SUPPORTED}
    assert told == {"0.3.0": False, "0.3.1": False, "0.4.0": False, "1.0.0": False, "1.1.0": True}


def test_an_address_of_the_first_interface_keeps_its_zero() -> None:
    result = Result((Interface("eth0", "0a:58:ac:0b:00:02"),), (IpConfig(IPv4Interface("172.11.0.2/22"), None, 0),))
    assert json.loads(result.render("1.0.0"))["ips"] == [{"interface": 0, "address": "172.11.0.2/22"}]


def test_name_resolution_is_told_where_there_is_something_to_tell() -> None:
    rendered = json.loads(Result(dns=Dns(nameservers=("10.96.0.10",))).render("1.0.0"))
    assert rendered["dns"] == {"nameservers": ["10.96.0.10"]}


def test_an_error_is_code_message_and_details() -> None:
    error = CniError(ErrorCode.SUBNET_FULL, 'no "address" left', "details")
    assert json.loads(error.render("0.4.0")) == {
        "cniVersion": "0.4.0",
        "code": 101,
        "msg": 'no "address" left',
        "details": "details",
    }


def test_an_error_without_details_leaves_them_out() -> None:
    assert "details" not in json.loads(CniError(ErrorCode.IO_FAILURE, "x").render())
