"""What the verbs of the API do to the store: create, update, patch, delete, and what follows from them.

Time, uids and random name endings are given from outside.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from k8sovs.lab.apiserver import errors, strategies, validation
from k8sovs.lab.apiserver.addresses import ServiceAddresses
from k8sovs.lab.apiserver.documents import Document, copy, section, text, without, words
from k8sovs.lab.apiserver.errors import ApiError, Cause
from k8sovs.lab.apiserver.options import DEFAULTS, DeleteOptions, Propagation
from k8sovs.lab.apiserver.resources import NAMESPACES, PODS, SERVICES, Resource
from k8sovs.lab.apiserver.store import Key, Store, Stored

BORN_NAMESPACES: Final = ("default", "kube-system")
UNDELETABLE_NAMESPACES: Final = frozenset(BORN_NAMESPACES)

MAX_GENERATED_START: Final = 58
"""Characters of `generateName` that a name begins with: with its end it is a label of 63."""

_SERVER_OWNED: Final = ("uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds", "generation")
"""Metadata that a client's write cannot change."""


@dataclass(frozen=True, slots=True)
class Deletion:
    """What a DELETE did: the object as it is now or was at last, and whether it is gone."""

    last: Stored
    removed: bool


class Registry:
    """The objects of one API, with their meaning."""

    def __init__(
        self,
        store: Store,
        addresses: ServiceAddresses,
        *,
        now: Callable[[], datetime],
        new_uid: Callable[[], str],
        name_suffix: Callable[[], str],
    ) -> None:
        """`now` is the time in UTC; `name_suffix` ends a name that the server makes up."""
        self.store = store
        self._addresses = addresses
        self._now = now
        self._new_uid = new_uid
        self._name_suffix = name_suffix
        for name in BORN_NAMESPACES:
            if self.has(NAMESPACES, Key("", name)):
                continue
            self.create(NAMESPACES, "", {"metadata": {"name": name}})

    def get(self, resource: Resource, key: Key) -> Stored:
        """One object. ApiError 404."""
        stored = self.store.get(resource, key)
        if stored is None:
            raise errors.not_found(resource.plural, resource.group, key.name)
        return stored

    def has(self, resource: Resource, key: Key) -> bool:
        """Whether there is such an object."""
        return self.store.get(resource, key) is not None

    def create(self, resource: Resource, namespace: str, body: Document, *, dry_run: bool = False) -> Stored:
        """Add an object. ApiError: the name is taken, the namespace is not there or is going, a rule is broken."""
        made = self._prepared(resource, namespace, body)
        key = Key(namespace, made["metadata"]["name"])
        if self.store.get(resource, key) is not None:
            raise errors.already_exists(resource.plural, resource.group, key.name)
        if resource.namespaced:
            self._check_namespace_takes(resource, key)
        if resource is SERVICES:
            self._addresses.assign(made, self._services())
        return self._written(resource, key, made, dry_run)

    def _prepared(self, resource: Resource, namespace: str, body: Document) -> Document:
        validation.check_shape(resource, body)
        made = copy(body)
        metadata = made["metadata"] = without(
            section(made, "metadata"), (*_SERVER_OWNED, "resourceVersion", "selfLink")
        )
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = metadata["generateName"][:MAX_GENERATED_START] + self._name_suffix()
        if resource.namespaced:
            if metadata.setdefault("namespace", namespace) != namespace:
                raise errors.bad_request(
                    "the namespace of the provided object does not match the namespace sent on the request"
                )
        else:
            metadata.pop("namespace", None)
        made |= {"apiVersion": resource.group_version, "kind": resource.kind}
        broken = validation.faults(resource, made)
        if broken:
            raise errors.invalid(resource.kind, resource.group, text(made, "metadata", "name"), broken)
        strategies.apply_defaults(resource, made)
        if "status" in resource.subresources:
            made["status"] = strategies.first_status(resource, section(made, "status"))
        metadata |= {"uid": self._new_uid(), "creationTimestamp": _timestamp(self._now())}
        if resource.counts_generations:
            metadata["generation"] = 1
        return made

    def _check_namespace_takes(self, resource: Resource, key: Key) -> None:
        namespace = self.store.get(NAMESPACES, Key("", key.namespace))
        if namespace is None:
            raise errors.not_found(NAMESPACES.plural, "", key.namespace)
        if text(namespace.body, "metadata", "deletionTimestamp"):
            cause = Cause(
                "NamespaceTerminating", f"namespace {key.namespace} is being terminated", "metadata.namespace"
            )
            why = f"unable to create new content in namespace {key.namespace} because it is being terminated"
            raise errors.forbidden(resource.plural, resource.group, key.name, why, cause)

    def update(
        self, resource: Resource, key: Key, body: Document, subresource: str = "", *, dry_run: bool = False
    ) -> Stored:
        """Replace an object, or the part of it that `subresource` names. ApiError: 404, 409 on an old version, 422."""
        old = self.get(resource, key)
        validation.check_shape(resource, body)
        version = text(body, "metadata", "resourceVersion")
        if version and version != str(old.revision):
            why = "the object has been modified; please apply your changes to the latest version and try again"
            raise errors.conflict(resource.plural, resource.group, key.name, why)
        if text(body, "metadata", "name") not in ("", key.name):
            raise errors.bad_request("the name of the object does not match the name on the URL")
        uid = text(body, "metadata", "uid")
        if uid and uid != text(old.body, "metadata", "uid"):
            why = f"Precondition failed: UID in precondition: {uid}, UID in object meta: {old.body['metadata']['uid']}"
            raise errors.conflict(resource.plural, resource.group, key.name, why)
        new = self._successor(resource, key, old.body, copy(body), subresource)
        broken = validation.faults(resource, new)
        if broken:
            raise errors.invalid(resource.kind, resource.group, key.name, broken)
        if resource is SERVICES:
            others = [service for service in self._services() if service is not old.body]
            self._addresses.assign(new, others, previous=old.body)
        if new == old.body:
            return old
        stored = self._written(resource, key, new, dry_run)
        if not dry_run and "deletionTimestamp" in stored.body["metadata"]:
            return self._remove_if_finished(resource, key, stored).last
        return stored

    def _successor(self, resource: Resource, key: Key, old: Document, new: Document, subresource: str) -> Document:
        """`new` with everything that this write may not change taken from `old`."""
        metadata = without(section(new, "metadata"), _SERVER_OWNED) | {
            name: value for name, value in old["metadata"].items() if name in _SERVER_OWNED
        }
        metadata |= {"name": key.name, "resourceVersion": old["metadata"]["resourceVersion"]}
        if resource.namespaced:
            metadata["namespace"] = key.namespace
        if subresource == "status":
            return old | {"metadata": metadata, "status": new.get("status", {})}
        new |= {"apiVersion": resource.group_version, "kind": resource.kind, "metadata": metadata}
        if "status" in resource.subresources:
            new.pop("status", None)
            if "status" in old:
                new["status"] = old["status"]
        strategies.apply_defaults(resource, new)
        apart = ("metadata", "status")
        if resource.counts_generations and without(new, apart) != without(old, apart):
            metadata["generation"] = old["metadata"].get("generation", 0) + 1
        return new

    def patch(
        self,
        resource: Resource,
        key: Key,
        change: Callable[[Document], Document],
        subresource: str = "",
        *,
        dry_run: bool = False,
    ) -> Stored:
        """Update with what `change` makes of a copy of the object. ApiError as for update."""
        changed = change(copy(self.get(resource, key).body))
        try:
            validation.check_shape(resource, changed)
        except ApiError as error:
            cause = Cause("FieldValueInvalid", f"Invalid value: {error.message}", "patch")
            raise errors.invalid(resource.kind, resource.group, key.name, [cause]) from error
        return self.update(resource, key, changed, subresource, dry_run=dry_run)

    def bind(self, key: Key, node: str) -> None:
        """Give a pod its node. ApiError 409: it has one."""
        old = self.get(PODS, key)
        if text(old.body, "spec", "nodeName"):
            why = f'pod {key.name} is already assigned to node "{old.body["spec"]["nodeName"]}"'
            raise errors.conflict("pods/binding", "", key.name, why)
        bound = copy(old.body)
        bound["spec"]["nodeName"] = node
        self.store.put(PODS, key, bound)

    def delete(
        self, resource: Resource, key: Key, options: DeleteOptions = DEFAULTS, *, dry_run: bool = False
    ) -> Deletion:
        """Delete, or mark for deletion what has finalizers, a kubelet or contents. ApiError: 404, 409, 403."""
        old = self.get(resource, key)
        self._check_preconditions(resource, key, old, options)
        if resource is NAMESPACES and key.name in UNDELETABLE_NAMESPACES:
            raise errors.forbidden(NAMESPACES.plural, "", key.name, "this namespace may not be deleted")
        if dry_run:
            return Deletion(old, removed=True)
        grace_s = strategies.grace_period_s(resource, old.body, options.grace_period_s)
        old = self._waiting_for_dependents(resource, key, old, options.propagation)
        marked = self._marked(resource, key, old, grace_s)
        if resource is NAMESPACES:
            return self._delete_contents(key, marked)
        return self._remove_if_finished(resource, key, marked)

    def _waiting_for_dependents(self, resource: Resource, key: Key, old: Stored, propagation: Propagation) -> Stored:
        """The object with the finalizer that lets the controllers see to its dependents first."""
        finalizers = words(old.body, "metadata", "finalizers")
        if propagation is Propagation.BACKGROUND or propagation.value in finalizers:
            return old
        metadata = old.body["metadata"] | {"finalizers": [*finalizers, propagation.value]}
        return self.store.put(resource, key, old.body | {"metadata": metadata})

    def _delete_contents(self, namespace: Key, marked: Stored) -> Deletion:
        """The work of the real one's namespace controller; the last thing to go takes the namespace along."""
        for resource, key in list(self.store.contents(namespace.name)):
            self.delete(resource, key)
        if self.store.get(NAMESPACES, namespace) is None:
            return Deletion(marked, removed=True)
        return self._remove_if_finished(NAMESPACES, namespace, marked)

    def _check_preconditions(self, resource: Resource, key: Key, old: Stored, options: DeleteOptions) -> None:
        uid = text(old.body, "metadata", "uid")
        if options.uid and options.uid != uid:
            why = f"Precondition failed: UID in precondition: {options.uid}, UID in object meta: {uid}"
            raise errors.conflict(resource.plural, resource.group, key.name, why)
        if options.resource_version and options.resource_version != str(old.revision):
            why = (
                f"Precondition failed: ResourceVersion in precondition: {options.resource_version}, "
                f"ResourceVersion in object meta: {old.revision}"
            )
            raise errors.conflict(resource.plural, resource.group, key.name, why)

    def _marked(self, resource: Resource, key: Key, old: Stored, grace_s: int) -> Stored:
        """The object with its time of deletion; an earlier mark is only ever shortened."""
        metadata = dict(old.body["metadata"])
        marked_before = "deletionTimestamp" in metadata
        if not marked_before and resource is not NAMESPACES and not self._stays(resource, key, old.body, grace_s):
            return old
        previous_s = metadata.get("deletionGracePeriodSeconds", 0)
        if marked_before and grace_s >= previous_s:
            return old
        metadata["deletionTimestamp"] = _timestamp(self._now() + timedelta(seconds=grace_s))
        if resource is not NAMESPACES:
            metadata["deletionGracePeriodSeconds"] = grace_s
        if resource.counts_generations and not marked_before:
            metadata["generation"] = metadata.get("generation", 0) + 1
        body = old.body | {"metadata": metadata}
        if resource is NAMESPACES:
            body["status"] = section(body, "status") | {"phase": "Terminating"}
        return self.store.put(resource, key, body)

    def _stays(self, resource: Resource, key: Key, body: Document, grace_s: int) -> bool:
        """Whether something keeps the object when it is deleted."""
        if grace_s > 0 or words(body, "metadata", "finalizers"):
            return True
        return resource is NAMESPACES and not self.store.is_empty(key.name)

    def _remove_if_finished(self, resource: Resource, key: Key, current: Stored) -> Deletion:
        """Remove what is to be deleted once nothing keeps it, and the namespace that it was the last in."""
        grace_s = current.body["metadata"].get("deletionGracePeriodSeconds", 0)
        if self._stays(resource, key, current.body, grace_s):
            return Deletion(current, removed=False)
        removed = self.store.remove(resource, key)
        namespace = self.store.get(NAMESPACES, Key("", key.namespace)) if resource.namespaced else None
        if namespace is not None and text(namespace.body, "metadata", "deletionTimestamp"):
            self._remove_if_finished(NAMESPACES, Key("", key.namespace), namespace)
        return Deletion(removed, removed=True)

    def _written(self, resource: Resource, key: Key, body: Document, dry_run: bool) -> Stored:
        if dry_run:
            return Stored.at(self.store.revision, body)
        return self.store.put(resource, key, body)

    def _services(self) -> list[Document]:
        return [service.body for service in self.store.list(SERVICES)]


def _timestamp(at: datetime) -> str:
    return at.strftime("%Y-%m-%dT%H:%M:%SZ")
