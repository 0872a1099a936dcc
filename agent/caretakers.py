"""Services that take care of network devices, by their files: do they leave ours alone? Blocking.

NetworkManager.conf(5), systemd.network(5). What is not understood counts as a rule that does not concern us.
"""

from __future__ import annotations

from configparser import ConfigParser, Error
from fnmatch import fnmatchcase
from pathlib import Path

from agent.bridge import GATEWAY
from agent.facts import Caretaker

_NM_FOLDERS = ("usr/lib/NetworkManager/conf.d", "run/NetworkManager/conf.d", "etc/NetworkManager/conf.d")
_NETWORKD_FOLDERS = ("usr/lib/systemd/network", "lib/systemd/network", "run/systemd/network", "etc/systemd/network")


def our_devices(bridge: str, vxlan_port: int) -> tuple[str, ...]:
    """A name for each kind of device that we make, or have Open vSwitch make."""
    return (GATEWAY, bridge, "k8o0123456789", "ovs-system", f"vxlan_sys_{vxlan_port}")


def caretakers(devices: tuple[str, ...], root: Path = Path("/")) -> tuple[Caretaker, ...]:
    """Those that run on the host whose files are below `root`."""
    found = []
    if (root / "run/NetworkManager").exists():
        patterns = _unmanaged_patterns(root)
        found.append(Caretaker("NetworkManager", tuple(name for name in devices if not _matches(name, patterns))))
    if (root / "run/systemd/netif/links").exists():
        files = _network_files(root)
        found.append(Caretaker("systemd-networkd", tuple(name for name in devices if _is_managed(name, files))))
    return tuple(found)


def _unmanaged_patterns(root: Path) -> list[str]:
    files = [file for folder in _NM_FOLDERS for file in sorted((root / folder).glob("*.conf"))]
    patterns: list[str] = []
    for file in [*files, root / "etc/NetworkManager/NetworkManager.conf"]:
        parser = _parsed(file)
        for section in parser.sections():
            options = parser[section]
            if section == "keyfile":
                patterns += _names(options.get("unmanaged-devices", ""))
            elif section.startswith("device") and options.get("managed", "1") in ("0", "false", "no"):
                patterns += _names(options.get("match-device", ""))
    return patterns


def _names(listed: str) -> list[str]:
    words = [word.strip() for word in listed.replace(",", ";").split(";")]
    return [word.removeprefix("interface-name:").lstrip("=") for word in words if word.startswith("interface-name:")]


def _network_files(root: Path) -> list[ConfigParser]:
    """In the order of their names, whatever their folder; a file of a later folder replaces its namesake."""
    by_name = {file.name: file for folder in _NETWORKD_FOLDERS for file in (root / folder).glob("*.network")}
    return [_parsed(by_name[name]) for name in sorted(by_name)]


def _is_managed(device: str, files: list[ConfigParser]) -> bool:
    """Whether the first file that matches `device` configures it; without one networkd leaves it alone."""
    for file in files:
        match = file["Match"] if file.has_section("Match") else {}
        if "name" in match:
            matches = _matches(device, match["name"].split())
        else:
            # What tells devices apart by anything else (MACs, drivers, kinds of containers) does not mean ours.
            matches = match.get("type") == "ether" and len(match) == 1
        if matches:
            return file.get("Link", "Unmanaged", fallback="no").lower() not in ("yes", "true", "1", "on")
    return False


def _matches(name: str, patterns: list[str]) -> bool:
    return any(fnmatchcase(name, pattern) for pattern in patterns)


def _parsed(file: Path) -> ConfigParser:
    parser = ConfigParser(strict=False, interpolation=None, delimiters=("=",), allow_no_value=True)
    try:
        parser.read(file)
    except (Error, UnicodeDecodeError):
        return ConfigParser()
    return parser
