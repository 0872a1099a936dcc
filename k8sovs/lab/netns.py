"""Network namespaces, and commands inside them.

Each namespace is written into the lab's journal before it is made, so that `down` removes what the lab made and
nothing else, even after a crash between the two.
"""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from k8sovs.lab.layout import NETNS_ROOT, LabError

COMMAND_TIMEOUT_S = 30.0


def run(*argv: str, stdin: str = "", env: Mapping[str, str] | None = None) -> str:
    """The standard output of a command; LabError with the last line it complained with."""
    try:
        done = subprocess.run(
            argv, input=stdin, capture_output=True, text=True, check=True, timeout=COMMAND_TIMEOUT_S, env=env
        )
    except FileNotFoundError:
        raise LabError(f"'{argv[0]}' is not installed: run 'make setup'") from None
    except subprocess.TimeoutExpired:
        raise LabError(f"'{' '.join(argv)}' did not end within {COMMAND_TIMEOUT_S:.0f} s") from None
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip() or error.stdout.strip() or f"exit status {error.returncode}"
        raise LabError(f"'{' '.join(argv)}' failed: {said.splitlines()[-1]}") from None
    return done.stdout


def inside(netns: str, *argv: str) -> tuple[str, ...]:
    """The command that runs `argv` in a network namespace, as one process: nsenter becomes `argv`."""
    return ("nsenter", f"--net={NETNS_ROOT / netns}", "--", *argv)


def ip_batch(netns: str, commands: Iterable[str]) -> None:
    """Run `ip` commands in one process; the first failure ends it."""
    run("ip", "-netns", netns, "-batch", "-", stdin="\n".join(commands) + "\n")


def set_sysctls(netns: str, settings: Mapping[str, int]) -> None:
    """Write kernel settings of a network namespace."""
    run(*inside(netns, "sysctl", "-q", "-w", *(f"{name}={value}" for name, value in settings.items())))


@dataclass(frozen=True, slots=True)
class Journal:
    """The namespaces that a lab made, one name a line; names only ever get added."""

    path: Path

    def create(self, netns: str) -> None:
        """Make a network namespace with its loopback up. LabError when one of that name exists already."""
        if (NETNS_ROOT / netns).exists():
            raise LabError(
                f"network namespace '{netns}' exists already and is not this lab's: delete it, or use --name"
            )
        with self.path.open("a") as journal:
            journal.write(netns + "\n")
        run("ip", "netns", "add", netns)
        ip_batch(netns, ["link set lo up"])

    def names(self) -> Sequence[str]:
        """Every namespace that was ever made here and still exists."""
        if not self.path.exists():
            return ()
        recorded = dict.fromkeys(self.path.read_text().split())
        return tuple(name for name in recorded if (NETNS_ROOT / name).exists())


def delete(netns: str) -> None:
    """Remove a network namespace; one that is gone already is fine."""
    if (NETNS_ROOT / netns).exists():
        run("ip", "netns", "delete", netns)
