"""Starts a lab's supervisor in the background, and follows it until the lab is ready."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from typing import BinaryIO

from k8sovs.lab.layout import OWNER_VARIABLE, Lab, LabError, spec_file
from k8sovs.lab.teardown import remember_home, remove


def up(lab: Lab, progress: Callable[[str], None]) -> None:
    """Build the lab; returns when a controller leads and every agent is ready.

    LabError: why not. A lab that was built but is not ready in time is left standing, to be looked at; one that
    could not be built, or whose caller interrupts, is removed.
    """
    _claim(lab)
    standing = False
    try:
        reader, writer = os.pipe()
        with os.fdopen(reader, "rb") as report:
            _start_supervisor(lab, writer)
            outcome = _follow(lab, report, progress)
        standing = outcome["standing"] is True
    finally:
        if not standing:
            remove(lab.directory)
    if "failed" in outcome:
        hint = f"; it is left as it is, logs are in {lab.logs}: 'k8sovs lab down --name {lab.name}' removes it"
        raise LabError(f"{outcome['failed']}{hint if standing else ''}")


def _claim(lab: Lab) -> None:
    """Make the run directory, which only one can."""
    lab.directory.parent.mkdir(mode=0o755, exist_ok=True)
    try:
        lab.directory.mkdir()
    except FileExistsError:
        raise LabError(
            f"lab '{lab.name}' is up already, or left over from a crash: 'k8sovs lab down --name {lab.name}' removes it"
        ) from None
    remember_home(lab.directory)
    lab.logs.mkdir()
    spec_file(lab.directory).write_text(lab.encode())


def _start_supervisor(lab: Lab, report: int) -> None:
    """Start the supervisor in a session of its own. Takes over the descriptor `report`."""
    # A lab has no way to the machine's proxies, and needs none.
    environment = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    argv = (sys.executable, "-m", "k8sovs.lab.supervisor", str(lab.directory), "--report", str(report))
    try:
        with (lab.logs / "supervisor.log").open("wb") as output:
            subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                pass_fds=(report,),
                cwd=lab.directory,
                env={**environment, OWNER_VARIABLE: str(lab.directory)},
                start_new_session=True,
            )
    finally:
        os.close(report)


def _follow(lab: Lab, report: BinaryIO, progress: Callable[[str], None]) -> dict[str, object]:
    """Pass on what the supervisor reports, until it is ready or has failed."""
    for line in report:
        message: dict[str, object] = json.loads(line)
        if "progress" not in message:
            return message
        progress(str(message["progress"]))
    supervisor_log = lab.logs / "supervisor.log"
    if not supervisor_log.exists():
        return {"failed": f"lab '{lab.name}' was taken down meanwhile", "standing": False}
    words = supervisor_log.read_text(errors="replace").strip().splitlines()
    return {"failed": f"the supervisor crashed: {words[-1] if words else 'it said nothing'}", "standing": False}
