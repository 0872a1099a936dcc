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
from flows.snapshot import Attachment, Mode, Peer, Snapshot

Part = Mapping[FlowKey, Flow]
Thing = TypeVar("Thing")


def desired_flows(snapshot: Snapshot) -> dict[FlowKey, Flow]:
    """Every flow that the switch of this node should hold."""
    return {key: flow for part in DesiredFlows().parts(snapshot).values() for key, flow in part.items()}


def changed_keys(before: Part, after: Part) -> set[FlowKey]:
    """The keys of flows that came, went or are other objects now."""
    if before is after:
        return set()
    return {key for key, flow in after.items() if before.get(key) is not flow} | (before.keys() - after.keys())


class DesiredFlows:
    """Remembers the parts of the last snapshot."""

    def __init__(self) -> None:
        self._inputs: dict[Source, tuple[object, ...]] = {}
        self._parts: dict[Source, Part] = {}
        self._peers: _Kept[Peer] = _Kept(peer_flows)
        self._pods: _Kept[tuple[Attachment, Mode]] = _Kept(lambda pod: pod_flows(*pod))

    def parts(self, snapshot: Snapshot) -> dict[Source, Part]:
        """All desired flows, by source.

        No key is in two parts. Should two lay claim to the same flow, the earlier source has it, of two pods that with
        the lowest ofport, of two peers that with the lowest address.
        """
        inputs: dict[Source, tuple[object, ...]] = {
            Source.PIPELINE: (),
            Source.NODE: (snapshot.node, snapshot.cluster_network, snapshot.service_network),
            Source.PEERS: (snapshot.peers,),
            Source.ATTACHMENTS: (snapshot.attachments, snapshot.mode),
        }
        parts: dict[Source, Part] = {}
        stale = False
        for source, given in inputs.items():
            # What is claimed by an earlier part is not in a later one.
            stale = stale or self._inputs.get(source) != given
            parts[source] = self._part(source, snapshot, parts.values()) if stale else self._parts[source]
        self._inputs, self._parts = inputs, parts
        return dict(parts)

    def _part(self, source: Source, snapshot: Snapshot, earlier: Iterable[Part]) -> Part:
        part: dict[FlowKey, Flow] = {}
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
                return self._peers.flows(sorted(snapshot.peers, key=_address))
            case Source.ATTACHMENTS:
                return self._pods.flows((pod, snapshot.mode) for pod in sorted(snapshot.attachments, key=_ofport))


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
