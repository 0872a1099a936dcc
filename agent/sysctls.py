"""The kernel settings that a node needs, written to /proc/sys (Documentation/networking/ip-sysctl of the kernel)."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from pathlib import Path

from agent.originals import Originals

PROC_SYS = Path("/proc/sys")


class SysctlError(Exception):
    """A setting could not be written."""


@dataclass(frozen=True, slots=True)
class Sysctl:
    """A setting, its name in the form of a path below /proc/sys. Missing `optional` ones need no value."""

    name: str
    value: str
    optional: bool = False


def node_sysctls(gateway_device: str) -> tuple[Sysctl, ...]:
    """What must hold once the gateway device exists."""
    ipv4 = "net/ipv4/conf"
    return (
        Sysctl("net/ipv4/ip_forward", "1"),
        # A new device copies the default, which somebody may have set to 0.
        Sysctl(f"{ipv4}/{gateway_device}/forwarding", "1"),
        # Service traffic that the node turned round comes in by a device that the strict check would not expect.
        Sysctl(f"{ipv4}/{gateway_device}/rp_filter", "2"),
        # A redirect would tell a pod to send to its neighbour past the switch. The kernel sends them if either is 1.
        Sysctl(f"{ipv4}/all/send_redirects", "0"),
        Sysctl(f"{ipv4}/{gateway_device}/send_redirects", "0"),
        # The overlay is IPv4: without this the device would advertise itself to every pod.
        Sysctl(f"net/ipv6/conf/{gateway_device}/disable_ipv6", "1", optional=True),
    )


LOAD_BALANCER = (
    # Without it LVS keeps its packets from connection tracking, and so from the masquerading that brings answers back.
    Sysctl("net/ipv4/vs/conntrack", "1", optional=True),
)
"""What an edge host needs beside that; there is no such setting until ip_vs is loaded."""


def apply(settings: tuple[Sysctl, ...], root: Path = PROC_SYS, originals: Originals | None = None) -> tuple[str, ...]:
    """Write what differs; the names of what was written, whose values go to `originals` first.

    Blocking. Raises SysctlError.
    """
    changed = []
    for setting in settings:
        path = root / setting.name
        try:
            found = path.read_text().strip()
            if found == setting.value:
                continue
            if originals is not None:
                originals.note(setting.name, found)
            path.write_text(setting.value)
        except FileNotFoundError:
            if setting.optional:
                continue
            raise SysctlError(
                f"{path} does not exist: the device is missing, or the kernel lacks the feature"
            ) from None
        except OSError as error:
            raise SysctlError(f"{path} cannot be set to {setting.value}: {error.strerror}") from error
        changed.append(setting.name)
    return tuple(changed)


async def ensure(settings: tuple[Sysctl, ...], originals: Originals | None = None) -> tuple[str, ...]:
    """`apply`, off the event loop. Raises SysctlError."""
    return await asyncio.to_thread(apply, settings, originals=originals)
