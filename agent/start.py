"""What the daemons of nodes and of edge hosts have in common at their start and at their end."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Coroutine
from ipaddress import IPv4Address

from agent.cluster import ClusterSource
from agent.host import HostSpec, choose_datapath
from agent.identity import NodeMoved, wait_identity
from agent.links import Links, UnderlayError
from agent.ovsdb import Ovsdb
from agent.preflight import clashes
from agent.underlay import Underlay
from k8sovs.config import AgentSettings, ConfigError, EdgeSettings, HostSettings, ServiceProxy
from k8sovs.logs import get_logger

log = get_logger(__name__)


async def run_until_stopped(work: Coroutine[None, None, None]) -> None:
    """Run `work` until SIGTERM, or until it fails; raises what it failed of."""
    stopping = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stopping.set)
    serving = asyncio.create_task(work)
    stopped = asyncio.create_task(stopping.wait())
    try:
        await asyncio.wait({serving, stopped}, return_when=asyncio.FIRST_COMPLETED)
    finally:
        # Everything stays as it is: the network goes on while no agent runs.
        stopped.cancel()
        serving.cancel()
        await asyncio.wait({serving})
    if not serving.cancelled():
        _raise_cause(serving.exception())


async def host_spec(cluster: ClusterSource, ovsdb: Ovsdb, links: Links, settings: HostSettings) -> HostSpec:
    """What this host should be, once it is known who it is. Raises ConfigError for settings that clash."""
    if settings.node_address is not None:
        await _underlay(links, settings.node_address)  # a mistake here would be waited for in vain below
    view, identity = await wait_identity(cluster, settings)
    underlay = await _underlay(links, identity.address)
    mtu = settings.mtu or underlay.pod_mtu
    problems = list(clashes(view.config, identity, settings.etcd_endpoints, mtu, underlay.pod_mtu))
    if problems:
        raise ConfigError("; ".join(problems))
    await ovsdb.wait_connected()
    assert ovsdb.view is not None, "connected means that the database has been read"
    datapath = choose_datapath(settings.datapath, ovsdb.view)
    log.info("node", address=str(identity.address), subnet=str(identity.subnet), datapath=datapath.value, mtu=mtu)
    is_edge = isinstance(settings, EdgeSettings)
    proxy = settings.service_proxy if isinstance(settings, AgentSettings) else ServiceProxy.KUBE_PROXY
    return HostSpec(view.config, identity, datapath, underlay, mtu, settings.accept_unsolicited, proxy, is_edge)


async def _underlay(links: Links, address: IPv4Address) -> Underlay:
    try:
        return await links.underlay(address)
    except UnderlayError as error:
        raise ConfigError(f"node-address: {error}") from error


def _raise_cause(error: BaseException | None) -> None:
    """Raise what ended the agent, without the groups that it came wrapped in."""
    while isinstance(error, BaseExceptionGroup) and len(error.exceptions) == 1:
        error = error.exceptions[0]
    if isinstance(error, NodeMoved):
        log.warning("ending", reason=str(error), action="to be started again, as the node that it is now")
    elif error is not None:
        raise error
