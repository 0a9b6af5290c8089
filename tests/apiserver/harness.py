"""One whole apiserver in the test's loop, over the store in memory, reached through httpx without "
"a socket."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import httpx

from apiserver import options
from apiserver.app import Server
from apiserver.auth.user import User, authenticated
from apiserver.storage.interface import Store
from apiserver.storage.memory import MemoryStore

FLAGS = (
    "--etcd-servers=memory",
    "--tls-cert-file=x",
    "--tls-private-key-file=x",
    "--service-cluster-ip-range=10.32.0.0/24",
    "--authorization-mode=Node,RBAC",
    "--enable-admission-plugins=NodeRestriction",
    "--endpoint-reconciler-type=none",
)
READY_SECONDS = 20.0
Object = dict[str, Any]


class ByHeader:
    """Trusts the header `x-test-user: name;group,group`; administrators are the default."""

    def authenticate(self, der: bytes | None, headers: Mapping[str, str], path: str = "") -> User:
        name, _, groups = headers.get("x-test-user", "admin;system:masters").partition(";")
        return authenticated(User(name, tuple(group for group in groups.split(",") if group)))


class Harness:
    """`client` talks to `server`; `store` is what it stands on."""

    def __init__(self, server: Server, store: Store, client: httpx.AsyncClient) -> None:
        self.server = server
        self.store = store
        self.client = client

    async def call(
        self,
        method: str,
        path: str,
        body: Any = None,
        *,
        user: str = "",
        headers: Mapping[str, str] | None = None,
    ) -> httpx.Response:
        sent = dict(headers or {})
        if user:
            sent["x-test-user"] = user
        if isinstance(body, bytes):
            return await self.client.request(method, path, content=body, headers=sent)
        return await self.client.request(method, path, json=body, headers=sent)

    async def ok(self, method: str, path: str, body: Any = None, **options: Any) -> Object:
        answer = await self.call(method, path, body, **options)
        assert answer.status_code < 300, answer.text
        out: Object = answer.json()
        return out

    async def fails(
        self, code: int, reason: str, method: str, path: str, body: Any = None, **options: Any
    ) -> Object:
        answer = await self.call(method, path, body, **options)
        status: Object = answer.json()
        assert (answer.status_code, status.get("reason")) == (code, reason), answer.text
        assert status["kind"] == "Status" and status["code"] == code
        return status


@contextlib.asynccontextmanager
async def harness(*flags: str, store: Store | None = None) -> AsyncIterator[Harness]:
    store = store or MemoryStore()
    server = Server(options.parse([*FLAGS, *flags]), store, ByHeader())
    transport = httpx.ASGITransport(server.app)
    async with server.running(), httpx.AsyncClient(transport=transport, base_url="https://test") as client:
        async with asyncio.timeout(READY_SECONDS):
            await server.bootstrap.finished.wait()
        yield Harness(server, store, client)


def run(test: Callable[[Harness], Coroutine[Any, Any, None]], *flags: str) -> None:
    async def main() -> None:
        async with harness(*flags) as api:
            await test(api)

    asyncio.run(main())


def config_map(name: str, **data: str) -> Object:
    return {"kind": "ConfigMap", "apiVersion": "v1", "metadata": {"name": name}, "data": data}


def pod(name: str, *, node: str = "", volumes: Sequence[Object] = ()) -> Object:
    spec: Object = {"containers": [{"name": "c", "image": "busybox"}], "serviceAccountName": "default"}
    if node:
        spec["nodeName"] = node
    if volumes:
        spec["volumes"] = list(volumes)
    return {"kind": "Pod", "apiVersion": "v1", "metadata": {"name": name}, "spec": spec}


DEFAULT_ACCOUNT = {"kind": "ServiceAccount", "apiVersion": "v1", "metadata": {"name": "default"}}
CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"
PODS = "/api/v1/namespaces/default/pods"
