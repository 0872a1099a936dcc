"""Pods go on while ovs-vswitchd restarts: on the kernel datapath the kernel keeps forwarding by its old flows.

`flow-restore-wait` must stand in the database *before* ovs-vswitchd starts, so it always does while all is well. An
ovs-vswitchd that finds it leaves the kernel's flows alone, and asks nobody about new packets, until it is taken away:
that is done when our flows are back, and then it is put there again for the next time. A running ovs-vswitchd does not
mind.

It holds for every bridge of that Open vSwitch. If one of them carries the node's own address, the node would be cut
off from etcd until its agent is up, so there it is never set; nor on the userspace datapath, whose flows die with the
process.
"""

from __future__ import annotations

import asyncio

from agent.bridge import BridgeView
from agent.flow_reconciler import FlowReconciler
from agent.ovsdb import Ovsdb, OvsdbError
from agent.switch import Switch
from k8sovs.logs import get_logger

log = get_logger(__name__)

RETRY_S = 1.0


def may_wait(bridge: BridgeView, underlay_device: str) -> bool:
    """Whether no bridge of others has the device that holds the node's address."""
    return all(underlay_device != name and underlay_device not in other.ports for name, other in bridge.others.items())


async def keep_armed(ovsdb: Ovsdb, switch: Switch, flows: FlowReconciler, underlay_device: str) -> None:
    """Let each ovs-vswitchd forward by our flows once it has them, and prepare for the next one, for ever."""
    while True:
        session = await flows.wait_current()
        try:
            await ovsdb.set_flow_restore_wait(False)
            if ovsdb.view is not None and may_wait(ovsdb.view, underlay_device):
                await ovsdb.set_flow_restore_wait(True)
            else:
                log.warning("flow-restore-wait-not-set", reason="another bridge carries the node's address")
            await switch.wait_disconnected(session)
        except OvsdbError as error:
            log.warning("flow-restore-wait-not-set", error=str(error), action="trying again")
            await asyncio.sleep(RETRY_S)
