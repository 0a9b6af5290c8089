"""The store against a model that cannot be wrong: a dictionary of every revision's whole content.

Hypothesis drives both through puts, deletes, transactions of both, compactions, flushes (complete and
interrupted by a crash) and restarts; after each step every uncompacted revision must read as in the model,
and history must be its differences.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from etcdlite.mvcc.backend import Backend
from etcdlite.mvcc.errors import Compacted, FutureRevision
from etcdlite.mvcc.store import Changes, Store
from etcdlite.pb import kv_pb2

KEYS = [b"a", b"ab", b"b", b"c"]
keys = st.sampled_from(KEYS)
Content = dict[bytes, tuple[bytes, int, int, int]]  # key -> value, created, modified, version


class NoLeases:
    def attach(self, lease: int, key: bytes) -> None:
        raise AssertionError

    def release(self, key: bytes) -> None:
        pass


class StoreMachine(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.folder = tempfile.TemporaryDirectory()
        self.path = Path(self.folder.name) / "db"
        self.notified: list[Changes] = []
        self.model: dict[int, Content] = {1: {}}
        self.compacted = 0
        self.index = 0
        self.flushed = (dict(self.model), 0, 0)
        self._open()

    def _open(self) -> None:
        self.backend = Backend(self.path, map_bytes=1 << 24)
        self.store = Store(self.backend, NoLeases(), self.notified.append)

    def teardown(self) -> None:
        self.backend.close()
        self.folder.cleanup()

    @property
    def head(self) -> int:
        return max(self.model)

    def _applied(self) -> None:
        self.index += 1
        self.store.applied(self.index, 1)

    @rule(puts=st.lists(keys, max_size=3, unique=True), deletes=st.lists(keys, max_size=2, unique=True))
    def write(self, puts: list[bytes], deletes: list[bytes]) -> None:
        main, content, changed = self.head + 1, dict(self.model[self.head]), False
        with self.store.write() as write:
            for key in deletes:
                found = write.find(key)
                assert (found is not None) == (key in content)
                if found is not None:
                    write.delete(found)
                    del content[key]
                    changed = True
            for key in puts:
                value = b"%s@%d" % (key, main)
                _, created, _, version = content.get(key, (b"", main, 0, 0))
                write.put(key, value, 0)
                content[key] = (value, created, main, version + 1)
                changed = True
        if changed:
            self.model[main] = content
            assert self.notified[-1].revision == main
        self._applied()

    @rule(back=st.integers(0, 5))
    def compact(self, back: int) -> None:
        main = self.head - back
        if main <= self.compacted:
            with pytest.raises(Compacted):
                self.store.compact(main)
            return
        self.store.compact(main)
        self.compacted = main
        self._applied()

    @precondition(lambda self: self.store.compacting)
    @rule(count=st.integers(1, 5))
    def compact_some(self, count: int) -> None:
        self.store.compact_some(count)

    @rule()
    def flush(self) -> None:
        taken = self.store.begin_flush()
        if taken is not None:
            self.backend.commit(*taken)
            self.store.end_flush(taken[1])
        self.flushed = (dict(self.model), self.compacted, self.index)

    @rule()
    def crash(self) -> None:
        """What was not flushed is gone, all of it together; the log would bring it back from `applied_index`
        on.
        """
        self.backend.close()
        self.model, self.compacted, self.index = dict(self.flushed[0]), self.flushed[1], self.flushed[2]
        self._open()
        assert self.store.applied_index == self.store.durable_index == self.index

    @rule()
    def snapshot_and_install(self) -> None:
        """A snapshot taken now and installed is the store as flushed."""
        self.flush()
        _, chunks = self.backend.snapshot()
        content = list(chunks)
        assert sum(map(len, content)) == self.backend.snapshot_bytes()
        self.backend.install(iter(content))
        self.store.load()

    @invariant()
    def reads_like_the_model(self) -> None:
        assert (self.store.revision, self.store.compacted) == (self.head, self.compacted)
        for main in range(max(1, self.compacted), self.head + 1):
            view = self.store.view().at(main)
            found: Content = {}
            for each in view.scan(b"\0", b"\0"):
                kv = kv_pb2.KeyValue.FromString(view.value(each))
                assert (each.created, each.version, kv.key) == (kv.create_revision, kv.version, each.key)
                found[kv.key] = (kv.value, kv.create_revision, kv.mod_revision, kv.version)
            assert found == self.model[main]
            for key, end in ((b"\0", b"\0"), (b"ab", b"c"), (b"b", b""), (b"c", b"a")):
                assert view.count(key, end) == len(list(view.scan(key, end)))
        if self.compacted > 1:
            with pytest.raises(Compacted):
                self.store.view().at(self.compacted - 1)
        with pytest.raises(FutureRevision):
            self.store.view().at(self.head + 1)

    @invariant()
    def history_is_the_differences(self) -> None:
        start = self.compacted + 1
        replayed: Content | None = None
        for changes in self.store.history(start, 1_000_000):
            replayed = dict(self.model[changes.revision - 1]) if replayed is None else replayed
            for change in changes.changes:
                kv = kv_pb2.KeyValue.FromString(change.encoded)
                assert kv.mod_revision == changes.revision
                if change.is_delete:
                    replayed.pop(kv.key)
                else:
                    replayed[kv.key] = (kv.value, kv.create_revision, kv.mod_revision, kv.version)
            assert replayed == self.model[changes.revision]
        if replayed is not None:
            assert replayed == self.model[self.head]


TestStore = StoreMachine.TestCase
TestStore.settings = settings(max_examples=60, stateful_step_count=25, deadline=None)
