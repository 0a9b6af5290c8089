"""Snapshot files: whole or refused."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcdlite.raft.types import Index, SnapshotMeta, Term
from etcdlite.wal.disk import Disk, PosixDisk
from etcdlite.wal.memory import MemoryDisk
from etcdlite.wal.records import WalCorrupt
from etcdlite.wal.snapshots import SnapshotStore

META = SnapshotMeta(Index(7), Term(3), context=b"members")
CHUNKS = [b"first", b"x" * 5000, b"last"]


@pytest.fixture(params=["memory", "posix"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else PosixDisk(tmp_path)


def write(disk: Disk, meta: SnapshotMeta = META) -> SnapshotStore:
    store = SnapshotStore(disk, "snap")
    writer = store.writer(meta)
    for chunk in CHUNKS:
        writer.write(chunk)
    writer.commit()
    return store


def test_chunks_come_back(disk: Disk) -> None:
    store = write(disk)
    assert store.has(META.index, META.term) and not store.has(META.index, Term(4))
    assert list(store.read(META.index, META.term)) == CHUNKS


def test_an_aborted_snapshot_leaves_nothing(disk: Disk) -> None:
    store = SnapshotStore(disk, "snap")
    writer = store.writer(META)
    writer.write(b"half")
    writer.abort()
    assert disk.list("snap") == []


def test_purge_keeps_newer_ones_and_what_is_not_a_snapshot(disk: Disk) -> None:
    store = write(disk)
    write(disk, SnapshotMeta(Index(9), Term(3)))
    disk.create("snap/db").close()
    store.purge(Index(7))
    assert disk.list("snap") == ["0000000000000003-0000000000000009.snap", "db"]
    store.purge()
    assert disk.list("snap") == ["db"]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_any_damage_is_refused(data: st.DataObject) -> None:
    disk = MemoryDisk()
    store = write(disk)
    path = f"snap/{disk.list('snap')[0]}"
    content = bytearray(disk.read(path))
    position = data.draw(st.integers(0, len(content) - 1))
    if data.draw(st.booleans()):
        content[position] ^= data.draw(st.integers(1, 255))
    else:
        del content[position:]
    disk.put(path, bytes(content))
    with pytest.raises(WalCorrupt):
        store.verify(META.index, META.term)


def test_bytes_after_the_end_are_refused() -> None:
    disk = MemoryDisk()
    store = write(disk)
    path = f"snap/{disk.list('snap')[0]}"
    disk.put(path, disk.read(path) + b"x")
    with pytest.raises(WalCorrupt, match="after the end"):
        store.verify(META.index, META.term)
