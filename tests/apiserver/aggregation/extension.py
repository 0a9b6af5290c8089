"""A sample extension API server of one group, as a test or a lab may put behind a Service.

    python -m tests.apiserver.aggregation.extension --port 8443 --cert c.pem --key k.pem --client-ca ca.pem

It is a conversion webhook too (`/convert`). It believes `X-Remote-*` headers of clients with a certificate of
the front-proxy CA alone, and answers with what it was told.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import orjson

from componentbase import tlsutil
from componentbase.http.server import serve

Object = dict[str, Any]

GROUP, VERSION = "sample.example.com", "v1alpha1"
ROOT = f"/apis/{GROUP}/{VERSION}"
ECHO_HEAD = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
FLUNDER_NAME = f"com.example.sample.{VERSION}.Flunder"
RESOURCES = [
    {
        "name": "flunders",
        "singularName": "flunder",
        "namespaced": True,
        "kind": "Flunder",
        "verbs": ["create", "get", "list", "watch"],
        "shortNames": ["fl"],
        "categories": ["fish"],
    },
    {"name": "flunders/status", "singularName": "", "namespaced": True, "kind": "Flunder", "verbs": ["get"]},
]
SCHEMA: Object = {
    "description": "Flunder is a fish.",
    "type": "object",
    "properties": {
        "apiVersion": {"type": "string", "description": "Its version."},
        "kind": {"type": "string", "description": "Its kind."},
        "metadata": {"type": "object", "description": "Its metadata."},
        "weight": {"type": "integer", "description": "How heavy it is, in grams."},
    },
    "x-kubernetes-group-version-kind": [{"group": GROUP, "version": VERSION, "kind": "Flunder"}],
}

LIST: Object = {
    "x-kubernetes-action": "list",
    "x-kubernetes-group-version-kind": {"group": GROUP, "version": VERSION, "kind": "Flunder"},
    "responses": {"200": {"description": "OK"}},
}


class Extension:
    """The application. `seen` are the requests for resources; `healthy` False makes discovery fail."""

    def __init__(self) -> None:
        self.seen: list[Object] = []
        self.healthy = True

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        path, headers = scope["path"], [(n.decode(), v.decode()) for n, v in scope["headers"]]
        if path == "/convert":
            return await _convert(receive, send)
        trusted = scope["extensions"]["tls"]["peer_cert_der"] is not None
        if path.startswith(f"{ROOT}/"):
            self.seen.append({"path": path, "query": scope["query_string"].decode(), "headers": headers})
            return await self._resource(scope, receive, send, headers, trusted)
        documents: Object = {
            ROOT: {
                "kind": "APIResourceList",
                "apiVersion": "v1",
                "groupVersion": f"{GROUP}/{VERSION}",
                "resources": RESOURCES,
            },
            "/openapi/v3": {
                "paths": {ROOT[1:]: {"serverRelativeURL": f"/openapi/v3{ROOT}?hash=ABC"}},
            },
            f"/openapi/v3{ROOT}": {
                "openapi": "3.0.0",
                "info": {"title": "sample", "version": "v1"},
                "paths": {f"{ROOT}/namespaces/{{namespace}}/flunders": {"get": LIST}},
                "components": {"schemas": {FLUNDER_NAME: SCHEMA}},
            },
            "/openapi/v2": {"swagger": "2.0", "definitions": {FLUNDER_NAME: SCHEMA}},
        }
        found = documents.get(path) if self.healthy else None
        return await answer(send, 200 if found else 404, found or {"kind": "Status", "code": 404})

    async def _resource(
        self, scope: Any, receive: Any, send: Any, headers: list[tuple[str, str]], trusted: bool
    ) -> None:
        if "hardway.upgrade" in scope["extensions"] and scope["path"].endswith("/echo"):
            stream = await scope["extensions"]["hardway.upgrade"](ECHO_HEAD)
            while data := await stream.read():
                await stream.write(b"<" + data + b">")
            return stream.close()
        if not trusted:
            return await answer(send, 401, {"kind": "Status", "status": "Failure", "code": 401})
        user = {
            "name": next((value for name, value in headers if name == "x-remote-user"), ""),
            "groups": [value for name, value in headers if name == "x-remote-group"],
        }
        if b"watch=true" in scope["query_string"]:
            return await _watch(receive, send)
        if scope["method"] == "POST":
            body = (await receive())["body"]
            return await answer(send, 201, orjson.loads(body))
        item = {
            "kind": "Flunder",
            "apiVersion": f"{GROUP}/{VERSION}",
            "metadata": {"name": "one", "namespace": "default", "annotations": {"user": user["name"]}},
            "weight": 7,
        }
        if scope["path"].endswith("/flunders"):
            listed = {"kind": "FlunderList", "apiVersion": item["apiVersion"], "metadata": {}}
            return await answer(send, 200, {**listed, "items": [item], "user": user})
        return await answer(send, 200, {**item, "user": user})


async def _watch(receive: Any, send: Any) -> None:
    """One event, then silence until the client goes."""
    event = {"type": "ADDED", "object": {"kind": "Flunder", "metadata": {"name": "one"}}}
    head = {"type": "http.response.start", "status": 200, "headers": [(b"content-type", b"application/json")]}
    await send(head)
    await send({"type": "http.response.body", "body": orjson.dumps(event) + b"\n", "more_body": True})
    while (await receive())["type"] != "http.disconnect":
        pass


async def _convert(receive: Any, send: Any) -> None:
    """A conversion webhook beside the API: in v2, `spec.size` is called `spec.length`."""
    body = b""
    while (message := await receive()).get("more_body"):
        body += message["body"]
    review = orjson.loads(body + message["body"])
    request, found = review["request"], []
    for obj in request["objects"]:
        old, new = ("size", "length") if request["desiredAPIVersion"].endswith("v2") else ("length", "size")
        spec = {new if name == old else name: value for name, value in (obj.get("spec") or {}).items()}
        found.append({**obj, "apiVersion": request["desiredAPIVersion"], "spec": spec})
    response = {"uid": request["uid"], "convertedObjects": found, "result": {"status": "Success"}}
    await answer(send, 200, {**review, "response": response})


async def answer(send: Any, status: int, found: Object) -> None:
    headers = [(b"content-type", b"application/json"), (b"x-sample", b"yes")]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": orjson.dumps(found)})


@contextlib.asynccontextmanager
async def running(app: Extension, port: int, cert: Path, key: Path, client_ca: Path) -> AsyncIterator[None]:
    context = tlsutil.server_context(cert, key, client_ca)
    async with asyncio.TaskGroup() as group:
        listener = group.create_task(serve(app, host="0.0.0.0", port=port, ssl_context=context))
        try:
            yield
        finally:
            listener.cancel()


async def _main(chosen: argparse.Namespace) -> None:
    async with running(Extension(), chosen.port, chosen.cert, chosen.key, chosen.client_ca):
        await asyncio.Event().wait()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--port", type=int, required=True)
    for flag in ("--cert", "--key", "--client-ca"):
        parser.add_argument(flag, type=Path, required=True)
    with contextlib.suppress(KeyboardInterrupt):
        asyncio.run(_main(parser.parse_args()))
