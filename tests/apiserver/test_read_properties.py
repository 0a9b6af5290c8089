"""Lists and watches while others write: whatever the timing, nothing is skipped and nothing comes twice.

The store loses its watch and its history at random, so that lists are continued after a compaction and
watchers have to list again. HARDWAY_LONG=1 tries more seeds.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
from collections.abc import AsyncGenerator, AsyncIterator
from typing import Any

import orjson
import pytest

from apiserver.kinds import SCHEME
from apiserver.rest import watch as watching
from apiserver.rest.options import ListOptions
from apiserver.rest.watch import Watcher
from apiserver.storage.interface import Batch, Change, Unavailable
from apiserver.storage.memory import MemoryStore
from apiserver.storage.watchcache import PLAIN
from tests.apiserver.harness import Harness, config_map, harness
from tests.apiserver.reference import Accepts, Object, Reference, Seen, shown

KIND = SCHEME.resource("", "v1", "configmaps")
SEEDS = range(200 if os.environ.get("HARDWAY_LONG") else 4)
NAMESPACES = ("default", "default-a", "kube-public")
NAMES = ("m", "m-", "m.a", "m0", "m00", "ma", "mz")  # prefixes of each other, around "." and "-"
LABELS: tuple[dict[str, str], ...] = ({}, {"c": "red"}, {"c": "blue"})
WRITES, WRITERS, WATCHERS = 60, 3, 4
DEADLINE = 60.0
SENTINEL = "zz-last"


class Shaky(MemoryStore):
    """Its watch breaks now and then, and sometimes what was missed is compacted by then."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__()
        self.rng = rng
        self.steady = False
        self.reference = Reference()

    def _record(self, change: Change) -> None:
        self.reference.record(change)
        super()._record(change)

    async def watch(self, start: int) -> AsyncIterator[Batch]:
        async for batch in super().watch(start):
            yield batch
            if not self.steady and self.rng.random() < 0.05:
                await asyncio.sleep(0.01)
                if self.rng.random() < 0.5:
                    self.compact(self.revision)
                raise Unavailable("the watch broke")


def path(namespace: str, name: str = "") -> str:
    middle = f"/namespaces/{namespace}" if namespace else ""
    return f"/api/v1{middle}/configmaps{'/' + name if name else ''}"


async def write(api: Harness, rng: random.Random) -> None:
    """Creates, changes and deletions; one that comes too late or too early is nobody's mistake."""
    for number in range(WRITES):
        namespace, name = rng.choice(NAMESPACES), rng.choice(NAMES).rstrip("-.") + rng.choice(("", "1"))
        body = config_map(name, k=str(number))
        body["metadata"]["labels"] = rng.choice(LABELS)
        method = rng.choice(("POST", "PUT", "PUT", "DELETE"))
        target = path(namespace) if method == "POST" else path(namespace, name)
        answer = await api.call(method, target, None if method == "DELETE" else body)
        assert answer.status_code in (200, 201, 404, 409), answer.text
        await asyncio.sleep(rng.choice((0, 0, 0.002)))


def scope(rng: random.Random) -> tuple[str, str, Accepts]:
    """A namespace or all of them, a selector or none, and what they let through."""
    namespace, selector = rng.choice(("", *NAMESPACES)), rng.choice(("", "c=red"))

    def accepts(obj: Object) -> bool:
        metadata = obj["metadata"]
        return (not namespace or metadata["namespace"] == namespace) and (
            not selector or (metadata.get("labels") or {}).get("c") == "red"
        )

    return namespace, selector, accepts


def listed(page: Object) -> list[Seen]:
    return [shown("", item, int(item["metadata"]["resourceVersion"])) for item in page["items"]]


async def everything(api: Harness, seed: int, *readers: Any) -> None:
    """Writers and readers side by side; readers run until the last write has been made."""
    async with asyncio.timeout(DEADLINE), asyncio.TaskGroup() as group:
        for namespace in NAMESPACES[1:]:
            await api.call("POST", "/api/v1/namespaces", {"metadata": {"name": namespace}})
        tasks = [group.create_task(reader) for reader in readers]
        async with asyncio.TaskGroup() as writers:
            for number in range(WRITERS):
                writers.create_task(write(api, random.Random(f"{seed}/{number}")))
        store = api.store
        assert isinstance(store, Shaky)
        store.steady = True
        for namespace in NAMESPACES:
            body = config_map(SENTINEL)
            body["metadata"]["labels"] = {"c": "red"}
            await api.ok("POST", path(namespace), body)
        await asyncio.gather(*tasks)


# Pages ------------------------------------------------------------------------------------------------------


class Pager:
    """Lists page by page until it has seen a list that ends with the sentinel."""

    def __init__(self, api: Harness, rng: random.Random) -> None:
        self._api, self._rng = api, rng
        self.lists: list[tuple[Accepts, list[int], list[Seen], bool]] = []

    async def run(self) -> None:
        while not any(seen.name.endswith(SENTINEL) for *_, items, _ in self.lists for seen in items):
            await self._list()

    async def _list(self) -> None:
        namespace, selector, accepts = scope(self._rng)
        query = f"?labelSelector={selector}&limit="
        items: list[Seen] = []
        versions: list[int] = []
        token, consistent = "", True
        while True:
            limit = self._rng.randint(1, 4)
            answer = await self._api.call("GET", f"{path(namespace)}{query}{limit}&continue={token}")
            page = answer.json()
            if answer.status_code == 410:
                token, consistent = page["metadata"]["continue"], False
                continue
            assert answer.status_code == 200, answer.text
            versions.append(int(page["metadata"]["resourceVersion"]))
            items += listed(page)
            token = page["metadata"].get("continue", "")
            if not token:
                break
            await asyncio.sleep(self._rng.choice((0, 0.003)))
        self.lists.append((accepts, versions, items, consistent))


@pytest.mark.parametrize("seed", SEEDS)
def test_pages_make_one_list(seed: int) -> None:
    async def main() -> None:
        store = Shaky(random.Random(seed))
        async with harness(store=store) as api:
            pager = Pager(api, random.Random(f"{seed}/pager"))
            await everything(api, seed, pager.run())
        for accepts, versions, items, consistent in pager.lists:
            names = [seen.name for seen in items]
            assert names == sorted(set(names)), f"seed {seed}: repeated or out of order"
            if consistent:
                assert len(set(versions)) == 1, f"seed {seed}: pages of different snapshots"
                assert items == store.reference.state_at(versions[0], accepts), f"seed {seed}: {versions[0]}"
            else:
                lasting = store.reference.throughout(versions[0], versions[-1], accepts)
                assert lasting <= set(names), f"seed {seed}: skipped {lasting - set(names)}"

    asyncio.run(main())


# Watches ----------------------------------------------------------------------------------------------------


class Follower:
    """A client as informers are: lists, watches, loses the connection after a few events, goes on from where
    it was, and lists again when that is too old.
    """

    def __init__(self, api: Harness, rng: random.Random) -> None:
        self._api, self._rng = api, rng
        self.namespace, self.selector, self.accepts = scope(rng)
        self.listed: list[tuple[int, list[Seen]]] = []
        self.spans: list[
            tuple[int, int, list[Seen]]
        ] = []  # from a version, to a version, and what came between
        self._done = False

    async def run(self) -> None:
        while not self._done:
            position, expired = await self._list(), False
            while not self._done and not expired:
                start, seen = position, list[Seen]()
                async with contextlib.aclosing(self._some(position)) as events:
                    async for kind, obj in events:
                        if kind == "ERROR":
                            assert obj["code"] == 410
                            expired = True
                            break
                        position = int(obj["metadata"]["resourceVersion"])
                        if kind != "BOOKMARK":
                            seen.append(shown(kind, obj, position))
                            self._done = seen[-1].name.endswith(SENTINEL)
                        if self._done:
                            break
                self.spans.append((start, position, seen))

    async def _list(self) -> int:
        page = await self._api.ok("GET", f"{path(self.namespace)}?labelSelector={self.selector}")
        items, revision = listed(page), int(page["metadata"]["resourceVersion"])
        self.listed.append((revision, items))
        self._done = any(item.name.endswith(SENTINEL) for item in items)
        return revision

    async def _some(self, position: int) -> AsyncGenerator[tuple[str, Object], None]:
        """A few events of a watch, cut off anywhere between two of them."""
        assert KIND is not None
        server = self._api.server
        options = ListOptions(
            resource_version=str(position), label_selector=self.selector, bookmarks=self._rng.random() < 0.5
        )
        watcher = Watcher(
            KIND,
            self.namespace,
            options,
            PLAIN,
            reader=server.registry.reader,
            cacher=server.cacher,
            watches=server.watches,
        )
        left = self._rng.randint(1, 6)
        stream: Any = await watcher.start()
        try:
            async for chunk in stream:
                for line in chunk.splitlines():
                    event = orjson.loads(line)
                    if left:
                        yield event["type"], event["object"]
                        left -= 1
                if not left:
                    return
        finally:
            await stream.aclose()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_watcher_that_comes_back_sees_every_later_event_once(
    seed: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(watching, "BOOKMARK_SECONDS", 0.01)

    async def main() -> None:
        store = Shaky(random.Random(seed))
        async with harness(store=store) as api:
            assert KIND is not None
            api.server.cacher.of(KIND)._capacity = 10  # a short window: slow watchers have to list again
            followers = [Follower(api, random.Random(f"{seed}/watch/{n}")) for n in range(WATCHERS)]
            await everything(api, seed, *(follower.run() for follower in followers))
        for follower in followers:
            for revision, items in follower.listed:
                assert items == store.reference.state_at(revision, follower.accepts), (
                    f"seed {seed}: {revision}"
                )
            for after, until, seen in follower.spans:
                wanted = list(store.reference.events(after, until, follower.accepts))
                assert seen == wanted, f"seed {seed}: from {after} to {until}"

    asyncio.run(main())
