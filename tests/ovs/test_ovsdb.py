"""The connection to the switch's database, against a private Open vSwitch, judged by ovs-vsctl and ovs-ofctl."""

from __future__ import annotations

import asyncio
import json
import subprocess
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import replace
from ipaddress import IPv4Address

import pytest

from agent.ovsdb import COMMENT, BridgeSpec, BridgeView, Ovsdb, OvsdbError, PodPort
from tests.support.openvswitch import OpenVswitch
from tests.support.processes import hanging

DEADLINE_S = 10.0
SPEC = BridgeSpec(
    datapath_type="netdev",
    local_ip=IPv4Address("192.0.2.11"),
    vxlan_port=4789,
    gateway_mac="0a:58:ac:0b:00:01",
    mtu=1450,
    external_ids={"k8sovs-rules": "1"},
)


@asynccontextmanager
async def running(switch: OpenVswitch, deadline_s: float = DEADLINE_S) -> AsyncIterator[Ovsdb]:
    """A connection to the database of `switch`."""
    ovsdb = Ovsdb(str(switch.db_socket), deadline_s=deadline_s)
    task = asyncio.create_task(ovsdb.run())
    try:
        yield ovsdb
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


@pytest.fixture
async def ovsdb(openvswitch: OpenVswitch) -> AsyncIterator[Ovsdb]:
    async with running(openvswitch) as ovsdb:
        yield ovsdb


async def wait_until(ovsdb: Ovsdb, holds: Callable[[BridgeView], bool]) -> BridgeView:
    async with asyncio.timeout(DEADLINE_S):
        while True:
            seen = ovsdb.changes.count
            if ovsdb.view is not None and holds(ovsdb.view):
                return ovsdb.view
            await ovsdb.changes.wait_beyond(seen)


def pods(*numbers: int) -> list[PodPort]:
    return [PodPort(f"k8o{number}", number, {"k8sovs-address": f"172.11.0.{number}"}) for number in numbers]


async def add_ports(ovsdb: Ovsdb, ports: Sequence[PodPort]) -> dict[str, int]:
    """Insert them together and wait for all of their numbers."""
    await ovsdb.insert_ports(ports)
    return {port.name: await ovsdb.wait_forwarding(port.name) for port in ports}


def get(switch: OpenVswitch, table: str, record: str, column: str) -> str:
    return switch.vsctl("get", table, record, column).strip()


def logged_transactions(switch: OpenVswitch) -> list[str]:
    """Our transactions in the database's file, a line for each; the switch writes there too, in its own time."""
    return [line for line in (switch.rundir / "conf.db").read_text().splitlines() if COMMENT in line]


def empty_database(switch: OpenVswitch) -> None:
    """Leave the database as it is before anybody ran `ovs-vsctl init`."""
    deletion = json.dumps(["Open_vSwitch", {"op": "delete", "table": "Open_vSwitch", "where": []}])
    command = ["ovsdb-client", "transact", f"unix:{switch.db_socket}", deletion]
    subprocess.run(command, check=True, capture_output=True)


async def vsctl(switch: OpenVswitch, *arguments: str) -> str:
    """`ovs-vsctl`, while the connection under test goes on."""
    return await asyncio.to_thread(switch.vsctl, *arguments)


async def test_before_the_bridge_exists_the_view_says_so(ovsdb: Ovsdb) -> None:
    view = await wait_until(ovsdb, lambda view: "netdev" in view.datapath_types)
    assert not view.exists
    assert view.ports == {}


async def test_the_bridge_is_as_specified(ovsdb: Ovsdb, openvswitch: OpenVswitch) -> None:
    await ovsdb.ensure_bridge(SPEC)
    assert get(openvswitch, "bridge", "br0", "fail_mode") == "secure"
    assert get(openvswitch, "bridge", "br0", "datapath_type") == "netdev"
    assert get(openvswitch, "bridge", "br0", "external_ids:k8sovs-rules") == '"1"'
    assert "OpenFlow15" in get(openvswitch, "bridge", "br0", "protocols")
    assert get(openvswitch, "interface", "vxlan0", "options") == (
        '{dst_port="4789", key=flow, local_ip="192.0.2.11", remote_ip=flow}'
    )
    assert get(openvswitch, "interface", "tun0", "mac_in_use") == '"0a:58:ac:0b:00:01"'
    assert get(openvswitch, "interface", "tun0", "mtu_request") == "1450"


async def test_tunnel_and_gateway_have_their_fixed_numbers(ovsdb: Ovsdb, openvswitch: OpenVswitch) -> None:
    await ovsdb.ensure_bridge(SPEC)
    shown = openvswitch.ofctl("show", "br0")
    assert " 1(vxlan0)" in shown
    assert " 2(tun0)" in shown


async def test_a_squatter_on_a_fixed_number_is_moved_and_keeps_forwarding(
    ovsdb: Ovsdb, openvswitch: OpenVswitch
) -> None:
    await vsctl(openvswitch, "add-br", "br0", "--", "set", "bridge", "br0", "datapath_type=netdev")
    await vsctl(openvswitch, "add-port", "br0", "first", "--", "add-port", "br0", "second")
    await ovsdb.ensure_bridge(SPEC)
    shown = openvswitch.ofctl("show", "br0")
    assert " 1(vxlan0)" in shown
    assert " 2(tun0)" in shown
    assert "(first)" in shown
    assert "(second)" in shown


async def test_ensuring_a_bridge_that_is_right_writes_nothing(ovsdb: Ovsdb, openvswitch: OpenVswitch) -> None:
    await ovsdb.ensure_bridge(SPEC)
    before = len(logged_transactions(openvswitch))
    await ovsdb.ensure_bridge(SPEC)
    assert len(logged_transactions(openvswitch)) == before > 0
    await ovsdb.ensure_bridge(replace(SPEC, mtu=1400))
    assert len(logged_transactions(openvswitch)) > before


async def test_a_damaged_bridge_is_repaired_and_keeps_pods_and_operators_keys(
    ovsdb: Ovsdb, openvswitch: OpenVswitch
) -> None:
    await ovsdb.ensure_bridge(SPEC)
    await add_ports(ovsdb, pods(256))
    await vsctl(openvswitch, "del-port", "tun0", "--", "set", "bridge", "br0", "fail_mode=standalone")
    await vsctl(
        openvswitch, "set", "bridge", "br0", "external_ids:operator=me", "other_config:hwaddr=02:00:00:00:00:01"
    )
    await wait_until(ovsdb, lambda view: "tun0" not in view.ports and "operator" in view.external_ids)
    await ovsdb.ensure_bridge(replace(SPEC, vxlan_port=8472))
    assert get(openvswitch, "bridge", "br0", "fail_mode") == "secure"
    assert get(openvswitch, "bridge", "br0", "external_ids:operator") == "me"
    assert get(openvswitch, "bridge", "br0", "other_config:hwaddr") == '"02:00:00:00:00:01"'
    assert get(openvswitch, "interface", "vxlan0", "options:dst_port") == '"8472"'
    assert get(openvswitch, "interface", "tun0", "ofport") == "2"
    assert get(openvswitch, "interface", "k8o256", "ofport") == "256"


async def test_a_bridge_of_somebody_else_is_seen_and_left_alone(ovsdb: Ovsdb, openvswitch: OpenVswitch) -> None:
    await vsctl(openvswitch, "add-br", "br-phy", "--", "add-port", "br-phy", "eth1")
    await ovsdb.ensure_bridge(SPEC)
    view = await wait_until(ovsdb, lambda view: "br-phy" in view.others)
    assert view.others["br-phy"].ports == {"br-phy": "internal", "eth1": ""}
    assert set(openvswitch.vsctl("list-ports", "br-phy").split()) == {"eth1"}


async def test_ports_get_the_numbers_they_ask_for_and_keep_what_is_remembered(
    ovsdb: Ovsdb, openvswitch: OpenVswitch
) -> None:
    await ovsdb.ensure_bridge(SPEC)
    assert await add_ports(ovsdb, pods(256, 257, 300)) == {"k8o256": 256, "k8o257": 257, "k8o300": 300}
    shown = openvswitch.ofctl("show", "br0")
    assert all(f" {number}(k8o{number})" in shown for number in (256, 257, 300))
    assert get(openvswitch, "interface", "k8o300", "external_ids") == '{k8sovs-address="172.11.0.300"}'
    view = ovsdb.view
    assert view is not None
    assert view.ports["k8o300"].external_ids == {"k8sovs-address": "172.11.0.300"}


async def test_a_number_that_is_taken_gives_another_and_the_truth_is_told(ovsdb: Ovsdb) -> None:
    await ovsdb.ensure_bridge(SPEC)
    await add_ports(ovsdb, pods(256))
    given = await add_ports(ovsdb, [PodPort("k8oother", 256, {})])
    assert ovsdb.view is not None
    assert given == {"k8oother": ovsdb.view.ports["k8oother"].ofport}
    assert given["k8oother"] != 256


async def test_many_callers_add_at_once(ovsdb: Ovsdb) -> None:
    await ovsdb.ensure_bridge(SPEC)
    results = await asyncio.gather(*(add_ports(ovsdb, pods(number)) for number in range(256, 296)))
    assert [number for result in results for number in result.values()] == list(range(256, 296))


async def test_adding_without_a_bridge_is_refused(ovsdb: Ovsdb) -> None:
    with pytest.raises(OvsdbError, match="no bridge br0"):
        await add_ports(ovsdb, pods(256))


async def test_what_the_database_refuses_is_said_in_its_words(ovsdb: Ovsdb, openvswitch: OpenVswitch) -> None:
    await vsctl(openvswitch, "add-br", "br-phy", "--", "add-port", "br-phy", "k8o256")
    await ovsdb.ensure_bridge(SPEC)
    with pytest.raises(OvsdbError, match="constraint violation"):
        await add_ports(ovsdb, pods(256))


async def test_an_addition_that_is_cancelled_leaves_no_port(openvswitch: OpenVswitch) -> None:
    async with running(openvswitch) as ovsdb:
        await ovsdb.ensure_bridge(SPEC)
        openvswitch.kill_vswitchd()
        adding = asyncio.create_task(add_ports(ovsdb, pods(256)))
        await wait_until(ovsdb, lambda view: "k8o256" in view.ports)
        adding.cancel()
        with pytest.raises(asyncio.CancelledError):
            await adding
        await wait_until(ovsdb, lambda view: "k8o256" not in view.ports)


async def test_an_addition_that_was_given_up_while_the_database_was_silent_leaves_no_port(
    openvswitch: OpenVswitch,
) -> None:
    """It has been sent, and is done after all: the port is removed when it is seen."""
    async with running(openvswitch) as ovsdb:
        await ovsdb.ensure_bridge(SPEC)
        pid = int((openvswitch.rundir / "ovsdb-server.pid").read_text())
        with hanging(pid):
            adding = asyncio.create_task(add_ports(ovsdb, pods(256)))
            await asyncio.sleep(0)  # the change is sent in the same turn
            adding.cancel()
            with pytest.raises(asyncio.CancelledError):
                await adding
        await wait_until(ovsdb, lambda view: "k8o256" in view.ports)
        await wait_until(ovsdb, lambda view: "k8o256" not in view.ports)
        assert await add_ports(ovsdb, pods(256)) == {"k8o256": 256}, "its name is free, and nobody's any more"
        await ovsdb.set_port_ids({"k8o256": {"x": "y"}})
        assert ovsdb.view is not None
        assert "k8o256" in ovsdb.view.ports


async def test_without_a_switch_daemon_an_addition_ends_at_its_deadline(openvswitch: OpenVswitch) -> None:
    async with running(openvswitch, deadline_s=DEADLINE_S) as ovsdb:
        await ovsdb.ensure_bridge(SPEC)
    openvswitch.kill_vswitchd()
    async with running(openvswitch, deadline_s=0.3) as ovsdb:
        await ovsdb.wait_connected()
        with pytest.raises(OvsdbError, match=r"did not do it within 0\.3 s"):
            await add_ports(ovsdb, pods(256))
        await wait_until(ovsdb, lambda view: "k8o256" not in view.ports)


async def test_ports_are_removed_together_and_missing_ones_are_no_error(ovsdb: Ovsdb, openvswitch: OpenVswitch) -> None:
    await ovsdb.ensure_bridge(SPEC)
    await add_ports(ovsdb, pods(256, 257, 258))
    await ovsdb.remove_ports(["k8o256", "k8o258", "k8ogone"])
    assert set(openvswitch.vsctl("list-ports", "br0").split()) == {"vxlan0", "tun0", "k8o257"}
    assert "k8o256" not in openvswitch.vsctl("--columns=name", "list", "interface")


async def test_a_name_that_was_removed_can_be_added_again_at_once(ovsdb: Ovsdb) -> None:
    await ovsdb.ensure_bridge(SPEC)
    for _ in range(5):
        assert await add_ports(ovsdb, pods(256)) == {"k8o256": 256}
        await ovsdb.remove_ports(["k8o256"])


async def test_ids_are_changed_and_others_keys_stay(ovsdb: Ovsdb, openvswitch: OpenVswitch) -> None:
    await ovsdb.ensure_bridge(SPEC)
    await add_ports(ovsdb, pods(256, 257))
    await vsctl(openvswitch, "set", "interface", "k8o256", "external_ids:operator=me")
    await wait_until(ovsdb, lambda view: "operator" in view.ports["k8o256"].external_ids)
    await ovsdb.set_port_ids({name: {"k8sovs-send": "7"} for name in ("k8o256", "k8o257", "k8ogone")})
    assert get(openvswitch, "interface", "k8o256", "external_ids") == (
        '{k8sovs-address="172.11.0.256", k8sovs-send="7", operator=me}'
    )
    assert get(openvswitch, "interface", "k8o257", "external_ids:k8sovs-send") == '"7"'


async def test_a_view_never_changes_and_a_port_that_did_not_change_is_the_same_object(ovsdb: Ovsdb) -> None:
    await ovsdb.ensure_bridge(SPEC)
    await add_ports(ovsdb, pods(256))
    before = ovsdb.view
    await add_ports(ovsdb, pods(257))
    assert before is not None
    assert ovsdb.view is not None
    assert "k8o257" not in before.ports
    assert ovsdb.view.ports["k8o256"] is before.ports["k8o256"]


async def test_after_a_restart_of_the_database_the_view_follows_again(ovsdb: Ovsdb, openvswitch: OpenVswitch) -> None:
    await ovsdb.ensure_bridge(SPEC)
    await add_ports(ovsdb, pods(256, 257))
    openvswitch.kill_ovsdb()
    await asyncio.to_thread(openvswitch.start_ovsdb)
    await vsctl(openvswitch, "--no-wait", "del-port", "k8o256")
    view = await wait_until(ovsdb, lambda view: "k8o256" not in view.ports)
    assert set(view.ports) == {"br0", "vxlan0", "tun0", "k8o257"}


async def test_a_change_asked_for_while_the_database_is_away_is_made_when_it_is_back(
    ovsdb: Ovsdb, openvswitch: OpenVswitch
) -> None:
    await ovsdb.ensure_bridge(SPEC)
    openvswitch.kill_ovsdb()
    adding = asyncio.create_task(add_ports(ovsdb, pods(256)))
    await asyncio.to_thread(openvswitch.start_ovsdb)
    assert await adding == {"k8o256": 256}


async def test_the_connection_waits_for_a_database_that_starts_later(openvswitch: OpenVswitch) -> None:
    openvswitch.kill_ovsdb()
    async with running(openvswitch) as ovsdb:
        waiting = asyncio.create_task(ovsdb.wait_connected())
        await asyncio.to_thread(openvswitch.start_ovsdb)
        async with asyncio.timeout(DEADLINE_S):
            await waiting


async def test_an_empty_database_is_waited_for(openvswitch: OpenVswitch) -> None:
    openvswitch.kill_vswitchd()
    empty_database(openvswitch)
    async with running(openvswitch) as ovsdb:
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(ovsdb.wait_connected(), timeout=0.2)
        await vsctl(openvswitch, "--no-wait", "init")
        await asyncio.wait_for(ovsdb.wait_connected(), timeout=DEADLINE_S)


async def test_flow_restore_wait_is_set_and_cleared_beside_other_settings(
    ovsdb: Ovsdb, openvswitch: OpenVswitch
) -> None:
    def settings() -> Sequence[object]:
        row = json.loads(openvswitch.vsctl("--format=json", "--columns=other_config", "list", "open_vswitch"))
        pairs: Sequence[object] = row["data"][0][0][1]
        return pairs

    await vsctl(openvswitch, "set", "open_vswitch", ".", "other_config:max-idle=5000")
    await ovsdb.wait_connected()
    await ovsdb.set_flow_restore_wait(True)
    assert settings() == [["flow-restore-wait", "true"], ["max-idle", "5000"]]
    await ovsdb.set_flow_restore_wait(False)
    assert settings() == [["max-idle", "5000"]]


async def test_without_a_connection_a_change_ends_at_its_deadline(openvswitch: OpenVswitch) -> None:
    unconnected = Ovsdb(str(openvswitch.db_socket), deadline_s=0.1)
    with pytest.raises(OvsdbError, match="no connection"):
        await unconnected.remove_ports(["k8o256"])
