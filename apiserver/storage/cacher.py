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
from apiserver.storage.feeder import Feeder, Item
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
        self._held: dict[int, list[Change]] = {}  # by cache: what came while it was being listed
        self._tasks: asyncio.TaskGroup | None = None
        self._feeding: dict[int, asyncio.Task[None]] = {}

    def add(self, kind: Kind) -> None:
        """Serve a kind. Kinds that share a storage prefix (events) each get a cache of their own form."""
        cache = ResourceCache()
        self._resources.setdefault(kind.storage_prefix, []).append((kind, cache))
        self._by_kind[(kind.group, kind.version, kind.resource)] = cache

    async def load(self, kind: Kind) -> ResourceCache:
        """A current cache of a kind that appears while this runs. It follows the store at once, and is served
        after `install`. Raises StorageError.
        """
        cache = ResourceCache()
        followed = self._resources.setdefault(kind.storage_prefix, [])
        followed.append((kind, cache))
        if kind.converter is not None:
            self._feed(kind, cache)
        held = self._held[id(cache)] = []
        try:
            items, revision = await self._read(kind)
            # A list of everything may have filled it meanwhile.
            if cache.feeder is not None and not cache.feeder.started:
                cache.feeder.reset(items, revision)
            elif cache.feeder is None and not cache.generation:
                cache.reset(self._entries(kind, items), revision)
            for change in held:
                self._apply_to(kind, cache, change)
        except BaseException:
            followed[:] = [item for item in followed if item[1] is not cache]
            self._stop_feeding(cache)
            raise
        finally:
            del self._held[id(cache)]
        # Lists are stamped with this cacher's revision: it must not be older than what they show.
        await self.wait_for(revision, CONFIRM_DEADLINE)
        return cache

    def install(self, kind: Kind, cache: ResourceCache) -> None:
        """Serve a kind from its loaded cache."""
        self._by_kind[(kind.group, kind.version, kind.resource)] = cache

    def remove(self, kind: Kind) -> None:
        """Stop serving a kind; its watches end."""
        cache = self._by_kind.pop((kind.group, kind.version, kind.resource))
        followed = self._resources[kind.storage_prefix]
        followed[:] = [item for item in followed if item[1] is not cache]
        if not followed:
            del self._resources[kind.storage_prefix]
        self._stop_feeding(cache)
        cache.reset(dict(cache.entries), cache.latest)

    def _feed(self, kind: Kind, cache: ResourceCache) -> None:
        assert self._tasks is not None and kind.converter is not None
        cache.feeder = Feeder(kind, kind.converter, cache, read_entry)
        self._feeding[id(cache)] = self._tasks.create_task(
            cache.feeder.run(), name=f"feeder-{kind.group_resource}-{kind.version}"
        )

    def _stop_feeding(self, cache: ResourceCache) -> None:
        if (task := self._feeding.pop(id(cache), None)) is not None:
            task.cancel()

    def shown_by(self, cache: ResourceCache) -> int:
        """The revision whose state a cache shows: everything's, unless it waits for conversions."""
        return self.revision if cache.feeder is None else int(cache.feeder.limit(self.revision))

    async def _read(self, kind: Kind) -> tuple[list[Item], int]:
        """All stored objects of one kind and the revision they were read at."""
        prefix = f"{PREFIX}{kind.storage_prefix}/"
        items: list[Item] = []
        start, revision = "", 0
        while True:
            page = await self._store.list(prefix, start=start, limit=PAGE, revision=revision)
            revision = page.revision
            items += [Item(item.key[len(prefix) :], item.value, item.revision) for item in page.items]
            if not page.more or not page.items:
                return items, revision
            start = page.items[-1].key + "\0"

    def _entries(self, kind: Kind, items: Iterable[Item]) -> dict[str, Entry]:
        made = ((key, self._entry(kind, key, value or b"", revision)) for key, value, revision in items)
        return {key: entry for key, entry in made if entry is not None}

    def of(self, kind: Kind) -> ResourceCache:
        return self._by_kind[(kind.group, kind.version, kind.resource)]

    async def run(self) -> None:
        """List, then follow; start over when the store has compacted what was missed. Ends only by
        cancellation.
        """
        async with asyncio.TaskGroup() as tasks:
            self._tasks = tasks
            tasks.create_task(self._answer_questions(), name="cacher-confirm")
            await self._follow()

    async def confirm(self) -> int:
        """A revision that covers every write acknowledged before this call. Raises Unavailable.

        Answered within two CONFIRM_DEADLINEs, without a timer for each who asks: one question to the store
        may be under way, and ours is the next.
        """
        question: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        self._questions.append(question)
        self._asked.set()
        return await question

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
        unread: dict[int, list[Item]] = {}
        start, revision = "", 0
        while True:
            page = await self._store.list(PREFIX, start=start, limit=PAGE, revision=revision)
            revision = page.revision
            for item in page.items:
                forms, key = self._locate(item.key)
                for kind, cache in forms:
                    if cache.feeder is not None:
                        unread.setdefault(id(cache), []).append(Item(key, item.value, item.revision))
                        continue
                    entry = self._entry(kind, key, item.value, item.revision)
                    if entry is not None:
                        fresh.setdefault(id(cache), {})[key] = entry
            if not page.more or not page.items:
                break
            start = page.items[-1].key + "\0"
        for followed in self._resources.values():
            for _, cache in followed:
                if cache.feeder is not None:
                    cache.feeder.reset(unread.get(id(cache), []), revision)
                else:
                    cache.reset(fresh.get(id(cache), {}), revision)
        self._advance(revision)
        self.ready.set()

    def _apply(self, batch: Batch) -> None:
        for change in batch.changes:
            if change.key.startswith(PREFIX):
                self._apply_one(change)
        self._advance(batch.revision)

    def _apply_one(self, change: Change) -> None:
        forms, _ = self._locate(change.key)
        for kind, cache in forms:
            held = self._held.get(id(cache))
            if held is not None:
                held.append(change)
            else:
                self._apply_to(kind, cache, change)

    def _apply_to(self, kind: Kind, cache: ResourceCache, change: Change) -> None:
        """Invariant: a cache listed at a revision takes only what is newer, however late it comes."""
        key = change.key[len(PREFIX) + len(kind.storage_prefix) + 1 :]
        if cache.feeder is not None:
            cache.feeder.change(Item(key, change.value, change.revision))
            return
        if change.revision <= cache.floor:
            return
        if change.value is None:
            cache.apply(key, change.revision, None)
            return
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
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            logger.error("cannot read stored object %s%s/%s: %r", PREFIX, kind.storage_prefix, key, error)
            return None
        return read_entry(kind, key, obj, revision)

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


async def decode_converted(kind: Kind, value: bytes, revision: int) -> codec.Object:
    """The same for a kind that may have to be converted. Raises StatusError when that fails."""
    if kind.converter is None:
        return decode_stored(kind, value, revision)
    obj = (await kind.converter.convert([codec.from_storage(value, revision)], kind.api_version))[0]
    return kind.from_storage(obj) if kind.from_storage else obj


async def encode_converted(kind: Kind, obj: codec.Object) -> bytes:
    """The bytes to store for an object that may have to be converted. Raises StatusError."""
    if kind.converter is not None and kind.api_version != kind.converter.storage_version:
        obj = (await kind.converter.convert([codec.clone(obj)], kind.converter.storage_version))[0]
    return encode_stored(kind, obj)


def encode_stored(kind: Kind, obj: codec.Object) -> bytes:
    """The bytes to store for an object of this kind."""
    return codec.to_storage(kind.to_storage(obj) if kind.to_storage else obj)


def read_entry(kind: Kind, key: str, obj: codec.Object, revision: int) -> Entry | None:
    """The same for what was stored by anybody: None, and a word in the log, for what is no object."""
    try:
        return make_entry(kind, key, obj, revision)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        logger.error("cannot read stored object %s%s/%s: %r", PREFIX, kind.storage_prefix, key, error)
        return None


def make_entry(kind: Kind, key: str, obj: codec.Object, revision: int) -> Entry:
    """The cache's form of an object that carries its resourceVersion."""
    metadata = obj["metadata"]
    name, namespace = metadata["name"], metadata.get("namespace", "")
    fields = {"metadata.name": name, "metadata.namespace": namespace, **kind.strategy.fields(obj)}
    return Entry(key, namespace, name, revision, codec.encode(obj), metadata.get("labels") or NOTHING, fields)
