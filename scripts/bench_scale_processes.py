"""The processes beside the one that is measured, and what the kernel says of that one."""

from __future__ import annotations

import http.client
import json
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self, TypeVar

from scripts.bench_scale_world import Scale
from tests.support.apiserver import KUBECONFIG, ApiServer

T = TypeVar("T")


class ScaleApi(ApiServer):
    """`scripts.bench_scale_api` as a process, from entering to leaving; reached at `address` of this namespace."""

    def __init__(self, directory: Path, scale: Scale, address: str = "127.0.0.1") -> None:
        self._scale = scale
        self._host = address
        self._process: subprocess.Popen[str] | None = None
        self.kubeconfig = directory / "kubeconfig"
        self.address = ""

    def __enter__(self) -> Self:
        command = ["setpriv", "--pdeathsig=KILL", sys.executable, "-m", "scripts.bench_scale_api", self._scale.name]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self.address = f"{self._host}:{self._process.stdout.readline().strip()}"
        self.kubeconfig.write_text(KUBECONFIG.format(address=self.address))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._process is not None:
            self._process.kill()
            self._process.wait()

    def change(self, method: str, kind: str, number: int) -> tuple[str, float]:
        """POST or DELETE the object of `kind` (namespaces, nodes) with that number: its name, and when it was told."""
        with closing(http.client.HTTPConnection(self.address, timeout=10)) as connection:
            connection.request(method, f"/api/v1/{kind}/{number}", b"")
            answer = json.loads(connection.getresponse().read())
            return answer["name"], answer["at"]


def resident_mb(pid: int) -> float:
    """Resident memory of a process in MiB."""
    return _status_kb(pid, "VmRSS") / 1024


def peak_mb(pid: int) -> float:
    """The most that its resident memory ever was, in MiB."""
    return _status_kb(pid, "VmHWM") / 1024


def cpu_s(pid: int) -> float:
    """Processor time that a process has had, in seconds."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def wait_until(condition: Callable[[], T], what: str, *, within_s: float = 300.0, every_s: float = 0.005) -> T:
    """The first true result of `condition`; SystemExit at the deadline."""
    deadline = time.monotonic() + within_s
    while not (result := condition()):
        if time.monotonic() > deadline:
            raise SystemExit(f"not within {within_s:.0f} s: {what}")
        time.sleep(every_s)
    return result


def end_in_good_order() -> None:
    """SIGTERM is to leave nothing behind either."""
    signal.signal(signal.SIGTERM, _exit)


def _exit(number: int, frame: object) -> NoReturn:
    raise SystemExit(128 + number)


def _status_kb(pid: int, name: str) -> int:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(name + ":"))


def many_files() -> None:
    """Let this process, and those that it starts, open as many files as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
