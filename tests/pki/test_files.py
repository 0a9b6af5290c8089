"""Key files appear whole and private, or not at all."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from pki.files import write_atomic, write_if_changed


def test_mode_does_not_depend_on_the_umask(tmp_path: Path) -> None:
    previous = os.umask(0o077)
    try:
        write_atomic(tmp_path / "public", b"x", 0o644)
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "public").stat().st_mode) == 0o644


def test_a_failed_write_leaves_the_old_file_and_no_litter(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "key.pem"
    write_atomic(path, b"old", 0o600)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(path, b"new", 0o600)
    assert path.read_bytes() == b"old"
    assert [entry.name for entry in tmp_path.iterdir()] == ["key.pem"]


def test_equal_content_is_not_written_again(tmp_path: Path) -> None:
    path = tmp_path / "config"
    assert write_if_changed(path, b"x", 0o600)
    before = path.stat().st_ino
    assert not write_if_changed(path, b"x", 0o600)
    assert path.stat().st_ino == before
    assert write_if_changed(path, b"y", 0o600)
