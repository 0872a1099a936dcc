"""The result so far, as the runtime hands it over in `prevResult`: of the plugin before (ADD), of all of them (CHECK).

Source: CNI specification 1.1.0, section 2 (ADD, CHECK) and section 5 ("ADD Success").
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_interface

from cni.errors import CniError, ErrorCode

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
Entries = tuple[dict[str, Json], ...]


@dataclass(frozen=True, slots=True)
class PreviousResult:
    """Its lists, each entry as it came; `raw` is the whole, with fields that nobody here knows."""

    interfaces: Entries
    ips: Entries
    routes: Entries
    raw: Mapping[str, Json]

    @classmethod
    def parse(cls, raw: Mapping[str, Json]) -> PreviousResult:
        """Read `prevResult`. Raises CniError with INVALID_CONFIG if it has not the shape of a result."""
        previous = cls(_entries(raw, "interfaces"), _entries(raw, "ips"), _entries(raw, "routes"), raw)
        for entry in previous.ips:
            if not _is_address(entry.get("address")):
                raise CniError(ErrorCode.INVALID_CONFIG, "prevResult: each of ips must have an address, as a.b.c.d/n")
        return previous

    def interface(self, name: str) -> dict[str, Json] | None:
        """The interface of that name inside the container."""
        return next((entry for entry in self.interfaces if entry.get("name") == name and entry.get("sandbox")), None)

    @property
    def addresses(self) -> frozenset[str]:
        """The addresses in CIDR notation."""
        return frozenset(address for entry in self.ips if isinstance(address := entry.get("address"), str))

    @property
    def destinations(self) -> frozenset[str]:
        """Where the routes lead, in CIDR notation."""
        return frozenset(destination for entry in self.routes if isinstance(destination := entry.get("dst"), str))


def _is_address(value: Json) -> bool:
    try:
        return isinstance(value, str) and bool(ip_interface(value))
    except ValueError:
        return False


def _entries(raw: Mapping[str, Json], field: str) -> Entries:
    found = raw.get(field)
    entries = [] if found is None else found
    if not isinstance(entries, list):
        raise CniError(ErrorCode.INVALID_CONFIG, f"prevResult: {field} must be a list")
    objects = tuple(entry for entry in entries if isinstance(entry, dict))
    if len(objects) != len(entries):
        raise CniError(ErrorCode.INVALID_CONFIG, f"prevResult: {field} must be a list of objects")
    return objects
