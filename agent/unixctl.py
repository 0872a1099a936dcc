"""One question to a daemon of Open vSwitch over its Unix socket: JSON-RPC 1.0 (RFC 7047, section 4).

ovs-vswitchd's control socket (what `ovs-appctl` talks to) and the database's socket speak the same.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from ipaddress import IPv4Address
from pathlib import Path

_CHUNK = 1 << 16
_MAX_ANSWER = 16 << 20
_TIMEOUT_S = 5.0

Json = dict[str, "Json"] | list["Json"] | str | int | float | bool | None


class ControlError(Exception):
    """The daemon at a socket did not answer, or answered that it cannot."""


async def call(path: str | Path, method: str, parameters: Sequence[str] = (), timeout: float = _TIMEOUT_S) -> Json:
    """The result of `method` at the Unix socket `path`. Raises ControlError, after `timeout` seconds at the latest."""
    request = json.dumps({"id": 0, "method": method, "params": list(parameters)}).encode()
    try:
        async with asyncio.timeout(timeout):
            answer = await _exchange(str(path), request)
    except TimeoutError:
        raise ControlError(f"{method}: no answer from {path} within {timeout:g} s") from None
    except OSError as error:
        raise ControlError(f"{method}: {path}: {error.strerror or error}; is Open vSwitch running?") from error
    if not isinstance(answer, dict) or answer.get("error") is not None:
        said = answer.get("error") if isinstance(answer, dict) else answer
        raise ControlError(f"{method}: {path} answered: {str(said).strip()}")
    return answer.get("result")


def vswitchd_socket(rundir: str | Path) -> Path:
    """The control socket of the ovs-vswitchd that runs in `rundir`; it is named after the daemon's process id.

    Raises ControlError.
    """
    pidfile = Path(rundir, "ovs-vswitchd.pid")
    try:
        pid = pidfile.read_text().strip()
    except OSError as error:
        raise ControlError(f"{pidfile}: {error.strerror}; ovs-vswitchd is not running") from error
    return Path(rundir, f"ovs-vswitchd.{pid}.ctl")


async def set_tunnel_neighbour(rundir: str | Path, ifname: str, address: IPv4Address, mac: str) -> None:
    """Tell the userspace datapath the MAC of a tunnel's next hop on the bridge `ifname`, which it would ask for
    otherwise, losing the first packet (`tnl/neigh/set`, ovs-vswitchd(8)). Raises ControlError.
    """
    await call(vswitchd_socket(rundir), "tnl/neigh/set", [ifname, str(address), mac])


async def set_tunnel_route(
    rundir: str | Path, destination: IPv4Address, ifname: str, gateway: IPv4Address | None
) -> None:
    """Tell the userspace datapath that tunnel packets to `destination` leave by the bridge `ifname`, to `gateway` if
    that is not the destination itself, and that tunnels end on `ifname` (`ovs/route/add`, ovs-vswitchd(8)).

    It replaces what was said of `destination` before. Raises ControlError, also while `ifname` has no address.
    """
    hop = [] if gateway is None else [str(gateway)]
    await call(vswitchd_socket(rundir), "ovs/route/add", [f"{destination}/32", ifname, *hop])


async def _exchange(path: str, request: bytes) -> Json:
    reader, writer = await asyncio.open_unix_connection(path)
    try:
        writer.write(request)
        await writer.drain()
        return await _read_value(reader, path)
    finally:
        writer.close()


async def _read_value(reader: asyncio.StreamReader, path: str) -> Json:
    """The first whole JSON value: nothing but its own end marks it."""
    decoder = json.JSONDecoder()
    received = b""
    while len(received) < _MAX_ANSWER:
        chunk = await reader.read(_CHUNK)
        if not chunk:
            break
        received += chunk
        try:
            value: Json = decoder.raw_decode(received.decode())[0]
        except ValueError:  # not yet whole
            continue
        return value
    raise ControlError(f"{path} closed the connection in the middle of an answer of {len(received)} bytes")
