"""The objects in a file, so that a server that was killed comes back with them: one line of JSON for each write.

A line is written before the client hears of its write. It need not reach the disk: only the process may die, not the
machine, and a lab ends with that. What a kill cut off is the last line, of a write that nobody was told of.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from k8sovs.lab.apiserver.documents import Document, encode, section, text
from k8sovs.lab.apiserver.resources import RESOURCES, Resource


class Journal:
    """The file at `path`. What an earlier server wrote is `restored`; the file begins anew with just that."""

    def __init__(self, path: Path) -> None:
        """OSError: the file cannot be read or written."""
        self.restored = _read(path) if path.exists() else []
        new = path.with_name(f".{path.name}")
        self._file = new.open("wb", buffering=0)
        for resource, body in self.restored:
            self.write(resource, body, gone=False)
        new.rename(path)

    def write(self, resource: Resource, body: Document, *, gone: bool) -> None:
        """Note the new state of an object, or its last one."""
        self._file.write(encode({"resource": _name(resource), "gone": gone, "object": body}) + b"\n")


def _read(path: Path) -> list[tuple[Resource, Document]]:
    """The objects that are there, in the order of their making."""
    known = {_name(resource): resource for resource in RESOURCES}
    objects: dict[tuple[str, str, str], Document] = {}
    for line in _whole(path.read_bytes().split(b"\n")):
        entry = json.loads(line)
        body = section(entry, "object")
        key = (text(entry, "resource"), text(body, "metadata", "namespace"), text(body, "metadata", "name"))
        if entry["gone"]:
            del objects[key]
        else:
            objects[key] = body
    return [(known[name], body) for (name, _, _), body in objects.items()]


def _whole(lines: list[bytes]) -> Iterable[bytes]:
    """Without what follows the last newline."""
    return lines[:-1]


def _name(resource: Resource) -> str:
    return f"{resource.group}/{resource.plural}"
