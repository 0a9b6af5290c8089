"""Reading and rotating container logs."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from kubelet import logs
from kubelet.logs import LogError, LogOptions, read_log

LINES = [
    b"2026-01-01T00:00:01.5Z stdout F one",
    b"2026-01-01T00:00:02.25Z stderr F two",
    b"2026-01-01T00:00:03Z stdout P thr",
    b"2026-01-01T00:00:03.1Z stdout F ee",
    b"2026-01-01T00:00:04.123456789Z stdout F four",
]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    made = tmp_path / "0.log"
    made.write_bytes(b"\n".join(LINES) + b"\n")
    return made


def read(path: Path, **options: Any) -> bytes:
    async def collect() -> bytes:
        return b"".join([piece async for piece in read_log(path, LogOptions(**options), lambda: False)])

    return asyncio.run(collect())


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({}, b"one\ntwo\nthree\nfour\n"),
        ({"tail": 1}, b"four\n"),
        ({"tail": 0}, b""),
        ({"tail": 99}, b"one\ntwo\nthree\nfour\n"),
        ({"limit": 5}, b"one\nt"),
        ({"streams": ("stderr",)}, b"two\n"),
        ({"since": logs.parse_time("2026-01-01T00:00:02.5Z")}, b"three\nfour\n"),
        ({"since": logs.parse_time("2026-01-01T01:00:04+01:00")}, b"four\n"),
        (
            {"timestamps": True, "tail": 3},
            b"2026-01-01T00:00:03Z three\n2026-01-01T00:00:04.123456789Z four\n",
        ),
    ],
)
def test_selection(path: Path, options: dict[str, Any], expected: bytes) -> None:
    assert read(path, **options) == expected


def test_tail_over_many_blocks(path: Path) -> None:
    path.write_bytes(b"".join(b"2026-01-01T00:00:00Z stdout F %06d\n" % n for n in range(20_000)))
    assert read(path, tail=10_000).splitlines() == [b"%06d" % n for n in range(10_000, 20_000)]


def test_a_missing_log_is_refused(tmp_path: Path) -> None:
    with pytest.raises(LogError):
        read(tmp_path / "absent.log")


def test_following_goes_on_through_a_rotation_until_the_container_ends(path: Path) -> None:
    alive = [True]

    async def follow() -> bytes:
        got = b""
        async for piece in read_log(path, LogOptions(follow=True, tail=1), lambda: alive[0]):
            got += piece
            if got == b"four\n":
                logs.rotate(path, 5)
                path.write_bytes(b"2026-01-01T00:00:05Z stdout F five\n")  # noqa: ASYNC240
            elif got.endswith(b"five\n"):
                alive[0] = False
        return got

    assert asyncio.run(asyncio.wait_for(follow(), 10)) == b"four\nfive\n"


def test_rotation_keeps_no_more_files_than_allowed(path: Path) -> None:
    for number in range(5):
        path.with_name(f"0.log.2020010{number}-000000").write_bytes(b"old")
    assert logs.oversized(path, 10)
    logs.rotate(path, 3)
    left = sorted(entry.name for entry in path.parent.iterdir())
    assert len(left) == 2  # with the file that the runtime opens next: three
    assert not logs.oversized(path, 10)
