"""An API server that only lists and watches, so that what is measured beside it is not itself.

It speaks the protocol of Kubernetes as far as a controller and an agent of ours use it: lists in pages, watches from a
version, bookmarks, Events that are thrown away. Namespaces and Nodes are objects as a real server (1.36) gave them, the
Nodes with as many images as a node in use reports. A POST or DELETE changes one; the answer says when it was told to
the watchers, on the clock that all processes of a machine share (`time.monotonic`).

`python -m scripts.bench_scale_api SCALE` prints the port that it listens on.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from scripts.bench_scale_world import SCALES, Scale, namespace_name, node_address, node_name

RECORDED = Path(__file__).parent.parent / "tests" / "recorded" / "kubernetes"
IMAGES = 40
HEARTBEAT_S = 300.0
"""How often a kubelet reports its node's state although nothing has changed."""
BOOKMARK_S = 30.0
HISTORY = 2_000
"""Changes that are remembered for watchers who come back."""


class Collection:
    """The objects of one kind, and the watches of it."""

    def __init__(self, version: int) -> None:
        self.objects: dict[str, bytes] = {}
        self.log: deque[tuple[int, bytes]] = deque(maxlen=HISTORY)
        self.watchers: list[asyncio.StreamWriter] = []
        self.version = version
        self._listed: list[str] = []

    def tell(self, word: str, body: bytes) -> None:
        """An event, to everybody who watches, and to those who come back for it."""
        self.version += 1
        body = body.replace(b'"resourceVersion":"1"', b'"resourceVersion":"%d"' % self.version, 1)
        line = b'{"type":"%s","object":%s}\n' % (word.encode(), body)
        self.log.append((self.version, line))
        for watcher in self.watchers:
            watcher.write(_chunk(line))

    def page(self, first: int, limit: int) -> bytes:
        """A part of the list."""
        if first == 0:
            self._listed = sorted(self.objects)
        names = self._listed[first : first + limit]
        items = b",".join(self.objects[name] for name in names if name in self.objects)
        more = str(first + limit) if first + limit < len(self._listed) else ""
        metadata = json.dumps({"resourceVersion": str(self.version), "continue": more}).encode()
        return b'{"kind":"List","apiVersion":"v1","metadata":%s,"items":[%s]}' % (metadata, items)


class Api:
    """The server."""

    def __init__(self, scale: Scale) -> None:
        self._collections: dict[str, Collection] = {}
        namespaces, nodes = self._collection("/api/v1/namespaces"), self._collection("/api/v1/nodes")
        namespaces.objects = {namespace_name(number): namespace(number) for number in range(scale.namespaces)}
        nodes.objects = {node_name(number): node(number) for number in range(scale.nodes)}

    async def serve(self) -> None:
        """For ever. Every node reports once in five minutes."""
        server = await asyncio.start_server(self._accept, "0.0.0.0", 0)
        print(server.sockets[0].getsockname()[1], flush=True)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._bookmark())
            tasks.create_task(self._report())

    def _collection(self, path: str) -> Collection:
        return self._collections.setdefault(path, Collection(1000))

    async def _report(self) -> None:
        nodes = self._collection("/api/v1/nodes")
        for name in _for_ever(nodes.objects):
            await asyncio.sleep(HEARTBEAT_S / len(nodes.objects))
            if name in nodes.objects:
                nodes.tell("MODIFIED", nodes.objects[name])

    async def _bookmark(self) -> None:
        while True:
            await asyncio.sleep(BOOKMARK_S)
            for collection in self._collections.values():
                body = b'{"type":"BOOKMARK","object":{"metadata":{"resourceVersion":"%d"}}}\n' % collection.version
                for watcher in collection.watchers:
                    watcher.write(_chunk(body))

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while head := await reader.readuntil(b"\r\n\r\n"):
                lines = head.decode().split("\r\n")
                lengths = [line.partition(":")[2] for line in lines if line.lower().startswith("content-length:")]
                content = await reader.readexactly(int(lengths[0])) if lengths else b""
                method, target, _ = lines[0].split(" ")
                query = dict(parse_qsl(urlsplit(target).query))
                if query.get("watch") == "true":
                    await self._watch(urlsplit(target).path, int(query["resourceVersion"]), reader, writer)
                    return
                body = self._answer(method, urlsplit(target).path, query, content)
                writer.write(
                    b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body)
                )
                writer.write(body)
                await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError):
            pass  # whoever it was has gone
        finally:
            writer.close()

    def _answer(self, method: str, path: str, query: dict[str, str], content: bytes) -> bytes:
        if method == "GET":
            return self._collection(path).page(int(query.get("continue") or 0), int(query.get("limit") or 10**6))
        if path.startswith(("/api/v1/namespaces/", "/api/v1/nodes/")) and path.count("/") == 4:
            return self._change(method, path)
        return content  # an Event

    def _change(self, method: str, path: str) -> bytes:
        """POST or DELETE of what the number at the end of the path stands for."""
        folder, _, number = path.rpartition("/")
        make, name_of = (node, node_name) if folder.endswith("nodes") else (namespace, namespace_name)
        collection, name = self._collection(folder), name_of(int(number))
        at = time.monotonic()
        if method == "POST":
            collection.objects[name] = make(int(number))
            collection.tell("ADDED", collection.objects[name])
        else:
            collection.tell("DELETED", collection.objects.pop(name))
        return json.dumps({"name": name, "at": at}).encode()

    async def _watch(self, path: str, version: int, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        collection = self._collection(path)
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nTransfer-Encoding: chunked\r\n\r\n")
        for at, line in collection.log:
            if at > version:
                writer.write(_chunk(line))
        collection.watchers.append(writer)
        try:
            await reader.read()  # nothing comes but the end
        finally:
            collection.watchers.remove(writer)


def namespace(number: int) -> bytes:
    """A Namespace."""
    return _filled(_NAMESPACE, "tenant1", namespace_name(number), "58275a99-6d84-4ef0-8cb3", number)


def node(number: int) -> bytes:
    """A Node."""
    body = _NODE.replace(b"192.0.2.2", str(node_address(number)).encode())
    return _filled(body, "node1", node_name(number), "026566e2-0439-443b-9400", number)


def _filled(body: bytes, old: str, name: str, uid: str, number: int) -> bytes:
    """`body` with the name `old` replaced, and the last part of its `uid`."""
    start = body.index(uid.encode()) + len(uid)
    return (body[:start] + b"-%012x" % number + body[start + 13 :]).replace(
        b'"%s"' % old.encode(), b'"%s"' % name.encode()
    )


def _recorded(name: str) -> dict[str, dict[str, object]]:
    document: dict[str, dict[str, object]] = json.loads((RECORDED / name).read_bytes())
    document["metadata"]["resourceVersion"] = "1"
    return document


def _with_images(document: dict[str, dict[str, object]]) -> dict[str, dict[str, object]]:
    document["status"]["images"] = [
        {
            "names": [
                f"registry.example.com/team-{number}/service@sha256:{number:064x}",
                f"registry.example.com/team-{number}/service:v1.{number}",
            ],
            "sizeBytes": 100_000_000 + number,
        }
        for number in range(IMAGES)
    ]
    return document


def _encoded(document: object) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


_NAMESPACE = _encoded(_recorded("api_v1_namespaces_tenant1.json"))
_NODE = _encoded(_with_images(_recorded("api_v1_nodes_node1.json")))


def _chunk(line: bytes) -> bytes:
    return b"%x\r\n%s\r\n" % (len(line), line)


def _for_ever(objects: dict[str, bytes]) -> Iterator[str]:
    while True:
        yield from list(objects)


if __name__ == "__main__":
    asyncio.run(Api(SCALES[sys.argv[1]]).serve())
