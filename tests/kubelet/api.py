"""A small apiserver in memory: just what a kubelet asks of one, over real HTTP, so that whole agents can be
tested.

It keeps objects by path, streams watches, merges patches, grants tokens and answers reviews. It knows no
schema.
"""

from __future__ import annotations

import asyncio
import functools
import itertools
import uuid
from collections.abc import Awaitable, Callable
from typing import Any
from urllib.parse import parse_qs

import orjson

from apimachinery.patch import merge

Object = dict[str, Any]
COLLECTIONS = {
    *("pods", "nodes", "services", "configmaps", "secrets", "serviceaccounts", "events", "leases"),
    *("runtimeclasses", "persistentvolumeclaims", "persistentvolumes", "certificatesigningrequests"),
}
KINDS = {"pods": "Pod", "nodes": "Node", "services": "Service", "events": "Event", "leases": "Lease"}


class MemoryApi:
    """The ASGI application, and the test's hand on its objects."""

    def __init__(self) -> None:
        self.objects: dict[str, Object] = {}
        self.log: list[tuple[str, Object]] = []
        self.history: list[tuple[str, str, Object]] = []
        self.changed = asyncio.Condition()
        self._revisions = itertools.count(1)
        self.revision = 0
        self.allow: Callable[[Object], bool] = lambda review: True
        self.tokens: dict[str, Object] = {}

    async def write(self, path: str, obj: Object, kind: str = "") -> Object:
        """Store an object and tell the watchers."""
        event = kind or ("MODIFIED" if path in self.objects else "ADDED")
        self.revision = next(self._revisions)
        metadata = {
            "uid": str(uuid.uuid4()),
            **obj.get("metadata", {}),
            "resourceVersion": str(self.revision),
        }
        obj = {**obj, "metadata": metadata}
        self.objects[path] = obj
        if event == "DELETED":
            del self.objects[path]
        self.history.append((event, path, obj))
        async with self.changed:
            self.changed.notify_all()
        return obj

    async def add_pod(self, pod: Object) -> Object:
        """A pod, already bound."""
        metadata = {"namespace": "default", **pod["metadata"]}
        status = {"phase": "Pending", "conditions": [{"type": "PodScheduled", "status": "True"}]}
        obj = {"apiVersion": "v1", "kind": "Pod", "spec": pod["spec"], "status": status, "metadata": metadata}
        return await self.write(f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", obj)

    def pod(self, name: str, namespace: str = "default") -> Object | None:
        return self.objects.get(f"/api/v1/namespaces/{namespace}/pods/{name}")

    async def delete_pod(self, name: str, grace: int = 30) -> None:
        """What `kubectl delete` does first: mark, and leave the rest to the kubelet."""
        path = f"/api/v1/namespaces/default/pods/{name}"
        pod = self.objects[path]
        marks = {"deletionTimestamp": "2026-01-01T00:00:00Z", "deletionGracePeriodSeconds": grace}
        await self.write(path, {**pod, "metadata": {**pod["metadata"], **marks}})

    async def until(self, condition: Callable[[], object], timeout: float = 10.0) -> None:
        """Wait for a condition on the objects; fails by TimeoutError."""
        async with asyncio.timeout(timeout), self.changed:
            await self.changed.wait_for(lambda: bool(condition()))

    def events(self, reason: str) -> list[Object]:
        return [obj for path, obj in self.objects.items() if "/events/" in path and obj["reason"] == reason]

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        query = {k: v[0] for k, v in parse_qs(scope["query_string"].decode()).items()}
        path, method = scope["path"], scope["method"]
        if method == "GET" and query.get("watch"):
            await self._watch(path, query, receive, send)
            return
        status, answer = await self._handle(method, path, query, orjson.loads(body) if body else {})
        await _respond(send, status, answer)

    async def _handle(
        self, method: str, path: str, query: dict[str, str], body: Object
    ) -> tuple[int, Object]:
        last = path.rsplit("/", 1)[1]
        if last in ("subjectaccessreviews", "tokenreviews"):
            return 201, self._review(last, body)
        if last == "token":
            status = {
                "token": f"token-for-{path.split('/')[-2]}",
                "expirationTimestamp": "2099-01-01T00:00:00Z",
            }
            return 201, {"status": status}
        if method == "POST":
            name = body["metadata"].get("name") or body["metadata"]["generateName"] + str(self.revision)
            if f"{path}/{name}" in self.objects:
                return 409, _status(409, "AlreadyExists")
            body["metadata"]["name"] = name
            return 201, await self.write(f"{path}/{name}", body)
        if last in COLLECTIONS:
            items = [obj for key, obj in self.objects.items() if _selected(path, key, obj, query)]
            return 200, {"metadata": {"resourceVersion": str(self.revision)}, "items": items}
        target = path.removesuffix("/status")
        if target not in self.objects:
            return 404, _status(404, "NotFound")
        return await self._existing(method, target, body)

    async def _existing(self, method: str, path: str, body: Object) -> tuple[int, Object]:
        held = self.objects[path]
        if method == "GET":
            return 200, held
        if method == "PATCH":
            if body.get("metadata", {}).get("uid", held["metadata"]["uid"]) != held["metadata"]["uid"]:
                return 409, _status(409, "Conflict")
            return 200, await self.write(path, merge.apply(held, body))
        if method == "PUT":
            return 200, await self.write(path, body)
        if body.get("preconditions", {}).get("uid", held["metadata"]["uid"]) != held["metadata"]["uid"]:
            return 409, _status(409, "Conflict")
        return 200, await self.write(path, held, "DELETED")

    def _review(self, kind: str, body: Object) -> Object:
        self.log.append((kind, body))
        if kind == "tokenreviews":
            user = self.tokens.get(body["spec"]["token"])
            return {**body, "status": {"authenticated": user is not None, "user": user or {}}}
        return {**body, "status": {"allowed": self.allow(body["spec"])}}

    def _newer(self, revision: int) -> bool:
        return self.revision > revision

    async def _watch(self, path: str, query: dict[str, str], receive: Any, send: Any) -> None:
        start = {
            "type": "http.response.start",
            "status": 200,
            "headers": [(b"content-type", b"application/json")],
        }
        await send(start)
        sent = int(query.get("resourceVersion") or 0)

        async def stream() -> None:
            nonlocal sent
            while True:
                fresh = [e for e in self.history if int(e[2]["metadata"]["resourceVersion"]) > sent]
                for event, key, obj in fresh:
                    sent = int(obj["metadata"]["resourceVersion"])
                    if _selected(path, key, obj, query):
                        line = orjson.dumps({"type": event, "object": obj}) + b"\n"
                        await send({"type": "http.response.body", "body": line, "more_body": True})
                async with self.changed:
                    await self.changed.wait_for(functools.partial(self._newer, sent))

        async with asyncio.TaskGroup() as group:
            task = group.create_task(stream())
            await receive()
            task.cancel()


def _selected(path: str, key: str, obj: Object, query: dict[str, str]) -> bool:
    resource = path.rsplit("/", 1)[1]
    prefix = path.removesuffix(f"/{resource}")
    if not key.startswith(prefix) or key.rsplit("/", 2)[1] != resource:
        return False
    wanted = query.get("fieldSelector", "")
    if wanted.startswith("spec.nodeName="):
        return bool(obj["spec"].get("nodeName") == wanted.partition("=")[2])
    if wanted.startswith("metadata.name="):
        return bool(obj["metadata"]["name"] == wanted.partition("=")[2])
    return True


def _status(code: int, reason: str) -> Object:
    return {"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason}


async def _respond(send: Callable[[Any], Awaitable[None]], status: int, answer: Object) -> None:
    headers = [(b"content-type", b"application/json")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(answer)})
