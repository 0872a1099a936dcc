"""Network namespaces that no file names: they last as long as this process holds them, so nothing is left behind.

All of it takes root.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import TracebackType
from typing import Any, TypeAlias

from k8sovs.lab.waiting import PATIENCE

CLONE_NEWNET = 0x40000000

Json: TypeAlias = Any

_libc = ctypes.CDLL(None, use_errno=True)


@contextmanager
def fresh_namespace() -> Iterator[None]:
    """The calling thread, and the threads and processes it starts from now on, are in an empty network namespace."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        _checked(_libc.unshare(CLONE_NEWNET))
        run("ip", "link", "set", "lo", "up")
        yield
    finally:
        _checked(_libc.setns(home, CLONE_NEWNET))
        os.close(home)


class Sandbox:
    """A network namespace of its own, as a container runtime makes it for a pod: `path` leads to it."""

    def __enter__(self) -> Sandbox:
        opened: list[int] = []
        maker = threading.Thread(target=lambda: opened.append(_unshared()))
        maker.start()
        maker.join()
        self._descriptor: int | None = opened[0]
        self.path = f"/proc/{os.getpid()}/fd/{self._descriptor}"
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)

    def vanish(self) -> None:
        """Go before the end of the block, as a sandbox does that the runtime gives up: the kernel takes its devices."""
        assert self._descriptor is not None, "it is there only once"
        os.close(self._descriptor)
        self._descriptor = None

    def command(self, *command: str) -> list[str]:
        """`command`, to be run inside."""
        return ["nsenter", f"--net={self.path}", "--", *command]

    def run(self, *command: str) -> str:
        """What `command` prints when it runs inside; it must succeed."""
        return run(*self.command(*command))

    def succeeds(self, *command: str) -> bool:
        """Whether `command` exits with 0 inside."""
        done = subprocess.run(self.command(*command), capture_output=True, timeout=20 * PATIENCE, check=False)
        return done.returncode == 0

    def connect(self, outer: str, inner: str, *addresses: str) -> None:
        """A veth pair: `outer` in the caller's namespace, `inner` in here with `addresses` (a.b.c.d/n); both up."""
        run("ip", "link", "add", outer, "type", "veth", "peer", "name", inner, "netns", self.path)
        run("ip", "link", "set", outer, "up")
        self.run("ip", "link", "set", "lo", "up")
        self.run("ip", "link", "set", inner, "up")
        for address in addresses:
            self.run("ip", "address", "add", address, "dev", inner)


def run(*command: str) -> str:
    """What `command` prints; it must succeed."""
    result = subprocess.run(command, capture_output=True, text=True, timeout=20 * PATIENCE, check=False)
    assert result.returncode == 0, f"{' '.join(command)}: {result.stderr}{result.stdout}"
    return result.stdout


def run_json(*command: str) -> Json:
    """What `command` prints, as JSON."""
    return json.loads(run(*command) or "[]")


def _unshared() -> int:
    _checked(_libc.unshare(CLONE_NEWNET))
    return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)


def _checked(result: int) -> None:
    if result != 0:
        raise OSError(ctypes.get_errno(), "network namespace")
