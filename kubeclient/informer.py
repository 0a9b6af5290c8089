"""Informers: a local copy of a resource, kept current by list and watch, with notifications.

The contract, which controllers rely on:

1. The store is what the apiserver had at some recent moment. It never goes back in time: the first list is
   consistent (read from the store of record, not from a cache that may lag), a watch continues from it.
2. Handlers run one after another on the event loop, after the store has changed, and see every object's
states in
   the order of its versions. States may be skipped, deletions may not: an object that vanished while the
   watch was down is reported by `on_delete` with its last known state.
3. An object deleted and made again under the same name while the watch was down is reported as a deletion
and an
   addition (told apart by uid), not as an update.
4. `on_update` also fires when a relist finds a newer version. There is no periodic resync: what must be
retried is
   its controller's business.
5. `synced` becomes true when the first list is in the store and every handler has seen it.
6. Objects are shared: nobody may change them (see `kubeclient.store`).
7. A handler that raises is logged and does not disturb the others. Handlers should only enqueue keys.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from apimachinery.errors import StatusError, is_gone
from componentbase.backoff import Backoff
from componentbase.clock import Clock, RealClock
from componentbase.tasks import deadline
from kubeclient.resources import GVR, split_key
from kubeclient.resources import key as key
from kubeclient.rest import ConnectionFailed, RestClient
from kubeclient.store import IndexFunc, Object, Store

__all__ = ["Handler", "Informer", "InformerFactory", "Store", "key", "split_key"]

log = logging.getLogger(__name__)

PAGE_SIZE = 500
_STEADY = 60.0
_DETECTOR_PERIOD = 1.0


def _nothing(*_: Object) -> None:
    return None


@dataclass(frozen=True, slots=True)
class Handler:
    """What to call on a change; plain functions that must not block."""

    on_add: Callable[[Object], None] = _nothing
    on_update: Callable[[Object, Object], None] = _nothing
    on_delete: Callable[[Object], None] = _nothing


class Change(NamedTuple):
    """One step of the cache: `old` None means added, `new` None means deleted."""

    old: Object | None
    new: Object | None


class _Expired(Exception):
    """The version to continue from is compacted: list again."""


class Informer:
    """List, then watch for ever, one resource (in one namespace, by selectors, or all of it)."""

    def __init__(
        self,
        client: RestClient,
        gvr: GVR,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self.gvr = gvr
        self.store = Store()
        self._client = client
        self._namespace = namespace
        self._label_selector = label_selector
        self._field_selector = field_selector
        self._clock = clock or RealClock()
        self._backoff = Backoff(0.2, 5.0, jitter=0.5, rng=rng)
        self._handlers: list[Handler] = []
        self._resource_version = ""
        self._synced = asyncio.Event()

    def add_index(self, name: str, func: IndexFunc) -> None:
        self.store.add_index(name, func)

    def add_handler(
        self,
        on_add: Callable[[Object], None] = _nothing,
        on_update: Callable[[Object, Object], None] = _nothing,
        on_delete: Callable[[Object], None] = _nothing,
    ) -> None:
        """Call these on changes. What the store holds already is reported to `on_add` at once."""
        handler = Handler(on_add, on_update, on_delete)
        self._handlers.append(handler)
        for obj in self.store.list():
            self._tell(handler, Change(None, obj))

    @property
    def synced(self) -> bool:
        return self._synced.is_set()

    @property
    def resource_version(self) -> str:
        """The version up to which the store is known to be complete; "" before the first list."""
        return self._resource_version

    async def wait_synced(self, timeout: float) -> None:
        """Raises TimeoutError that names the resource."""
        async with deadline(timeout, f"sync of {self.gvr.qualified}"):
            await self._synced.wait()

    async def run(self) -> None:
        """Keep the store current until cancelled. Raises CacheMutatedError when the detector finds one."""
        async with asyncio.TaskGroup() as group:
            detector = group.create_task(self._detect_mutation(), name=f"detector/{self.gvr.resource}")
            try:
                await self._follow()
            finally:
                detector.cancel()

    async def _follow(self) -> None:
        must_list = True
        while True:
            started = self._clock.monotonic()
            try:
                if must_list:
                    await self._list()
                    must_list = False
                await self._watch()
            except _Expired:
                log.info("watch expired, listing again", extra={"resource": self.gvr.qualified})
                must_list = True
            except (StatusError, ConnectionFailed, OSError) as error:
                await self._pause(error, started)
            else:
                self._backoff.reset()
                if self._clock.monotonic() - started < 1.0:
                    # A server that ends watches at once must not be asked in a tight loop.
                    await self._clock.sleep(self._backoff.next())

    async def _pause(self, error: Exception, started: float) -> None:
        if self._clock.monotonic() - started > _STEADY:
            self._backoff.reset()
        delay = self._backoff.next()
        log.warning(
            "list or watch failed: %s",
            error,
            extra={"resource": self.gvr.qualified, "retry": f"{delay:.1f}s"},
        )
        await self._clock.sleep(delay)

    async def _list(self) -> None:
        items, version = await self._all_pages()
        for change in replace(self.store, items):
            self._notify(change)
        self._resource_version = version
        self._synced.set()

    async def _all_pages(self) -> tuple[list[Object], str]:
        items: list[Object] = []
        token: str | None = None
        while True:
            try:
                page = await self._page(token, PAGE_SIZE)
            except StatusError as error:
                if not is_gone(error) or token is None:
                    raise
                # The snapshot behind the token is compacted; one large answer cannot expire half-way.
                items, page = [], await self._page(None, 0)
            items += page.get("items") or []
            token = page["metadata"].get("continue")
            if not token:
                break
        for item in items:
            # Items of a list leave out what the list's kind says.
            item.setdefault("apiVersion", self.gvr.api_version)
            item.setdefault("kind", self.gvr.kind)
        return items, page["metadata"]["resourceVersion"]

    async def _page(self, token: str | None, limit: int) -> dict[str, Any]:
        return await self._client.list(
            self.gvr,
            self._namespace,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
            limit=limit,
            continue_=token,
        )

    async def _watch(self) -> None:
        events = self._client.watch(
            self.gvr,
            self._namespace,
            resource_version=self._resource_version,
            label_selector=self._label_selector,
            field_selector=self._field_selector,
        )
        try:
            async with contextlib.aclosing(events):
                async for event in events:
                    self._apply(event.type, event.object)
        except StatusError as error:
            if is_gone(error):
                raise _Expired from error
            raise

    def _apply(self, kind: str, obj: Object) -> None:
        if kind == "ADDED" or kind == "MODIFIED":
            self._notify(Change(self.store.put(obj), obj))
        elif kind == "DELETED":
            self.store.remove(key(obj))
            self._notify(Change(obj, None))
        elif kind != "BOOKMARK":
            log.error("unknown watch event", extra={"type": kind, "resource": self.gvr.qualified})
            return
        self._resource_version = obj["metadata"]["resourceVersion"]
        self._backoff.reset()

    def _notify(self, change: Change) -> None:
        for handler in self._handlers:
            self._tell(handler, change)

    def _tell(self, handler: Handler, change: Change) -> None:
        try:
            if change.new is None:
                assert change.old is not None
                handler.on_delete(change.old)
            elif change.old is None:
                handler.on_add(change.new)
            else:
                handler.on_update(change.old, change.new)
        except Exception:
            log.exception("handler failed", extra={"resource": self.gvr.qualified})

    async def _detect_mutation(self) -> None:
        while True:
            self.store.check_mutation()
            await self._clock.sleep(_DETECTOR_PERIOD)


def replace(store: Store, items: Iterable[Object]) -> list[Change]:
    """Make `items` the store's content and say what changed: deletions first, then additions and updates."""
    incoming = {key(item): item for item in items}
    changes: list[Change] = []
    for old in store.list():
        new = incoming.get(key(old))
        if new is None or _uid(new) != _uid(old):
            store.remove(key(old))
            changes.append(Change(old, None))
    for name, item in incoming.items():
        before = store.get(name)
        if before is None or _version(before) != _version(item):
            store.put(item)
            changes.append(Change(before, item))
    return changes


def _uid(obj: Object) -> Any:
    return obj["metadata"].get("uid")


def _version(obj: Object) -> Any:
    return obj["metadata"].get("resourceVersion")


class InformerFactory:
    """One informer per resource and selection, shared by everything in a process."""

    def __init__(self, client: RestClient) -> None:
        self._client = client
        self._informers: dict[tuple[Any, ...], Informer] = {}
        self._group: asyncio.TaskGroup | None = None

    def informer(
        self,
        gvr: GVR,
        *,
        namespace: str | None = None,
        label_selector: str | None = None,
        field_selector: str | None = None,
    ) -> Informer:
        """The shared informer; one asked for after `run` began starts at once."""
        identity = (gvr, namespace, label_selector, field_selector)
        informer = self._informers.get(identity)
        if informer is None:
            informer = self._informers[identity] = Informer(
                self._client,
                gvr,
                namespace=namespace,
                label_selector=label_selector,
                field_selector=field_selector,
            )
            if self._group is not None:
                self._start(self._group, informer)
        return informer

    def _start(self, group: asyncio.TaskGroup, informer: Informer) -> None:
        group.create_task(informer.run(), name=f"informer/{informer.gvr.qualified}")

    async def run(self) -> None:
        """Run all informers until cancelled."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            try:
                for informer in list(self._informers.values()):
                    self._start(group, informer)
                await asyncio.Event().wait()
            finally:
                self._group = None

    @property
    def synced(self) -> bool:
        return all(informer.synced for informer in self._informers.values())

    async def wait_synced(self, timeout: float) -> None:
        """Raises TimeoutError that names every resource still missing."""
        try:
            async with asyncio.timeout(timeout):
                for informer in list(self._informers.values()):
                    await informer._synced.wait()
        except TimeoutError:
            missing = ", ".join(
                informer.gvr.qualified for informer in self._informers.values() if not informer.synced
            )
            raise TimeoutError(f"sync of {missing}: no result within {timeout:g}s") from None
