"""What the node's kernel settings were before we changed them, in one file, so that they can be put back one day."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path

from k8sovs.logs import get_logger

log = get_logger(__name__)

FILE_NAME = "before.json"


class Originals:
    """The file below `state_dir`. What was noted first stays: later values are our own."""

    def __init__(self, state_dir: Path) -> None:
        self.path = state_dir / FILE_NAME

    def known(self) -> Mapping[str, str]:
        """The settings that were changed, by their path below /proc/sys, with the value of before."""
        try:
            return {str(name): str(value) for name, value in json.loads(self.path.read_bytes()).items()}
        except FileNotFoundError:
            return {}
        except (OSError, ValueError, AttributeError) as error:
            log.warning("originals-unreadable", path=str(self.path), error=str(error), action="going on without")
            return {}

    def note(self, name: str, value: str) -> None:
        """Remember what `name` was, unless that is known. Blocking. Raises OSError."""
        known = self.known()
        if name in known:
            return
        self.path.parent.mkdir(parents=True, exist_ok=True)
        temporary = self.path.with_suffix(".new")
        with temporary.open("w") as file:
            json.dump({**known, name: value}, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.path)
