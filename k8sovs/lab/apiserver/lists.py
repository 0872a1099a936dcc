"""Lists: of which moment, and in which pages."""

from __future__ import annotations

import base64
import json
import secrets
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from k8sovs.lab.apiserver import errors
from k8sovs.lab.apiserver.documents import Document, encode, text
from k8sovs.lab.apiserver.errors import ApiError
from k8sovs.lab.apiserver.requests import Target, number, selection
from k8sovs.lab.apiserver.store import Store, Stored

KEPT_PAGES: Final = 100
"""Lists whose remaining pages are remembered; an older `continue` is answered with 410."""

_MATCHES: Final = ("Exact", "NotOlderThan")


@dataclass(frozen=True, slots=True)
class Page:
    """The objects of one answer, and the metadata of the list."""

    found: list[Stored]
    metadata: Document


class Lists:
    """Answers lists. A list in several pages is of one moment, however much is written between."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._pages: OrderedDict[str, tuple[int, list[Stored]]] = OrderedDict()

    def page(self, target: Target, query: Mapping[str, str]) -> Page:
        """ApiError: 400, 422 for parameters that make no sense, 410 and 504 for versions that cannot be had."""
        limit = number(query, "limit")
        revision, found = self._continued(query["continue"]) if query.get("continue") else self._begun(target, query)
        metadata: Document = {"resourceVersion": str(revision)}
        if limit and len(found) > limit:
            found, rest = found[:limit], found[limit:]
            metadata |= {"continue": self._remember(revision, rest), "remainingItemCount": len(rest)}
        return Page(found, metadata)

    def _begun(self, target: Target, query: Mapping[str, str]) -> tuple[int, list[Stored]]:
        selects = selection(query, target)
        revision = self._store.revision
        asked, match = number(query, "resourceVersion"), query.get("resourceVersionMatch", "")
        if match and match not in _MATCHES:
            raise errors.bad_option("ListOptions", "resourceVersionMatch", match, '"Exact", "NotOlderThan"')
        if asked > revision:
            raise errors.too_large_version(asked, revision)
        if match == "Exact" and asked:
            revision = asked
            try:
                present = self._store.list_at(target.resource, target.namespace, asked)
            except ApiError as error:
                raise errors.expired_list() from error
        else:
            present = self._store.list(target.resource, target.namespace)
        return revision, [stored for stored in present if selects(stored.body)]

    def _continued(self, token: str) -> tuple[int, list[Stored]]:
        if token in self._pages:
            return self._pages[token]
        try:
            told = json.loads(base64.urlsafe_b64decode(token))
        except ValueError as error:
            raise errors.bad_request(f"continue key is not valid: {error}") from error
        if not isinstance(told, dict) or not text(told, "start"):
            raise errors.bad_request("continue key is not valid: it has no start")
        raise errors.expired_list()

    def _remember(self, revision: int, rest: list[Stored]) -> str:
        start = {"v": "meta.k8s.io/v1", "rv": revision, "start": secrets.token_hex(8)}
        token = base64.urlsafe_b64encode(encode(start)).decode()
        self._pages[token] = (revision, rest)
        while len(self._pages) > KEPT_PAGES:
            self._pages.popitem(last=False)
        return token
