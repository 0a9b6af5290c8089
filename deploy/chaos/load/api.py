"""Writers, readers and one watcher of ConfigMaps through the load balancer, all recorded.

Each writer owns some objects and counts upwards in them, one request at a time, so the last number it was
promised is what must be there.

A write names the resourceVersion that it replaces, although nobody else writes. A write that was given up may
still be under way, in a retransmission to a host that was cut off, say, and be carried out whenever that host
is back: unconditional, it would then undo every later one, on Kubernetes as here. Conditional, it is
carried out before its successors or never (409), and what goes backwards is the cluster's fault.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Iterable
from typing import Any

from apimachinery import errors
from componentbase.backoff import Backoff
from deploy.chaos.counters import Counters, Seen
from deploy.chaos.load.setup import create, insist
from kubeclient.resources import CONFIGMAPS
from kubeclient.rest import MERGE, ConnectionFailed, RestClient

REQUEST_TIMEOUT = 10.0
CATCH_UP = 60.0
FAILURES = (errors.StatusError, ConnectionFailed, TimeoutError)


def numbers(items: Iterable[dict[str, Any]]) -> dict[str, int]:
    """What each of our objects holds."""
    ours = (item for item in items if "n" in (item.get("data") or {}))
    return {item["metadata"]["name"]: int(item["data"]["n"]) for item in ours}


class Load:
    """Writers, as many readers, and a watcher in a namespace that is there already."""

    def __init__(self, client: RestClient, namespace: str, *, writers: int, pause: float, seed: int) -> None:
        self.counters = Counters()
        self._client = client
        self._namespace = namespace
        self._owned = [[f"w{writer}-k{key}" for key in range(4)] for writer in range(writers)]
        self._pause = pause
        self._seed = seed
        self._stop = asyncio.Event()
        self._versions: dict[str, str] = {}  # the resourceVersion of each object as its writer last saw it

    async def prepare(self) -> str:
        """Make all objects (number 0); return the resourceVersion to watch from."""
        for name in self.names:
            began = time.monotonic()
            created = await create(self._client, CONFIGMAPS, self._object(name), self._namespace)
            self._versions[name] = created["metadata"]["resourceVersion"]
            self.counters.acknowledge(name, 0, began, time.monotonic())
            self.counters.watched.append((name, 0))
        listed = await insist(lambda: self._client.list(CONFIGMAPS, self._namespace))
        return str(listed["metadata"]["resourceVersion"])

    @property
    def names(self) -> list[str]:
        return [name for names in self._owned for name in names]

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Work while the block runs; on leaving, finish what is under way and let the watcher catch up."""
        version = await self.prepare()
        async with asyncio.TaskGroup() as watching:
            watcher = watching.create_task(self._watch(version), name="watcher")
            async with asyncio.TaskGroup() as working:
                for number, names in enumerate(self._owned):
                    working.create_task(self._write(names), name=f"writer {number}")
                    working.create_task(self._read(number), name=f"reader {number}")
                try:
                    yield
                finally:
                    self._stop.set()
            await self._caught_up()
            watcher.cancel()

    async def stored(self) -> dict[str, int]:
        """What the cluster holds now."""
        listed = await insist(lambda: self._client.list(CONFIGMAPS, self._namespace))
        return numbers(listed["items"])

    async def _write(self, names: list[str]) -> None:
        number, backoff = 0, Backoff(0.05, 0.5)
        while not self._stop.is_set():
            number += 1
            for name in names:
                if await self._write_one(name, number):
                    backoff.reset()
                    await asyncio.sleep(self._pause)
                else:
                    self.counters.failed_at.append(time.monotonic())
                    await asyncio.sleep(backoff.next())

    async def _write_one(self, name: str, number: int) -> bool:
        began = time.monotonic()
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                version = self._versions.get(name) or await self._version(name)
        except FAILURES:
            return False
        patch = {"metadata": {"resourceVersion": version}, "data": {"n": str(number)}}
        self._versions.pop(name, None)  # until an answer says what it is now
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                written = await self._client.patch(
                    CONFIGMAPS, name, patch, self._namespace, content_type=MERGE
                )
        except errors.StatusError as error:
            if error.code >= 500:
                self.counters.unknown(name, number)
            return False
        except (ConnectionFailed, TimeoutError):
            self.counters.unknown(name, number)
            return False
        self._versions[name] = written["metadata"]["resourceVersion"]
        self.counters.acknowledge(name, number, began, time.monotonic())
        return True

    async def _version(self, name: str) -> str:
        """The object's resourceVersion now. Raises as a GET does."""
        found = await self._client.get(CONFIGMAPS, name, self._namespace)
        return str(found["metadata"]["resourceVersion"])

    async def _read(self, number: int) -> None:
        chance, backoff = random.Random(f"{self._seed}/reader {number}"), Backoff(0.05, 0.5)
        while not self._stop.is_set():
            name = chance.choice(self.names)
            began = time.monotonic()
            try:
                async with asyncio.timeout(REQUEST_TIMEOUT):
                    found = await self._client.get(CONFIGMAPS, name, self._namespace)
            except FAILURES:
                self.counters.failed_at.append(time.monotonic())
                await asyncio.sleep(backoff.next())
                continue
            self.counters.reads.append(Seen(name, int(found["data"]["n"]), began, time.monotonic()))
            backoff.reset()
            await asyncio.sleep(self._pause * 2)

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
                        self.counters.watched.append((event.object["metadata"]["name"], number))
            except FAILURES as error:
                if errors.is_gone(error):
                    version = await self._relist(version)
            await asyncio.sleep(backoff.next())

    async def _relist(self, version: str) -> str:
        """What an informer does when history is gone; the version to watch from, on failure the same."""
        try:
            async with asyncio.timeout(REQUEST_TIMEOUT):
                listed = await self._client.list(CONFIGMAPS, self._namespace)
        except FAILURES:
            return version
        self.counters.relisted(numbers(listed["items"]))
        return str(listed["metadata"]["resourceVersion"])

    async def _caught_up(self) -> None:
        """Until the watcher has shown the last acknowledged number of every object, or CATCH_UP is over."""
        deadline = time.monotonic() + CATCH_UP
        while time.monotonic() < deadline:
            seen = set(self.counters.watched)
            keys = self.counters.keys.items()
            if all((key, done.acknowledged[-1]) in seen for key, done in keys):
                return
            await asyncio.sleep(0.1)

    def _object(self, name: str) -> dict[str, Any]:
        return {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": name, "namespace": self._namespace},
            "data": {"n": "0"},
        }
