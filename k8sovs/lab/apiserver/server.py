"""HTTP in front of the registry: which handler serves a request, and what its answer looks like."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from contextlib import aclosing
from datetime import UTC, datetime
from typing import Final

from aiohttp import web
from aiohttp.typedefs import Handler

from k8sovs.lab.apiserver import absent, authorization, errors, openapi, resources, tables
from k8sovs.lab.apiserver.documents import Document, encode, text
from k8sovs.lab.apiserver.errors import ApiError
from k8sovs.lab.apiserver.lists import Lists
from k8sovs.lab.apiserver.registry import Registry
from k8sovs.lab.apiserver.requests import (
    SERVER_SIDE_APPLY,
    Target,
    check_kind,
    is_dry_run,
    is_watch,
    parse_path,
    patcher,
    read_body,
    read_delete_options,
    selection,
    wants_table,
)
from k8sovs.lab.apiserver.resources import CLUSTER_ROLE_BINDINGS, CLUSTER_ROLES, NODES
from k8sovs.lab.apiserver.scale import scale_of, scaled
from k8sovs.lab.apiserver.store import Key, Stored
from k8sovs.lab.apiserver.watch import Watch, WatchOptions
from k8sovs.logs import get_logger

log = get_logger(__name__)

MAX_BODY: Final = 3 * 1024 * 1024
"""Bytes; the limit of the real one."""


class ApiServer:
    """The request handlers; `application()` is what aiohttp serves."""

    def __init__(
        self, registry: Registry, *, bookmark_interval_s: float = 10.0, clock: Callable[[], datetime] | None = None
    ) -> None:
        """A watch with bookmarks that hears nothing else hears one every `bookmark_interval_s`."""
        self._registry = registry
        self._bookmark_interval_s = bookmark_interval_s
        self._clock = clock or (lambda: datetime.now(UTC))
        self._lists = Lists(registry.store)

    def application(self) -> web.Application:
        """Routes and error handling."""
        application = web.Application(middlewares=[self._answer_errors], client_max_size=MAX_BODY)
        application.router.add_get("/{probe:healthz|livez|readyz}", self._probe)
        application.router.add_get("/version", self._version)
        application.router.add_get("/openapi/v2", self._openapi)
        application.router.add_get("/api", self._api_versions)
        application.router.add_get("/apis", self._api_groups)
        application.router.add_get("/api/{version}", self._api_resources)
        application.router.add_get("/apis/{group}", self._api_group)
        application.router.add_get("/apis/{group}/{version}", self._api_resources)
        application.router.add_route("*", "/{path:.*}", self._objects)
        return application

    @web.middleware
    async def _answer_errors(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        try:
            return await handler(request)
        except ApiError as error:
            return _json(error.status(), error.code)
        except web.HTTPException as error:
            return _json(ApiError(error.status, error.reason.replace(" ", ""), error.reason).status(), error.status)
        except (asyncio.CancelledError, ConnectionResetError):
            raise
        except Exception as error:  # a defect here must be seen in the answer, and must not end the server
            log.exception("request-failed", method=request.method, path=request.path)
            return _json(ApiError(500, "InternalError", f"Internal error occurred: {error!r}").status(), 500)

    async def _probe(self, _: web.Request) -> web.Response:
        return web.Response(text="ok")

    async def _version(self, _: web.Request) -> web.Response:
        return _json(resources.version())

    async def _openapi(self, request: web.Request) -> web.Response:
        if "protobuf" in request.headers.get("Accept", ""):
            return web.Response(body=openapi.as_protobuf(), headers={"Content-Type": openapi.CONTENT_TYPE})
        return _json(openapi.as_json())

    async def _api_versions(self, request: web.Request) -> web.Response:
        return _json(resources.api_versions(request.host))

    async def _api_groups(self, _: web.Request) -> web.Response:
        return _json(resources.api_group_list())

    async def _api_group(self, request: web.Request) -> web.Response:
        group = request.match_info["group"]
        for known, version in resources.group_versions():
            if known == group:
                return _json(resources.api_group(group, version))
        raise errors.no_such_path()

    async def _api_resources(self, request: web.Request) -> web.Response:
        found = resources.api_resource_list(request.match_info.get("group", ""), request.match_info["version"])
        if found is None:
            raise errors.no_such_path()
        return _json(found)

    async def _objects(self, request: web.Request) -> web.StreamResponse:
        target = parse_path(request.path)
        if target is None:
            return _json(absent.answer(request.method, request.path), 201)
        self._authorize(request, target)
        match request.method, bool(target.name), target.subresource:
            case "GET", False, _:
                return await self._watch(request, target) if is_watch(request) else self._list(request, target)
            case "POST", False, _:
                return await self._create(request, target)
            case "POST", True, "binding":
                return await self._bind(request, target)
            case "GET", True, "" | "status":
                return self._one(request, target, self._registry.get(target.resource, target.key))
            case "PUT", True, "" | "status":
                return await self._replace(request, target)
            case "PATCH", True, "" | "status":
                return await self._patch(request, target)
            case "GET", True, "scale":
                return _json(scale_of(self._registry.get(target.resource, target.key).body))
            case "PUT" | "PATCH", True, "scale":
                return await self._scale(request, target)
            case "DELETE", True, "":
                return await self._delete(request, target)
            case "DELETE", False, _ if not target.resource.goes_one_by_one:
                return await self._delete_collection(request, target)
            case _:
                raise errors.method_not_allowed()

    def _authorize(self, request: web.Request, target: Target) -> None:
        user = authorization.asking(request.headers.get("Authorization", ""))
        if user is not None:
            verb = authorization.verb_of(request.method, named=bool(target.name), watches=is_watch(request))
            roles, bindings = (
                [stored.body for stored in self._registry.store.list(resource, "")]
                for resource in (CLUSTER_ROLES, CLUSTER_ROLE_BINDINGS)
            )
            authorization.check(user, verb, target.resource, target.subresource, roles, bindings)

    def _one(self, request: web.Request, target: Target, stored: Stored, code: int = 200) -> web.Response:
        if wants_table(request):
            metadata: Document = {"resourceVersion": str(stored.revision)}
            return _json(tables.render(target.resource, [stored], self._clock(), metadata), code)
        return web.Response(body=stored.encoded, status=code, content_type="application/json")

    def _list(self, request: web.Request, target: Target) -> web.Response:
        page = self._lists.page(target, request.query)
        if wants_table(request):
            return _json(tables.render(target.resource, page.found, self._clock(), page.metadata))
        head = encode(
            {"kind": target.resource.list_kind, "apiVersion": target.resource.group_version, "metadata": page.metadata}
        )
        body = head[:-1] + b',"items":[' + b",".join(stored.encoded for stored in page.found) + b"]}"
        return web.Response(body=body, content_type="application/json")

    async def _watch(self, request: web.Request, target: Target) -> web.StreamResponse:
        watch = Watch(
            store=self._registry.store,
            resource=target.resource,
            selects=selection(request.query, target),
            options=WatchOptions.parse(request.query),
            as_table=wants_table(request),
            bookmark_interval_s=self._bookmark_interval_s,
            clock=self._clock,
        )
        response = web.StreamResponse(headers={"Content-Type": "application/json", "Cache-Control": "no-cache"})
        try:
            start = watch.start()
        except ApiError as error:
            # As the real one does: the answer is 200, and the refusal is the only event.
            await response.prepare(request)
            await response.write(b'{"type":"ERROR","object":' + encode(error.status()) + b"}\n")
            return response
        response.enable_chunked_encoding()
        await response.prepare(request)
        async with aclosing(watch.lines(start)) as lines:
            async for line in lines:
                await response.write(line)
        return response

    async def _create(self, request: web.Request, target: Target) -> web.Response:
        if target.resource.namespaced and not target.namespace:
            raise errors.method_not_allowed()
        body = await read_body(request)
        check_kind(body, target.resource)
        made = self._registry.create(target.resource, target.namespace, body, dry_run=is_dry_run(request))
        return self._one(request, target, made, 201)

    async def _bind(self, request: web.Request, target: Target) -> web.Response:
        node = text(await read_body(request), "target", "name")
        self._registry.get(NODES, Key("", node))
        self._registry.bind(target.key, node)
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}, 201)

    async def _replace(self, request: web.Request, target: Target) -> web.Response:
        body = await read_body(request)
        check_kind(body, target.resource)
        stored = self._registry.update(
            target.resource, target.key, body, target.subresource, dry_run=is_dry_run(request)
        )
        return self._one(request, target, stored)

    async def _patch(self, request: web.Request, target: Target) -> web.Response:
        change = patcher(request.content_type, await request.read())
        if request.content_type == SERVER_SIDE_APPLY and not self._registry.has(target.resource, target.key):
            # What is applied on the server comes into being by it.
            body = change({"metadata": {"name": target.name}})
            check_kind(body, target.resource)
            made = self._registry.create(target.resource, target.namespace, body, dry_run=is_dry_run(request))
            return self._one(request, target, made, 201)
        stored = self._registry.patch(
            target.resource, target.key, change, target.subresource, dry_run=is_dry_run(request)
        )
        return self._one(request, target, stored)

    async def _scale(self, request: web.Request, target: Target) -> web.Response:
        if request.method == "PUT":
            given = await read_body(request)
        else:
            change = patcher(request.content_type, await request.read())
            given = change(scale_of(self._registry.get(target.resource, target.key).body))
        stored = self._registry.patch(
            target.resource, target.key, lambda body: scaled(body, given), dry_run=is_dry_run(request)
        )
        return _json(scale_of(stored.body))

    async def _delete(self, request: web.Request, target: Target) -> web.Response:
        options = await read_delete_options(request)
        deletion = self._registry.delete(target.resource, target.key, options, dry_run=is_dry_run(request))
        if not deletion.removed or target.resource.answers_deletion_with_object:
            return self._one(request, target, deletion.last)
        details = {
            "name": target.name,
            "group": target.resource.group,
            "kind": target.resource.plural,
            "uid": text(deletion.last.body, "metadata", "uid"),
        }
        return _json({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details})

    async def _delete_collection(self, request: web.Request, target: Target) -> web.Response:
        options = await read_delete_options(request)
        selects = selection(request.query, target)
        store = self._registry.store
        chosen = [stored for stored in store.list(target.resource, target.namespace) if selects(stored.body)]
        for stored in chosen:
            key = Key(text(stored.body, "metadata", "namespace"), text(stored.body, "metadata", "name"))
            self._registry.delete(target.resource, key, options, dry_run=is_dry_run(request))
        return _json(
            {
                "kind": target.resource.list_kind,
                "apiVersion": target.resource.group_version,
                "metadata": {"resourceVersion": str(store.revision)},
                "items": [stored.body for stored in chosen],
            }
        )


def _json(body: Document, code: int = 200) -> web.Response:
    return web.Response(body=encode(body), status=code, content_type="application/json")
