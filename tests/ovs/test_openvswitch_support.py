"""The private switch that the other tests of this tier stand on."""

from __future__ import annotations

import pytest

from tests.support.openvswitch import CommandFailed, OpenVswitch


def test_a_bridge_answers_on_its_management_socket_at_once(openvswitch: OpenVswitch) -> None:
    openvswitch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "fail_mode=secure")
    assert openvswitch.mgmt("br0").is_socket()
    assert "n_tables:254" in openvswitch.ofctl("show", "br0")


def test_a_trace_follows_the_flows(openvswitch: OpenVswitch) -> None:
    openvswitch.vsctl(
        "add-br", "br0", "--", "add-port", "br0", "p1", "--", "set", "Interface", "p1", "ofport_request=7"
    )
    openvswitch.ofctl("add-flow", "br0", "priority=9,arp,actions=output:7")
    assert "output:7" in openvswitch.trace("br0", "arp")


def test_flows_are_gone_after_the_switch_daemon_was_killed(openvswitch: OpenVswitch) -> None:
    openvswitch.vsctl("add-br", "br0", "--", "set", "Bridge", "br0", "fail_mode=secure")
    openvswitch.ofctl("add-flow", "br0", "actions=drop")
    openvswitch.kill_vswitchd()
    openvswitch.start_vswitchd()
    assert "actions=drop" not in openvswitch.ofctl("dump-flows", "br0")


def test_the_database_comes_back_with_its_bridges(openvswitch: OpenVswitch) -> None:
    openvswitch.vsctl("add-br", "br0")
    openvswitch.kill_ovsdb()
    openvswitch.start_ovsdb()
    assert openvswitch.vsctl("list-br").split() == ["br0"]


def test_a_failing_command_says_what_went_wrong(openvswitch: OpenVswitch) -> None:
    with pytest.raises(CommandFailed, match="no bridge named br9"):
        openvswitch.vsctl("list-ports", "br9")


def test_nothing_of_the_switch_is_left_after_the_test() -> None:
    with OpenVswitch() as openvswitch:
        rundir = openvswitch.rundir
        openvswitch.vsctl("add-br", "br0")
    assert not rundir.exists()
