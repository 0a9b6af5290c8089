"""The log on disk, on both disks: restart, segments, markers, damage, crashes."""

from __future__ import annotations

import random
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from etcdlite.raft.types import Entry, EntryKind, HardState, Index, NodeId, SnapshotMeta, Term
from etcdlite.wal.codec import Metadata
from etcdlite.wal.disk import Disk, PosixDisk
from etcdlite.wal.log import Recovered, Wal
from etcdlite.wal.memory import Crash, MemoryDisk
from etcdlite.wal.records import WalCorrupt

FOLDER = "member/wal"
OWNER = Metadata(11, 22)


def entry(index: int, term: int = 1, data: bytes = b"data") -> Entry:
    return Entry(Term(term), Index(index), EntryKind.NORMAL, data)


def marker(index: int, term: int = 1) -> SnapshotMeta:
    return SnapshotMeta(Index(index), Term(term), context=b"members")


def hard(term: int = 1, commit: int = 0) -> HardState:
    return HardState(Term(term), NodeId(5), Index(commit))


def make(disk: Disk, segment_bytes: int = 1 << 20, entries: list[Entry] | None = None) -> Wal:
    assert not Wal.exists(disk, FOLDER)
    first = Recovered(OWNER, entries=entries or [])
    Wal.create(disk, FOLDER, OWNER, first=first, segment_bytes=segment_bytes)
    return reopen(disk, segment_bytes)[0]


def reopen(disk: Disk, segment_bytes: int = 1 << 20) -> tuple[Wal, Recovered]:
    assert Wal.exists(disk, FOLDER)
    return Wal.open(disk, FOLDER, segment_bytes=segment_bytes)


def indexes(recovered: Recovered) -> list[int]:
    return [e.index for e in recovered.entries]


@pytest.fixture(params=["memory", "posix"])
def disk(request: pytest.FixtureRequest, tmp_path: Path) -> Disk:
    return MemoryDisk() if request.param == "memory" else PosixDisk(tmp_path / "data")


def test_everything_survives_a_restart(disk: Disk) -> None:
    wal = make(disk, entries=[entry(1)])
    wal.append([entry(2), entry(3, 2, b"\x00\xff")], hard(2, 1), None)
    wal.close()
    _, recovered = reopen(disk)
    assert recovered.metadata == OWNER
    assert recovered.hard_state == hard(2, 1)
    assert recovered.entries == [entry(1), entry(2), entry(3, 2, b"\x00\xff")]


def test_a_later_entry_replaces_everything_from_its_index_on(disk: Disk) -> None:
    wal = make(disk)
    wal.append([entry(1), entry(2), entry(3)], hard(), None)
    wal.append([entry(2, 2)], hard(2), None)
    wal.close()
    assert reopen(disk)[1].entries == [entry(1), entry(2, 2)]


def test_a_marker_in_the_log_drops_what_it_covers(disk: Disk) -> None:
    wal = make(disk)
    wal.append([entry(i) for i in range(1, 6)], hard(), None)
    wal.append([], None, marker(3))
    wal.close()
    recovered = reopen(disk)[1]
    assert (recovered.snapshot, indexes(recovered)) == (marker(3), [4, 5])


@pytest.mark.parametrize("at", [marker(9), marker(3, 2)], ids=["beyond the log", "another history"])
def test_a_marker_that_the_log_does_not_contain_replaces_it(disk: Disk, at: SnapshotMeta) -> None:
    wal = make(disk)
    wal.append([entry(i) for i in range(1, 6)], hard(), None)
    wal.append([entry(at.index + 1, 3)], hard(3), at)
    wal.close()
    recovered = reopen(disk)[1]
    assert (recovered.snapshot, recovered.entries) == (at, [entry(at.index + 1, 3)])


def test_segments_are_cut_and_purged(disk: Disk) -> None:
    wal = make(disk, segment_bytes=300)
    for i in range(1, 41):
        wal.append([entry(i)], hard(1, i - 1), None)
    before = len(disk.list(FOLDER))
    assert before > 4
    wal.append([], None, marker(30))
    removed = wal.purge()
    assert removed > 0 and len(disk.list(FOLDER)) == before - removed
    wal.close()
    wal, recovered = reopen(disk, 300)
    assert indexes(recovered) == list(range(31, 41))
    assert recovered.hard_state == hard(1, 39)
    wal.append([entry(41)], hard(1, 40), None)
    wal.close()
    assert indexes(reopen(disk, 300)[1])[-1] == 41


def test_an_older_segment_may_go_while_its_entries_were_replaced(disk: Disk) -> None:
    wal = make(disk, segment_bytes=400)
    wal.append([entry(i) for i in range(1, 8)], hard(), None)
    wal.append([entry(i) for i in range(8, 12)], hard(), None)
    wal.append([entry(5, 2), entry(6, 2)], hard(2), None)
    wal.append([], None, marker(5, 2))
    wal.purge()
    wal.close()
    assert reopen(disk, 400)[1].entries == [entry(6, 2)]


def test_a_missing_segment_is_named(disk: Disk) -> None:
    wal = make(disk, segment_bytes=200)
    for i in range(1, 20):
        wal.append([entry(i)], hard(), None)
    wal.close()
    disk.remove(f"{FOLDER}/{disk.list(FOLDER)[1]}")
    with pytest.raises(WalCorrupt, match="segment 1 is missing"):
        reopen(disk)


def test_the_first_segment_gone_too_early_is_damage(disk: Disk) -> None:
    wal = make(disk, segment_bytes=200)
    for i in range(1, 20):
        wal.append([entry(i)], hard(), None)
    wal.close()
    disk.remove(f"{FOLDER}/{disk.list(FOLDER)[0]}")
    with pytest.raises(WalCorrupt, match="are missing"):
        reopen(disk)


def test_a_commit_index_beyond_the_log_is_damage(disk: Disk) -> None:
    wal = make(disk)
    wal.append([entry(1)], hard(1, 7), None)
    wal.close()
    with pytest.raises(WalCorrupt, match="commit index 7 is beyond the last entry 1"):
        reopen(disk)


def test_a_log_of_an_unfinished_creation_does_not_exist(disk: Disk) -> None:
    disk.make_folder(FOLDER)
    disk.create(f"{FOLDER}/{0:016x}.wal.tmp").close()
    assert not Wal.exists(disk, FOLDER)
    make(disk)


def three_segments() -> tuple[MemoryDisk, list[Entry]]:
    disk = MemoryDisk()
    wal = make(disk, segment_bytes=250)
    written = [entry(i, 1 + i // 6, b"v%d" % i) for i in range(1, 13)]
    for item in written:
        wal.append([item], hard(item.term), None)
    return disk, written


@settings(max_examples=300, deadline=None)
@given(st.data())
def test_damage_anywhere_is_cut_or_named_never_read(data: st.DataObject) -> None:
    disk, written = three_segments()
    names = disk.list(FOLDER)
    path = f"{FOLDER}/{data.draw(st.sampled_from(names))}"
    content = bytearray(disk.read(path))
    if data.draw(st.booleans()):
        del content[data.draw(st.integers(0, len(content) - 1)) :]
    else:
        content[data.draw(st.integers(0, len(content) - 1))] ^= data.draw(st.integers(1, 255))
    disk.put(path, bytes(content))
    try:
        _, recovered = reopen(disk)
    except WalCorrupt as error:
        assert error.path.startswith(FOLDER)
    else:
        assert recovered.entries == written[: len(recovered.entries)]
        assert path.endswith(names[-1]), "only the last segment can have a torn tail"


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 200), st.integers(0, 2**32))
def test_a_crash_at_any_operation_keeps_what_was_acknowledged(crash_after: int, seed: int) -> None:
    rng, disk = random.Random(seed), MemoryDisk()
    wal = make(disk, segment_bytes=250)
    acknowledged, started = 0, 0
    disk.crash_after = crash_after
    try:
        for i in range(1, 30):
            started = i
            wal.append([entry(i, 1, rng.randbytes(rng.randrange(600)))], hard(1, i - 1), None)
            acknowledged = i
            if i % 10 == 0:
                wal.append([], None, marker(i - 5))
                wal.purge()
    except Crash:
        pass
    disk.crash(rng)
    _, recovered = reopen(disk, 250)
    last = recovered.snapshot.index + len(recovered.entries)
    assert acknowledged <= last <= started
    assert recovered.hard_state.commit <= last


def test_a_crash_while_creating_leaves_a_whole_log_or_none() -> None:
    outcomes: set[bool] = set()
    for crash_after in range(12):
        for seed in range(5):
            disk = MemoryDisk()
            disk.crash_after = crash_after
            try:
                make(disk, entries=[entry(1), entry(2)])
            except Crash:
                disk.crash(random.Random(seed))
            exists = Wal.exists(disk, FOLDER)
            outcomes.add(exists)
            if exists:
                assert indexes(reopen(disk)[1]) == [1, 2]
    assert outcomes == {True, False}
