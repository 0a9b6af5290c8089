"""Steady writes through the API, and one watcher, all recorded.

Each writer owns some ConfigMaps and counts upwards in them, one request at a time, with optimistic
concurrency left out on purpose: the writer is alone, so the last number it was promised is what must be
there.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator

from apimachinery import errors
from componentbase.backoff import Backoff
from deploy.chaos.history import History
from kubeclient.resources import CONFIGMAPS, NAMESPACES
from kubeclient.rest import MERGE, ConnectionFailed, RestClient

REQUEST_TIMEOUT = 10.0
CATCH_UP = 30.0
PAUSE = 0.005


class Workload:
    """Writers and a watcher in a namespace of their own."""

    def __init__(self, client: RestClient, namespace: str, *, writers: int = 8, keys: int = 4) -> None:
        self.history = History()
        self._client = client
        self._namespace = namespace
        self._owned = [[f"w{writer}-k{key}" for key in range(keys)] for writer in range(writers)]
        self._stop = asyncio.Event()
        self.errors = 0

    async def prepare(self) -> str:
        """Make the namespace and all keys (number 0); return the resourceVersion to watch from."""
        namespace = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": self._namespace}}
        await self._client.create(NAMESPACES, namespace)
        for name in (name for names in self._owned for name in names):
            await self._client.create(CONFIGMAPS, self._object(name, 0), self._namespace)
            self.history.acknowledge(name, 0, time.monotonic())
        listed = await self._client.list(CONFIGMAPS, self._namespace)
        return str(listed["metadata"]["resourceVersion"])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Write and watch while the block runs; on leaving, finish the writes and let the watcher catch
        up.
        """
        version = await self.prepare()
        self.history.watched.extend((name, 0) for names in self._owned for name in names)
        async with asyncio.TaskGroup() as watching:
            watcher = watching.create_task(self._watch(version), name="watcher")
            async with asyncio.TaskGroup() as writing:
                for names in self._owned:
                    writing.create_task(self._write(names), name=f"writer {names[0]}")
                try:
                    yield
                finally:
                    self._stop.set()
            await self._caught_up(CATCH_UP)
            watcher.cancel()

    async def stored(self) -> dict[str, int]:
        """What the cluster holds now."""
        listed = await self._client.list(CONFIGMAPS, self._namespace)
        return {
            item["metadata"]["name"]: int(item["data"]["n"])
            for item in listed["items"]
            if "n" in (item.get("data") or {})
        }

    async def _write(self, names: list[str]) -> None:
        number = 0
        backoff = Backoff(0.02, 0.2)
        while not self._stop.is_set():
            number += 1
            for name in names:
                if await self._write_one(name, number):
                    backoff.reset()
                else:
                    self.errors += 1
                    await asyncio.sleep(backoff.next())
            await asyncio.sleep(PAUSE)

    async def _write_one(self, name: str, number: int) -> bool:
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                await self._client.patch(
                    CONFIGMAPS, name, {"data": {"n": str(number)}}, self._namespace, content_type=MERGE
                )
        except errors.StatusError as error:
            if error.code >= 500:
                self.history.unknown(name, number)
            return False
        except (ConnectionFailed, TimeoutError):
            self.history.unknown(name, number)
            return False
        self.history.acknowledge(name, number, time.monotonic())
        return True

    async def _watch(self, version: str) -> None:
        """Follow every change, resuming from the last seen resourceVersion whenever the stream breaks."""
        backoff = Backoff(0.05, 0.5)
        while True:
            try:
                async for event in self._client.watch(CONFIGMAPS, self._namespace, resource_version=version):
                    version = event.object["metadata"]["resourceVersion"]
                    backoff.reset()
                    if event.type != "BOOKMARK" and "n" in (event.object.get("data") or {}):
                        number = int(event.object["data"]["n"])
                        self.history.watched.append((event.object["metadata"]["name"], number))
            except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
                if errors.is_gone(error):
                    raise
            await asyncio.sleep(backoff.next())

    async def _caught_up(self, limit: float) -> None:
        """Until the watcher has shown the last acknowledged number of every key, or the limit has passed."""
        deadline = time.monotonic() + limit
        while time.monotonic() < deadline:
            seen = set(self.history.watched)
            pending = [
                key for key, done in self.history.keys.items() if (key, done.acknowledged[-1]) not in seen
            ]
            if not pending:
                return
            await asyncio.sleep(0.1)

    def _object(self, name: str, number: int) -> dict[str, object]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self._namespace},
            "data": {"n": str(number)},
        }
