"""The key index: the worked example of its docstring, and its rules one by one."""

from __future__ import annotations

import pytest

from etcdlite.mvcc.index import Found, KeyIndex, TreeIndex, in_range
from etcdlite.mvcc.revision import from_key, last_of, main_of, revision, to_key


def example() -> KeyIndex:
    """put 2, put 3, delete 4, put 7."""
    key = KeyIndex(b"foo")
    key.put(revision(2))
    key.put(revision(3))
    key.tombstone(revision(4))
    key.put(revision(7))
    return key


def at(key: KeyIndex, main: int) -> tuple[int, int, int] | None:
    found = key.get(last_of(main))
    return None if found is None else (main_of(found.modified), found.created, found.version)


READS = {1: None, 2: (2, 2, 1), 3: (3, 2, 2), 4: None, 5: None, 6: None, 7: (7, 7, 1), 8: (7, 7, 1)}


def test_reads_at_every_revision() -> None:
    key = example()
    assert {main: at(key, main) for main in READS} == READS


@pytest.mark.parametrize(
    ("main", "dropped"),
    [
        (1, []),
        (2, []),
        (3, [(2, False)]),
        (4, [(2, False), (3, False)]),
        (5, [(2, False), (3, False), (4, True)]),
        (7, [(2, False), (3, False), (4, True)]),
        (9, [(2, False), (3, False), (4, True)]),
    ],
)
def test_compaction_drops_what_no_later_read_needs(main: int, dropped: list[tuple[int, bool]]) -> None:
    key = example()
    assert [(main_of(at), mark) for at, mark in key.compact(main)] == dropped
    assert {later: at(key, later) for later in READS if later >= main} == {
        later: found for later, found in READS.items() if later >= main
    }
    assert key.compact(main) == [], "a second compaction finds nothing"


def test_a_dead_key_disappears() -> None:
    tree = TreeIndex()
    tree.put(b"k", revision(2))
    tree.tombstone(b"k", revision(3))
    assert tree.compact_key(b"k", 3) == [(revision(2), False)], "a watch from 3 on must see the delete"
    assert tree.compact_key(b"k", 4) == [(revision(3), True)]
    assert len(tree) == 0
    assert tree.compact_key(b"k", 5) == []


def test_restored_keys_keep_creation_and_version() -> None:
    key = KeyIndex(b"k")
    key.restore(revision(9), created=3, version=5)
    key.restore(revision(11), created=3, version=6)
    assert at(key, 9) == (9, 3, 5)
    assert at(key, 11) == (11, 3, 6)
    assert at(key, 8) is None
    assert key.put(revision(12)) == (3, 7)


def test_a_lone_tombstone_reads_as_nothing_and_ends() -> None:
    key = KeyIndex(b"k")
    key.tombstone(revision(5))
    assert at(key, 5) is None
    assert key.put(revision(6)) == (6, 1)
    assert at(key, 6) == (6, 6, 1)


def test_sub_revisions_order_inside_a_transaction() -> None:
    key = KeyIndex(b"k")
    key.put(revision(5, 0))
    key.tombstone(revision(5, 3))
    assert at(key, 5) is None
    assert key.get(revision(5, 1)) == Found(b"k", revision(5, 0), 5, 1)


@pytest.mark.parametrize(
    ("key", "end", "wanted"),
    [
        (b"b", b"", [b"b"]),
        (b"bb", b"", []),
        (b"b", b"d", [b"b", b"c"]),
        (b"b", b"\0", [b"b", b"c", b"d"]),
        (b"\0", b"\0", [b"a", b"b", b"c", b"d"]),
        (b"d", b"b", []),
        (b"b", b"b", []),
    ],
)
def test_ranges(key: bytes, end: bytes, wanted: list[bytes]) -> None:
    tree = TreeIndex()
    for name in (b"d", b"b", b"a", b"c"):
        tree.put(name, revision(2))
    assert [found.key for found in tree.scan(key, end, last_of(2))] == wanted
    assert [name for name in (b"a", b"b", b"c", b"d") if in_range(name, key, end)] == wanted
    assert tree.count(key, end, last_of(2)) == len(wanted)
    assert tree.count(key, end, last_of(1)) == 0


def test_revisions_sort_as_bytes() -> None:
    packed = [revision(1), revision(1, 1), revision(1, 300), revision(2), revision(1 << 40, 7)]
    assert sorted(to_key(each) for each in packed) == [to_key(each) for each in packed]
    assert [from_key(to_key(each) + b"t") for each in packed] == packed
