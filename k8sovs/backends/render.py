"""Lists of backends as haproxy, nginx or a script reads them. Pure."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from enum import Enum

from k8sovs.backends.model import BackendList

_NOTE = "# Written by 'k8sovs edge backends': what is changed here is lost."
_NOBODY = "server 127.0.0.1:9 down;"
"""nginx refuses an upstream without a server. This one is never asked."""


class Format(Enum):
    """For whom a list is written."""

    HAPROXY = "haproxy"
    """A `backend` section for each target; what else it should say comes from the `defaults` section read before it."""
    NGINX = "nginx"
    """An `upstream` block for each target, to be included in `http` or in `stream`."""
    JSON = "json"
    """One line: a list of objects with service, name, and backends."""


def render(lists: Sequence[BackendList], form: Format) -> str:
    """The text of `lists`, in their order; the same text for the same backends."""
    return _RENDERERS[form](lists)


def _haproxy(lists: Sequence[BackendList]) -> str:
    lines = [_NOTE]
    for each in lists:
        lines.append(f"backend {each.target.name}")
        named = Counter(one.name for one in each.backends)
        for one in each.backends:
            # A pod may be there by two ports while its Service changes; haproxy takes a name only once.
            name = one.name if named[one.name] == 1 else f"{one.name}-{one.port}"
            lines.append(f"    server {name} {one.address}:{one.port}")
    return "\n".join(lines) + "\n"


def _nginx(lists: Sequence[BackendList]) -> str:
    lines = [_NOTE]
    for each in lists:
        lines.append(f"upstream {each.target.name} {{")
        lines += [f"    server {one.address}:{one.port};  # {one.name}" for one in each.backends] or [f"    {_NOBODY}"]
        lines.append("}")
    return "\n".join(lines) + "\n"


def _json(lists: Sequence[BackendList]) -> str:
    return json.dumps([_fields(each) for each in lists]) + "\n"


def _fields(each: BackendList) -> Mapping[str, object]:
    backends = [
        {"name": one.name, "address": str(one.address), "port": one.port, "node": one.node} for one in each.backends
    ]
    return {"service": str(each.target), "name": each.target.name, "backends": backends}


_RENDERERS: Mapping[Format, Callable[[Sequence[BackendList]], str]] = {
    Format.HAPROXY: _haproxy,
    Format.NGINX: _nginx,
    Format.JSON: _json,
}
