"""The last good records of the cluster in one file, so that a node comes up while etcd is away.

Written beside its place and renamed over it: a reader finds the old file or the new one, never half of either.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from k8sovs.logs import get_logger

log = get_logger(__name__)

FORMAT = 1


@dataclass(frozen=True, slots=True)
class SavedRecords:
    """Records by their key in etcd, as text, and the revision of the store that they are from."""

    revision: int
    records: Mapping[str, str]


class SnapshotFile:
    """The file at `path`."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def load(self) -> SavedRecords | None:
        """What was saved last; None if nothing was, or if it cannot be read (which is logged, and no more)."""
        try:
            content = json.loads(self._path.read_bytes())
            if content["format"] != FORMAT:
                raise ValueError(f"format {content['format']}, this agent reads {FORMAT}")
            return SavedRecords(int(content["revision"]), {str(k): str(v) for k, v in content["records"].items()})
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
            log.warning("snapshot-file-unreadable", path=str(self._path), error=str(error), action="going on without")
            return None

    def save(self, saved: SavedRecords) -> None:
        """Replace the file. Blocks for as long as the disk does. Raises OSError."""
        content = {"format": FORMAT, "revision": saved.revision, "records": dict(saved.records)}
        self._path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self._path.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump(content, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)
