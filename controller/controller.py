"""The cluster daemon: stands for election, and when it leads allocates VNIs and subnets and carries out actions."""

from __future__ import annotations

import asyncio
import signal

from controller.actions import Rules
from controller.leadership import LeadershipLost, lead
from controller.metrics import ControllerMetrics
from controller.network import settled_network
from controller.reign import Reign
from k8sovs.config import ControllerSettings, UnusableSetting
from k8sovs.etcd import Etcd, EtcdError
from k8sovs.exposition import Exposition
from k8sovs.kubernetes import Kubernetes, KubernetesError
from k8sovs.logs import get_logger
from k8sovs.metrics import new_registry
from k8sovs.records import Keys

log = get_logger(__name__)

_RETRY_S = 0.5
# With longer delays an action may not be cleared within a second of being written: see docs/controller.md.
_USUAL_CHANGE_S = 0.9


async def run(settings: ControllerSettings) -> None:
    """Serve until SIGTERM, which gives the leadership back. Raises ConfigError for settings that cannot be used."""
    registry = new_registry()
    if settings.phase_delay_s + settings.drain_delay_s > _USUAL_CHANGE_S:
        log.warning("actions-slow", phase_delay_s=settings.phase_delay_s, drain_delay_s=settings.drain_delay_s)
    async with (
        Exposition(registry, settings.metrics_address) as exposition,
        Etcd(settings.etcd) as etcd,
        _kubernetes(settings) as kubernetes,
    ):
        metrics = ControllerMetrics(registry, lambda: _connected(etcd, kubernetes))
        exposition.ready_when(lambda: _why_not_ready(etcd))
        serving = asyncio.ensure_future(_serve(settings, etcd, kubernetes, metrics))
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, serving.cancel)
        try:
            # Cancelled by the signal this returns; cancelled from outside it takes `serving` along.
            await asyncio.wait([serving])
        finally:
            loop.remove_signal_handler(signal.SIGTERM)
            serving.cancel()
            await asyncio.gather(serving, return_exceptions=True)
        if not serving.cancelled():
            serving.result()


def _kubernetes(settings: ControllerSettings) -> Kubernetes:
    try:
        return Kubernetes(str(settings.kubeconfig) if settings.kubeconfig else None)
    except KubernetesError as error:
        raise UnusableSetting("kubeconfig", str(error)) from error


def _connected(etcd: Etcd, kubernetes: Kubernetes) -> dict[str, bool]:
    """The connections; a replica that stands by asks nothing of Kubernetes, so it cannot say."""
    statistics = kubernetes.statistics()
    asked = {"kubernetes": statistics.connected} if statistics.running else {}
    return {"etcd": etcd.statistics().connected, **asked}


async def _why_not_ready(etcd: Etcd) -> str:
    """Ready is who follows the election, or leads: it would take over, or has. Kubernetes being away is no reason."""
    return "" if etcd.statistics().connected else "etcd is not followed: see the log for what it answers"


async def _serve(settings: ControllerSettings, etcd: Etcd, kubernetes: Kubernetes, metrics: ControllerMetrics) -> None:
    """Term after term, with a pause between; the same trouble again and again is told once."""
    log.info("controller-started", identity=settings.identity)
    told: list[str] = []
    while True:
        try:
            await _serve_one_term(settings, etcd, kubernetes, metrics)
        except* LeadershipLost as lost:
            metrics.lost.inc()
            log.warning("leadership-lost", identity=settings.identity, reasons=_reasons(lost))
            told = []
        except* EtcdError as failed:
            reasons = _reasons(failed)
            if reasons != told:
                log.warning("controller-interrupted", identity=settings.identity, reasons=reasons)
            told = reasons
        await asyncio.sleep(_RETRY_S)


async def _serve_one_term(
    settings: ControllerSettings, etcd: Etcd, kubernetes: Kubernetes, metrics: ControllerMetrics
) -> None:
    network = await settled_network(etcd, settings.prefix, settings.network)
    keys = Keys(settings.prefix, network.name)
    rules = Rules(network.mode, frozenset(settings.born_global), settings.phase_delay_s, settings.drain_delay_s)
    reign = Reign(etcd, kubernetes, keys, network, rules, metrics)
    await lead(etcd, keys, settings.identity, settings.lease_ttl_s, reign.run)


def _reasons(group: BaseExceptionGroup[Exception]) -> list[str]:
    """What the exceptions in `group` say, however deep they lie."""
    reasons = []
    for error in group.exceptions:
        reasons += _reasons(error) if isinstance(error, BaseExceptionGroup) else [str(error)]
    return reasons
