"""Removes a lab, in whatever state it is: what it recorded and what carries its mark goes, and nothing else.

There is no orderly way down beside this one: a lab that works is removed just like the remains of one that crashed.
"""

from __future__ import annotations

import os
import select
import shutil
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from enum import Enum
from pathlib import Path

from k8sovs.lab.layout import OWNER_VARIABLE, RUN_ROOT, LabError
from k8sovs.lab.netns import Journal, delete
from k8sovs.lab.topology import unguard_routes

KILL_TIMEOUT_S = 10.0
REAP_TIMEOUT_S = 3.0
EXEC_TIMEOUT_S = 1.0


@dataclass(frozen=True, slots=True)
class _Process:
    """A process, held by a descriptor so that its number cannot come to mean another one."""

    pid: int
    parent: int
    descriptor: int


class _Mark(Enum):
    """Whether a process belongs to the lab."""

    OURS = "it carries the lab's mark"
    FOREIGN = "it does not"
    UNKNOWN = "it has no environment, and works in the run directory: it is ours, between fork and exec"


def remember_home(directory: Path) -> None:
    """Write down the network namespace that the lab is started from: the blackhole routes are in it."""
    _home_file(directory).write_text(_this_netns())


def remove(directory: Path) -> bool:
    """Remove the lab with this run directory. False: there was none. LabError: what resists, or that we are inside."""
    if not directory.exists():
        return False
    home = _home_file(directory)
    if home.exists() and home.read_text() != _this_netns():
        raise LabError("'down' needs the network namespace that 'up' ran in, and this is another one")
    kill_processes(directory)
    for netns in Journal(directory / "namespaces").names():
        delete(netns)
    unguard_routes(directory.name)
    shutil.rmtree(directory)
    with suppress(OSError):  # not empty: another lab is up
        RUN_ROOT.rmdir()
    return True


def kill_processes(directory: Path) -> None:
    """Kill every process that carries the lab's mark, and those that they start meanwhile; LabError if one resists."""
    deadline = time.monotonic() + KILL_TIMEOUT_S
    undecided_until = time.monotonic() + EXEC_TIMEOUT_S
    while True:
        with _held_processes(directory) as (processes, undecided):
            if processes:
                # Children first: their parent, the supervisor, takes note of their death, so that no zombie remains.
                pids = {process.pid for process in processes}
                for orphan in (False, True):
                    _kill([process for process in processes if (process.parent not in pids) is orphan], deadline)
            elif not undecided or time.monotonic() > undecided_until:
                return


def _kill(processes: Sequence[_Process], deadline: float) -> None:
    for process in processes:
        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(process.descriptor, signal.SIGKILL)
    for process in processes:
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([process.descriptor], [], [], left)[0]:
            raise LabError(f"process {process.pid} of the lab does not die")
    reaped_by = time.monotonic() + REAP_TIMEOUT_S
    while time.monotonic() < reaped_by and any(Path(f"/proc/{process.pid}").exists() for process in processes):
        time.sleep(0.01)  # dead, but to be seen until its parent has asked for its status; there is nothing to wait on


@contextmanager
def _held_processes(directory: Path) -> Iterator[tuple[list[_Process], bool]]:
    """The processes that carry the lab's mark, but for this one; and whether there are any that cannot be told yet."""
    found: list[_Process] = []
    undecided = False
    try:
        for pid in [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]:
            with suppress(OSError):  # it ended meanwhile
                descriptor = os.pidfd_open(pid)
                try:
                    mark = _mark_of(pid, directory) if pid != os.getpid() else _Mark.FOREIGN
                    if mark is _Mark.OURS:
                        found.append(_Process(pid, _parent(pid), os.dup(descriptor)))
                    undecided = undecided or mark is _Mark.UNKNOWN
                finally:
                    os.close(descriptor)
        yield found, undecided
    finally:
        for process in found:
            os.close(process.descriptor)


def _mark_of(pid: int, directory: Path) -> _Mark:
    environment = Path(f"/proc/{pid}/environ").read_bytes()
    if f"{OWNER_VARIABLE}={directory}".encode() in environment.split(b"\0"):
        return _Mark.OURS
    if not environment and Path(os.readlink(f"/proc/{pid}/cwd")).is_relative_to(directory):
        return _Mark.UNKNOWN
    return _Mark.FOREIGN


def _parent(pid: int) -> int:
    # The name is in parentheses and may hold anything; the parent is the second field behind it.
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])


def _home_file(directory: Path) -> Path:
    return directory / "home"


def _this_netns() -> str:
    return str(os.stat("/proc/self/ns/net").st_ino)
