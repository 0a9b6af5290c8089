"""The watch cache: one list and one watch of the store feed every resource's `ResourceCache`.

Reads that must be consistent ask `confirm()` for a revision of the store that is at least as new as the
request, then `wait_for()` it. Confirmations are shared: a request joins the *next* question to the store,
never one already asked, since that one may have been answered before a write this client has seen.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable, Sequence

from apimachinery.scheme import Kind
from apiserver.storage import codec
from apiserver.storage.interface import PREFIX, Batch, Change, Compacted, StorageError, Store, Unavailable
from apiserver.storage.watchcache import NOTHING, Entry, ResourceCache

logger = logging.getLogger("apiserver.cacher")

PAGE = 500
CONFIRM_DEADLINE = 5.0
RETRY_FIRST, RETRY_MAX = 0.05, 2.0

Sleep = Callable[[float], Awaitable[None]]


class Cacher:
    """Keeps all resources of the scheme current. `run()` is its one task; `ready` is set once the first
    list is in.
    """

    def __init__(self, store: Store, kinds: Iterable[Kind], *, sleep: Sleep = asyncio.sleep) -> None:
        self._store = store
        self._sleep = sleep
        self._resources: dict[str, list[tuple[Kind, ResourceCache]]] = {}
        self._by_kind: dict[tuple[str, str, str], ResourceCache] = {}
        for kind in kinds:
            self.add(kind)
        self.revision = 0
        self.ready = asyncio.Event()
        self._questions: list[asyncio.Future[int]] = []
        self._asked = asyncio.Event()
        self._behind: list[tuple[int, asyncio.Future[None]]] = []

    def add(self, kind: Kind) -> None:
        """Serve a kind. Kinds that share a storage prefix (events) each get a cache of their own form."""
        cache = ResourceCache()
        self._resources.setdefault(kind.storage_prefix, []).append((kind, cache))
        self._by_kind[(kind.group, kind.version, kind.resource)] = cache

    def of(self, kind: Kind) -> ResourceCache:
        return self._by_kind[(kind.group, kind.version, kind.resource)]

    async def run(self) -> None:
        """List, then follow; start over when the store has compacted what was missed. Ends only by
        cancellation.
        """
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._answer_questions(), name="cacher-confirm")
            await self._follow()

    async def confirm(self) -> int:
        """A revision that covers every write acknowledged before this call. Raises Unavailable."""
        question: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._questions.append(question)
        self._asked.set()
        try:
            async with asyncio.timeout(CONFIRM_DEADLINE):
                return await question
        except TimeoutError:
            raise Unavailable("the store did not confirm its revision in time") from None

    async def wait_for(self, revision: int, timeout: float) -> bool:
        """Until the cache has seen `revision`; False when that takes longer than `timeout` seconds."""
        if self.revision >= revision and self.ready.is_set():
            return True
        arrived: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._behind.append((revision, arrived))
        try:
            async with asyncio.timeout(timeout):
                await arrived
        except TimeoutError:
            return False
        finally:
            self._behind = [waiter for waiter in self._behind if waiter[1] is not arrived]
        return True

    async def _follow(self) -> None:
        pause = RETRY_FIRST
        relist = True
        while True:
            try:
                if relist:
                    await self._list()
                    relist = False
                async for batch in self._store.watch(self.revision + 1):
                    self._apply(batch)
                    pause = RETRY_FIRST
            except Compacted:
                logger.warning("the store compacted what the cache had not seen; listing again")
                relist = True
            except StorageError as error:
                logger.warning("lost the watch of the store: %s; trying again in %.2f s", error, pause)
            await self._sleep(pause)
            pause = min(pause * 2, RETRY_MAX)

    async def _list(self) -> None:
        """Read everything at one revision and replace the state of every resource with it."""
        fresh: dict[int, dict[str, Entry]] = {}
        start, revision = "", 0
        while True:
            page = await self._store.list(PREFIX, start=start, limit=PAGE, revision=revision)
            revision = page.revision
            for item in page.items:
                forms, key = self._locate(item.key)
                for kind, cache in forms:
                    entry = self._entry(kind, key, item.value, item.revision)
                    if entry is not None:
                        fresh.setdefault(id(cache), {})[key] = entry
            if not page.more or not page.items:
                break
            start = page.items[-1].key + "\0"
        for cache in self._by_kind.values():
            cache.reset(fresh.get(id(cache), {}), revision)
        self._advance(revision)
        self.ready.set()

    def _apply(self, batch: Batch) -> None:
        for change in batch.changes:
            if change.key.startswith(PREFIX):
                self._apply_one(change)
        self._advance(batch.revision)

    def _apply_one(self, change: Change) -> None:
        forms, key = self._locate(change.key)
        for kind, cache in forms:
            if change.value is None:
                cache.apply(key, change.revision, None)
                continue
            entry = self._entry(kind, key, change.value, change.revision)
            if entry is not None:
                cache.apply(key, change.revision, entry)

    def _locate(self, key: str) -> tuple[Sequence[tuple[Kind, ResourceCache]], str]:
        """The forms a storage key is served in (none: nobody's), and the key relative to its resource."""
        parts = key[len(PREFIX) :].split("/", 2)
        for taken in (2, 1):
            found = self._resources.get("/".join(parts[:taken]))
            if found and len(parts) > taken:
                return found, "/".join(parts[taken:])
        return (), ""

    def _entry(self, kind: Kind, key: str, value: bytes, revision: int) -> Entry | None:
        try:
            obj = decode_stored(kind, value, revision)
            return make_entry(kind, key, obj, revision)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.error("cannot read stored object %s%s/%s: %r", PREFIX, kind.storage_prefix, key, error)
            return None

    def _advance(self, revision: int) -> None:
        self.revision = max(self.revision, revision)
        for wanted, arrived in self._behind:
            if wanted <= self.revision and not arrived.done():
                arrived.set_result(None)

    async def _answer_questions(self) -> None:
        while True:
            await self._asked.wait()
            self._asked.clear()
            questions, self._questions = self._questions, []
            try:
                async with asyncio.timeout(CONFIRM_DEADLINE):
                    revision = await self._store.current_revision()
            except (StorageError, TimeoutError) as error:
                for question in questions:
                    if not question.done():
                        question.set_exception(
                            Unavailable(f"the store did not confirm its revision: {error}")
                        )
                continue
            for question in questions:
                if not question.done():
                    question.set_result(revision)


def decode_stored(kind: Kind, value: bytes, revision: int) -> codec.Object:
    """A stored value as an object of this kind, which may not be the form it is stored in."""
    obj = codec.from_storage(value, revision)
    return kind.from_storage(obj) if kind.from_storage else obj


def encode_stored(kind: Kind, obj: codec.Object) -> bytes:
    """The bytes to store for an object of this kind."""
    return codec.to_storage(kind.to_storage(obj) if kind.to_storage else obj)


def make_entry(kind: Kind, key: str, obj: codec.Object, revision: int) -> Entry:
    """The cache's form of an object that carries its resourceVersion."""
    metadata = obj["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace", "")
    fields = {"metadata.name": name, "metadata.namespace": namespace, **kind.strategy.fields(obj)}
    return Entry(key, namespace, name, revision, codec.encode(obj), metadata.get("labels") or NOTHING, fields)
