"""The messages of etcd's API, from and to our values. Pure, but for the stubs.

Messages and stubs are those of `aetcd` (its `rpc` package), which are untyped; no other module knows them. The API:
https://etcd.io/docs/v3.4/dev-guide/api_reference_v3/.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import grpc.aio
from aetcd import rpc

from k8sovs.etcd.model import (
    Compare,
    Condition,
    KeyValue,
    Operation,
    Put,
    Range,
    TransactionResult,
    from_wire,
    to_wire,
)

Message = Any  # a message of the untyped stubs, whichever it is
Call = Any  # a method of a stub


@dataclass(frozen=True, slots=True)
class Part:
    """What was found in one range; `rest` is where to go on if the limit cut it short."""

    items: tuple[KeyValue, ...]
    rest: Range | None


@dataclass(frozen=True, slots=True)
class Page:
    """The answer to one read: a part for each range, at the store's `revision` when it answered."""

    revision: int
    cluster_id: int
    parts: tuple[Part, ...]


@dataclass(frozen=True, slots=True)
class Event:
    """`key` changed at `revision`; `item` is None if it was deleted."""

    key: str
    revision: int
    item: KeyValue | None


@dataclass(frozen=True, slots=True)
class WatchMessage:
    """A message of a watch stream about the range at `index`. A `fragment` has its other events in the next ones."""

    index: int
    revision: int
    cluster_id: int
    created: bool
    fragment: bool
    events: tuple[Event, ...]


class Stubs:
    """The methods that a channel offers."""

    def __init__(self, channel: grpc.aio.Channel) -> None:
        kv, lease = rpc.KVStub(channel), rpc.LeaseStub(channel)
        self.transaction: Call = kv.Txn
        self.grant: Call = lease.LeaseGrant
        self.renew: Call = lease.LeaseKeepAlive
        self.revoke: Call = lease.LeaseRevoke
        self.watch: Call = rpc.WatchStub(channel).Watch
        self.authenticate: Call = rpc.AuthStub(channel).Authenticate


def read_request(ranges: Sequence[Range], limit: int, revision: int) -> Message:
    """Read up to `limit` keys of each range at `revision` (0: the newest); to be sent as a transaction."""
    reads = [rpc.RangeRequest(key=each.start, range_end=each.end, limit=limit, revision=revision) for each in ranges]
    return rpc.TxnRequest(success=[rpc.RequestOp(request_range=read) for read in reads])


def page(ranges: Sequence[Range], answer: Message) -> Page:
    """The answer to a `read_request`."""
    found = [response.response_range for response in answer.responses]
    return Page(
        revision=answer.header.revision,
        cluster_id=answer.header.cluster_id,
        parts=tuple(_part(each, part) for each, part in zip(ranges, found, strict=True)),
    )


def transaction_request(
    compares: Sequence[Compare], then: Sequence[Operation], otherwise: Sequence[Operation]
) -> Message:
    """See `Etcd.transact`."""
    return rpc.TxnRequest(
        compare=[_compare(compare) for compare in compares],
        success=[_operation(operation) for operation in then],
        failure=[_operation(operation) for operation in otherwise],
    )


def transaction_result(answer: Message) -> TransactionResult:
    """The answer to a `transaction_request`."""
    return TransactionResult(answer.succeeded, answer.header.revision)


def grant_request(ttl_s: int) -> Message:
    """Ask for a lease; the answer has an `ID`."""
    return rpc.LeaseGrantRequest(TTL=ttl_s)


def renew_request(lease: int) -> Message:
    """Keep a lease alive; the answer has a `TTL` in seconds, 0 if there is no such lease."""
    return rpc.LeaseKeepAliveRequest(ID=lease)


def revoke_request(lease: int) -> Message:
    """End a lease."""
    return rpc.LeaseRevokeRequest(ID=lease)


def authenticate_request(user: str, password: str) -> Message:
    """Ask for a `token`."""
    return rpc.AuthenticateRequest(name=user, password=password)


def watch_request(index: int, watched: Range, revision: int) -> Message:
    """Watch a range from `revision` on, its messages to be told by `index`."""
    create = rpc.WatchCreateRequest(
        key=watched.start,
        range_end=watched.end,
        start_revision=revision,
        watch_id=index + 1,  # 0 would let the server choose
        fragment=True,  # or a message could outgrow any limit
    )
    return rpc.WatchRequest(create_request=create)


def progress_request() -> Message:
    """Ask a watch stream for a message, whatever it says."""
    return rpc.WatchRequest(progress_request=rpc.WatchProgressRequest())


def watch_message(message: Message) -> WatchMessage:
    """A message of a watch stream that is not the end of it (`canceled`)."""
    return WatchMessage(
        index=message.watch_id - 1,
        revision=message.header.revision,
        cluster_id=message.header.cluster_id,
        created=message.created,
        fragment=message.fragment,
        events=tuple(_event(event) for event in message.events),
    )


def _key_value(message: Message) -> KeyValue:
    return KeyValue(
        key=from_wire(message.key),
        value=message.value,
        create_revision=message.create_revision,
        mod_revision=message.mod_revision,
        lease=message.lease,
    )


def _part(wanted: Range, found: Message) -> Part:
    return Part(
        items=tuple(_key_value(item) for item in found.kvs),
        rest=wanted.after(found.kvs[-1].key) if found.more and wanted.end else None,
    )


def _event(event: Message) -> Event:
    item = _key_value(event.kv)
    return Event(item.key, item.mod_revision, None if event.type == rpc.Event.DELETE else item)


def _compare(compare: Compare) -> Message:
    key = to_wire(compare.key)
    match compare.condition:
        case Condition.UNCHANGED:
            return rpc.Compare(
                key=key, target=rpc.Compare.MOD, result=rpc.Compare.EQUAL, mod_revision=compare.mod_revision
            )
        case Condition.ABSENT:
            return rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.EQUAL, create_revision=0)
        case Condition.EXISTS:
            return rpc.Compare(key=key, target=rpc.Compare.CREATE, result=rpc.Compare.GREATER, create_revision=0)


def _operation(operation: Operation) -> Message:
    key = to_wire(operation.key)
    if isinstance(operation, Put):
        return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=operation.value, lease=operation.lease))
    return rpc.RequestOp(request_delete_range=rpc.DeleteRangeRequest(key=key))
