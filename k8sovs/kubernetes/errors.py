"""What the API, or the lack of an answer from it, means to a caller."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import msgspec

UNDECODABLE: Final = (msgspec.DecodeError, UnicodeDecodeError, RecursionError)
"""What decoding raises for bytes that are no JSON, or not of the wanted shape."""


class KubernetesError(Exception):
    """The API refused a request. `code` is the HTTP status, `reason` the word of the Status object."""

    def __init__(self, message: str, code: int = 0, reason: str = "", retry_after_s: float = 0.0) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.retry_after_s = retry_after_s


class NotFound(KubernetesError):
    """There is no such object (404)."""


class AlreadyExists(KubernetesError):
    """An object of that name is there already (409)."""


class Conflict(KubernetesError):
    """Somebody changed the object first, or a precondition does not hold (409)."""


class KubernetesUnavailable(KubernetesError):
    """No answer: refused, cut, timed out. Nothing is known about the request's effect."""


class Expired(KubernetesError):
    """The server no longer has this resource version (410): list again."""


class Unreadable(KubernetesError):
    """The server sent something that is not what was asked for."""


class Status(msgspec.Struct):
    """The parts of a Status object that say what went wrong."""

    message: str | None = None
    reason: str | None = None
    code: int | None = None


def unavailable(request: str, error: Exception) -> KubernetesUnavailable:
    """The error of a request that got no answer."""
    return KubernetesUnavailable(f"no answer to {request}: {type(error).__name__} {error}".rstrip())


def refused(request: str, code: int, headers: Mapping[str, str], content: bytes) -> KubernetesError:
    """The error that an HTTP answer means; its body is a Status object, or anything from a proxy in between."""
    try:
        status = msgspec.json.decode(content, type=Status)
    except UNDECODABLE:
        status = Status(message=content[:200].decode(errors="replace"))
    return from_status(request, status, code, _retry_after(headers))


def from_status(request: str, status: Status, code: int, retry_after_s: float = 0.0) -> KubernetesError:
    """The error that a Status object means."""
    reason = status.reason or ""
    kind: type[KubernetesError]
    match code:
        case 404:
            kind = NotFound
        case 409:
            kind = AlreadyExists if reason == "AlreadyExists" else Conflict
        case 410:
            kind = Expired
        case _:
            kind = KubernetesError
    return kind(f"{request}: {code} {reason}: {status.message or 'no message'}", code, reason, retry_after_s)


def _retry_after(headers: Mapping[str, str]) -> float:
    """Seconds that the server asks to wait; a date instead of a number is not used by Kubernetes."""
    value = headers.get("Retry-After", "")
    return float(value) if value.isascii() and value.isdigit() else 0.0
