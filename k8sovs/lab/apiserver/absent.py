"""What people ask a cluster for and this one has not: it answers so that they know what to do instead. Pure."""

from __future__ import annotations

from typing import Final

from k8sovs.lab.apiserver.documents import Document
from k8sovs.lab.apiserver.errors import ApiError, no_such_path

_OF_A_PROCESS: Final = frozenset({"attach", "exec", "log", "portforward", "proxy"})
_ALLOWED: Final = {"allowed": True, "reason": "the lab's API server asks nobody who they are"}
_EVERYTHING: Final = {
    "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"]}],
    "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}],
    "incomplete": False,
}
_REVIEWS: Final = {
    "selfsubjectaccessreviews": ("SelfSubjectAccessReview", _ALLOWED),
    "selfsubjectrulesreviews": ("SelfSubjectRulesReview", _EVERYTHING),
}


def answer(method: str, path: str) -> Document:
    """The answer to `kubectl auth can-i`: everybody may do everything. ApiError: 501 (`logs`, `token` ...), 404."""
    match path.strip("/").split("/"):
        case ["api", "v1", "namespaces", namespace, "pods", name, part, *_] if part in _OF_A_PROCESS:
            command = f"k8sovs lab exec {namespace}/{name} -- COMMAND"
            message = f"no process runs in the lab's pods, so that there is no {part}: use `{command}`"
            raise ApiError(501, "NotImplemented", message)
        case ["api", "v1", "namespaces", _, "serviceaccounts", _, "token"]:
            message = "the lab's API server asks nobody who they are: there are no tokens, and none is needed"
            raise ApiError(501, "NotImplemented", message)
        case ["apis", "authorization.k8s.io", version, plural] if plural in _REVIEWS and method == "POST":
            kind, status = _REVIEWS[plural]
            return {"kind": kind, "apiVersion": f"authorization.k8s.io/{version}", "metadata": {}, "status": status}
    raise no_such_path()
