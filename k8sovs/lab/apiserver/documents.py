"""JSON documents as the API server handles them, and the few ways into them.

Once stored, a document is never changed: writers work on copies.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any, TypeAlias

Document: TypeAlias = dict[str, Any]
"""A JSON object. What lies in it is known only where it is looked at."""


def encode(document: Document) -> bytes:
    """Compact JSON. ValueError, TypeError, RecursionError: it holds what JSON or UTF-8 cannot."""
    return json.dumps(document, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


def copy(document: Document) -> Document:
    """A copy that shares nothing."""
    duplicate: Document = json.loads(json.dumps(document))
    return duplicate


def section(document: Document, *path: str) -> Document:
    """The object found at `path`, or an empty one if there is nothing or something else."""
    found: object = document
    for name in path:
        found = found.get(name) if isinstance(found, dict) else None
    return found if isinstance(found, dict) else {}


def text(document: Document, *path: str) -> str:
    """The string found at `path`, or an empty one."""
    found = section(document, *path[:-1]).get(path[-1])
    return found if isinstance(found, str) else ""


def entries(document: Document, *path: str) -> list[Document]:
    """The objects in the list found at `path`; nothing if there is none."""
    found = section(document, *path[:-1]).get(path[-1])
    return [entry for entry in found if isinstance(entry, dict)] if isinstance(found, list) else []


def words(document: Document, *path: str) -> list[str]:
    """The strings in the list found at `path`; nothing if there is none."""
    found = section(document, *path[:-1]).get(path[-1])
    return [entry for entry in found if isinstance(entry, str)] if isinstance(found, list) else []


def without(document: Document, names: Iterable[str]) -> Document:
    """A shallow copy lacking `names`."""
    left_out = frozenset(names)
    return {name: value for name, value in document.items() if name not in left_out}
