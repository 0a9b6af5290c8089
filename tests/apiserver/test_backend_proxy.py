"""pods/proxy and services/proxy against an HTTP server on loopback that plays the pod."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine
from typing import Any

import pytest

from apimachinery.errors import StatusError
from apiserver.rest.proxy import split_name
from tests.apiserver.harness import DEFAULT_ACCOUNT, PODS, Harness, harness, pod

BASE = "/api/v1/namespaces/default"
Requests = list[bytes]


@contextlib.asynccontextmanager
async def backend() -> AsyncIterator[tuple[int, Requests]]:
    seen: Requests = []

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 418 X\r\ncontent-type: text/tea\r\ncontent-length: 3\r\n\r\ntea")
        await writer.drain()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    async with server:
        yield server.sockets[0].getsockname()[1], seen


def with_backend(test: Callable[[Harness, int, Requests], Coroutine[Any, Any, None]]) -> None:
    async def main() -> None:
        async with backend() as (port, seen), harness() as api:
            await api.ok("POST", f"{BASE}/serviceaccounts", DEFAULT_ACCOUNT)
            await test(api, port, seen)

    asyncio.run(main())


def test_a_pod_is_reached_at_its_address() -> None:
    async def body(api: Harness, port: int, seen: Requests) -> None:
        sent = pod("p", node="n1")
        sent["spec"]["containers"][0]["ports"] = [{"containerPort": port, "name": "web"}]
        made = await api.ok("POST", PODS, sent)
        refused = await api.fails(400, "BadRequest", "GET", f"{PODS}/p/proxy/x")
        assert refused["message"] == "address not allowed"
        made["status"] = {"phase": "Running", "podIP": "127.0.0.1", "podIPs": [{"ip": "127.0.0.1"}]}
        await api.ok("PUT", f"{PODS}/p/status", made)
        await api.ok("GET", f"{PODS}/p")
        for name in ("p", f"p:{port}", "p:web"):
            secret = {"authorization": "Bearer secret"}
            answer = await api.call("GET", f"{PODS}/{name}/proxy/a/b?c=d", headers=secret)
            assert (answer.status_code, answer.text) == (418, "tea")
            assert seen[-1].startswith(b"GET /a/b?c=d HTTP/1.1\r\n") and b"secret" not in seen[-1]
        await api.fails(403, "Forbidden", "GET", f"{PODS}/p/proxy/", user="nobody")

    with_backend(body)


def test_a_service_is_reached_at_an_endpoint() -> None:
    async def body(api: Harness, port: int, seen: Requests) -> None:
        spec = {"ports": [{"port": 80, "name": "http"}]}
        service = {"kind": "Service", "apiVersion": "v1", "metadata": {"name": "web"}, "spec": spec}
        await api.ok("POST", f"{BASE}/services", service)
        path = f"{BASE}/services/web/proxy/x"
        status = await api.fails(503, "ServiceUnavailable", "GET", path)
        assert status["message"] == 'no endpoints available for service "web"'
        slices = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
        labels = {"kubernetes.io/service-name": "web"}
        endpoints = {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {"name": "web-1", "labels": labels},
            "addressType": "IPv4",
            "ports": [{"port": port, "name": "http"}],
            "endpoints": [{"addresses": ["127.0.0.1"], "conditions": {"ready": True}}],
        }
        await api.ok("POST", slices, endpoints)
        await api.ok("GET", slices)
        for name in ("web", "web:http", "web:80", "http:web:http"):
            assert (await api.call("POST", f"{BASE}/services/{name}/proxy/x", {})).status_code == 418
        assert len(seen) == 4
        await api.fails(503, "ServiceUnavailable", "GET", f"{BASE}/services/web:81/proxy/x")

    with_backend(body)


def test_names() -> None:
    assert split_name("a") == ("http", "a", "")
    assert split_name("https:a:b") == ("https", "a", "b")
    assert split_name(":a:1") == ("http", "a", "1")
    with pytest.raises(StatusError):
        split_name("ftp:a:1")
