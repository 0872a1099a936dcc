"""What a DELETE may say beside the name. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from k8sovs.lab.apiserver import errors
from k8sovs.lab.apiserver.documents import Document, text


class Propagation(Enum):
    """What becomes of an object's dependents; the value is the finalizer with which it waits for a controller."""

    BACKGROUND = ""
    FOREGROUND = "foregroundDeletion"
    ORPHAN = "orphan"

    @classmethod
    def parse(cls, word: str) -> Propagation:
        """From the word of a DELETE. ApiError 422."""
        if word.upper() in cls.__members__:
            return cls[word.upper()]
        raise errors.bad_option("DeleteOptions", "propagationPolicy", word, '"Foreground", "Background", "Orphan"')


@dataclass(frozen=True, slots=True)
class DeleteOptions:
    """What a DELETE may say beside the name."""

    grace_period_s: int | None = None
    uid: str = ""
    resource_version: str = ""
    propagation: Propagation = Propagation.BACKGROUND

    @classmethod
    def parse(cls, body: Document) -> DeleteOptions:
        """From the body of the request. ApiError 422: a policy that there is not."""
        grace = body.get("gracePeriodSeconds")
        return cls(
            grace_period_s=grace if isinstance(grace, int) else None,
            uid=text(body, "preconditions", "uid"),
            resource_version=text(body, "preconditions", "resourceVersion"),
            propagation=Propagation.parse(text(body, "propagationPolicy") or "Background"),
        )


DEFAULTS: Final = DeleteOptions()
