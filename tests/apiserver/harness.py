"""One whole apiserver in the test's loop, reached through httpx without a socket.

It stands on the store in memory, or, with HARDWAY_ETCD_SERVERS set, on the members named there, and replaces
what they hold (`python -m tests.apiserver.on_etcd` starts one and runs all tests so).
"""

from __future__ import annotations

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Coroutine, Mapping, Sequence
from typing import Any

import httpx

from apiserver import options
from apiserver.app import Server
from apiserver.auth.user import User, authenticated
from apiserver.storage import transform
from apiserver.storage.etcd import EtcdStore
from apiserver.storage.interface import Store
from apiserver.storage.memory import MemoryStore
from etcdlite.client import EtcdClient

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
MEMBERS = [url for url in os.environ.get("HARDWAY_ETCD_SERVERS", "").split(",") if url]
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

    async def compact(self) -> None:
        """Let the store forget all history but the present."""
        if isinstance(self.store, MemoryStore):
            self.store.compact(self.store.revision)
        else:
            assert isinstance(self.store, EtcdStore)
            await self.store.compact(await self.store.current_revision())

    async def write_elsewhere(self) -> None:
        """Another user of the store writes a key that is none of ours."""
        if isinstance(self.store, MemoryStore):
            self.store.bump()
        else:
            async with EtcdClient(MEMBERS) as client:
                await client.put(b"/other", b"")

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
    async with contextlib.AsyncExitStack() as stack:
        store = store or await stack.enter_async_context(fresh_store())
        yield await stack.enter_async_context(_served(store, flags))


@contextlib.asynccontextmanager
async def fresh_store() -> AsyncIterator[Store]:
    """An empty store, of the kind that this run is about."""
    if not MEMBERS:
        yield MemoryStore()
        return
    async with EtcdClient(MEMBERS, timeout=15) as client:
        await client.delete(b"\0", b"\0")  # everything
        yield EtcdStore(client, lambda _key: transform.PLAIN)


@contextlib.asynccontextmanager
async def _served(store: Store, flags: Sequence[str]) -> AsyncIterator[Harness]:
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
