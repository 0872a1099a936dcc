"""Settings: what an operator may choose, where the choice comes from, and a clear word when it is wrong.

A setting `node_address` is looked for, in this order, as the flag `--node-address`, as the environment variable
`K8SOVS_NODE_ADDRESS`, under the key `node-address` in the configuration file (TOML), and then has its default. Each
settings class below is the whole list for its process: the field's type says how a text is read, its help is what
`--help` prints.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import math
import tomllib
import typing
from collections.abc import Callable, Mapping
from dataclasses import MISSING, dataclass
from enum import Enum
from ipaddress import IPv4Address
from pathlib import Path

from k8sovs.etcd import EtcdConfig
from k8sovs.logs import LogFormat
from k8sovs.records import DEFAULT_PREFIX, NetworkConfig, RecordError

DEFAULT_FILE = Path("/etc/k8sovs/config.toml")

_LONGEST_DELAY_S = 60
_SHORTEST_LEASE_S = 2
_LONGEST_LEASE_S = 600


class ConfigError(Exception):
    """A setting that cannot be used; the text names the setting, its value and where it came from."""


class UnusableSetting(ConfigError):
    """A setting whose value is of the right form, but of no use; `source_of` says where it came from."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"{_flag(name)}: {reason}")
        self.name = name


Name = typing.NewType("Name", str)
"""A text that is not empty."""
Port = typing.NewType("Port", int)
"""A port of UDP or TCP."""
Prefix = typing.NewType("Prefix", str)
"""Where our keys begin in etcd."""
Ttl = typing.NewType("Ttl", int)
"""How long a leader may be silent, in whole seconds."""
Seconds = typing.NewType("Seconds", float)
"""A length of time."""
Delay = typing.NewType("Delay", float)
"""A length of time that must pass between two writes."""
Listen = typing.NewType("Listen", str)
"""Where to serve, as host:port; or empty, for nowhere."""
Plugins = typing.NewType("Plugins", str)
"""Configurations of CNI plugins, a JSON list of objects."""
LogLevel = typing.NewType("LogLevel", str)
"""The least important lines that are logged."""


class Datapath(Enum):
    """Which datapath of Open vSwitch carries the pods."""

    AUTO = "auto"
    SYSTEM = "system"
    """The kernel module: what production uses."""
    NETDEV = "netdev"
    """Userspace: where there is no module."""


class ServiceProxy(Enum):
    """Who translates the addresses of Services."""

    OVS = "ovs"
    """The switch."""
    KUBE_PROXY = "kube-proxy"
    """The node's kernel, told by kube-proxy or something like it."""


def _setting(text: str, default: object = MISSING) -> typing.Any:  # noqa: ANN401 - dataclasses.field is typed so
    if default is MISSING:
        return dataclasses.field(metadata={"help": text})
    return dataclasses.field(default=default, metadata={"help": text})


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreSettings:
    """How to reach etcd, and where our records are; every process has these."""

    etcd_endpoints: tuple[str, ...] = _setting("etcd servers, comma separated URLs", ("http://127.0.0.1:2379",))
    etcd_ca: Path | None = _setting("certificate authority that signed the servers' certificates", None)
    etcd_cert: Path | None = _setting("client certificate", None)
    etcd_key: Path | None = _setting("key of the client certificate", None)
    etcd_user: str | None = _setting("etcd user", None)
    etcd_password_file: Path | None = _setting("file that holds the etcd user's password", None)
    prefix: Prefix = _setting("prefix of all our keys", DEFAULT_PREFIX)
    log_level: LogLevel = _setting("debug, info, warning or error", "info")
    log_format: LogFormat = _setting("text or json", LogFormat.TEXT)

    @property
    def etcd(self) -> EtcdConfig:
        """The same, as the store takes it.

        Raises ConfigError for settings that do not go together, and for files that cannot be read.
        """
        password = self._content("etcd_password_file")
        try:
            config = EtcdConfig(
                endpoints=self.etcd_endpoints,
                ca=self.etcd_ca,
                cert=self.etcd_cert,
                key=self.etcd_key,
                user=self.etcd_user,
                password=None if password is None else password.decode(errors="replace").strip(),
            )
        except ValueError as error:
            raise ConfigError(f"settings etcd-*: {error}") from error
        for name in ("etcd_ca", "etcd_cert", "etcd_key"):
            self._content(name)
        return config

    def _content(self, name: str) -> bytes | None:
        """What is in the file that setting `name` names; None if it names none."""
        path: Path | None = getattr(self, name)
        try:
            return None if path is None else path.read_bytes()
        except OSError as error:
            raise UnusableSetting(name, f"cannot read {path}: {error.strerror}") from error


@dataclass(frozen=True, slots=True, kw_only=True)
class HostSettings(StoreSettings):
    """What every host of the pod network has, a node or a load balancer beside them."""

    node_name: str
    node_address: IPv4Address | None = _setting("underlay address; default: that of this node's subnet record", None)
    ovs_rundir: Path = _setting("run directory of Open vSwitch", Path("/var/run/openvswitch"))
    datapath: Datapath = _setting("auto, system (kernel module) or netdev (userspace)", Datapath.AUTO)
    bridge: str = _setting("name of the bridge", "br0")
    vxlan_port: Port = _setting("UDP port of VXLAN", 4789)
    service_proxy: ServiceProxy = _setting("who handles Services: ovs or kube-proxy", ServiceProxy.KUBE_PROXY)
    mtu: int = _setting("MTU of pods; 0: that of the underlay less 50 bytes", 0)
    state_dir: Path = _setting("where the last good snapshot is kept", Path("/var/lib/k8sovs"))
    accept_unsolicited: bool = _setting("let the underlay open connections into the overlay", False)
    metrics_address: Listen = _setting("host:port of /metrics; empty: none", "")


@dataclass(frozen=True, slots=True, kw_only=True)
class AgentSettings(HostSettings):
    """The node daemon."""

    node_name: Name = _setting("this node's name in Kubernetes")
    kubeconfig: Path | None = _setting("kubeconfig file; default: the pod's service account", None)
    cni_socket: Path = _setting("Unix socket for the CNI executable", Path("/run/k8sovs/cni.sock"))
    cni_conf_dir: Path = _setting("where the network configuration is written, last", Path("/etc/cni/net.d"))
    cni_chain: Plugins = _setting("plugins to call after ours: a JSON list of their configurations", Plugins("[]"))
    cni_bin_dir: Path = _setting("where the CNI executable is installed", Path("/opt/cni/bin"))
    tenancy_deadline_s: Seconds = _setting("seconds an ADD waits for its namespace to get a VNI", 20.0)


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings(HostSettings):
    """The daemon of a host outside Kubernetes: it knows itself by its address, or by its name, or by both."""

    node_name: str = _setting("this host's name in its subnet record; default: any, node-address says which record", "")

    def __post_init__(self) -> None:
        if not self.node_name and self.node_address is None:
            raise ConfigError("node-address is not set: give --node-address, as it was told to 'k8sovs edge add'")


@dataclass(frozen=True, slots=True, kw_only=True)
class UninstallSettings(StoreSettings):
    """What a daemon of a host left where; the store is not asked."""

    ovs_rundir: Path = _setting("run directory of Open vSwitch", Path("/var/run/openvswitch"))
    bridge: str = _setting("name of the bridge", "br0")
    state_dir: Path = _setting("where the daemon keeps its state", Path("/var/lib/k8sovs"))
    cni_socket: Path = _setting("Unix socket of the agent", Path("/run/k8sovs/cni.sock"))
    cni_conf_dir: Path = _setting("where the network configuration is", Path("/etc/cni/net.d"))
    cni_bin_dir: Path = _setting("where the CNI executable is", Path("/opt/cni/bin"))


@dataclass(frozen=True, slots=True, kw_only=True)
class ControllerSettings(StoreSettings):
    """The cluster daemon."""

    identity: Name = _setting("name of this replica, unique among them")
    kubeconfig: Path | None = _setting("kubeconfig file; default: the pod's service account", None)
    network: NetworkConfig | None = _setting("network configuration (JSON), written where there is none yet", None)
    born_global: tuple[str, ...] = _setting("namespaces that are created global", ("default", "kube-system"))
    phase_delay_s: Delay = _setting("seconds between the first two phases of a change of VNI", 0.3)
    drain_delay_s: Delay = _setting("seconds between the last two phases of a change of VNI", 0.5)
    lease_ttl_s: Ttl = _setting("seconds after which a silent leader is replaced", 5)
    metrics_address: Listen = _setting("host:port of /metrics; empty: none", "")


SettingsT = typing.TypeVar("SettingsT", bound=StoreSettings)


def add_flags(parser: argparse.ArgumentParser, settings: type[StoreSettings]) -> None:
    """Give `parser` a flag for each setting, and `--config` for the file."""
    parser.add_argument("--config", metavar="FILE", help=f"configuration file (default: {DEFAULT_FILE}, if there)")
    for field in dataclasses.fields(settings):
        parser.add_argument(f"--{_flag(field.name)}", dest=field.name, metavar="VALUE", help=field.metadata["help"])


def load(settings: type[SettingsT], arguments: argparse.Namespace, environment: Mapping[str, str]) -> SettingsT:
    """Settings of one process from its flags, its environment and its configuration file.

    Raises ConfigError with the setting, the value and the source at fault.
    """
    path, from_file = _chosen_file(arguments, environment)
    types = typing.get_type_hints(settings)
    values: dict[str, object] = {}
    for field in dataclasses.fields(settings):
        flag = _flag(field.name)
        found = _found(field.name, arguments, environment, path, from_file)
        if found is not None:
            values[field.name] = _parse(types[field.name], flag, *found)
        elif field.default is MISSING:
            raise ConfigError(f"{flag} is not set: give --{flag}, {_variable(field.name)}, or {flag} in {path}")
    return settings(**values)  # type: ignore[arg-type]  # checked field by field above


def source_of(name: str, arguments: argparse.Namespace, environment: Mapping[str, str]) -> str:
    """Where the setting `name` was chosen. Raises ConfigError if the configuration file cannot be read."""
    found = _found(name, arguments, environment, *_chosen_file(arguments, environment))
    return found[1] if found else "the default"


def _flag(name: str) -> str:
    return name.replace("_", "-")


def _variable(name: str) -> str:
    return f"K8SOVS_{name.upper()}"


def _chosen_file(arguments: argparse.Namespace, environment: Mapping[str, str]) -> tuple[Path, dict[str, str]]:
    chosen = getattr(arguments, "config", None) or environment.get("K8SOVS_CONFIG")
    path = Path(chosen) if chosen else DEFAULT_FILE
    return path, _read_file(path) if chosen or path.exists() else {}


def _found(
    name: str, arguments: argparse.Namespace, environment: Mapping[str, str], path: Path, from_file: Mapping[str, str]
) -> tuple[str, str] | None:
    """The text of a setting and its source, None where nobody has chosen."""
    candidates = (
        (getattr(arguments, name, None), f"flag --{_flag(name)}"),
        (environment.get(_variable(name)), f"environment variable {_variable(name)}"),
        (from_file.get(_flag(name)), f"file {path}"),
    )
    return next(((text, source) for text, source in candidates if text is not None), None)


def _read_file(path: Path) -> dict[str, str]:
    try:
        table = tomllib.loads(path.read_text())
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"configuration file {path} cannot be read: {error}") from error
    # One file may serve every daemon.
    kinds = (StoreSettings, AgentSettings, EdgeSettings, ControllerSettings)
    unknown = table.keys() - {_flag(field.name) for kind in kinds for field in dataclasses.fields(kind)}
    if unknown:
        raise ConfigError(f"configuration file {path}: there is no setting {', '.join(sorted(unknown))}")
    return {key: _as_text(value) for key, value in table.items()}


def _as_text(value: object) -> str:
    """A value of the file as it would stand in the environment."""
    match value:
        case list() if any(isinstance(item, dict) for item in value):
            return json.dumps(value)
        case list():
            return ",".join(str(item) for item in value)
        case dict():
            return json.dumps(value)
        case bool():
            return str(value).lower()
        case _:
            return str(value)


def _boolean(text: str) -> bool:
    try:
        return {"true": True, "yes": True, "1": True, "false": False, "no": False, "0": False}[text.lower()]
    except KeyError:
        raise ValueError("say true or false") from None


def _integer(text: str) -> int:
    if not text.strip().isdecimal():
        raise ValueError("say a whole number, 0 or more")
    return int(text)


def _port(text: str) -> int:
    port = _integer(text)
    if not 0 < port < 1 << 16:
        raise ValueError("a port is a number from 1 to 65535")
    return port


def _prefix(text: str) -> str:
    if not text.startswith("/") or text.endswith("/"):
        raise ValueError("it begins with a '/', and does not end with one")
    return text


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not 0 <= seconds < math.inf:
        raise ValueError("say a number of seconds, 0 or more")
    return seconds


def _delay(text: str) -> float:
    seconds = _seconds(text)
    if not 0 < seconds <= _LONGEST_DELAY_S:
        raise ValueError(f"say a number of seconds, more than 0 and at most {_LONGEST_DELAY_S}")
    return seconds


def _ttl(text: str) -> int:
    seconds = _integer(text)
    # etcd counts whole seconds, and a third of the time must be enough to renew the lease.
    if not _SHORTEST_LEASE_S <= seconds <= _LONGEST_LEASE_S:
        raise ValueError(f"say a whole number of seconds from {_SHORTEST_LEASE_S} to {_LONGEST_LEASE_S}")
    return seconds


def _name(text: str) -> str:
    if not text:
        raise ValueError("it must not be empty")
    return text


def _listen(text: str) -> str:
    if text:
        _port(text.rpartition(":")[2])
    return text


def _plugins(text: str) -> str:
    plugins = json.loads(text)
    if not isinstance(plugins, list) or not all(isinstance(one, dict) and one.get("type") for one in plugins):
        raise ValueError("say a JSON list of objects, each with the plugin's file name as its type")
    return text


def _log_level(text: str) -> str:
    if text not in ("debug", "info", "warning", "error"):
        raise ValueError("say debug, info, warning or error")
    return text


def _words(text: str) -> tuple[str, ...]:
    return tuple(word.strip() for word in text.split(",") if word.strip())


def _network(text: str) -> NetworkConfig:
    try:
        return NetworkConfig.parse("network", text.encode())
    except RecordError as error:
        raise ValueError(error.reason) from error


_PARSERS: Mapping[object, Callable[[str], object]] = {
    str: str,
    int: _integer,
    bool: _boolean,
    Path: Path,
    IPv4Address: IPv4Address,
    NetworkConfig: _network,
    tuple[str, ...]: _words,
    Name: _name,
    Port: _port,
    Prefix: _prefix,
    Ttl: _ttl,
    Seconds: _seconds,
    Delay: _delay,
    Listen: _listen,
    Plugins: _plugins,
    LogLevel: _log_level,
}


def _parse(kind: object, flag: str, text: str, source: str) -> object:
    if type(None) in typing.get_args(kind):
        if text == "":
            return None
        (kind,) = (option for option in typing.get_args(kind) if option is not type(None))
    try:
        if isinstance(kind, type) and issubclass(kind, Enum):
            return _choice(kind, text)
        return _PARSERS[kind](text)
    except ValueError as error:
        raise ConfigError(f"{flag}: {text!r} (from {source}) cannot be used: {error}") from error


def _choice(kind: type[Enum], text: str) -> Enum:
    for choice in kind:
        if choice.value == text:
            return choice
    raise ValueError(f"say {' or '.join(str(choice.value) for choice in kind)}")
