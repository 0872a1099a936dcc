"""Versions of the CNI specification that this plugin speaks, in and out.

The executable in shim/ carries the same list, because it answers VERSION by itself; a test compares the two.
"""

from __future__ import annotations

SUPPORTED = ("0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0")
"""Oldest first."""

LATEST = SUPPORTED[-1]


def at_least(version: str, since: str) -> bool:
    """Whether `version` has what came with `since`; both must be of `SUPPORTED`."""
    return SUPPORTED.index(version) >= SUPPORTED.index(since)
