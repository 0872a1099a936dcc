"""A pod interface on the switch, and how OVSDB remembers it.

All that a restarted agent must know of a pod stands in `external_ids` of its port, written in the transaction that
made the port: port and address lease can never disagree.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from ipaddress import IPv4Address

from agent.limits import UNLIMITED, Limits, limit_ids, limits_from_ids
from cni.conf import NETWORK
from cni.request import AttachmentKey, PodIdentity
from flows.snapshot import VNI_MAX, Tenancy

PREFIX = "k8sovs-"


@dataclass(frozen=True, slots=True)
class PodAttachment:
    """One attachment. `tenancy` and `limits` are what was in force when they were last written.

    `network` is the name of the network configuration that it was made by.
    """

    key: AttachmentKey
    pod: PodIdentity
    netns: str
    address: IPv4Address
    tenancy: Tenancy
    limits: Limits = UNLIMITED
    network: str = NETWORK
    _hash: int = field(init=False, repr=False, compare=False)
    """Attachments are looked up over and over, and the hash of all their parts takes longer than the rest."""

    def __post_init__(self) -> None:
        object.__setattr__(self, "_hash", hash((self.key, self.address, self.tenancy)))

    def __hash__(self) -> int:
        return self._hash

    def external_ids(self) -> dict[str, str]:
        """As `external_ids` of the port."""
        return {
            PREFIX + "container-id": self.key.container_id,
            PREFIX + "ifname": self.key.ifname,
            PREFIX + "namespace": self.pod.namespace,
            PREFIX + "pod": self.pod.name,
            PREFIX + "pod-uid": self.pod.uid,
            PREFIX + "netns": self.netns,
            PREFIX + "address": str(self.address),
            PREFIX + "network": self.network,
            **tenancy_ids(self.tenancy),
            **limit_ids(self.limits, PREFIX),
        }

    @classmethod
    def from_external_ids(cls, ids: Mapping[str, str]) -> PodAttachment | None:
        """The attachment that a port's `external_ids` tell of; None if the port is not a pod's of ours."""
        try:
            return cls(
                key=AttachmentKey(ids[PREFIX + "container-id"], ids[PREFIX + "ifname"]),
                pod=PodIdentity(ids[PREFIX + "namespace"], ids[PREFIX + "pod"], ids[PREFIX + "pod-uid"]),
                netns=ids[PREFIX + "netns"],
                address=IPv4Address(ids[PREFIX + "address"]),
                tenancy=Tenancy(_vni(ids[PREFIX + "send"]), frozenset(map(_vni, ids[PREFIX + "accept"].split()))),
                limits=limits_from_ids(ids, PREFIX),
                network=ids.get(PREFIX + "network", NETWORK),
            )
        except (KeyError, ValueError):
            return None


def tenancy_ids(tenancy: Tenancy) -> dict[str, str]:
    """The part of the `external_ids` that follows the namespace's VNI."""
    return {
        PREFIX + "send": str(tenancy.send),
        PREFIX + "accept": " ".join(str(vni) for vni in sorted(tenancy.accept)),
    }


def _vni(text: str) -> int:
    vni = int(text)
    if not 0 <= vni <= VNI_MAX:
        raise ValueError(f"{vni} is no VNI")
    return vni
