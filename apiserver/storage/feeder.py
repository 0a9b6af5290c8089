"""Feeds the cache of a kind whose stored objects may have to be converted by asking somebody (a webhook).

Changes are applied in the store's order; while one waits for its conversion, those behind it wait too, and
reads of the kind wait with them. Nothing waits when no conversion is needed. A conversion that fails is
tried again with back-off, or at once when somebody reads; readers are told why it failed.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Sequence
from typing import NamedTuple

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.scheme import Converter, Kind, Object
from apiserver.storage import codec
from apiserver.storage.watchcache import Entry, ResourceCache
from componentbase.backoff import Backoff

logger = logging.getLogger("apiserver.cacher")

BATCH = 500
RETRY_FIRST, RETRY_MAX = 0.2, 5.0
MakeEntry = Callable[[Kind, str, Object, int], Entry | None]


class Item(NamedTuple):
    """A stored object, or the end of one (`value` None), by its key relative to the resource."""

    key: str
    value: bytes | None
    revision: int


class _Step(NamedTuple):
    """One thing to do: a change, or (with `items`) to replace everything."""

    item: Item
    items: Sequence[Item] | None = None


class Feeder:
    """`run()` is its one task."""

    def __init__(self, kind: Kind, converter: Converter, cache: ResourceCache, make_entry: MakeEntry) -> None:
        self._kind = kind
        self._converter = converter
        self._cache = cache
        self._make_entry = make_entry
        self._steps: deque[_Step] = deque()
        self._wake = asyncio.Event()
        self._moved = asyncio.Condition()
        self._asked = asyncio.Event()
        self._done, self._failures = 0, 0
        self._failure: StatusError | None = None
        self.started = False

    def reset(self, items: Sequence[Item], revision: int) -> None:
        """Everything as a list at `revision` shows it; what was waiting is part of it."""
        self.started = True
        self._done += len(self._steps)
        self._steps.clear()
        self._offer(_Step(Item("", None, revision), items))

    def change(self, item: Item) -> None:
        self._offer(_Step(item))

    def limit(self, revision: int) -> int:
        """The revision that the cache shows, when everything up to `revision` has been offered."""
        return min(revision, self._steps[0].item.revision - 1) if self._steps else revision

    async def wait(self, seconds: float) -> None:
        """Until everything offered by now is applied. Raises 500 with the reason when it cannot be."""
        if not self._steps:
            return
        target, failures = self._done + len(self._steps), self._failures
        self._asked.set()
        try:
            async with asyncio.timeout(seconds), self._moved:
                await self._moved.wait_for(lambda: self._done >= target or self._failures > failures)
        except TimeoutError:
            what = f"the conversion of stored {self._kind.group_resource}"
            raise errors.timeout(f"{what} did not complete within {seconds:g}s") from None
        if self._done < target and self._failure is not None:
            raise self._failure

    async def run(self) -> None:
        """Ends only by cancellation."""
        backoff = Backoff(RETRY_FIRST, RETRY_MAX)
        while True:
            self._wake.clear()
            while self._steps:
                try:
                    await self._apply(self._steps[0])
                    backoff.reset()
                except Exception as error:
                    await self._fail(error, backoff.next())
                await self._tell()
            await self._wake.wait()

    async def _fail(self, error: Exception, pause: float) -> None:
        """Tell those who wait, then pause until it is time to try again, or somebody asks."""
        if isinstance(error, StatusError):
            logger.warning("%s: %s; again in %.1f s", self._kind.group_resource, error, pause)
            self._failure = error
        else:
            logger.exception("%s: cannot be converted", self._kind.group_resource)
            self._failure = errors.internal_error("the conversion failed; see the server's log")
        self._failures += 1
        self._asked.clear()
        await self._tell()
        try:
            async with asyncio.timeout(pause):
                await self._asked.wait()
        except TimeoutError:
            return

    async def _tell(self) -> None:
        async with self._moved:
            self._moved.notify_all()

    def _offer(self, step: _Step) -> None:
        if not self._steps and self._apply_now(step):
            return
        self._steps.append(step)
        self._wake.set()

    def _apply_now(self, step: _Step) -> bool:
        """Apply what needs no conversion; whether it was so."""
        items = [step.item] if step.items is None else step.items
        decoded = self._decode(items)
        if any(self._needs(obj) for _, obj in decoded):
            return False
        self._finish(step, decoded)
        return True

    async def _apply(self, step: _Step) -> None:
        """Raises StatusError when the conversion fails. A reset that came meanwhile has replaced the step."""
        items = [step.item] if step.items is None else step.items
        decoded = self._decode(items)
        asked = [at for at, (_, obj) in enumerate(decoded) if self._needs(obj)]
        for start in range(0, len(asked), BATCH):
            part = asked[start : start + BATCH]
            objects = [obj for at in part if (obj := decoded[at][1]) is not None]
            found = await self._converter.convert(objects, self._kind.api_version)
            for at, obj in zip(part, found, strict=True):
                decoded[at] = (decoded[at][0], obj)
        if self._steps and self._steps[0] is step:
            self._steps.popleft()
            self._done += 1
            self._finish(step, decoded)

    def _needs(self, obj: Object | None) -> bool:
        return obj is not None and obj.get("apiVersion") != self._kind.api_version

    @staticmethod
    def _decode(items: Sequence[Item]) -> list[tuple[Item, Object | None]]:
        out: list[tuple[Item, Object | None]] = []
        for item in items:
            try:
                out.append((item, codec.from_storage(item.value, item.revision) if item.value else None))
            except (ValueError, KeyError, TypeError) as error:
                logger.error("cannot read stored object %s: %r", item.key, error)
        return out

    def _finish(self, step: _Step, decoded: list[tuple[Item, Object | None]]) -> None:
        cache = self._cache
        entries = {item.key: self._entry(item, obj) if obj else None for item, obj in decoded}
        if step.items is not None:
            cache.reset({key: entry for key, entry in entries.items() if entry}, step.item.revision)
            return
        for item, obj in decoded:
            if item.revision > cache.floor and (obj is None or entries[item.key] is not None):
                cache.apply(item.key, item.revision, entries[item.key])

    def _entry(self, item: Item, obj: Object) -> Entry | None:
        read = self._kind.from_storage
        return self._make_entry(self._kind, item.key, read(obj) if read else obj, item.revision)
