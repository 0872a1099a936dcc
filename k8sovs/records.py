"""The records that tenants and nodes are kept in, as they lie in etcd (`docs/state-in-etcd.md`).

Everything here is pure. Operators, the predecessor and strangers write these keys too, so a value is hostile until it
is parsed: `parse` either returns a record whose every field is of its type and in its range, or raises `RecordError`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum
from ipaddress import IPv4Address, IPv4Network

DEFAULT_PREFIX = "/k8s.ovs.com/ovs/network"

VNI_GLOBAL = 0
VNI_FIRST = 10
VNI_MAX = 2**24 - 1

# A record has a handful of short fields; what is longer is no record, and is not worth parsing.
VALUE_LIMIT = 64 * 1024
# A namespace accepts its own id, and one more while it changes. Every accepted id is a flow per pod on the switch.
ACCEPT_LIMIT = 16

_NAMESPACE = re.compile(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?")  # RFC 1123 label, as Kubernetes requires
_UID = re.compile(rb"[!-~]{1,128}")
_NETWORK_NAME = re.compile(r"[A-Za-z0-9._-]{1,253}")

Extra = tuple[tuple[str, str], ...]
"""Fields of a record that we do not know, in their order: name and JSON text. They are written back as they were."""

NODE_MARK = ("Node", "true")
"""The field by which the controller marks the subnet record of a Kubernetes node."""


class RecordError(ValueError):
    """The value of `key` is not a valid record; `reason` says what is wrong with it."""

    def __init__(self, key: str, reason: str) -> None:
        super().__init__(f"{key}: {reason}")
        self.key = key
        self.reason = reason


class MisplacedRecordError(RecordError):
    """The value is that of another key."""


class Mode(Enum):
    """Whether namespaces are kept apart. The value is the record's `PluginName`."""

    SUBNET = "k8s-ovs-subnet"
    MULTITENANT = "k8s-ovs-multitenant"


@dataclass(frozen=True, slots=True)
class Keys:
    """Where things lie in etcd, under `prefix`, for the network called `name`. A key that ends in `/` is a folder."""

    prefix: str
    name: str = ""

    @property
    def config(self) -> str:
        """The network configuration: needs no `name`, it holds it."""
        return f"{self.prefix}/config"

    @property
    def network(self) -> str:
        """The folder of everything else."""
        return f"{self.prefix}/{self.name}/"

    @property
    def subnets(self) -> str:
        """The folder of `SubnetRecord`s."""
        return f"{self.network}subnets/"

    @property
    def netnamespaces(self) -> str:
        """The folder of `NetNamespaceRecord`s."""
        return f"{self.network}netnamespaces/"

    @property
    def vnids(self) -> str:
        """The folder of `VnidRecord`s."""
        return f"{self.network}vnids/"

    @property
    def uids(self) -> str:
        """The folder of the UIDs of the Namespaces that ids were given to; nobody but the controller needs them."""
        return f"{self.network}uids/"

    @property
    def leader(self) -> str:
        """The folder in which controllers stand for election."""
        return f"{self.network}leader/"

    @property
    def vni_cursor(self) -> str:
        """The id from which the next allocation searches upwards, in decimal."""
        return f"{self.network}vni-cursor"

    def subnet(self, host_ip: IPv4Address) -> str:
        """The key of a node's subnet."""
        return f"{self.subnets}{host_ip}"

    def netnamespace(self, namespace: str) -> str:
        """The key of the operator's record of a namespace."""
        return f"{self.netnamespaces}{namespace}"

    def vnid(self, namespace: str) -> str:
        """The key of what the data plane does for a namespace."""
        return f"{self.vnids}{namespace}"

    def uid(self, namespace: str) -> str:
        """The key of the UID of the Namespace that a namespace's id was given to."""
        return f"{self.uids}{namespace}"


@dataclass(frozen=True, slots=True)
class NetworkConfig:
    """The cluster's network. `host_subnet_length` counts the host bits of a node's subnet: 10 makes a /22."""

    name: str
    network: IPv4Network
    host_subnet_length: int
    service_network: IPv4Network
    mode: Mode

    @classmethod
    def parse(cls, key: str, value: bytes) -> NetworkConfig:
        """Read a `config` record. Raises `RecordError`."""
        fields = _Fields.read(key, value)
        name = fields.text("Name")
        if not _NETWORK_NAME.fullmatch(name) or name in (".", ".."):
            raise fields.error("Name", "letters, digits and ._-", name)
        network, services = fields.network("Network"), fields.network("ServiceNetwork")
        if network is None or services is None:
            raise RecordError(key, f"{'Network' if network is None else 'ServiceNetwork'} is missing")
        if network.overlaps(services):
            raise RecordError(key, f"Network {network} and ServiceNetwork {services} overlap: move one of them")
        # Fewer than 2 host bits leave no address for a pod, more than the network has leave no subnet for a node.
        length = fields.integer("HostSubnetLength", 2, 32 - network.prefixlen)
        if length is None:
            raise RecordError(key, "HostSubnetLength is missing")
        plugin = fields.text("PluginName")
        mode = next((mode for mode in Mode if mode.value == plugin.lower()), None)
        if mode is None:
            raise fields.error("PluginName", " or ".join(mode.value for mode in Mode), plugin)
        return cls(name, network, length, services, mode)

    def encode(self) -> bytes:
        """The record's value in etcd."""
        return _encode(
            {
                "Name": self.name,
                "Network": str(self.network),
                "HostSubnetLength": self.host_subnet_length,
                "ServiceNetwork": str(self.service_network),
                "PluginName": self.mode.value,
            }
        )

    @property
    def subnet_prefix_length(self) -> int:
        """The prefix length of every node's subnet."""
        return 32 - self.host_subnet_length

    def has_subnet(self, subnet: IPv4Network) -> bool:
        """Whether `subnet` is one of those that this network is divided into."""
        return subnet.prefixlen == self.subnet_prefix_length and subnet.subnet_of(self.network)


@dataclass(frozen=True, slots=True)
class SubnetRecord:
    """The pod subnet of one node, or edge host. Its key ends in `host_ip`; `host` is the node's name, its identity.

    `subnet` is None while none is assigned; `assign` asks the controller for one. Whether the subnet belongs to the
    network is another question (`NetworkConfig.has_subnet`).
    """

    host: str
    host_ip: IPv4Address
    subnet: IPv4Network | None
    assign: bool = False
    message: str = ""
    extra: Extra = ()

    @classmethod
    def parse(cls, key: str, value: bytes) -> SubnetRecord:
        """Read a record of the folder `subnets`. Raises `RecordError`, also if its key names another address."""
        fields = _Fields.read(key, value)
        name = _name_in_folder(key, "subnets")
        host_ip = fields.address("HostIP", name)
        if str(host_ip) != name:
            raise MisplacedRecordError(
                key, f"HostIP {host_ip} and the key disagree: delete the record or correct HostIP"
            )
        return cls(
            host=fields.text("Host") or name,
            host_ip=host_ip,
            subnet=fields.network("Subnet"),
            assign=fields.flag("Assign"),
            message=fields.text("message"),
            extra=fields.rest(),
        )

    @property
    def is_of_node(self) -> bool:
        """Whether we made it for a node of Kubernetes. We never ask for a subnet: who does is a person."""
        return NODE_MARK in self.extra and not self.assign

    def encode(self) -> bytes:
        """The record's value in etcd."""
        return _encode(
            {
                "Host": self.host,
                "HostIP": str(self.host_ip),
                "Subnet": "" if self.subnet is None else str(self.subnet),
                "Assign": self.assign,
            },
            self.message,
            self.extra,
        )


@dataclass(frozen=True, slots=True)
class NetNamespaceRecord:
    """The operator's form for a namespace and the mirror of the result; it never decides about traffic.

    `net_id` is None where the record names none, or nothing that could be one: a typed id is never used, so it is no
    reason to pass over what is asked for. `action` and `namespace` are what the operator wrote, whatever it is: an
    action that cannot be carried out deserves an answer, which goes into `message`.
    """

    net_name: str
    net_id: int | None
    action: str = ""
    namespace: str = ""
    message: str = ""
    extra: Extra = ()

    @classmethod
    def parse(cls, key: str, value: bytes) -> NetNamespaceRecord:
        """Read a record of the folder `netnamespaces`. Raises `RecordError`, also if its key names another one."""
        fields = _Fields.read(key, value)
        name = _namespace_in_folder(key, "netnamespaces")
        net_name = fields.text("NetName") or name
        if net_name != name:
            raise RecordError(key, f"NetName {_brief(net_name)} and the key disagree: write it under its own key")
        return cls(
            net_name=net_name,
            net_id=fields.integer_if_any("NetID", VNI_GLOBAL, VNI_MAX),
            action=fields.text("Action"),
            namespace=fields.text("Namespace"),
            message=fields.text("message"),
            extra=fields.rest(),
        )

    def encode(self) -> bytes:
        """The record's value in etcd."""
        return _encode(
            {"NetName": self.net_name, "NetID": self.net_id, "Action": self.action, "Namespace": self.namespace},
            self.message,
            self.extra,
        )


@dataclass(frozen=True, slots=True)
class VnidRecord:
    """What the data plane does for a namespace: pods send with `send` and are reached from any of `accept`.

    0 as a sender reaches everybody, a 0 in `accept` means from anyone; 1 to 9 are nobody's.
    """

    send: int
    accept: frozenset[int]

    @classmethod
    def parse(cls, key: str, value: bytes) -> VnidRecord:
        """Read a record of the folder `vnids`. Raises `RecordError`."""
        fields = _Fields.read(key, value)
        _namespace_in_folder(key, "vnids")
        send = fields.integer("Send", VNI_GLOBAL, VNI_MAX)
        if send is None:
            raise RecordError(key, "Send is missing")
        accept = fields.integers("Accept", VNI_GLOBAL, VNI_MAX, ACCEPT_LIMIT)
        reserved = sorted(vni for vni in accept | {send} if VNI_GLOBAL < vni < VNI_FIRST)
        if reserved:
            raise RecordError(key, f"{reserved[0]} is no id of a namespace: 0, or from {VNI_FIRST} to {VNI_MAX}")
        return cls(send, accept)

    def encode(self) -> bytes:
        """The record's value in etcd."""
        return _encode({"Send": self.send, "Accept": sorted(self.accept)})


def is_namespace_name(text: str) -> bool:
    """Whether a Namespace of Kubernetes can have this name."""
    return _NAMESPACE.fullmatch(text) is not None


def parse_vni_cursor(key: str, value: bytes) -> int:
    """Read the allocation cursor, an id that may be allocated. Raises `RecordError`."""
    if value.isdigit() and len(value) <= len(str(VNI_MAX)) and VNI_FIRST <= int(value) <= VNI_MAX:
        return int(value)
    raise RecordError(key, f"must be a number from {VNI_FIRST} to {VNI_MAX}, not {_brief(value)}")


def parse_uid(key: str, value: bytes) -> str:
    """Read the UID of a Namespace. Raises `RecordError`."""
    if _UID.fullmatch(value):
        return value.decode("ascii")
    raise RecordError(key, f"must be a UID, not {_brief(value)}")


@dataclass(frozen=True, slots=True)
class _Fields:
    """The fields of one JSON object; what has been asked for is taken out of it. A null is like a missing field.

    Names count in any case, as for the predecessor (Go's encoding/json); the exact one is preferred.
    """

    key: str
    fields: dict[str, object]

    @classmethod
    def read(cls, key: str, value: bytes) -> _Fields:
        if len(value) > VALUE_LIMIT:
            raise RecordError(key, f"{len(value)} bytes long, a record has at most {VALUE_LIMIT}")
        try:
            fields = json.loads(value.decode("utf-8"), parse_constant=_refuse_constant)
        except (ValueError, RecursionError) as error:  # not UTF-8, not JSON, a number of 5,000 digits; nested too deep
            raise RecordError(key, f"not JSON: {_brief(str(error), quote=False)}") from None
        if not isinstance(fields, dict):
            raise RecordError(key, f"must be a JSON object, not {_brief(fields)}")
        return cls(key, fields)

    def error(self, name: str, wanted: str, found: object) -> RecordError:
        return RecordError(self.key, f"{name} must be {wanted}, not {_brief(found)}")

    def take(self, name: str) -> object:
        spellings = [each for each in self.fields if each.casefold() == name.casefold()]
        found = {each: self.fields.pop(each) for each in spellings}
        return found.get(name, next(reversed(found.values()), None))

    def text(self, name: str) -> str:
        found = self.take(name)
        if found is None:
            return ""
        # JSON can spell half of a surrogate pair, which nothing that it is passed on to can encode.
        if not isinstance(found, str) or any("\ud800" <= character <= "\udfff" for character in found):
            raise self.error(name, "a text", found)
        return found

    def flag(self, name: str) -> bool:
        found = self.take(name)
        if found is None:
            return False
        if not isinstance(found, bool):
            raise self.error(name, "true or false", found)
        return found

    def integer(self, name: str, low: int, high: int) -> int | None:
        found = self.take(name)
        return None if found is None else self._checked(name, found, low, high)

    def integer_if_any(self, name: str, low: int, high: int) -> int | None:
        try:
            return self.integer(name, low, high)
        except RecordError:
            return None

    def integers(self, name: str, low: int, high: int, limit: int) -> frozenset[int]:
        found = self.take(name)
        if not isinstance(found, list) or len(found) > limit:
            raise self.error(name, f"a list of at most {limit} numbers", found)
        return frozenset(self._checked(name, item, low, high) for item in found)

    def _checked(self, name: str, found: object, low: int, high: int) -> int:
        # bool is a kind of int for Python, not for JSON.
        if not isinstance(found, int) or isinstance(found, bool) or not low <= found <= high:
            raise self.error(name, f"a number from {low} to {high}", found)
        return found

    def address(self, name: str, default: str) -> IPv4Address:
        text = self.text(name) or default
        try:
            address = IPv4Address(text)
        except ValueError:
            raise self.error(name, "an IPv4 address", text) from None
        nowhere = address.is_loopback or address.is_link_local  # from any other host
        if nowhere or address.is_multicast or address.is_unspecified or address.is_reserved:
            raise self.error(name, "the address of a host", text)
        return address

    def network(self, name: str) -> IPv4Network | None:
        text = self.text(name)
        if not text:
            return None
        try:
            return IPv4Network(text)
        except ValueError:
            raise self.error(name, "an IPv4 network like 172.11.0.0/16, without host bits", text) from None

    def rest(self) -> Extra:
        return tuple((name, json.dumps(value)) for name, value in self.fields.items())


def _encode(fields: Mapping[str, object], message: str = "", extra: Extra = ()) -> bytes:
    """JSON without spaces. An empty message is left out, so that a record looks as the predecessor wrote it."""
    said = {"message": message} if message else {}
    kept = {name: json.loads(text) for name, text in extra}
    return json.dumps({**fields, **said, **kept}, separators=(",", ":")).encode()


def _name_in_folder(key: str, folder: str) -> str:
    """The last part of `key`, which must lie directly in `folder`: a key further down would pass for another one."""
    parts = key.rsplit("/", 2)
    if len(parts) != 3 or parts[1] != folder:
        raise RecordError(key, f"does not lie directly in {folder}/: delete it")
    return parts[2]


def _namespace_in_folder(key: str, folder: str) -> str:
    name = _name_in_folder(key, folder)
    if not is_namespace_name(name):
        raise RecordError(key, f"{_brief(name)} cannot be the name of a namespace: delete it")
    return name


def _refuse_constant(name: str) -> object:
    raise ValueError(f"{name} is not JSON")


def _brief(value: object, *, quote: bool = True, limit: int = 60) -> str:
    """`value` for an error message, however long it is."""
    text = repr(value) if quote else str(value)
    return text if len(text) <= limit else f"{text[:limit]}..."
