"""The last known Services in one file, so that a node that starts while the API server is away has them.

One record for each Service, as JSON; with it the names of its slices, so that one that cannot be read has an owner.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import IPv4Address

import msgspec

from agent.snapshot_file import SavedRecords, SnapshotFile
from flows.service import Service
from k8sovs.logs import get_logger

log = get_logger(__name__)

_NODE = "node"
"""The key of the record that says which node's view this is: endpoints know whether they are on it."""


@dataclass(frozen=True, slots=True)
class Remembered:
    """A Service as it was last, and the names of the slices that it had."""

    service: Service
    slices: tuple[str, ...]


class ServicesFile:
    """Remembers Services in `file`, as node `node` sees them."""

    def __init__(self, file: SnapshotFile, node: str) -> None:
        self._file = file
        self._node = node

    def load(self) -> dict[str, Remembered]:
        """What was remembered last, by the Services' keys; nothing if there is none, or if it is another node's."""
        saved = self._file.load()
        if saved is None or saved.records.get(_NODE) != self._node:
            return {}
        found: dict[str, Remembered] = {}
        for key, text in saved.records.items():
            if key != _NODE:
                try:
                    found[key] = msgspec.json.decode(text, type=Remembered, dec_hook=_address)
                except msgspec.MsgspecError as error:
                    log.warning("service-not-remembered", service=key, error=str(error), action="going on without it")
        return found

    def save(self, services: Mapping[str, Remembered]) -> None:
        """Replace the file. Blocks for as long as it takes. Raises OSError."""
        records = {key: msgspec.json.encode(one, enc_hook=str).decode() for key, one in services.items()}
        self._file.save(SavedRecords(0, {_NODE: self._node, **records}))


def _address(kind: type, value: str) -> IPv4Address:
    """The one type that JSON does not have; msgspec turns the ValueError of a bad one into its own."""
    if kind is not IPv4Address:
        raise NotImplementedError(f"{kind} is not in a Service")
    return IPv4Address(value)
