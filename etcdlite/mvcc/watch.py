"""Watching: who wants which changes, and who has fallen behind. Pure: no queue is awaited here.

A watcher is synced when it has been handed every change up to the store's revision. New changes go straight
into the outboxes of synced watchers. A watcher that starts in the past, or whose outbox is full, is unsynced:
it holds only the revision it needs next, and is served from the store's history whenever its outbox has room.
So a slow client costs its own bound of memory and never holds up a write.

Invariants, for each watcher: delivered revisions ascend; all events of one revision are in one delivery;
nothing is skipped between `next` and the store's revision.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Final, NamedTuple

from etcdlite.mvcc import wire
from etcdlite.mvcc.index import in_range
from etcdlite.mvcc.store import Change, Changes, Store

_EVENT_TYPE, _EVENT_KV, _EVENT_PREV_KV = 1, 2, 3
OUTBOX_LIMIT: Final = 1024  # deliveries a stream may have waiting before its watchers fall behind
CATCH_UP: Final = 512  # changes read from history at a time


class Event:
    """One change, encoded at most twice for all who watch it: with the previous KeyValue and without."""

    __slots__ = ("_bare", "_full", "_store", "change")

    def __init__(self, change: Change, store: Store) -> None:
        self.change = change
        self._store = store
        self._bare: bytes | None = None
        self._full: bytes | None = None

    def encoded(self, with_previous: bool) -> bytes:
        """An mvccpb.Event."""
        if self._bare is None:
            self._bare = wire.number(_EVENT_TYPE, self.change.is_delete) + wire.chunk(
                _EVENT_KV, self.change.encoded
            )
        if not with_previous:
            return self._bare
        if self._full is None:
            previous = self._store.previous(self.change)
            self._full = self._bare if previous is None else self._bare + wire.chunk(_EVENT_PREV_KV, previous)
        return self._full


class Delivery(NamedTuple):
    """What one watcher is to be told: events of whole revisions, or progress, or the end."""

    watch_id: int
    revision: int
    events: Sequence[bytes] = ()
    compacted: int = 0
    fragment: bool = False


@dataclass(slots=True, eq=False)
class Watcher:
    """One watch of one stream. `next` is the lowest revision it has not been handed."""

    id: int
    key: bytes
    range_end: bytes
    next: int
    outbox: Outbox
    prev_kv: bool = False
    no_put: bool = False
    no_delete: bool = False
    fragment: bool = False
    progress_notify: bool = False
    synced: bool = False
    gone: bool = False
    quiet: bool = True  # nothing was sent since the last progress notification was due

    def wants(self, change: Change) -> bool:
        """Whether a change is this watcher's."""
        if self.no_delete if change.is_delete else self.no_put:
            return False
        return in_range(change.key, self.key, self.range_end)


@dataclass(slots=True, eq=False)
class Outbox:
    """What waits to be sent on one stream; `wake` is called when it stops being empty."""

    wake: Callable[[], None]
    limit: int = OUTBOX_LIMIT
    deliveries: deque[Delivery | bytes] = field(default_factory=deque)

    @property
    def full(self) -> bool:
        """Whether its watchers must wait for the client."""
        return len(self.deliveries) >= self.limit

    def add(self, delivery: Delivery | bytes) -> None:
        """Queue one delivery, or an encoded response that has its place in the order."""
        self.deliveries.append(delivery)
        if len(self.deliveries) == 1:
            self.wake()


class WatchHub:
    """All watchers of a member."""

    def __init__(self) -> None:
        self._by_key: dict[bytes, list[Watcher]] = {}  # synced, of one key
        self._ranges: list[Watcher] = []  # synced, of a range
        self._unsynced: list[Watcher] = []

    @property
    def count(self) -> tuple[int, int]:
        """Watchers: (synced, unsynced)."""
        return sum(map(len, self._by_key.values())) + len(self._ranges), len(self._unsynced)

    def add(self, watcher: Watcher, revision: int) -> None:
        """Begin. `revision` is the store's; a watcher that wants no earlier one is synced at once."""
        if watcher.next > revision:
            self._to_synced(watcher)
        else:
            self._unsynced.append(watcher)

    def remove(self, watcher: Watcher) -> None:
        """End. Safe to repeat."""
        if watcher.gone:
            return
        watcher.gone = True
        self._take_out(watcher)

    def _take_out(self, watcher: Watcher) -> None:
        if not watcher.synced:
            self._unsynced.remove(watcher)
        elif watcher.range_end:
            self._ranges.remove(watcher)
        else:
            same = self._by_key[watcher.key]
            same.remove(watcher)
            if not same:
                del self._by_key[watcher.key]

    def _to_synced(self, watcher: Watcher) -> None:
        watcher.synced = True
        if watcher.range_end:
            self._ranges.append(watcher)
        else:
            self._by_key.setdefault(watcher.key, []).append(watcher)

    def _to_unsynced(self, watcher: Watcher, next: int) -> None:
        self._take_out(watcher)
        watcher.synced, watcher.next = False, next
        self._unsynced.append(watcher)

    def notify(self, store: Store, changes: Changes) -> bool:
        """A new revision: hand it to the synced watchers it concerns. True if one fell behind."""
        if not self._by_key and not self._ranges:
            return False
        behind = len(self._unsynced)
        picked: dict[Watcher, list[Event]] = {}
        for change in changes.changes:
            event: Event | None = None
            for watcher in (*self._by_key.get(change.key, ()), *self._ranges):
                if watcher.next <= changes.revision and watcher.wants(change):
                    event = event or Event(change, store)
                    picked.setdefault(watcher, []).append(event)
        for watcher, events in picked.items():
            if watcher.outbox.full:
                self._to_unsynced(watcher, changes.revision)
            else:
                self._deliver(watcher, changes.revision, events)
        return len(self._unsynced) > behind

    def restart(self, seen: int) -> None:
        """The store has jumped by a snapshot: synced watchers have missed what came after revision `seen`."""
        for watcher in (*self._ranges, *(each for same in self._by_key.values() for each in same)):
            self._to_unsynced(watcher, max(watcher.next, seen + 1))

    def _deliver(self, watcher: Watcher, revision: int, events: list[Event]) -> None:
        watcher.quiet = False
        encoded = [event.encoded(watcher.prev_kv) for event in events]
        watcher.outbox.add(Delivery(watcher.id, revision, encoded, fragment=watcher.fragment))

    def catch_up(self, store: Store) -> bool:
        """Serve the unsynced watchers that have room, one read of history each; return whether any got
        further.
        """
        moved = False
        for watcher in list(self._unsynced):
            if watcher.outbox.full:
                continue
            moved = True
            self._catch_up_one(store, watcher)
        return moved

    def _catch_up_one(self, store: Store, watcher: Watcher) -> None:
        if watcher.next < store.compacted:
            self.remove(watcher)
            watcher.outbox.add(Delivery(watcher.id, store.revision, compacted=store.compacted))
            return
        found = store.history(watcher.next, CATCH_UP)
        for changes in found:
            events = [Event(change, store) for change in changes.changes if watcher.wants(change)]
            if events:
                self._deliver(watcher, changes.revision, events)
        # One that begins in the future stays there: the store may be behind what its client knows.
        watcher.next = found[-1].revision + 1 if found else max(watcher.next, store.revision + 1)
        if watcher.next > store.revision:
            self._take_out(watcher)
            self._to_synced(watcher)

    def notify_progress(self, revision: int) -> None:
        """The progress interval is over: tell quiet, synced watchers that asked for it where the store is."""
        for watcher in (*self._ranges, *(each for same in self._by_key.values() for each in same)):
            if watcher.progress_notify and watcher.next <= revision + 1:
                if watcher.quiet and not watcher.outbox.deliveries:
                    watcher.outbox.add(Delivery(watcher.id, revision))
                watcher.quiet = True
