"""Errors as the container runtime sees them."""

from __future__ import annotations

import json
from enum import IntEnum

from cni.versions import LATEST


class ErrorCode(IntEnum):
    """Codes of the CNI specification (section "Error", up to 99), then our own; docs/cni.md says when each is used."""

    INCOMPATIBLE_VERSION = 1
    UNSUPPORTED_FIELD = 2
    UNKNOWN_CONTAINER = 3
    """Nothing was left behind: the runtime needs no clean-up."""
    INVALID_ENVIRONMENT = 4
    IO_FAILURE = 5
    DECODING_FAILURE = 6
    INVALID_CONFIG = 7
    TRY_AGAIN_LATER = 11
    NOT_AVAILABLE = 50
    """STATUS: ADD cannot be served."""
    NOT_AVAILABLE_LIMITED = 51
    """STATUS: ADD cannot be served, and pods that are there may have limited connectivity."""

    ALREADY_ATTACHED = 100
    SUBNET_FULL = 101
    INTERFACE_EXISTS = 102
    CHECK_FAILED = 103

    INTERNAL = 999


class CniError(Exception):
    """A call that failed. `message` is for the person who reads the pod's events; `details` may say more."""

    def __init__(self, code: ErrorCode, message: str, details: str = "") -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details

    def render(self, cni_version: str = LATEST) -> bytes:
        """As the JSON that the specification wants on standard output."""
        answer = {"cniVersion": cni_version, "code": int(self.code), "msg": self.message}
        if self.details:
            answer["details"] = self.details
        return json.dumps(answer).encode() + b"\n"
