"""The watch hub on a real store: who is told what, and what happens to those who do not keep up."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlite.mvcc.backend import Backend
from etcdlite.mvcc.store import Changes, Store
from etcdlite.mvcc.watch import Delivery, Outbox, Watcher, WatchHub
from etcdlite.pb import kv_pb2


class NoLeases:
    def attach(self, lease: int, key: bytes) -> None: ...

    def release(self, key: bytes) -> None: ...


class Stage:
    """A store, its hub, and the watchers of a test."""

    def __init__(self, folder: Path) -> None:
        self.hub = WatchHub()
        self.behind: list[bool] = []
        self.backend = Backend(folder / "db", map_bytes=1 << 26)
        self.store = Store(self.backend, NoLeases(), self._changed)
        self.woken = 0

    def _changed(self, changes: Changes) -> None:
        self.behind.append(self.hub.notify(self.store, changes))

    def _wake(self) -> None:
        self.woken += 1

    def watch(
        self, key: bytes, end: bytes = b"", *, start: int = 0, limit: int = 100, **flags: bool
    ) -> Watcher:
        next_revision = start or self.store.revision + 1
        outbox = Outbox(self._wake, limit)
        watcher = Watcher(1, key, end, next_revision, outbox, **flags)
        self.hub.add(watcher, self.store.revision)
        return watcher

    def put(self, *keys: bytes) -> int:
        with self.store.write() as write:
            for key in keys:
                write.put(key, b"v%d" % write.main, 0)
        return self.store.revision

    def delete(self, key: bytes) -> None:
        with self.store.write() as write:
            found = write.find(key)
            assert found is not None
            write.delete(found)


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    made = Stage(tmp_path)
    yield made
    made.backend.close()


def told(watcher: Watcher) -> list[tuple[int, list[str]]]:
    """Empty the outbox: per delivery its revision and its events in short."""
    found: list[tuple[int, list[str]]] = []
    while watcher.outbox.deliveries:
        delivery = watcher.outbox.deliveries.popleft()
        assert isinstance(delivery, Delivery)
        events = [kv_pb2.Event.FromString(event) for event in delivery.events]
        found.append((delivery.revision, [_short(event) for event in events]))
    return found


def _short(event: kv_pb2.Event) -> str:
    mark = "-" if event.type == kv_pb2.Event.DELETE else "+"
    before = f" was {event.prev_kv.value.decode()}" if event.HasField("prev_kv") else ""
    return f"{mark}{event.kv.key.decode()}{before}"


def test_keys_ranges_and_filters(stage: Stage) -> None:
    one = stage.watch(b"a")
    some = stage.watch(b"a", b"c", prev_kv=True)
    everything = stage.watch(b"\0", b"\0", no_put=True)
    stage.put(b"a", b"b", b"c")
    stage.put(b"a")
    stage.delete(b"b")
    stage.delete(b"c")
    assert told(one) == [(2, ["+a"]), (3, ["+a"])]
    assert told(some) == [(2, ["+a", "+b"]), (3, ["+a was v2"]), (4, ["-b was v2"])]
    assert told(everything) == [(4, ["-b"]), (5, ["-c"])]


def test_history_then_present(stage: Stage) -> None:
    for _ in range(5):
        stage.put(b"a")
    watcher = stage.watch(b"a", start=3)
    assert not watcher.synced
    stage.put(b"a")  # while it is behind
    assert stage.hub.catch_up(stage.store)
    assert watcher.synced
    stage.put(b"a")
    assert [revision for revision, _ in told(watcher)] == [3, 4, 5, 6, 7, 8]
    assert not stage.hub.catch_up(stage.store)


def test_a_watch_of_the_future_waits_for_its_revision(stage: Stage) -> None:
    watcher = stage.watch(b"a", start=4)
    for _ in range(4):
        stage.put(b"a")
    assert [revision for revision, _ in told(watcher)] == [4, 5]


def test_a_slow_watcher_falls_behind_and_misses_nothing(stage: Stage) -> None:
    slow, quick = stage.watch(b"a", b"z", limit=3), stage.watch(b"a", b"z")
    for _ in range(10):
        stage.put(b"a", b"b")
    assert stage.hub.count == (1, 1)
    assert stage.behind == [False] * 3 + [True] + [False] * 6
    assert not stage.hub.catch_up(stage.store), "a full outbox is left alone"
    seen = told(slow)
    assert len(seen) == 3
    assert stage.hub.catch_up(stage.store)
    seen += told(slow)
    assert seen == told(quick)
    assert [revision for revision, _ in seen] == list(range(2, 12))


def test_behind_a_compaction(stage: Stage) -> None:
    slow = stage.watch(b"a", limit=1)
    for _ in range(5):
        stage.put(b"a")
    stage.store.compact(5)
    told(slow)
    stage.hub.catch_up(stage.store)
    [last] = slow.outbox.deliveries
    assert isinstance(last, Delivery)
    assert last.compacted == 5
    assert stage.hub.count == (0, 0)
    stage.hub.remove(slow)  # the stream ends later; nothing happens


def test_a_delete_at_the_compacted_revision_is_still_seen(stage: Stage) -> None:
    stage.put(b"a")
    stage.delete(b"a")
    stage.store.compact(3)
    while stage.store.compact_some(10):
        pass
    watcher = stage.watch(b"a", start=3)
    stage.hub.catch_up(stage.store)
    assert told(watcher) == [(3, ["-a"])]


def test_after_an_installed_snapshot(stage: Stage) -> None:
    """Synced watchers get from history what the snapshot brought."""
    watcher = stage.watch(b"a")
    stage.put(b"a")
    seen = stage.store.revision
    for _ in range(3):
        stage.store._on_changes = lambda changes: None
        stage.put(b"a")
    stage.hub.restart(seen)
    stage.hub.catch_up(stage.store)
    assert [revision for revision, _ in told(watcher)] == [2, 3, 4, 5]


def test_a_watch_from_the_future_is_not_told_of_the_past_after_a_snapshot(stage: Stage) -> None:
    """make robustness, seed 1137955102: a member that was behind took a snapshot, and showed a watch that had
    begun at a later revision what came before it.
    """
    watcher = stage.watch(b"a", start=5)
    stage.hub.restart(stage.store.revision)
    stage.hub.catch_up(stage.store)
    for _ in range(5):
        stage.put(b"a")
    stage.hub.catch_up(stage.store)
    assert [revision for revision, _ in told(watcher)] == [5, 6]


def test_progress_is_for_the_quiet(stage: Stage) -> None:
    asked, silent = stage.watch(b"a", progress_notify=True), stage.watch(b"a")
    stage.put(b"b")
    stage.hub.notify_progress(stage.store.revision)
    assert told(asked) == [(2, [])]
    assert told(silent) == []
    stage.put(b"a")
    stage.hub.notify_progress(stage.store.revision)
    assert told(asked) == [(3, ["+a"])], "an event is news enough for this interval"
    stage.hub.notify_progress(stage.store.revision)
    assert told(asked) == [(3, [])]


def test_an_event_is_encoded_once_for_all(stage: Stage) -> None:
    watchers = [stage.watch(b"a", b"b", prev_kv=True) for _ in range(3)]
    stage.put(b"a")
    first, *others = (watcher.outbox.deliveries[0] for watcher in watchers)
    assert isinstance(first, Delivery)
    assert all(isinstance(each, Delivery) and each.events[0] is first.events[0] for each in others)
