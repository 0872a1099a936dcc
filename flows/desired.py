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
Manner = TypeVar("Manner")


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
    # By identity, and in sets: to look up the key of each rule takes ten times as long.
    were, are = set(map(id, before.values())), set(map(id, after.values()))
    came, went = are - were, were - are
    changed = {key for key, rule in after.items() if id(rule) in came} if came else set()
    return changed | {key for key, rule in before.items() if id(rule) in went} if went else changed


class DesiredFlows:
    """Remembers the parts of the last snapshot."""

    def __init__(self) -> None:
        self._inputs: dict[Source, tuple[object, ...]] = {}
        self._parts: dict[Source, Part] = {}
        self._peers: _Kept[Peer, ServiceProxy] = _Kept(peer_flows, _address)
        self._pods: _Kept[Attachment, tuple[Mode, ServiceProxy]] = _Kept(lambda pod, how: pod_flows(pod, *how), _ofport)
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
        proxy = snapshot.service_proxy
        match source:
            case Source.PIPELINE:
                return _without(_by_key(pipeline_flows()), earlier)
            case Source.NODE:
                return _without(_by_key(node_flows(snapshot)), earlier)
            case Source.PEERS:
                return self._peers.part(snapshot.peers, proxy, earlier)
            case Source.ATTACHMENTS:
                return self._pods.part(snapshot.attachments, (snapshot.mode, proxy), earlier)
            case Source.SERVICES:
                raise AssertionError("Services have their own parts")


class _Kept(Generic[Thing, Manner]):
    """The part of things of one kind; `flows_of` makes the flows of one in some manner, those first in `order` win.

    The flows of a thing that stays are kept. As long as no two things lay claim to one flow, which is the rule, the
    part is that of the last time, without the flows of what is gone and with those of what came.
    """

    def __init__(self, flows_of: Callable[[Thing, Manner], Iterator[Flow]], order: Callable[[Thing], int]) -> None:
        self._flows_of = flows_of
        self._order = order
        self._manner: Manner | None = None
        self._flows: dict[Thing, Part] = {}
        self._things: frozenset[Thing] = frozenset()
        self._part: dict[RuleKey, Rule] = {}
        self._is_contested = False

    def part(self, things: frozenset[Thing], manner: Manner, earlier: Iterable[Part]) -> Part:
        """The flows of all `things`, but for those that are in a part of `earlier`."""
        if self._manner != manner:
            self._flows, self._things, self._part, self._manner = {}, frozenset(), {}, manner
        came, gone = things - self._things, self._things - things
        part = dict(self._part)
        for thing in gone:
            for key in self._flows.pop(thing):
                part.pop(key, None)
        for thing in sorted(came, key=self._order):
            self._flows[thing] = flows = _by_key(self._flows_of(thing, manner))
            part |= flows
        was_contested, self._is_contested = self._is_contested, len(part) < sum(map(len, self._flows.values()))
        if was_contested or self._is_contested:
            part = self._merged()
        self._things, self._part = things, part
        return _without(part, earlier)

    def _merged(self) -> dict[RuleKey, Rule]:
        part: dict[RuleKey, Rule] = {}
        for thing in sorted(self._flows, key=self._order):
            for key, flow in self._flows[thing].items():
                part.setdefault(key, flow)
        return part


def _without(part: Part, earlier: Iterable[Part]) -> Part:
    """What is claimed by an earlier part is not in a later one."""
    claimed = {key for taken in earlier for key in part.keys() & taken.keys()}
    return {key: rule for key, rule in part.items() if key not in claimed} if claimed else part


def _by_key(flows: Iterable[Flow]) -> Part:
    return {flow.key: flow for flow in flows}


def _address(peer: Peer) -> int:
    return int(peer.address)


def _ofport(pod: Attachment) -> int:
    return pod.ofport
