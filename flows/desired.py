"""The desired flows of one snapshot after another, for little more work than what has changed takes.

`flows.pipeline` says what the flows of each thing are: the node, a peer, a pod. Here they are put together in parts,
one for each source. A part is the very same object as long as nothing that it depends on has changed, so a reader
can pass it over without looking inside; and the flows of a pod or a peer that stays are made only once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Generic, TypeVar

from flows.flow import Flow, FlowKey, Source
from flows.pipeline import node_flows, peer_flows, pipeline_flows, pod_flows
from flows.replies import Place
from flows.service import ServiceProxy
from flows.service_parts import Part, PartName, Rule, RuleKey, ServiceParts
from flows.snapshot import Attachment, Mode, Peer, Snapshot

Thing = TypeVar("Thing")


def desired_flows(snapshot: Snapshot) -> dict[FlowKey, Flow]:
    """Every flow that the switch of this node should hold."""
    return {rule.key: rule for rule in desired_rules(snapshot).values() if isinstance(rule, Flow)}


def desired_rules(snapshot: Snapshot) -> dict[RuleKey, Rule]:
    """Every flow and every group that the switch of this node should hold."""
    return {key: rule for part in DesiredFlows().parts(snapshot).values() for key, rule in part.items()}


def changed_keys(before: Part, after: Part) -> set[RuleKey]:
    """The keys of flows and groups that came, went or are other objects now."""
    if before is after:
        return set()
    return {key for key, rule in after.items() if before.get(key) is not rule} | (before.keys() - after.keys())


class DesiredFlows:
    """Remembers the parts of the last snapshot."""

    def __init__(self) -> None:
        self._inputs: dict[Source, tuple[object, ...]] = {}
        self._parts: dict[Source, Part] = {}
        self._peers: _Kept[tuple[Peer, ServiceProxy]] = _Kept(lambda peer: peer_flows(*peer))
        self._pods: _Kept[tuple[Attachment, Mode, ServiceProxy]] = _Kept(lambda pod: pod_flows(*pod))
        self._services: tuple[tuple[object, ...], ServiceParts] | None = None

    @property
    def complete(self) -> bool:
        """Whether the parts are those of the whole snapshot."""
        return self._services is None or self._services[1].complete

    def parts(self, snapshot: Snapshot, most: int | None = None) -> dict[PartName, Part]:
        """All desired flows and groups, by source, those of Services by Service and by address of endpoints.

        Of Services that have changed only so many are taken as have `most` ports and endpoints; see `complete`.
        No key is in two parts. Should two lay claim to the same flow, the earlier source has it, of two pods that with
        the lowest ofport, of two peers that with the lowest address.
        """
        proxy = snapshot.service_proxy
        inputs: dict[Source, tuple[object, ...]] = {
            Source.PIPELINE: (),
            Source.NODE: (snapshot.node, snapshot.cluster_network, snapshot.service_network, proxy),
            Source.PEERS: (snapshot.peers, proxy),
            Source.ATTACHMENTS: (snapshot.attachments, snapshot.mode, proxy),
        }
        parts: dict[Source, Part] = {}
        stale = False
        for source, given in inputs.items():
            # What is claimed by an earlier part is not in a later one.
            stale = stale or self._inputs.get(source) != given
            parts[source] = self._part(source, snapshot, parts.values()) if stale else self._parts[source]
        self._inputs, self._parts = inputs, parts
        all_parts: dict[PartName, Part] = {(source, 0): part for source, part in parts.items()}
        return {**all_parts, **self._of_services(snapshot, most)}

    def has_ended(self, place: Place) -> bool:
        """Whether an endpoint was there that the snapshot before still had, and said that it would end."""
        return self._services is not None and place in self._services[1].ended

    def _of_services(self, snapshot: Snapshot, most: int | None) -> Mapping[PartName, Part]:
        networks = (snapshot.service_network, snapshot.cluster_network, snapshot.node.subnet, snapshot.service_proxy)
        if self._services is None or self._services[0] != networks:
            self._services = (networks, ServiceParts(*networks))
        return self._services[1].update(snapshot.services, most)

    def _part(self, source: Source, snapshot: Snapshot, earlier: Iterable[Part]) -> Part:
        part: dict[RuleKey, Rule] = {}
        for claim in self._claims(source, snapshot):
            for key, flow in claim.items():
                part.setdefault(key, flow)
        for taken in earlier:
            for key in part.keys() & taken.keys():
                del part[key]
        return part

    def _claims(self, source: Source, snapshot: Snapshot) -> Iterable[Part]:
        match source:
            case Source.PIPELINE:
                return [_by_key(pipeline_flows())]
            case Source.NODE:
                return [_by_key(node_flows(snapshot))]
            case Source.PEERS:
                return self._peers.flows(
                    (peer, snapshot.service_proxy) for peer in sorted(snapshot.peers, key=_address)
                )
            case Source.ATTACHMENTS:
                proxy = snapshot.service_proxy
                return self._pods.flows(
                    (pod, snapshot.mode, proxy) for pod in sorted(snapshot.attachments, key=_ofport)
                )
            case Source.SERVICES:
                raise AssertionError("Services have their own parts")


class _Kept(Generic[Thing]):
    """The flows of things of one kind, made by `flows_of`; kept while their thing stays."""

    def __init__(self, flows_of: Callable[[Thing], Iterator[Flow]]) -> None:
        self._flows_of = flows_of
        self._kept: dict[Thing, Part] = {}

    def flows(self, things: Iterable[Thing]) -> Iterable[Part]:
        """The flows of each of `things`, in their order."""
        before = self._kept
        self._kept = {thing: before.get(thing) or _by_key(self._flows_of(thing)) for thing in things}
        return self._kept.values()


def _by_key(flows: Iterable[Flow]) -> Part:
    return {flow.key: flow for flow in flows}


def _address(peer: Peer) -> int:
    return int(peer.address)


def _ofport(pod: Attachment) -> int:
    return pod.ofport
