"""Traffic control over route netlink: the few requests that shaping needs, and a look at what a device has.

The messages are so small that they are packed here (struct tcmsg and its attributes; linux/pkt_sched.h, pkt_cls.h,
tc_act/tc_mirred.h). Sent and answered like any other by `agent.netlink`.
"""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Collection
from dataclasses import dataclass

from agent.netlink import (
    NLM_F_ACK,
    NLM_F_CREATE,
    NLM_F_DUMP,
    NLM_F_REPLACE,
    NLM_F_REQUEST,
    RTM_DELQDISC,
    RTM_NEWQDISC,
    RTM_NEWTFILTER,
    Netlink,
    Request,
)

RTM_GETQDISC, RTM_GETTFILTER = 38, 46

ROOT, INGRESS = 0xFFFFFFFF, 0xFFFFFFF1
OUR_HANDLE = 0x6B380000
"""Handle ("k8") of the token buckets that are ours."""
INGRESS_HANDLE = 0xFFFF0000
LEAF_PARENT = OUR_HANDLE | 1
FIFO_HANDLE, FAIR_HANDLE = 0x6B390000, 0x6B3A0000
"""Where what waits in a token bucket stands, and the handles of the two queues that may be there."""
PEAK_RATE = 10**16
"""Byte/s, above every limit: it delays nothing, as the kernel rounds the time of a frame to 0 ns. It is there for its
burst, the only one of tbf's settings that says up to which size a packet is not cut."""

_TCA_KIND, _TCA_OPTIONS = 1, 2
_TCA_TBF_PARMS, _TCA_TBF_RATE64, _TCA_TBF_PRATE64, _TCA_TBF_BURST, _TCA_TBF_PBURST = 1, 4, 5, 6, 7
_TCA_U32_CLASSID, _TCA_U32_SEL, _TCA_U32_ACT = 1, 5, 7
_TCA_ACT_KIND, _TCA_ACT_OPTIONS, _TCA_MIRRED_PARMS = 1, 2, 2
_TC_ACT_STOLEN, _EGRESS_REDIR, _U32_TERMINAL = 4, 1, 1
_MIRRED_PARAMETERS = struct.Struct("=IIiiiiI")
"""struct tc_mirred; the last two are what is done (`_EGRESS_REDIR`), and the index of the device that gets it."""
_ETH_P_ALL = 0x0003
_LINKLAYER_ETHERNET = 1

_HEADER = struct.Struct("=IHHII")
_TCMSG = struct.Struct("=BxxxiIII")
_RATESPEC = struct.Struct("=BBHhHI")
_TBF_LIMITS = struct.Struct("=III")
_U32_MAX = (1 << 32) - 1
_BITS_PER_BYTE = 8
_GONE = (errno.ENOENT, errno.EINVAL, errno.ENODEV)
"""What a deletion may meet. EINVAL: another qdisc than ours is there by now, and that is not ours to remove."""


@dataclass(frozen=True, slots=True)
class TokenBucket:
    """A tbf qdisc (tc-tbf(8)): `rate` in byte/s; all else in bytes of Ethernet frames.

    `burst` may pass at once, `limit` may wait. A sender's large packet (GSO) counts as one until tbf cuts it into
    frames, which it does beyond `largest`. Where streams wait apart (`share_fairly`), `packets` of them all may wait.
    """

    rate: int
    burst: int
    limit: int
    largest: int
    packets: int


@dataclass(frozen=True, slots=True)
class Qdisc:
    """A qdisc as the kernel tells of it. Of a tbf, rates and `limit`; the kernel does not tell the bursts in bytes."""

    index: int
    parent: int
    handle: int
    kind: str
    rate: int = 0
    limit: int = 0
    peak_rate: int = 0

    def is_bucket(self, bucket: TokenBucket) -> bool:
        """Whether this is `bucket`, made by us. (Its bursts follow from its rate.)"""
        found = (self.kind, self.handle, self.rate, self.limit, self.peak_rate)
        return found == ("tbf", OUR_HANDLE, bucket.rate, bucket.limit, PEAK_RATE)


def replace_bucket(index: int, bucket: TokenBucket) -> Request:
    """Put `bucket` at the root of device `index`, in place of whatever is there; one of ours is changed as it runs."""
    parameters = _rate(bucket.rate) + _rate(PEAK_RATE) + _TBF_LIMITS.pack(bucket.limit, 0, 0)
    options = _attribute(_TCA_TBF_PARMS, parameters)
    options += _attribute(_TCA_TBF_BURST, struct.pack("=I", bucket.burst))
    options += _attribute(_TCA_TBF_PBURST, struct.pack("=I", bucket.largest))
    options += _attribute(_TCA_TBF_PRATE64, struct.pack("=Q", PEAK_RATE))
    if bucket.rate > _U32_MAX:
        options += _attribute(_TCA_TBF_RATE64, struct.pack("=Q", bucket.rate))
    attributes = _text(_TCA_KIND, "tbf") + _attribute(_TCA_OPTIONS, options)
    head = _TCMSG.pack(socket.AF_UNSPEC, index, OUR_HANDLE, ROOT, 0)
    purpose = f"limit to {bucket.rate * _BITS_PER_BYTE} bit/s"
    return _request(purpose, RTM_NEWQDISC, head + attributes, NLM_F_CREATE | NLM_F_REPLACE)


def queue_in_order(index: int, bucket: TokenBucket) -> Request:
    """Let what waits in the bucket of device `index` wait in one queue (tc-bfifo(8)), which every kernel has."""
    options = struct.pack("=I", bucket.limit)
    return _leaf("queue in order", index, FIFO_HANDLE, "bfifo", options)


def share_fairly(index: int, bucket: TokenBucket) -> Request:
    """Let each stream wait in a queue of its own (tc-sfq(8)); a kernel without sfq keeps the queue that is there."""
    default_quantum, never_hashed_anew, default_divisor, all_flows = 0, 0, 0, 0
    options = struct.pack("=IiIII", default_quantum, never_hashed_anew, bucket.packets, default_divisor, all_flows)
    return _leaf("share fairly, where the kernel can", index, FAIR_HANDLE, "sfq", options, tolerated=(errno.ENOENT,))


def _leaf(purpose: str, index: int, handle: int, kind: str, options: bytes, tolerated: Collection[int] = ()) -> Request:
    head = _TCMSG.pack(socket.AF_UNSPEC, index, handle, LEAF_PARENT, 0)
    body = head + _text(_TCA_KIND, kind) + _attribute(_TCA_OPTIONS, options)
    return _request(purpose, RTM_NEWQDISC, body, NLM_F_CREATE | NLM_F_REPLACE, tolerated)


def delete_bucket(index: int) -> Request:
    """Remove the token bucket of device `index`; one that is gone is no error."""
    head = _TCMSG.pack(socket.AF_UNSPEC, index, OUR_HANDLE, ROOT, 0)
    return _request("no limit", RTM_DELQDISC, head, tolerated=_GONE)


def redirect_ingress(index: int, target: int) -> list[Request]:
    """Send everything that device `index` receives out of device `target`, with `u32` and `mirred` alone.

    A qdisc that is there already is made anew, and its filters with it.
    """
    head = _TCMSG.pack(socket.AF_UNSPEC, index, INGRESS_HANDLE, INGRESS, 0)
    mirred = _MIRRED_PARAMETERS.pack(0, 0, _TC_ACT_STOLEN, 0, 0, _EGRESS_REDIR, target)
    options = _attribute(_TCA_ACT_OPTIONS, _attribute(_TCA_MIRRED_PARMS, mirred))
    action = _attribute(1, _text(_TCA_ACT_KIND, "mirred") + options)
    everything = struct.pack("=BBBxHHhhI", _U32_TERMINAL, 0, 1, 0, 0, 0, 0, 0) + struct.pack("=IIii", 0, 0, 0, 0)
    match = _attribute(_TCA_U32_SEL, everything) + _attribute(_TCA_U32_ACT, action)
    information = 1 << 16 | socket.htons(_ETH_P_ALL)  # priority, protocol
    filter_head = _TCMSG.pack(socket.AF_UNSPEC, index, 0, INGRESS_HANDLE, information)
    filter_body = filter_head + _text(_TCA_KIND, "u32") + _attribute(_TCA_OPTIONS, match)
    return [
        delete_redirect(index),
        _request("take in what the pod sends", RTM_NEWQDISC, head + _text(_TCA_KIND, "ingress"), NLM_F_CREATE),
        _request("redirect what the pod sends", RTM_NEWTFILTER, filter_body, NLM_F_CREATE),
    ]


def delete_redirect(index: int) -> Request:
    """Remove the ingress qdisc of device `index` with its filters; one that is gone is no error."""
    head = _TCMSG.pack(socket.AF_UNSPEC, index, INGRESS_HANDLE, INGRESS, 0)
    return _request("no redirection", RTM_DELQDISC, head, tolerated=_GONE)


def redirect_target(kernel: Netlink, index: int) -> int | None:
    """The device to which `redirect_ingress` sends what device `index` receives; None if no filter of it does."""
    body = _TCMSG.pack(socket.AF_UNSPEC, index, 0, INGRESS_HANDLE, 0)
    question = Request("list filters", _encoded(RTM_GETTFILTER, body, NLM_F_REQUEST | NLM_F_DUMP))
    targets = (_target(message) for message in kernel.dump(question, RTM_NEWTFILTER))
    return next((target for target in targets if target is not None), None)


def _target(message: bytes) -> int | None:
    found = _attributes(message[_HEADER.size + _TCMSG.size :])
    for kind in (_TCA_OPTIONS, _TCA_U32_ACT, 1, _TCA_ACT_OPTIONS):
        found = _attributes(found.get(kind, b""))
    parameters = found.get(_TCA_MIRRED_PARMS, b"")
    if len(parameters) < _MIRRED_PARAMETERS.size:
        return None
    *_, done, target = _MIRRED_PARAMETERS.unpack_from(parameters)
    return target if done == _EGRESS_REDIR else None


def qdiscs(kernel: Netlink) -> list[Qdisc]:
    """The qdiscs of all devices in the namespace of `kernel`, without those that the kernel itself put there."""
    body = _TCMSG.pack(socket.AF_UNSPEC, 0, 0, 0, 0)
    question = Request("list qdiscs", _encoded(RTM_GETQDISC, body, NLM_F_REQUEST | NLM_F_DUMP))
    return [_qdisc(message) for message in kernel.dump(question, RTM_NEWQDISC)]


def _qdisc(message: bytes) -> Qdisc:
    _, index, handle, parent, _ = _TCMSG.unpack_from(message, _HEADER.size)
    attributes = _attributes(message[_HEADER.size + _TCMSG.size :])
    kind = attributes.get(_TCA_KIND, b"").rstrip(b"\0").decode(errors="replace")
    if kind != "tbf":
        return Qdisc(index, parent, handle, kind)
    options = _attributes(attributes.get(_TCA_OPTIONS, b""))
    parameters = options.get(_TCA_TBF_PARMS, bytes(2 * _RATESPEC.size + _TBF_LIMITS.size))
    rates = [_RATESPEC.unpack_from(parameters, offset)[-1] for offset in (0, _RATESPEC.size)]
    for place, attribute in enumerate((_TCA_TBF_RATE64, _TCA_TBF_PRATE64)):
        if attribute in options:
            (rates[place],) = struct.unpack("=Q", options[attribute])
    limit = _TBF_LIMITS.unpack_from(parameters, 2 * _RATESPEC.size)[0]
    return Qdisc(index, parent, handle, kind, rates[0], limit, rates[1])


def _rate(rate: int) -> bytes:
    """A struct tc_ratespec; a rate beyond its 32 bits stands in an attribute of its own too."""
    return _RATESPEC.pack(0, _LINKLAYER_ETHERNET, 0, 0, 0, min(rate, _U32_MAX))


def _request(purpose: str, kind: int, body: bytes, flags: int = 0, tolerated: Collection[int] = ()) -> Request:
    return Request(purpose, _encoded(kind, body, NLM_F_REQUEST | NLM_F_ACK | flags), frozenset(tolerated))


def _encoded(kind: int, body: bytes, flags: int) -> bytes:
    return _HEADER.pack(_HEADER.size + len(body), kind, flags, 0, 0) + body


def _text(kind: int, text: str) -> bytes:
    return _attribute(kind, text.encode() + b"\0")


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> dict[int, bytes]:
    found: dict[int, bytes] = {}
    offset = 0
    while offset + 4 <= len(data):
        length, kind = struct.unpack_from("=HH", data, offset)
        if length < 4:
            break
        found[kind & 0x3FFF] = data[offset + 4 : offset + length]
        offset += (length + 3) & ~3
    return found
