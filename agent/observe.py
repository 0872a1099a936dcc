"""Looks at a node for its metrics and its probes: what the agent knows anyway, and one small question to the switch."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace

from agent.attachments import Attachments
from agent.cluster import ClusterSource
from agent.flow_reconciler import FlowReconciler
from agent.ipam import Leases
from agent.metrics import NodeFigures, NodeMetrics, TableFigures
from agent.ovsdb import Ovsdb
from agent.snapshot import Identity, peers
from agent.switch import Switch, SwitchDisconnected, SwitchRefused
from flows.flow import Source
from flows.openflow import InstalledFlow, TableStats
from flows.tables import TABLES
from k8sovs.etcd import Etcd
from k8sovs.kubernetes import Statistics

_DROPPING = (Source.PIPELINE, Source.NODE)
"""The sources that have flows which drop; their number does not grow with the cluster."""


@dataclass(slots=True)
class Sight:
    """The parts to look at. Those that are None have not come up yet, or, at an edge host, never will."""

    metrics: NodeMetrics
    etcd: Etcd
    ovsdb: Ovsdb
    cluster: ClusterSource
    kubernetes: Statistics | None = None
    switch: Switch | None = None
    flows: FlowReconciler | None = None
    identity: Identity | None = None
    attachments: Attachments | None = None
    leases: Leases | None = None

    async def look(self) -> None:
        """Take new figures. While the switch does not answer there are none of its tables, rather than old ones."""
        self.metrics.figures = figures = self._known()
        if self.switch is not None:
            self.metrics.figures = replace(figures, tables=await look_at_tables(self.switch))

    async def why_starting(self) -> str:
        """What a start waits for."""
        away = [peer for peer in ("etcd", "ovsdb") if not self._connected()[peer]]
        return f"starting; not connected: {', '.join(away)}" if away else "starting"

    async def why_no_forwarding(self) -> str:
        """What keeps the switch from being kept right; empty: nothing."""
        if self.flows is None or not self.flows.current:
            return "the switch does not have its flows: is ovs-vswitchd running?"
        return "" if self.ovsdb.connected else "no connection to the switch's database: is ovsdb-server running?"

    def _connected(self) -> dict[str, bool]:
        known = {"etcd": self.etcd.statistics().connected, "ovsdb": self.ovsdb.connected}
        if self.switch is not None:
            known["switch"] = self.switch.session is not None
        if self.kubernetes is not None:
            known["kubernetes"] = self.kubernetes.connected
        return known

    def _known(self) -> NodeFigures:
        view, attached = self.cluster.view, None if self.attachments is None else self.attachments.by_port().values()
        return NodeFigures(
            connected=self._connected(),
            backlog=None if self.flows is None else self.flows.backlog,
            flows_current=None if self.flows is None else self.flows.current,
            namespaces=None if view is None else len(view.tenancies),
            peers=None if view is None or self.identity is None else len(peers(view, self.identity)),
            pods=None if attached is None else len(attached),
            vnis=None if attached is None else len({one.tenancy.send for one in attached}),
            addresses_used=None if self.leases is None else len(self.leases),
            addresses_free=None if self.leases is None else self.leases.capacity - len(self.leases),
        )


async def look_at_tables(switch: Switch) -> tuple[TableFigures, ...]:
    """The tables of the pipeline; nothing while the switch does not answer."""
    try:
        stats = await switch.table_stats()
        flows = [flow for source in _DROPPING for flow in await switch.dump_flows(source)]
    except (SwitchDisconnected, SwitchRefused):
        return ()
    return tables(stats, flows)


def tables(stats: Mapping[int, TableStats], flows: Iterable[InstalledFlow]) -> tuple[TableFigures, ...]:
    """Each table with its flows, and what those of `flows` have dropped that lead nowhere."""
    dropped: Counter[int] = Counter()
    for entry in flows:
        if not entry.flow.actions and entry.flow.goto is None:
            dropped[entry.flow.table] += entry.packets
    return tuple(
        TableFigures(table.name, stats[table.number].flows if table.number in stats else 0, dropped[table.number])
        for table in TABLES
    )
