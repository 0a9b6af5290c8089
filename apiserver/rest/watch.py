"""A watch: the initial state if asked for, then events from the cache's log, then bookmarks, until its time
is up.

A watcher is a position in the log (see storage/watchcache.py). It holds no queue: one that does not read is
waited for by the transport's flow control, and when its position has left the window by then, it is dropped
and has to list again.
"""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator, Callable

import orjson

from apimachinery import errors
from apimachinery.scheme import Kind
from apiserver.registry.reading import FRESH_TIMEOUT, Reader, selector_filter
from apiserver.rest.options import ListOptions, parse_version
from apiserver.storage.cacher import Cacher
from apiserver.storage.watchcache import Entry, Event, Renderer, ResourceCache, encode_frame

BOOKMARK_SECONDS = 60.0
MIN_TIMEOUT = 1800.0  # a watch that sets no timeout ends at a random moment between this and twice this
INITIAL_CHUNK = 500
INITIAL_EVENTS_END = "k8s.io/initial-events-end"


class Watches:
    """All watches of the server, so that a shutdown can end them in good order."""

    def __init__(self) -> None:
        self.stopping = False
        self._wakes: set[Callable[[], None]] = set()

    def __len__(self) -> int:
        return len(self._wakes)

    def add(self, wake: Callable[[], None]) -> Callable[[], None]:
        self._wakes.add(wake)
        return lambda: self._wakes.discard(wake)

    def stop(self) -> None:
        """End every watch after what it has to send now."""
        self.stopping = True
        for wake in list(self._wakes):
            wake()


class Watcher:
    """One watch request."""

    def __init__(
        self,
        kind: Kind,
        namespace: str,
        options: ListOptions,
        renderer: Renderer,
        *,
        reader: Reader,
        cacher: Cacher,
        watches: Watches,
    ) -> None:
        self._kind = kind
        self._options = options
        self._renderer = renderer
        self._reader = reader
        self._cacher = cacher
        self._watches = watches
        self._accepts = selector_filter(kind, options, namespace if kind.namespaced else "")
        self._cache: ResourceCache = cacher.of(kind)
        self._wake = asyncio.Event()

    async def start(self) -> AsyncIterator[bytes]:
        """Wait for the state the watch starts from (raises StatusError), then give the stream."""
        options = self._options
        wants_state = options.send_initial_events or (
            options.send_initial_events is None and options.resource_version in ("", "0")
        )
        if wants_state or not options.resource_version:
            await self._reader.reach(options.resource_version)
            await self._reader.settled(self._kind)
            return self._stream(self._cacher.shown_by(self._cache), bool(wants_state))
        version = parse_version(options.resource_version)
        await self._cacher.wait_for(version, FRESH_TIMEOUT)
        return self._stream(version, False)

    async def _stream(self, revision: int, wants_state: bool) -> AsyncIterator[bytes]:
        cache = self._cache
        if revision < cache.floor and not wants_state:
            yield self._renderer.frame("ERROR", expired(revision, cache.floor))
            return
        position, generation = (
            (cache.end if wants_state else cache.position_after(revision)),
            cache.generation,
        )
        state = self._state() if wants_state else []
        for start in range(0, len(state), INITIAL_CHUNK):
            yield b"".join(
                encode_frame("ADDED", entry.data, self._renderer)
                for entry in state[start : start + INITIAL_CHUNK]
            )
        if wants_state and self._options.send_initial_events and self._options.bookmarks:
            yield self._bookmark(revision, initial_end=True)
        del state
        leave, gone = cache.on_change(self._wake.set), self._watches.add(self._wake.set)
        try:
            async for chunk in self._follow(position, generation, revision):
                yield chunk
        finally:
            leave()
            gone()

    def _state(self) -> list[Entry]:
        return [entry for entry in self._cache.scan() if self._accepts is None or self._accepts(entry)]

    async def _follow(self, position: int, generation: int, revision: int) -> AsyncIterator[bytes]:
        now = asyncio.get_running_loop().time
        seconds = self._options.timeout_seconds
        end = now() + (seconds if seconds else MIN_TIMEOUT * (1 + random.random()))
        next_bookmark = now() + BOOKMARK_SECONDS * (0.8 + 0.4 * random.random())
        while True:
            self._wake.clear()
            events = self._cache.since(position)
            if events is None or self._cache.generation != generation:
                return
            position += len(events)
            chunk = b"".join(self._frames(events, revision))
            if chunk:
                yield chunk
                continue
            if self._watches.stopping or now() >= end:
                if self._options.bookmarks:
                    yield self._bookmark(self._cacher.shown_by(self._cache))
                return
            if now() >= next_bookmark:
                next_bookmark = now() + BOOKMARK_SECONDS
                if self._options.bookmarks:
                    yield self._bookmark(self._cacher.shown_by(self._cache))
                continue
            await self._sleep(min(end, next_bookmark) - now())

    async def _sleep(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(seconds, 0)):
                await self._wake.wait()
        except TimeoutError:
            return

    def _bookmark(self, revision: int, *, initial_end: bool = False) -> bytes:
        """Tells the client how far it has seen; the last of the initial events is marked."""
        fields: dict[str, object] = {"resourceVersion": str(revision), "creationTimestamp": None}
        if initial_end:
            fields["annotations"] = {INITIAL_EVENTS_END: "true"}
        obj = {"kind": self._kind.kind, "apiVersion": self._kind.api_version, "metadata": fields}
        return self._renderer.frame("BOOKMARK", orjson.dumps(obj))

    def _frames(self, events: list[Event], revision: int) -> list[bytes]:
        out = []
        for event in events:
            if event.revision <= revision:
                continue
            kind = event.type_for(self._accepts)
            if kind:
                out.append(event.frame(kind, self._renderer))
        return out


def expired(revision: int, oldest: int) -> bytes:
    """The Status that ends a watch from a version that is gone."""
    return orjson.dumps(errors.gone(f"too old resource version: {revision} ({oldest})").status)
