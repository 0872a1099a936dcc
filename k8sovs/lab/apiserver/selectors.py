"""Label and field selectors: text in, a predicate over documents out."""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from typing import Final, TypeAlias

from k8sovs.lab.apiserver.documents import Document, section
from k8sovs.lab.apiserver.errors import bad_request

Predicate: TypeAlias = Callable[[Document], bool]

_BOOLEANS: Final = frozenset({"hostNetwork", "unschedulable"})
_NAME: Final = r"[A-Za-z0-9]([-A-Za-z0-9_./]*[A-Za-z0-9])?"
_SET: Final = re.compile(rf"(?P<key>{_NAME})\s+(?P<word>in|notin)\s*\((?P<values>[^()]*)\)")
_EQUALITY: Final = re.compile(rf"(?P<key>{_NAME})\s*(?P<word>==|=|!=)\s*(?P<value>[-A-Za-z0-9_.]*)")
_EXISTENCE: Final = re.compile(rf"(?P<absent>!?)\s*(?P<key>{_NAME})")
_COMMA_OUTSIDE_PARENTHESES: Final = re.compile(r",(?![^()]*\))")


def matches_labels(selector: str) -> Predicate:
    """`a=b,c!=d,e in (f,g),h,!i` over metadata.labels. ApiError 400: not a selector."""
    terms = [_label_term(part.strip()) for part in _split(selector)]

    def matches(document: Document) -> bool:
        labels = section(document, "metadata", "labels")
        return all(term(labels) for term in terms)

    return matches


def matches_fields(selector: str, selectable: Collection[str]) -> Predicate:
    """`metadata.name=x,spec.nodeName!=y` over `selectable` paths. ApiError 400: no selector, or another path."""
    terms: list[tuple[tuple[str, ...], bool, str]] = []
    for part in _split(selector):
        path, operator, value = re.match(r"([^=!]*)(==|=|!=|)(.*)", part.strip(), re.DOTALL).groups()  # type: ignore[union-attr]
        if not operator or not path:
            raise bad_request(f"invalid field selector {part!r}: expected FIELD=VALUE or FIELD!=VALUE")
        if path not in selectable:
            raise bad_request(f"field label not supported: {path}")
        terms.append((tuple(path.split(".")), operator != "!=", value))

    def matches(document: Document) -> bool:
        return all((_field(document, path) == value) is wanted for path, wanted, value in terms)

    return matches


def _split(selector: str) -> list[str]:
    return [part for part in _COMMA_OUTSIDE_PARENTHESES.split(selector) if part.strip()]


def _field(document: Document, path: tuple[str, ...]) -> str:
    value = section(document, *path[:-1]).get(path[-1], False if path[-1] in _BOOLEANS else None)
    if isinstance(value, bool):
        return str(value).lower()
    return "" if value is None else str(value)


def _label_term(term: str) -> Callable[[Mapping[str, object]], bool]:
    if found := _SET.fullmatch(term):
        key, wanted = found["key"], found["word"] == "in"
        values = frozenset(value.strip() for value in found["values"].split(","))
        # Absent counts as "not in", as for the real one.
        return lambda labels: (labels.get(key) in values) is wanted
    if found := _EQUALITY.fullmatch(term):
        key, wanted, value = found["key"], found["word"] != "!=", found["value"]
        return lambda labels: (labels.get(key) == value) is wanted
    if found := _EXISTENCE.fullmatch(term):
        key, wanted = found["key"], not found["absent"]
        return lambda labels: (key in labels) is wanted
    raise bad_request(f"unable to parse requirement: {term!r} is not a label selector")
