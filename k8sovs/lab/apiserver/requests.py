"""What a request says: the path's target, parameters, and bodies in their various forms."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import yaml
from aiohttp import web

from k8sovs.lab.apiserver import errors, patch, protobuf, resources
from k8sovs.lab.apiserver.documents import Document, encode
from k8sovs.lab.apiserver.options import DeleteOptions
from k8sovs.lab.apiserver.resources import Resource
from k8sovs.lab.apiserver.selectors import Predicate, matches_fields, matches_labels
from k8sovs.lab.apiserver.store import Key

SERVER_SIDE_APPLY: Final = "application/apply-patch+yaml"
"""Merged in like a strategic patch. Who owns a field is not kept: nothing conflicts, and nothing is taken away."""


@dataclass(frozen=True, slots=True)
class Target:
    """What a path names: a collection if `name` is empty."""

    resource: Resource
    namespace: str
    name: str
    subresource: str

    @property
    def key(self) -> Key:
        """The object's key."""
        return Key(self.namespace, self.name)


def parse_path(path: str) -> Target | None:
    """`/api/v1/...` or `/apis/GROUP/VERSION/...`; None if it names no resource of ours."""
    match path.strip("/").split("/"):
        case ["api", version, *rest]:
            group = ""
        case ["apis", group, version, *rest]:
            pass
        case _:
            return None
    namespace = ""
    if len(rest) >= 3 and rest[0] == "namespaces" and resources.find(group, version, rest[2]):
        namespace, rest = rest[1], rest[2:]
    if not rest or len(rest) > 3:
        return None
    resource = resources.find(group, version, rest[0])
    name, subresource = (*rest[1:], "", "")[:2]
    if resource is None or (subresource and subresource not in resource.subresources):
        return None
    if namespace and not resource.namespaced:
        return None
    if name and resource.namespaced and not namespace:
        return None
    return Target(resource, namespace, name, subresource)


def is_watch(request: web.Request) -> bool:
    """Whether a list is to go on as a watch."""
    return request.query.get("watch") in ("true", "1")


def is_dry_run(request: web.Request) -> bool:
    """Whether the write is only to be tried. ApiError 422: the parameter is another word."""
    value = request.query.get("dryRun", "")
    if value not in ("", "All"):
        raise errors.bad_option("UpdateOptions", "dryRun", value, '"All"')
    return value == "All"


def wants_table(request: web.Request) -> bool:
    """Whether the client (kubectl get) asks for rows to print."""
    return "as=Table" in request.headers.get("Accept", "")


def number(query: Mapping[str, str], name: str) -> int:
    """A parameter; 0 if it is not given. ApiError 400: it is no number."""
    value = query.get(name, "")
    if value and not (value.isascii() and value.isdecimal()):
        raise errors.bad_request(f'{name}: Invalid value: "{value}": expected a number')
    return int(value or 0)


def selection(query: Mapping[str, str], target: Target) -> Predicate:
    """Which objects of the resource a list, a watch or a deletion is about."""
    labels = matches_labels(query.get("labelSelector", ""))
    fields = matches_fields(query.get("fieldSelector", ""), target.resource.selectable)

    def selects(document: Document) -> bool:
        inside = not target.namespace or document["metadata"].get("namespace") == target.namespace
        return inside and labels(document) and fields(document)

    return selects


async def read_body(request: web.Request) -> Document:
    """The object in the body, whatever its form. ApiError 400, 415: there is none."""
    content = await request.read()
    if protobuf.is_protobuf(request.headers.get("Content-Type", "")):
        return protobuf.decode(content)
    # Old kubectl sends JSON without saying so; YAML is allowed, and contains JSON.
    return _parse(content, is_yaml="yaml" in request.content_type)


async def read_delete_options(request: web.Request) -> DeleteOptions:
    """What a DELETE says in its body or its query. ApiError 400."""
    body = await read_body(request) if request.can_read_body else {}
    if "gracePeriodSeconds" in request.query:
        body["gracePeriodSeconds"] = number(request.query, "gracePeriodSeconds")
    if "propagationPolicy" in request.query:
        body["propagationPolicy"] = request.query["propagationPolicy"]
    return DeleteOptions.parse(body)


def _parse(content: bytes, *, is_yaml: bool = False) -> Document:
    document = _load(content, is_yaml=is_yaml)
    if not isinstance(document, dict):
        raise errors.bad_request("the body of the request is no object")
    return document


def _load(content: bytes, *, is_yaml: bool = False) -> object:
    try:
        loaded: object = yaml.safe_load(content) if is_yaml else json.loads(content)
        try:
            # What could not be written again (NaN, a date of YAML's) would break every later list.
            encode({"body": loaded})
        except UnicodeEncodeError:
            # Half a surrogate pair becomes U+FFFD, as for the real one.
            text = json.dumps(loaded, ensure_ascii=False)
            loaded = json.loads(text.encode("utf-16", "surrogatepass").decode("utf-16", "replace"))
    except (TypeError, ValueError, RecursionError, yaml.YAMLError) as error:
        told = " ".join(str(error).split())
        raise errors.bad_request(f"the body of the request cannot be read: {told}") from error
    return loaded


def check_kind(body: Document, resource: Resource) -> None:
    """Refuse an object of another kind than the path's. ApiError 400."""
    given = (body.get("apiVersion", resource.group_version), body.get("kind", resource.kind))
    if given != (resource.group_version, resource.kind):
        raise errors.bad_request(
            f"the object provided is a {given[0]} {given[1]}; expected {resource.group_version} {resource.kind}"
        )


def patcher(content_type: str, content: bytes) -> Callable[[Document], Document]:
    """What the patch does to a document. ApiError: 415, 400."""
    match content_type:
        case "application/json-patch+json":
            operations = _load(content)
            if not isinstance(operations, list):
                raise errors.bad_request("a JSON patch is a list")
            return lambda document: patch.apply_operations(document, operations)
        case "application/merge-patch+json":
            merging = _parse(content)
            return lambda document: patch.merge(document, merging)
        case "application/strategic-merge-patch+json":
            strategic = _parse(content)
            return lambda document: patch.strategic(document, strategic)
        case _ if content_type == SERVER_SIDE_APPLY:
            applied = _parse(content, is_yaml=True)
            return lambda document: patch.strategic(document, applied)
        case _:
            raise errors.unsupported_media_type(content_type)
