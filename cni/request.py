"""What a container runtime asks for: a network configuration on standard input, parameters in the environment.

Source: the CNI specification 1.1.0, sections "Network configuration format" and "Execution protocol". VERSION is
not here: the executable answers it by itself.
"""

from __future__ import annotations

import json
import os
import re
import reprlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from enum import Enum

from cni.errors import CniError, ErrorCode
from cni.previous import Json, PreviousResult
from cni.versions import SUPPORTED

_IDENTIFIER = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]*", re.ASCII)
_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]{0,61}[a-z0-9])?", re.ASCII)
_VALID_ATTACHMENTS = ("cni.dev/valid-attachments", "cni.dev/attachments")
"""The specification once gave both names to the same list; runtimes send either, or both."""


_shown = reprlib.Repr()
_shown.maxstring = _shown.maxother = 100
"""Renders values for messages: a hostile one may be long, or nested deeply."""


class Command(Enum):
    """The operations."""

    ADD = "ADD"
    DEL = "DEL"
    CHECK = "CHECK"
    GC = "GC"
    STATUS = "STATUS"


_REQUIRED = {
    Command.ADD: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.DEL: ("CNI_CONTAINERID", "CNI_IFNAME"),
    Command.CHECK: ("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"),
    Command.GC: (),
    Command.STATUS: (),
}


_EXPECTED = {
    "CNI_COMMAND": "it must be one of ADD, DEL, CHECK, GC, STATUS, VERSION",
    "CNI_CONTAINERID": "it must begin with a letter or a digit, go on with these, '_', '.' or '-', 255 at most",
    "CNI_IFNAME": "it must be an interface's name: at most 15 bytes, none of them '/', ':', '%' or a space",
    "CNI_NETNS": "it must be the absolute path of the sandbox's network namespace, shorter than 4096 bytes",
    "CNI_ARGS": "it must be KEY=VALUE;..., with the pod's K8S_POD_NAMESPACE and K8S_POD_NAME",
}
"""What the runtime should have given."""

_OF_THE_FILE = "correct the network configuration file, or remove it: the agent writes it anew"
_OF_THE_RUNTIME = "the runtime puts this in: see its log, and whether it knows this version of CNI"


@dataclass(frozen=True, slots=True, order=True)
class AttachmentKey:
    """What identifies an attachment: one interface of one container."""

    container_id: str
    ifname: str

    def __str__(self) -> str:
        return f"{self.container_id}/{self.ifname}"


@dataclass(frozen=True, slots=True)
class PodIdentity:
    """The pod behind a container. `uid` is empty where the runtime does not tell it."""

    namespace: str
    name: str
    uid: str


@dataclass(frozen=True, slots=True)
class NetConf:
    """The configuration of this one plugin, as the runtime derived it from the conf file.

    `valid_attachments` is None where the runtime gave no such list; an empty set says that no attachment is valid.
    `raw` is the whole document.
    """

    cni_version: str
    name: str
    type: str
    prev_result: Mapping[str, Json] | None
    runtime_config: Mapping[str, Json]
    valid_attachments: frozenset[AttachmentKey] | None
    raw: Mapping[str, Json]

    @classmethod
    def parse(cls, document: bytes) -> NetConf:
        """Read standard input. Raises CniError with DECODING_FAILURE, INCOMPATIBLE_VERSION or INVALID_CONFIG."""
        raw = _decode(document)
        return cls(
            cni_version=_version(raw),
            name=_identifier(raw, "name"),
            type=_text(raw, "type"),
            prev_result=_object(raw, "prevResult"),
            runtime_config=_object(raw, "runtimeConfig") or {},
            valid_attachments=_valid_attachments(raw),
            raw=raw,
        )


@dataclass(frozen=True, slots=True)
class Request:
    """One call. Parameters that the command does not need may be empty.

    `previous` is the result so far, for ADD and CHECK; a DEL must not fail because of it.
    """

    command: Command
    container_id: str
    netns: str
    ifname: str
    args: Mapping[str, str]
    path: str
    conf: NetConf
    previous: PreviousResult | None = None

    @classmethod
    def parse(cls, environment: Mapping[str, str], conf: NetConf) -> Request:
        """Read the CNI_* variables. Raises CniError with INVALID_ENVIRONMENT, or INVALID_CONFIG.

        The latter if `conf` lacks what the command needs: `prevResult` for CHECK, the valid attachments for GC.
        """
        command = _command(environment)
        missing = [name for name in _REQUIRED[command] if not environment.get(name)]
        if missing:
            expected = "; ".join(f"{name}: {_EXPECTED[name]}" for name in missing)
            raise CniError(ErrorCode.INVALID_ENVIRONMENT, f"{command.value} needs {', '.join(missing)}", expected)
        if command is Command.CHECK and conf.prev_result is None:
            raise CniError(
                ErrorCode.INVALID_CONFIG, "prevResult: missing; CHECK needs the result of the ADD", _OF_THE_RUNTIME
            )
        if command is Command.GC and conf.valid_attachments is None:
            raise CniError(ErrorCode.INVALID_CONFIG, f"{_VALID_ATTACHMENTS[0]}: missing; GC needs it", _OF_THE_RUNTIME)
        return cls(
            command=command,
            container_id=_checked(environment, "CNI_CONTAINERID", _is_container_id),
            netns=_checked(environment, "CNI_NETNS", _is_absolute_path),
            ifname=_checked(environment, "CNI_IFNAME", _is_interface_name),
            args=_args(environment.get("CNI_ARGS", "")),
            path=environment.get("CNI_PATH", ""),
            conf=conf,
            previous=_previous(command, conf),
        )

    @property
    def key(self) -> AttachmentKey:
        """The attachment that is meant, for commands that mean one."""
        return AttachmentKey(self.container_id, self.ifname)

    @property
    def pod(self) -> PodIdentity:
        """The pod, from CNI_ARGS. Raises CniError with INVALID_ENVIRONMENT if it is not told, or no possible name."""
        namespace = self.args.get("K8S_POD_NAMESPACE", "")
        name = self.args.get("K8S_POD_NAME", "")
        if not _DNS_LABEL.fullmatch(namespace):
            raise _bad_variable("CNI_ARGS", f"K8S_POD_NAMESPACE={namespace}")
        if len(name) > 253 or not all(_DNS_LABEL.fullmatch(label) for label in name.split(".")):
            raise _bad_variable("CNI_ARGS", f"K8S_POD_NAME={name}")
        return PodIdentity(namespace, name, self.args.get("K8S_POD_UID", ""))


def _previous(command: Command, conf: NetConf) -> PreviousResult | None:
    if conf.prev_result is None or command not in (Command.ADD, Command.CHECK):
        return None
    return PreviousResult.parse(conf.prev_result)


def _is_container_id(text: str) -> bool:
    """Specification, section "Parameters"; containerd allows 76 characters."""
    return len(text) <= 255 and _IDENTIFIER.fullmatch(text) is not None


def _is_interface_name(text: str) -> bool:
    """Specification, section "Parameters". Besides: the kernel makes a number of `%d`, and keeps `all` and `default`
    for settings of every interface; what cannot be printed would deceive whoever reads a list of interfaces.
    """
    return (
        0 < len(text.encode()) < 16
        and text not in {".", "..", "all", "default"}
        and text.isprintable()
        and not any(letter in "/:%" or letter.isspace() for letter in text)
    )


def _is_absolute_path(text: str) -> bool:
    """A path that the kernel could open (PATH_MAX)."""
    return text.startswith("/") and len(os.fsencode(text)) < 4096


def _bad_variable(name: str, value: str) -> CniError:
    return CniError(ErrorCode.INVALID_ENVIRONMENT, f"{name}: {_shown.repr(value)} is not valid", _EXPECTED[name])


def _command(environment: Mapping[str, str]) -> Command:
    try:
        return Command(environment.get("CNI_COMMAND", ""))
    except ValueError:
        raise _bad_variable("CNI_COMMAND", environment.get("CNI_COMMAND", "")) from None


def _checked(environment: Mapping[str, str], name: str, is_valid: Callable[[str], bool]) -> str:
    value = environment.get(name, "")
    if value and not is_valid(value):
        raise _bad_variable(name, value)
    return value


def _args(text: str) -> dict[str, str]:
    """CNI_ARGS: `KEY=VALUE` separated by semicolons, in any order. Keys that nobody knows are kept."""
    pairs = [pair.partition("=") for pair in text.split(";") if pair]
    if any(not key or not separator for key, separator, _ in pairs):
        raise _bad_variable("CNI_ARGS", text)
    return {key: value for key, _, value in pairs}


def _decode(document: bytes) -> dict[str, Json]:
    try:
        raw = json.loads(document)
    except (ValueError, RecursionError) as error:
        raise CniError(ErrorCode.DECODING_FAILURE, f"standard input is not JSON: {error}") from None
    if not isinstance(raw, dict):
        raise CniError(ErrorCode.DECODING_FAILURE, "standard input is not a JSON object")
    return raw


def _version(raw: Mapping[str, Json]) -> str:
    version = raw.get("cniVersion")
    if not isinstance(version, str) or version not in SUPPORTED:
        raise CniError(
            ErrorCode.INCOMPATIBLE_VERSION,
            f"cniVersion: {_shown.repr(version)} is not supported",
            f"supported are {', '.join(SUPPORTED)}",
        )
    return version


def _text(raw: Mapping[str, Json], field: str) -> str:
    value = raw.get(field)
    if not isinstance(value, str) or not value:
        raise CniError(ErrorCode.INVALID_CONFIG, f"{field}: must be a text, not {_shown.repr(value)}", _OF_THE_FILE)
    return value


def _identifier(raw: Mapping[str, Json], field: str) -> str:
    value = _text(raw, field)
    if not _IDENTIFIER.fullmatch(value):
        raise CniError(
            ErrorCode.INVALID_CONFIG,
            f"{field}: {_shown.repr(value)} has characters that the specification forbids",
            _OF_THE_FILE,
        )
    return value


def _object(raw: Mapping[str, Json], field: str) -> Mapping[str, Json] | None:
    value = raw.get(field)
    if value is not None and not isinstance(value, dict):
        raise CniError(ErrorCode.INVALID_CONFIG, f"{field}: must be an object", _OF_THE_RUNTIME)
    return value


def _valid_attachments(raw: Mapping[str, Json]) -> frozenset[AttachmentKey] | None:
    field = next((name for name in _VALID_ATTACHMENTS if raw.get(name) is not None), None)
    if field is None:
        return None
    entries = raw[field]
    if not isinstance(entries, list):
        raise CniError(ErrorCode.INVALID_CONFIG, f"{field}: must be a list", _OF_THE_RUNTIME)
    return frozenset(_attachment(field, entry) for entry in entries)


def _attachment(field: str, entry: Json) -> AttachmentKey:
    # One entry that cannot be read must not let an attachment look invalid: the whole list is refused.
    container_id = entry.get("containerID") if isinstance(entry, dict) else None
    ifname = entry.get("ifname") if isinstance(entry, dict) else None
    if not isinstance(container_id, str) or not isinstance(ifname, str):
        raise CniError(
            ErrorCode.INVALID_CONFIG, f"{field}: each entry must have containerID and ifname", _OF_THE_RUNTIME
        )
    return AttachmentKey(container_id, ifname)
