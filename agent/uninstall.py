"""Takes everything of ours off a host: first what would bring more of it, last what the rest was made with.

It looks first, and says as steps what it found; so a dry run and a run tell the same, and a second run finds nothing.
Every step is tried, whatever became of the one before. What the host does not have is no error: an agent that died half
way, a switch that is away, a database of which nothing is left.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from agent.attachment import PodAttachment
from agent.bridge import GATEWAY, BridgeView
from agent.links import HOST_LINK_PREFIX, Links
from agent.nftables import Nftables, NftablesError
from agent.originals import Originals
from agent.ovsdb import Ovsdb, OvsdbError
from agent.podshape import IFB_PREFIX
from agent.sysctls import PROC_SYS
from cni.conf import CONF_FILE, EXECUTABLE
from k8sovs.config import UninstallSettings

DATABASE_PATIENCE_S = 5.0
"""For a switch that is there: it answers within milliseconds."""

RULE_VERSION_KEY = "k8sovs-rule-version"
_KERNEL_WORDS = (OSError, NftablesError, OvsdbError)


class StillInUse(Exception):
    """There is an agent, or there are pods; the text says which, and what to do."""


@dataclass(frozen=True, slots=True)
class Step:
    """Something to be removed, in words, and how. `act` raises OSError, NftablesError or OvsdbError."""

    text: str
    act: Callable[[], Awaitable[None]]


async def uninstall(
    settings: UninstallSettings, *, force: bool, dry_run: bool, keep_kernel_settings: bool, tell: Callable[[str], None]
) -> bool:
    """Remove everything, or with `dry_run` only tell of it, one line a step; whether all of it went well.

    Raises StillInUse, unless `force`.
    """
    async with Links() as links, Nftables() as nftables:
        ovsdb = Ovsdb(str(settings.ovs_rundir / "db.sock"), settings.bridge, DATABASE_PATIENCE_S)
        following = asyncio.create_task(ovsdb.run())
        try:
            with suppress(TimeoutError):
                await asyncio.wait_for(ovsdb.wait_connected(), DATABASE_PATIENCE_S)
            if not force:
                await asyncio.to_thread(_check_agent, settings.cni_socket)
                _check_pods(ovsdb.view, await links.links(HOST_LINK_PREFIX))
            if ovsdb.view is None:
                tell(f"note: no database of Open vSwitch answers at {settings.ovs_rundir}: its content stays")
            steps = await _steps(settings, ovsdb, links, nftables)
            if not keep_kernel_settings:
                steps += _kernel_steps(Originals(settings.state_dir))
            steps += _file_steps(settings)
            return await _carry_out(steps, dry_run, tell)
        finally:
            following.cancel()
            await asyncio.wait({following})


async def _carry_out(steps: list[Step], dry_run: bool, tell: Callable[[str], None]) -> bool:
    failed = False
    for step in steps:
        if dry_run:
            tell(f"would remove: {step.text}")
            continue
        try:
            await step.act()
            tell(f"removed: {step.text}")
        except _KERNEL_WORDS as error:
            failed = True
            tell(f"NOT removed: {step.text}: {error}")
    if not steps:
        tell("nothing of k8s-ovs is left here")
    return not failed


def _check_agent(path: Path) -> None:
    """Blocking. Raises StillInUse if an agent answers."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock, suppress(OSError):
        sock.settimeout(1)
        sock.connect(str(path))
        raise StillInUse(
            f"the agent of this host runs (it answers at {path}) and would put everything back: stop it first"
        )


def _check_pods(view: BridgeView | None, links: list[str]) -> None:
    remembered = (
        [] if view is None else [PodAttachment.from_external_ids(one.external_ids) for one in view.ports.values()]
    )
    pods = sorted({f"{one.pod.namespace}/{one.pod.name}" for one in remembered if one is not None})
    if pods or links:
        named = ", ".join(pods) or ", ".join(sorted(links))
        raise StillInUse(
            f"{len(pods) or len(links)} pods are attached and would lose their network: {named}; "
            "drain the node first (kubectl drain), or say --force"
        )


async def _steps(settings: UninstallSettings, ovsdb: Ovsdb, links: Links, nftables: Nftables) -> list[Step]:
    """The parts in the kernel and in the switch, behind the file that would have a runtime ask for more."""
    steps = [_unlink(path) for path in [settings.cni_conf_dir / CONF_FILE] if path.exists()]
    devices = [*await links.links(HOST_LINK_PREFIX), *await links.links(IFB_PREFIX)]
    view = ovsdb.view
    ours = view is not None and RULE_VERSION_KEY in view.external_ids
    if ours:
        steps.append(
            Step(f"bridge {settings.bridge} with its ports", partial(_remove_bridge, settings.bridge, ovsdb, links))
        )
    if devices:
        steps.append(Step(f"links of pods: {', '.join(sorted(devices))}", lambda: links.delete_links(devices)))
    commands = await nftables.removal()
    if commands:
        told = "; ".join(line.removeprefix("delete ") for line in commands.splitlines())
        steps.append(Step(f"filters: {told}", lambda: nftables.apply(commands)))
    return steps


async def _remove_bridge(bridge: str, ovsdb: Ovsdb, links: Links) -> None:
    if not await ovsdb.remove_bridge():
        # No ovs-vswitchd runs. On the userspace datapath its devices outlive it; those of the kernel datapath the next
        # one removes, and the kernel refuses us.
        await links.delete_links([GATEWAY, bridge])


def _kernel_steps(originals: Originals) -> list[Step]:
    steps = []
    for name, value in originals.known().items():
        path = PROC_SYS / name
        if ".." not in name and path.exists() and path.read_text().strip() != value:
            text = f"setting {name.replace('/', '.')}, again {value}"
            steps.append(Step(text, partial(asyncio.to_thread, _write, path, value)))
    return steps


def _write(path: Path, value: str) -> None:
    with suppress(FileNotFoundError):  # it went with its device
        path.write_text(value)


def _file_steps(settings: UninstallSettings) -> list[Step]:
    return [_unlink(path) for path in _files(settings)]


def _files(settings: UninstallSettings) -> Iterator[Path]:
    """The files, and behind those of a directory of ours the directory, which goes if nobody else uses it."""
    run_dir = settings.cni_socket.parent
    for directory, patterns in (
        (settings.cni_conf_dir, (f".{CONF_FILE}.*.tmp",)),
        (settings.cni_bin_dir, (EXECUTABLE, f".{EXECUTABLE}.*.tmp")),
        (run_dir / "spool", ("*",)),
        (run_dir, (settings.cni_socket.name, "spool")),
        (settings.state_dir, ("cluster.json", "cluster.new", "before.json", "before.new")),
    ):
        for pattern in patterns:
            yield from sorted(directory.glob(pattern))
    # In a container they are places where the host's are mounted: those cannot go from in there, and are empty.
    yield from (
        directory
        for directory in (run_dir, settings.state_dir)
        if directory.name == "k8sovs" and directory.exists() and not directory.is_mount()
    )


def _unlink(path: Path) -> Step:
    return Step(str(path), partial(asyncio.to_thread, _remove, path))


def _remove(path: Path) -> None:
    """A file, or a directory with nothing in it. Raises OSError."""
    with suppress(FileNotFoundError):
        if path.is_dir() and not path.is_symlink():
            path.rmdir()
        else:
            path.unlink()
