"""Calls the CNI executable as a container runtime does: environment, configuration on standard input, result back."""

from __future__ import annotations

import asyncio
import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Interface
from pathlib import Path
from typing import Any

from k8sovs.lab.layout import LabError, NodeLayout
from k8sovs.lab.netns import inside

CALL_TIMEOUT_S = 120.0
SPOKEN_VERSION = "1.1.0"
STATUS_SINCE = (1, 1, 0)
_NO_BURST = 2**32 - 1
"""What containerd passes for a limit that came without a burst."""


class CniFailure(LabError):
    """The executable reported an error, or none that could be understood."""


@dataclass(frozen=True, slots=True)
class Sandbox:
    """What a runtime knows of a pod's sandbox. `bandwidth`: the limits in the form of the CNI capability."""

    container_id: str
    netns: Path
    namespace: str
    name: str
    uid: str
    bandwidth: Mapping[str, int] = field(default_factory=dict)


def find_conf(node: NodeLayout) -> Path | None:
    """The configuration that a runtime would take: the first file by name."""
    if not node.cni_conf_dir.is_dir():
        return None
    files = sorted(path for path in node.cni_conf_dir.iterdir() if path.suffix in (".conf", ".conflist", ".json"))
    return files[0] if files else None


async def add(node: NodeLayout, sandbox: Sandbox) -> IPv4Address:
    """Attach `sandbox`; its first address in the result of the last plugin in the list. CniFailure."""
    result: dict[str, Any] | None = None
    for conf in _plugins(node, sandbox):
        if result is not None:
            conf["prevResult"] = result
        result = _decode(await _call(node, "ADD", conf, sandbox), f"the result of CNI ADD on {node.name}")
    try:
        return IPv4Interface((result or {})["ips"][0]["address"]).ip
    except (KeyError, IndexError, TypeError, ValueError) as error:
        raise CniFailure(f"the result of CNI ADD on {node.name} holds no IPv4 address: {result}") from error


async def delete(node: NodeLayout, sandbox: Sandbox) -> None:
    """Detach `sandbox`, the plugins in reverse order. CniFailure."""
    for conf in reversed(_plugins(node, sandbox)):
        await _call(node, "DEL", conf, sandbox)


async def check_ready(node: NodeLayout) -> None:
    """Return if every plugin says that it can attach pods; CniFailure says why not.

    Before version 1.1.0 nobody can be asked, and the configuration alone says that pods may come.
    """
    for conf in _plugins(node, None):
        if _numbers(conf["cniVersion"]) >= STATUS_SINCE:
            await _call(node, "STATUS", conf, None)


def _plugins(node: NodeLayout, sandbox: Sandbox | None) -> list[dict[str, Any]]:
    """The configuration of each plugin, as it is handed over: name, version and granted capabilities filled in."""
    path = find_conf(node)
    if path is None:
        raise CniFailure(f"{node.name} has no network configuration in {node.cni_conf_dir}: its agent is not ready")
    conf = _decode(path.read_text(), str(path))
    version = _newest([conf["cniVersion"], *conf.get("cniVersions", [])])
    plugins = []
    for plugin in conf.get("plugins", [conf]):
        granted = {**plugin, "name": conf["name"], "cniVersion": version}
        if sandbox is not None and sandbox.bandwidth and plugin.get("capabilities", {}).get("bandwidth"):
            granted["runtimeConfig"] = {"bandwidth": dict(sandbox.bandwidth)}
        plugins.append(granted)
    return plugins


def _decode(text: str, what: str) -> dict[str, Any]:
    try:
        decoded = json.loads(text)
    except ValueError as error:
        raise CniFailure(f"{what} is no JSON: {error}") from error
    if not isinstance(decoded, dict):
        raise CniFailure(f"{what} is no JSON object")
    return decoded


def _newest(offered: Sequence[str]) -> str:
    """The newest version on offer that this runtime speaks, as the specification has it since 1.1.0."""
    known = [version for version in offered if _numbers(version) <= _numbers(SPOKEN_VERSION)]
    return max(known or offered, key=_numbers)


def _numbers(version: str) -> tuple[int, ...]:
    return tuple(int(number) for number in version.split("."))


def _environment(node: NodeLayout, command: str, sandbox: Sandbox | None) -> dict[str, str]:
    common = {"CNI_COMMAND": command, "CNI_PATH": str(node.cni_bin_dir)}
    if sandbox is None:
        return common
    return common | {
        "CNI_CONTAINERID": sandbox.container_id,
        "CNI_NETNS": str(sandbox.netns),
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": f"IgnoreUnknown=1;K8S_POD_NAMESPACE={sandbox.namespace};K8S_POD_NAME={sandbox.name};"
        f"K8S_POD_INFRA_CONTAINER_ID={sandbox.container_id};K8S_POD_UID={sandbox.uid}",
    }


async def _call(node: NodeLayout, command: str, conf: Mapping[str, Any], sandbox: Sandbox | None) -> str:
    executable = node.cni_bin_dir / conf["type"]
    process = await asyncio.create_subprocess_exec(
        *inside(node.netns, str(executable)),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        env={**os.environ, **_environment(node, command, sandbox)},
    )
    try:
        async with asyncio.timeout(CALL_TIMEOUT_S):
            output, complaint = await process.communicate(json.dumps(conf).encode())
    except TimeoutError:
        raise CniFailure(f"CNI {command} on {node.name} did not end within {CALL_TIMEOUT_S:.0f} s") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise CniFailure(f"CNI {command} on {node.name} failed: {_reason(output, complaint)}")
    return output.decode()


def _reason(output: bytes, complaint: bytes) -> str:
    try:
        error = json.loads(output)
        return f"code {error['code']}: {error['msg']} {error.get('details', '')}".strip()
    except (ValueError, TypeError, KeyError):
        said = (complaint or output).decode(errors="replace").strip()
        return said.splitlines()[-1] if said else "no reason given"


def bandwidth_of(annotations: Mapping[str, str]) -> dict[str, int]:
    """The limits that a runtime reads from a pod's annotations: whole bit/s, or with a suffix k, M or G (or Ki ...)."""
    limits: dict[str, int] = {}
    for direction in ("Ingress", "Egress"):
        text = annotations.get(f"kubernetes.io/{direction.lower()}-bandwidth")
        rate = _quantity(text) if text is not None else None
        if rate is not None:
            limits |= {f"{direction}Rate": rate, f"{direction}Burst": _NO_BURST}
    return limits


_SUFFIXES = {"": 1, "k": 10**3, "M": 10**6, "G": 10**9, "T": 10**12, "P": 10**15} | {
    f"{letter}i": 2 ** (10 * power) for power, letter in enumerate("KMGTP", start=1)
}


def _quantity(text: str) -> int | None:
    digits = text.rstrip("kKMGTPi")
    scale = _SUFFIXES.get(text[len(digits) :])
    return int(digits) * scale if digits.isdecimal() and scale is not None else None
