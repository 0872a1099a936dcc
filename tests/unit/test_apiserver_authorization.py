"""Who may do what at the embedded API server."""

from __future__ import annotations

import pytest

from k8sovs.lab.apiserver import authorization
from k8sovs.lab.apiserver.documents import Document
from k8sovs.lab.apiserver.errors import ApiError
from k8sovs.lab.apiserver.resources import ENDPOINT_SLICES, PODS, Resource

USER = authorization.user_name("kube-system", "reader")
SUBJECT = {"kind": "ServiceAccount", "namespace": "kube-system", "name": "reader"}
ROLE: Document = {
    "metadata": {"name": "read"},
    "rules": [{"apiGroups": [""], "resources": ["pods"], "verbs": ["list", "watch"]}],
}
BINDING: Document = {"roleRef": {"kind": "ClusterRole", "name": "read"}, "subjects": [SUBJECT]}


def allowed(verb: str, resource: Resource = PODS, subresource: str = "", user: str = USER) -> bool:
    try:
        authorization.check(user, verb, resource, subresource, [ROLE], [BINDING])
    except ApiError as error:
        return error.code != 403
    return True


def test_a_service_account_may_do_what_a_role_bound_to_it_says() -> None:
    assert allowed("list")
    assert allowed("watch")


@pytest.mark.parametrize("verb", ["get", "create", "update", "patch", "delete", "deletecollection"])
def test_it_may_do_nothing_else(verb: str) -> None:
    assert not allowed(verb)


def test_a_role_speaks_of_its_own_group_resource_subresource_and_subjects_alone() -> None:
    assert not allowed("list", ENDPOINT_SLICES)
    assert not allowed("list", subresource="status")
    assert not allowed("list", user=authorization.user_name("default", "reader"))


def test_who_brings_no_token_of_a_service_account_is_not_judged() -> None:
    assert authorization.asking("") is None
    assert authorization.asking("Bearer something") is None
    assert authorization.asking(f"Bearer {USER}") == USER


@pytest.mark.parametrize(
    ("method", "named", "watches", "verb"),
    [
        *(("GET", False, False, "list"), ("GET", False, True, "watch"), ("GET", True, False, "get")),
        *(("POST", False, False, "create"), ("PUT", True, False, "update"), ("PATCH", True, False, "patch")),
        *(("DELETE", True, False, "delete"), ("DELETE", False, False, "deletecollection")),
    ],
)
def test_requests_have_the_verbs_of_kubernetes(method: str, named: bool, watches: bool, verb: str) -> None:
    assert authorization.verb_of(method, named=named, watches=watches) == verb
