"""The three kinds of patch: JSON merge patch (RFC 7386), JSON patch (RFC 6902), Kubernetes' strategic merge patch.

All take a document that they may change, and return the result.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any, Final

from k8sovs.lab.apiserver.documents import Document, text
from k8sovs.lab.apiserver.errors import ApiError, bad_request

MERGE_KEYS: Final = {
    "addresses": ("type",),
    "conditions": ("type",),
    "containers": ("name",),
    "env": ("name",),
    "ephemeralContainers": ("name",),
    "hostAliases": ("ip",),
    "imagePullSecrets": ("name",),
    "initContainers": ("name",),
    "ownerReferences": ("uid",),
    "podIPs": ("ip",),
    "ports": ("containerPort", "port"),
    "secrets": ("name",),
    "topologySpreadConstraints": ("topologyKey",),
    "volumeDevices": ("devicePath",),
    "volumeMounts": ("mountPath",),
    "volumes": ("name",),
}
"""List fields that a strategic merge patch merges entry by entry, and what identifies an entry (`patchMergeKey`).

`ports` are those of a container or of a service (those of an EndpointSlice are replaced, see `REPLACED`); `addresses`
those of a node (those of an endpoint are plain strings).
"""

REPLACED: Final = {"EndpointSlice": frozenset({"ports"})}
"""List fields at the top of a kind that a strategic merge patch replaces, though a field of MERGE_KEYS is called so."""

MERGED_SETS: Final = frozenset({"finalizers", "podCIDRs"})
"""List fields whose plain values a strategic merge patch adds up."""

_ORDER: Final = "$setElementOrder/"
_DROP: Final = "$deleteFromPrimitiveList/"


def merge(target: object, patch: object) -> Any:  # noqa: ANN401 - RFC 7386 maps any JSON value to any other
    """RFC 7386: null removes, objects merge, all else replaces."""
    if not isinstance(patch, dict):
        return patch
    merged = target if isinstance(target, dict) else {}
    for name, value in patch.items():
        if value is None:
            merged.pop(name, None)
        else:
            merged[name] = merge(merged.get(name), value)
    return merged


def strategic(target: Document, patch: Document) -> Document:
    """A merge patch that knows which lists are merged entry by entry, and directives such as `$patch`.

    ApiError 400: a directive that makes no sense.
    """
    directive = patch.get("$patch")
    if directive == "replace":
        return {name: value for name, value in patch.items() if name != "$patch"}
    if directive == "delete":
        return {}
    if "$retainKeys" in patch:
        retained = _directive_list(patch, "$retainKeys")
        for name in [name for name in target if name not in retained]:
            del target[name]
    for name, value in patch.items():
        if not name.startswith("$"):
            _merge_field(target, name, value)
    for name in patch:
        field = name.partition("/")[2]
        if name.startswith(_DROP):
            dropped = _directive_list(patch, name)
            target[field] = [entry for entry in _list(target.get(field)) if entry not in dropped]
        elif name.startswith(_ORDER):
            target[field] = _ordered(field, _list(target.get(field)), _directive_list(patch, name))
    return target


def _merge_field(target: Document, name: str, value: object) -> None:
    old = target.get(name)
    if value is None:
        target.pop(name, None)
    elif isinstance(value, dict):
        target[name] = strategic(old if isinstance(old, dict) else {}, value)
    elif isinstance(value, list) and name not in REPLACED.get(text(target, "kind"), ()):
        target[name] = _merge_lists(name, _list(old), value)
    else:
        target[name] = value


def _merge_lists(field: str, old: list[Any], new: list[Any]) -> list[Any]:
    if field in MERGED_SETS:
        return old + [entry for entry in new if entry not in old]
    key = _merge_key(field, [*old, *new])
    if key is None:
        return new
    if any(entry.get("$patch") == "replace" for entry in new):
        return [entry for entry in new if entry.get("$patch") != "replace"]
    merged = {entry.get(key): entry for entry in old}
    for entry in new:
        name = entry.get(key)
        if entry.get("$patch") == "delete":
            merged.pop(name, None)
        else:
            merged[name] = strategic(merged.get(name, {}), entry)
    return list(merged.values())


def _ordered(field: str, entries: list[Any], order: list[Any]) -> list[Any]:
    """`entries` as `order` has them; those that it does not name come last."""
    key = _merge_key(field, [*entries, *order])
    if key is None:
        return sorted(entries, key=lambda entry: order.index(entry) if entry in order else len(order))
    position = {entry.get(key): index for index, entry in enumerate(order)}
    return sorted(entries, key=lambda entry: position.get(entry.get(key), len(order)))


def _merge_key(field: str, entries: Sequence[object]) -> str | None:
    """What identifies the entries of this list; None for a list that is replaced as a whole."""
    for candidate in MERGE_KEYS.get(field, ()):
        if all(
            isinstance(entry, dict)
            and (isinstance(entry.get(candidate), str | int) or ("$patch" in entry and candidate not in entry))
            for entry in entries
        ):
            return candidate
    return None


def _list(value: object) -> list[Any]:
    return value if isinstance(value, list) else []


def _directive_list(patch: Document, name: str) -> list[Any]:
    if not isinstance(patch[name], list):
        raise bad_request(f"{name} is no list")
    return _list(patch[name])


def apply_operations(target: Document, operations: Sequence[object]) -> Document:
    """RFC 6902. ApiError 422: a `test` that fails or a path that does not exist; 400: not a patch."""
    root: Any = target
    for operation in operations:
        if not isinstance(operation, dict) or not isinstance(operation.get("path"), str):
            raise bad_request("a JSON patch is a list of objects with op and path")
        root = _apply_operation(root, operation)
    if not isinstance(root, dict):
        raise bad_request("the JSON patch leaves no object")
    return root


def _apply_operation(root: Any, operation: Document) -> Any:  # noqa: ANN401 - a JSON pointer reaches any value
    path = _pointer(operation["path"])
    match operation.get("op"):
        case "add":
            return _add(root, path, operation.get("value"))
        case "remove":
            return _remove(root, path)
        case "replace":
            _find(root, path)
            return _add(_remove(root, path), path, operation.get("value")) if path else operation.get("value")
        case "move":
            source = _pointer(str(operation.get("from", "")))
            value = _find(root, source)
            return _add(_remove(root, source), path, value)
        case "copy":
            return _add(root, path, copy.deepcopy(_find(root, _pointer(str(operation.get("from", ""))))))
        case "test":
            if _find(root, path) != operation.get("value"):
                raise _unprocessable(f"testing path {operation['path']} failed")
            return root
        case other:
            raise bad_request(f"unknown JSON patch operation {other!r}")


def _pointer(written: str) -> list[str]:
    if written and not written.startswith("/"):
        raise bad_request(f"{written!r} is no JSON pointer")
    return [part.replace("~1", "/").replace("~0", "~") for part in written.split("/")[1:]]


def _find(root: Any, path: Sequence[str]) -> Any:  # noqa: ANN401
    found = root
    for part in path:
        if isinstance(found, dict) and part in found:
            found = found[part]
        elif isinstance(found, list) and part.isdecimal() and int(part) < len(found):
            found = found[int(part)]
        else:
            raise _unprocessable(f"the path /{'/'.join(path)} does not exist")
    return found


def _add(root: Any, path: Sequence[str], value: object) -> Any:  # noqa: ANN401
    if not path:
        return value
    parent, last = _find(root, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[last] = value
    elif isinstance(parent, list) and (last == "-" or (last.isdecimal() and int(last) <= len(parent))):
        parent.insert(len(parent) if last == "-" else int(last), value)
    else:
        raise _unprocessable(f"nothing can be added at /{'/'.join(path)}")
    return root


def _remove(root: Any, path: Sequence[str]) -> Any:  # noqa: ANN401
    _find(root, path)
    if not path:
        return None
    parent, last = _find(root, path[:-1]), path[-1]
    del parent[int(last) if isinstance(parent, list) else last]
    return root


def _unprocessable(why: str) -> ApiError:
    return ApiError(422, "Invalid", f"the server rejected our request due to an error in our request: {why}", {})
