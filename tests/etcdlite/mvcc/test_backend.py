"""The database file: batches are whole, snapshots are exact, damage is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from etcdlite.mvcc.backend import Backend, Batch, Meta
from etcdlite.mvcc.errors import DatabaseDamaged
from etcdlite.mvcc.revision import revision


@pytest.fixture
def backend(tmp_path: Path) -> Iterator[Backend]:
    opened = Backend(tmp_path / "db", map_bytes=1 << 26)
    yield opened
    opened.close()


def fill(backend: Backend, count: int = 100) -> Meta:
    batch = Batch()
    for number in range(count):
        batch.puts[revision(2 + number)] = (b"value %d " % number * 100, number % 10 == 9)
    batch.rows["lease", b"\0" * 8] = b"ttl"
    meta = Meta(applied_index=count, applied_term=3, revision=1 + count)
    backend.commit(batch, meta)
    return meta


def content(backend: Backend) -> list[object]:
    return [backend.meta(), list(backend.scan(0)), backend.rows("lease"), backend.rows("alarm")]


def test_a_new_database_is_at_revision_one(backend: Backend) -> None:
    assert backend.meta() == Meta(applied_index=0, applied_term=0, revision=1, compacted=0)
    assert list(backend.scan(0)) == []


def test_commit_and_reopen(backend: Backend) -> None:
    meta = fill(backend)
    before = content(backend)
    backend.close()
    backend._open()
    assert content(backend) == before
    assert backend.meta() == meta
    assert backend.get(revision(2)) == b"value 0 " * 100
    assert backend.get(revision(11)) is None, "a tombstone has no value to be read"


def test_deletes_and_rows(backend: Backend) -> None:
    fill(backend, 10)
    batch = Batch(deletes=[(revision(2), False), (revision(11), True)])
    batch.rows["lease", b"\0" * 8] = None
    backend.commit(batch, Meta())
    assert len(list(backend.scan(0))) == 8
    assert backend.rows("lease") == []


def test_snapshot_is_of_one_moment(backend: Backend, tmp_path: Path) -> None:
    meta = fill(backend)
    before = content(backend)
    taken, chunks = backend.snapshot()
    first = next(chunks)
    backend.commit(Batch(puts={revision(500): (b"later", False)}), Meta(applied_index=500, revision=500))
    other = Backend(tmp_path / "other", map_bytes=1 << 26)
    other.install(iter([first, *chunks]))
    assert taken == meta
    assert content(other) == before
    other.close()


@pytest.mark.parametrize("damage", ["truncated", "flipped", "padded", "empty", "foreign"])
def test_a_damaged_snapshot_changes_nothing(backend: Backend, damage: str) -> None:
    fill(backend)
    before = content(backend)
    stream = bytearray(b"".join(backend.snapshot()[1]))
    match damage:
        case "truncated":
            del stream[len(stream) // 2 :]
        case "flipped":
            stream[len(stream) // 2] ^= 0x10
        case "padded":
            stream += b"more"
        case "empty":
            stream.clear()
        case "foreign":
            stream[:4] = b"SQLi"
    with pytest.raises(DatabaseDamaged, match=r"snapshot:|checksum"):
        backend.install(iter([bytes(stream)]))
    assert content(backend) == before


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    (tmp_path / "db").write_bytes(b"not a database" * 1000)
    with pytest.raises(DatabaseDamaged, match="database db"):
        Backend(tmp_path / "db", map_bytes=1 << 24)


def test_defragmented_copy(backend: Backend, tmp_path: Path) -> None:
    fill(backend, 1000)
    backend.commit(Batch(deletes=[(revision(2 + n), n % 10 == 9) for n in range(990)]), Meta(revision=1001))
    before, size = content(backend), backend.size()
    backend.copy_compacted(tmp_path / "copy")
    backend.replace_by(tmp_path / "copy")
    assert content(backend) == before
    assert backend.size() < size / 5
