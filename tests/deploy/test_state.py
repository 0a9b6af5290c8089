"""Where a cluster keeps things, and that only one process at a time changes it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deploy import state as state_module
from deploy.state import Busy, State


@pytest.fixture(autouse=True)
def run_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(state_module, "RUN", tmp_path / "run")


def test_two_clusters_of_one_name_share_nothing() -> None:
    one, other = State("lab", Path("/a")), State("lab", Path("/b"))
    assert one.run != other.run
    assert one.cgroup != other.cgroup
    assert one.socket("controller-0") != other.socket("controller-0")


def test_the_same_directory_is_the_same_cluster() -> None:
    assert State("lab", Path("/a")).id == State("lab", Path("/a")).id


def test_socket_paths_are_short_wherever_the_state_lies() -> None:
    state = State("a" * 15, Path("/x" * 500))
    name = Path("/run/hardway") / state.socket("b" * 15).relative_to(state_module.RUN)
    assert len(os.fspath(name)) < 108


@pytest.mark.parametrize("bad", ["/a,b", "/a:b", "/a\\b"])
def test_separators_of_mount_options_are_refused(bad: str) -> None:
    with pytest.raises(ValueError, match="must not contain"):
        State("lab", Path(bad))


def test_the_second_is_told_who_the_first_is() -> None:
    state = State("lab", Path("/a"))
    with state.lock(), pytest.raises(Busy, match=f"being changed by process {os.getpid()}"), state.lock():
        pass
    with state.lock():
        pass


def test_clusters_do_not_block_each_other() -> None:
    with State("lab", Path("/a")).lock(), State("lab", Path("/b")).lock():
        pass


def test_the_lock_holds_after_its_file_was_removed() -> None:
    state = State("lab", Path("/a"))
    with state.lock():
        state.forget()
        assert not state.lock_file.exists()
    with state.lock(), pytest.raises(Busy), state.lock():
        pass
