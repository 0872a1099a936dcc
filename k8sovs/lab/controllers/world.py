"""What the controllers see, and the writes that they ask for."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from hashlib import sha256
from typing import Final

from k8sovs.kubernetes import (
    Deployment,
    Endpoints,
    EndpointSlice,
    Namespace,
    Node,
    ObjectKey,
    Pod,
    ReplicaSet,
    Resource,
    Service,
)
from k8sovs.lab.apiserver.documents import Document, entries, text

WATCHED: Final[tuple[type[Resource], ...]] = (
    *(Namespace, Node, Pod, Service, Endpoints, EndpointSlice, ReplicaSet, Deployment),
)

_SUFFIX_ALPHABET: Final = "bcdfghjklmnpqrstvwxz2456789"


@dataclass(frozen=True, slots=True)
class World:
    """Every watched object, by type and key."""

    objects: Mapping[type[Resource], Mapping[ObjectKey, Document]]

    def of(self, resource: type[Resource]) -> Mapping[ObjectKey, Document]:
        """The objects of one type."""
        return self.objects.get(resource, {})

    def standing(self, resource: type[Resource]) -> Iterator[tuple[ObjectKey, Document]]:
        """Those that are not about to go, and whose namespace is not either."""
        namespaces = self.of(Namespace)
        for key, body in self.of(resource).items():
            if not is_leaving(body) and not is_leaving(namespaces.get(ObjectKey("", key.namespace), {})):
                yield key, body


@dataclass(frozen=True, slots=True)
class Owner:
    """An object that another one names in its ownerReferences."""

    resource: type[Resource]
    key: ObjectKey
    uid: str


@dataclass(frozen=True, slots=True)
class Create:
    """A new object."""

    resource: type[Resource]
    body: Document


@dataclass(frozen=True, slots=True)
class Patch:
    """A merge patch."""

    resource: type[Resource]
    key: ObjectKey
    body: Document
    subresource: str = ""


@dataclass(frozen=True, slots=True)
class Delete:
    """The end of one object, by its uid; if there are `owners`, only after the API said that all of them are gone.

    In the `foreground` it stays until what it owns is gone.
    """

    resource: type[Resource]
    key: ObjectKey
    uid: str
    owners: tuple[Owner, ...] = field(default=())
    foreground: bool = False


@dataclass(frozen=True, slots=True)
class Bind:
    """A pod gets its node."""

    pod: ObjectKey
    node: str


@dataclass(frozen=True, slots=True)
class Finalize:
    """A namespace without watched objects is let go."""

    namespace: str


Write = Create | Patch | Delete | Bind | Finalize
Plan = Callable[[World], Iterable[Write]]


def is_leaving(body: Document) -> bool:
    """Whether somebody has asked for the object's deletion."""
    return bool(text(body, "metadata", "deletionTimestamp"))


def is_finished(pod: Document) -> bool:
    """Whether the pod has run to its end."""
    return text(pod, "status", "phase") in ("Succeeded", "Failed")


def is_ready(body: Document) -> bool:
    """Whether a Pod or a Node says of itself that it is Ready."""
    conditions = entries(body, "status", "conditions")
    return any(condition.get("type") == "Ready" and condition.get("status") == "True" for condition in conditions)


def selects(selector: Document, labels: Document) -> bool:
    """Whether an object with `labels` is meant by the matchLabels form of a selector."""
    return all(labels.get(name) == value for name, value in selector.items())


def uid_of(body: Document) -> str:
    """The object's uid."""
    return text(body, "metadata", "uid")


def owned_by(owner: Document, body: Document) -> bool:
    """Whether `owner` is the controller of an object."""
    references = entries(body, "metadata", "ownerReferences")
    return any(entry.get("controller") is True and entry.get("uid") == uid_of(owner) for entry in references)


def controlled_by(api_version: str, kind: str, owner: Document) -> list[Document]:
    """The ownerReferences of what a controller makes for `owner`."""
    return [
        {
            "apiVersion": api_version,
            "kind": kind,
            "name": text(owner, "metadata", "name"),
            "uid": uid_of(owner),
            "controller": True,
            "blockOwnerDeletion": True,
        }
    ]


def suffix(*parts: object, length: int = 5) -> str:
    """A name's end that follows from `parts`: what is planned twice is then created once."""
    number = int.from_bytes(sha256(json.dumps(parts, sort_keys=True).encode()).digest()[:8], "big")
    letters = []
    for _ in range(length):
        number, index = divmod(number, len(_SUFFIX_ALPHABET))
        letters.append(_SUFFIX_ALPHABET[index])
    return "".join(letters)
