"""Who may do what: for service accounts as Kubernetes' RBAC has it, everybody else may do everything. Pure.

A service account says who it is by its user name in place of a token: this server believes it, and the lab gives each
daemon only its own. So all that the daemons ask of the lab's Kubernetes is judged by the roles that we ship.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from k8sovs.lab.apiserver.documents import Document, entries, text, words
from k8sovs.lab.apiserver.errors import ApiError
from k8sovs.lab.apiserver.resources import Resource

_BEARER: Final = "Bearer "
_ACCOUNT: Final = "system:serviceaccount:"
_ROLE_KIND: Final = "ClusterRole"
_ANY: Final = "*"
_WRITES: Final = {"POST": "create", "PUT": "update", "PATCH": "patch"}


def user_name(namespace: str, account: str) -> str:
    """What a service account is called in answers, and its token here."""
    return f"{_ACCOUNT}{namespace}:{account}"


def asking(authorization: str) -> str | None:
    """The service account that the header `Authorization` names; None: somebody who may do everything."""
    token = authorization.removeprefix(_BEARER).strip()
    return token if token.startswith(_ACCOUNT) else None


def verb_of(method: str, *, named: bool, watches: bool) -> str:
    """The verb of RBAC for a request to a collection, or to a `named` object of it."""
    if method == "GET":
        return "get" if named else "watch" if watches else "list"
    if method == "DELETE":
        return "delete" if named else "deletecollection"
    return _WRITES.get(method, method.lower())


def check(
    user: str, verb: str, resource: Resource, subresource: str, roles: Iterable[Document], bindings: Iterable[Document]
) -> None:
    """Refuse what no ClusterRole bound to `user` allows. ApiError 403, in Kubernetes' words."""
    asked = f"{resource.plural}/{subresource}" if subresource else resource.plural
    wanted = {"apiGroups": resource.group, "resources": asked, "verbs": verb}
    for rule in _rules(user, roles, bindings):
        if all({value, _ANY} & set(words(rule, field)) for field, value in wanted.items()):
            return
    raise ApiError(
        403,
        "Forbidden",
        f'{asked} is forbidden: User "{user}" cannot {verb} resource "{asked}" in API group "{resource.group}" '
        "at the cluster scope",
        {"kind": resource.plural, **({"group": resource.group} if resource.group else {})},
    )


def _rules(user: str, roles: Iterable[Document], bindings: Iterable[Document]) -> Iterator[Document]:
    bound = {
        text(binding, "roleRef", "name")
        for binding in bindings
        if text(binding, "roleRef", "kind") == _ROLE_KIND
        and user in {user_name(text(one, "namespace"), text(one, "name")) for one in entries(binding, "subjects")}
    }
    for role in roles:
        if text(role, "metadata", "name") in bound:
            yield from entries(role, "rules")
