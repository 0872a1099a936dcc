"""The values that the etcd store takes and returns, and its errors. Pure."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum
from pathlib import Path

_ENDPOINT = re.compile(r"(?:(?P<scheme>https?)://)?(?P<address>(?:\[[0-9A-Fa-f:.]+\]|[A-Za-z0-9._-]+):\d{1,5})/?")


class EtcdError(Exception):
    """etcd answered with an error, or not at all."""


class EtcdUnavailable(EtcdError):
    """No answer, or none in time. A write may or may not have been carried out: read again before deciding."""


class EtcdPermissionDenied(EtcdError):
    """The user is unknown, its password is wrong, or its role lacks the right."""


class EtcdCompacted(EtcdError):
    """The revision asked for is gone from the history."""


class LeaseLost(EtcdError):
    """The lease has expired, was revoked, or can no longer be trusted to be alive."""


@dataclass(frozen=True, slots=True)
class Endpoint:
    """One etcd server: `address` is host:port."""

    address: str
    tls: bool


@dataclass(frozen=True, slots=True)
class EtcdConfig:
    """How to reach etcd, and as whom.

    `endpoints` are `http://host:port`, `https://host:port`, or `host:port`, which means https if there is a
    certificate. `ca` and the client certificate are PEM files, read when the store is opened. Raises ValueError for
    settings that cannot work.
    """

    endpoints: tuple[str, ...]
    ca: Path | None = None
    cert: Path | None = None
    key: Path | None = None
    user: str | None = None
    password: str | None = field(default=None, repr=False)

    def __post_init__(self) -> None:
        if not self.endpoints:
            raise ValueError("no etcd endpoint is given: name at least one, as http://HOST:PORT or https://HOST:PORT")
        if (self.cert is None) != (self.key is None):
            raise ValueError("a client certificate for etcd needs both files: the certificate and its key")
        if (self.user is None) != (self.password is None):
            raise ValueError("an etcd user needs a password, and a password a user")
        for endpoint in self.servers:
            if not endpoint.tls and self._has_certificates:
                raise ValueError(f"etcd endpoint {endpoint.address} is http, but certificates are given: use https")

    @property
    def servers(self) -> tuple[Endpoint, ...]:
        """The endpoints, taken apart."""
        return tuple(self._server(text) for text in self.endpoints)

    @property
    def _has_certificates(self) -> bool:
        return self.ca is not None or self.cert is not None

    def _server(self, text: str) -> Endpoint:
        parts = _ENDPOINT.fullmatch(text)
        if parts is None or not 0 < int(parts["address"].rpartition(":")[2]) < 1 << 16:
            raise ValueError(f"etcd endpoint {text!r} is not of the form http://HOST:PORT or https://HOST:PORT")
        scheme = parts["scheme"]
        return Endpoint(parts["address"], scheme == "https" or (scheme is None and self._has_certificates))


@dataclass(frozen=True, slots=True)
class KeyValue:
    """A key as it is at `mod_revision`; `lease` is 0 where it has none."""

    key: str
    value: bytes
    create_revision: int
    mod_revision: int
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Listing:
    """Everything there is in the ranges asked for, at one revision of the store."""

    revision: int
    items: Mapping[str, KeyValue]
    cluster_id: int = 0


@dataclass(frozen=True, slots=True)
class Changes:
    """What has changed up to `revision`: the last state of each key that was touched, so in one of the two only."""

    revision: int
    puts: tuple[KeyValue, ...] = ()
    deletes: tuple[str, ...] = ()


class Condition(Enum):
    """What a transaction may ask about a key."""

    UNCHANGED = "unchanged"
    ABSENT = "absent"
    EXISTS = "exists"


@dataclass(frozen=True, slots=True)
class Compare:
    """A condition of a transaction: see `unchanged`, `absent`, `exists`."""

    key: str
    condition: Condition
    mod_revision: int = 0


def unchanged(key: str, mod_revision: int) -> Compare:
    """`key` was last written at `mod_revision`; revision 0 is that of a key that does not exist."""
    return Compare(key, Condition.UNCHANGED, mod_revision)


def absent(key: str) -> Compare:
    """There is no `key`."""
    return Compare(key, Condition.ABSENT)


def exists(key: str) -> Compare:
    """There is a `key`."""
    return Compare(key, Condition.EXISTS)


@dataclass(frozen=True, slots=True)
class Put:
    """Write `key`; with a lease it is gone when the lease is."""

    key: str
    value: bytes
    lease: int = 0


@dataclass(frozen=True, slots=True)
class Delete:
    """Remove `key`, if it is there."""

    key: str


Operation = Put | Delete


@dataclass(frozen=True, slots=True)
class TransactionResult:
    """Whether all conditions held (`then` was done, else `otherwise`), and the store's revision afterwards."""

    succeeded: bool
    revision: int


def to_wire(key: str) -> bytes:
    """A key as etcd has it. Keys are bytes there: what is not UTF-8 survives the way in and out."""
    return key.encode("utf-8", "surrogateescape")


def from_wire(key: bytes) -> str:
    """The reverse of `to_wire`."""
    return key.decode("utf-8", "surrogateescape")


@dataclass(frozen=True, slots=True)
class Range:
    """The keys from `start` up to, not including, `end`. An empty `end` means the key `start` alone."""

    start: bytes
    end: bytes = b""

    @classmethod
    def of(cls, name: str) -> Range:
        """A key, or everything in a folder (a name that ends in `/`)."""
        start = to_wire(name)
        return cls(start, start[:-1] + b"0") if name.endswith("/") else cls(start)  # '0' follows '/' in ASCII

    def after(self, key: bytes) -> Range:
        """The rest of the range behind `key`."""
        return Range(key + b"\0", self.end)
