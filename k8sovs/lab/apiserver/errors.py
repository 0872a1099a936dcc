"""Refusals of the API, in the shape that clients expect: a Status object with a code, a reason and details."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from k8sovs.lab.apiserver.documents import Document


@dataclass(frozen=True, slots=True)
class Cause:
    """One of several reasons, about one field."""

    reason: str
    message: str
    field: str

    def render(self) -> Document:
        """As it stands in details.causes."""
        return {"reason": self.reason, "message": self.message, "field": self.field}


class ApiError(Exception):
    """A request that cannot be served; `status` is the body of the answer, `code` the HTTP status."""

    def __init__(self, code: int, reason: str, message: str, details: Document | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.reason = reason
        self.message = message
        self.details = details

    def status(self) -> Document:
        """The Status object."""
        body: Document = {
            "kind": "Status",
            "apiVersion": "v1",
            "metadata": {},
            "status": "Failure",
            "message": self.message,
            "reason": self.reason,
        }
        if self.details:
            body["details"] = self.details
        body["code"] = self.code
        return body


def _details(plural: str, group: str, name: str) -> Document:
    details: Document = {"name": name, "kind": plural}
    if group:
        details["group"] = group
    return details


def _qualified(plural: str, group: str) -> str:
    return f"{plural}.{group}" if group else plural


def not_found(plural: str, group: str, name: str) -> ApiError:
    """No such object."""
    message = f'{_qualified(plural, group)} "{name}" not found'
    return ApiError(404, "NotFound", message, _details(plural, group, name))


def no_such_path() -> ApiError:
    """The path names nothing that this server has."""
    return ApiError(404, "NotFound", "the server could not find the requested resource", {})


def already_exists(plural: str, group: str, name: str) -> ApiError:
    """A create of a name that is taken."""
    message = f'{_qualified(plural, group)} "{name}" already exists'
    return ApiError(409, "AlreadyExists", message, _details(plural, group, name))


def conflict(plural: str, group: str, name: str, why: str) -> ApiError:
    """A write on a version that is no longer the newest, or a precondition that does not hold."""
    message = f'Operation cannot be fulfilled on {_qualified(plural, group)} "{name}": {why}'
    return ApiError(409, "Conflict", message, _details(plural, group, name))


def invalid(kind: str, group: str, name: str, causes: Sequence[Cause]) -> ApiError:
    """An object that breaks a rule; every cause is named."""
    told = [f"{cause.field}: {cause.message}" for cause in causes]
    summary = told[0] if len(told) == 1 else f"[{', '.join(told)}]"
    full_kind = f"{kind}.{group}" if group else kind
    details = _details(kind, group, name) | {"causes": [cause.render() for cause in causes]}
    return ApiError(422, "Invalid", f'{full_kind} "{name}" is invalid: {summary}', details)


def forbidden(plural: str, group: str, name: str, why: str, cause: Cause | None = None) -> ApiError:
    """Well-formed, and not allowed now."""
    details = _details(plural, group, name)
    if cause is not None:
        details["causes"] = [cause.render()]
    return ApiError(403, "Forbidden", f'{_qualified(plural, group)} "{name}" is forbidden: {why}', details)


def bad_request(message: str) -> ApiError:
    """A request that makes no sense."""
    return ApiError(400, "BadRequest", message)


def method_not_allowed() -> ApiError:
    """The resource has no such verb."""
    return ApiError(405, "MethodNotAllowed", "the server does not allow this method on the requested resource", {})


def unsupported_media_type(given: str) -> ApiError:
    """A body in a form that is not understood here."""
    return ApiError(
        415, "UnsupportedMediaType", f"the body of the request was in an unknown format: {given or 'none named'}", {}
    )


def expired_list() -> ApiError:
    """A `continue` token whose snapshot is gone."""
    return ApiError(410, "Expired", "The resourceVersion for the provided list is too old.")


def too_large_version(asked: int, current: int) -> ApiError:
    """A list that is to be as new as a version that there is not yet."""
    cause: Document = {"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}
    message = f"Timeout: Too large resource version: {asked}, current: {current}"
    return ApiError(504, "Timeout", message, {"causes": [cause], "retryAfterSeconds": 1})


def bad_option(kind: str, field: str, value: str, supported: str) -> ApiError:
    """A parameter that has another word than it may have."""
    cause = Cause("FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {supported}', field)
    return invalid(kind, "meta.k8s.io", "", [cause])


def expired_watch(asked: int, floor: int) -> ApiError:
    """A watch from a version that history no longer reaches."""
    return ApiError(410, "Expired", f"too old resource version: {asked} ({floor})")
