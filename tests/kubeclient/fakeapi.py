"""A small apiserver for client tests: any resource, list with pages, watch, create, update, merge patch,
delete.

It speaks real HTTP on loopback. Faults are asked for: `compact` forgets history, `cut` breaks all watches,
`answers` holds canned replies that are given before anything else.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import deque
from collections.abc import AsyncIterator
from typing import Any
from urllib.parse import parse_qs

import orjson

from apimachinery import errors
from componentbase.http import server
from kubeclient.rest import RestClient
from kubeclient.transport import Target

Object = dict[str, Any]


class FakeApi:
    def __init__(self) -> None:
        self.version = 100
        self.compacted = 0
        self.objects: dict[str, Object] = {}
        self.history: list[tuple[int, str, str, Object]] = []
        self.requests: list[tuple[str, str]] = []
        self.answers: deque[tuple[int, dict[str, str], Any]] = deque()
        self.lists = 0
        self.watchers = 0
        self.port = 0
        self._changed = asyncio.Event()
        self._cut = asyncio.Event()

    # -- what tests do to it

    def put(self, collection: str, obj: Object) -> Object:
        """Store an object below a collection path such as /api/v1/namespaces/a/pods."""
        path = f"{collection}/{obj['metadata']['name']}"
        kind = "MODIFIED" if path in self.objects else "ADDED"
        return self._store(path, kind, obj)

    def remove(self, path: str) -> None:
        obj = self.objects.pop(path)
        self._record(path, "DELETED", obj)

    def compact(self) -> None:
        self.compacted = self.version
        self.history.clear()

    def cut(self) -> None:
        self._cut.set()
        self._cut = asyncio.Event()

    def _store(self, path: str, kind: str, obj: Object) -> Object:
        stored = self._record(path, kind, obj)
        self.objects[path] = stored
        return stored

    def _record(self, path: str, kind: str, obj: Object) -> Object:
        self.version += 1
        metadata = {**obj["metadata"], "resourceVersion": str(self.version)}
        metadata.setdefault("uid", f"uid-{self.version}")
        obj = {**obj, "metadata": metadata}
        self.history.append((self.version, kind, path, obj))
        self._changed.set()
        self._changed = asyncio.Event()
        return obj

    # -- the server

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        method, path = scope["method"], scope["path"]
        query = {name: values[-1] for name, values in parse_qs(scope["query_string"].decode()).items()}
        body = b""
        while (message := await receive()).get("type") == "http.request":
            body += message["body"]
            if not message["more_body"]:
                break
        self.requests.append((method, path))
        if self.answers:
            status, headers, answer = self.answers.popleft()
            await _reply(send, status, answer, headers)
            return
        try:
            if method == "GET" and "watch" in query:
                await self._watch(path, int(query["resourceVersion"]), receive, send)
                return
            await _reply(send, *self._handle(method, path, query, body))
        except errors.StatusError as error:
            await _reply(send, error.code, error.status, error.headers)

    def _handle(self, method: str, path: str, query: dict[str, str], body: bytes) -> tuple[int, Object]:
        known = self.objects.get(path)
        obj: Object = orjson.loads(body) if body else {}
        if method == "POST":
            path = f"{path}/{obj['metadata']['name']}"
            if path in self.objects:
                raise errors.already_exists("", "things", obj["metadata"]["name"])
            return 201, self._store(path, "ADDED", obj)
        if method == "GET" and known is None and path.rsplit("/", 1)[-1].isalpha() and path.endswith("s"):
            return 200, self._list(path, query)
        if known is None:
            raise errors.not_found("", "things", path.rsplit("/", 1)[-1])
        if method == "GET":
            return 200, known
        if method == "DELETE":
            self.remove(path)
            return 200, {"kind": "Status", "status": "Success"}
        if method == "PUT":
            version = obj["metadata"].get("resourceVersion")
            if version and version != known["metadata"]["resourceVersion"]:
                raise errors.conflict("", "things", obj["metadata"]["name"], "the object has been modified")
            obj["metadata"].setdefault("uid", known["metadata"]["uid"])
            return 200, self._store(path, "MODIFIED", obj)
        return 200, self._store(path, "MODIFIED", {**known, **obj, "metadata": known["metadata"]})

    def _below(self, collection: str, path: str) -> bool:
        parent = path.rsplit("/", 1)[0]
        if parent == collection:
            return True
        root, _, resource = collection.rpartition("/")
        return parent.startswith(f"{root}/namespaces/") and parent.endswith(f"/{resource}")

    def _list(self, collection: str, query: dict[str, str]) -> Object:
        self.lists += 1
        items = [obj for path, obj in sorted(self.objects.items()) if self._below(collection, path)]
        limit, start = int(query.get("limit", 0)), 0
        if token := query.get("continue"):
            version, _, offset = token.partition(":")
            start = int(offset)
            if int(version) < self.compacted:
                raise errors.gone("The provided continue parameter is too old")
        end = start + limit if limit else len(items)
        metadata = {"resourceVersion": str(self.version)}
        if end < len(items):
            metadata["continue"] = f"{self.version}:{end}"
        return {"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items[start:end]}

    async def _watch(self, collection: str, since: int, receive: Any, send: Any) -> None:
        if since < self.compacted:
            raise errors.gone(f"too old resource version: {since} ({self.compacted})")
        await send({"type": "http.response.start", "status": 200, "headers": []})
        cut = self._cut
        self.watchers += 1
        try:
            async with asyncio.TaskGroup() as group:
                stop = [group.create_task(cut.wait()), group.create_task(_disconnected(receive))]
                while not any(task.done() for task in stop):
                    changed = self._changed
                    if since < self.compacted:
                        gone = {"type": "ERROR", "object": errors.gone("too old resource version").status}
                        await _line(send, gone)
                        break
                    for version, kind, path, obj in list(self.history):
                        if version > since and self._below(collection, path):
                            await _line(send, {"type": kind, "object": obj})
                    since = self.version
                    waiting = group.create_task(changed.wait())
                    await asyncio.wait([waiting, *stop], return_when=asyncio.FIRST_COMPLETED)
                    waiting.cancel()
                for task in stop:
                    task.cancel()
        finally:
            self.watchers -= 1
        with contextlib.suppress(Exception):
            await send({"type": "http.response.body", "body": b"", "more_body": False})


async def _disconnected(receive: Any) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


async def _line(send: Any, event: Object) -> None:
    await send({"type": "http.response.body", "body": orjson.dumps(event) + b"\n", "more_body": True})


async def _reply(send: Any, status: int, body: Any, headers: dict[str, str] | None = None) -> None:
    content = body if isinstance(body, bytes) else orjson.dumps(body)
    raw = [(name.lower().encode(), value.encode()) for name, value in (headers or {}).items()]
    raw.append((b"content-length", str(len(content)).encode()))
    await send({"type": "http.response.start", "status": status, "headers": raw})
    await send({"type": "http.response.body", "body": content})


@contextlib.asynccontextmanager
async def running(api: FakeApi | None = None) -> AsyncIterator[tuple[FakeApi, RestClient]]:
    api = api or FakeApi()
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        serving = group.create_task(server.serve(api, on_listening=listening.set_result, shutdown_grace=0.2))
        api.port = await listening
        try:
            async with RestClient(Target(f"http://127.0.0.1:{api.port}")) as client:
                yield api, client
        finally:
            serving.cancel()
