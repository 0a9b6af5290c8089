"""Disks that are full, slow or failing, each seen by a real program."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.faults import disk, fsync, process
from deploy.faults.fault import FaultError
from tests.faults.conftest import Host

pytestmark = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root")]

SYNCS = """
import os, sys, time
fd = os.open(sys.argv[1], os.O_RDWR | os.O_CREAT)
for line in sys.stdin:
    began = time.monotonic()
    try: os.fsync(fd); said = "synced"
    except OSError as error: said = error.strerror
    print(said, "late" if time.monotonic() - began > 0.25 else "soon", flush=True)
"""


class Syncer:
    """A program that syncs when asked, under a rule file."""

    def __init__(self, rule: Path, file: Path) -> None:
        argv = fsync.command(rule, [sys.executable, "-c", SYNCS, str(file)])
        self.process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def sync(self) -> str:
        assert self.process.stdin is not None and self.process.stdout is not None
        self.process.stdin.write("\n")
        self.process.stdin.flush()
        return self.process.stdout.readline().strip()

    def end(self) -> None:
        self.process.kill()
        self.process.communicate()


def test_fsync_is_slow_then_fails_then_works_again(tmp_path: Path) -> None:
    rule = tmp_path / "rule"
    syncer = Syncer(rule, tmp_path / "file")
    try:
        assert syncer.sync().startswith("synced")
        with fsync.slow_fsync(rule, 0.3):
            assert syncer.sync() == "synced late"
        with fsync.failing_fsync(rule):
            assert syncer.sync().startswith("Input/output error")
        assert syncer.sync().startswith("synced")
        assert not rule.exists()
    finally:
        syncer.end()


def test_the_program_keeps_its_pid_and_has_no_strange_child(tmp_path: Path) -> None:
    script = "import os\nprint(os.getpid())\ntry: os.wait()\nexcept ChildProcessError: print('no child')"
    argv = fsync.command(tmp_path / "rule", [sys.executable, "-c", script])
    started = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    said, _ = started.communicate(timeout=60)
    assert said.split("\n")[:2] == [str(started.pid), "no child"]


def test_a_call_that_is_held_goes_on_when_its_rule_is_taken_away(tmp_path: Path) -> None:
    rule = tmp_path / "rule"
    syncer = Syncer(rule, tmp_path / "file")
    try:
        fault = fsync.slow_fsync(rule, 3600)
        fault.apply()
        assert syncer.process.stdin is not None and syncer.process.stdout is not None
        syncer.process.stdin.write("\n")
        syncer.process.stdin.flush()
        fault.undo()
        assert syncer.process.stdout.readline().startswith("synced")
    finally:
        syncer.end()


@pytest.mark.parametrize("text", ["", "{", "[]", '{"delay": "soon"}'])
def test_a_rule_that_is_not_whole_is_no_rule(tmp_path: Path, text: str) -> None:
    rule = tmp_path / "rule"
    rule.write_text(text)
    assert fsync.read_rule(rule) == fsync.Rule()


def test_a_full_disk_refuses_until_it_is_not(hosts: tuple[Host, Host], tmp_path: Path) -> None:
    host, _ = hosts
    data = tmp_path / "data"
    data.mkdir()
    (data / "old").write_text("kept")
    inside = Path(f"/proc/{host.pid}/root{data}")
    with disk.small_disk(str(data), 4, pid=host.pid):
        assert (inside / "old").read_text() == "kept"
        with disk.full(inside), pytest.raises(OSError, match="No space left"):
            (inside / "new").write_bytes(bytes(8192))
        (inside / "new").write_bytes(bytes(8192))
        assert not (data / "new").exists()
    assert (data / "new").read_bytes() == bytes(8192)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["data"]


def test_the_machines_own_disk_is_never_filled(tmp_path: Path) -> None:
    with pytest.raises(FaultError, match="machine's own disk"):
        disk.full(tmp_path).apply()


def test_damage(tmp_path: Path) -> None:
    file = tmp_path / "wal"
    file.write_bytes(b"abcdef")
    disk.flip_byte(file, -1)
    disk.flip_byte(file, 0, mask=0x20)
    assert file.read_bytes() == b"Abcde\x99"
    disk.cut_tail(file, 4)
    assert file.read_bytes() == b"Ab"
    with pytest.raises(FaultError, match="no byte at 9"):
        disk.flip_byte(file, 9)


def test_pause_and_kill() -> None:
    sleeper = subprocess.Popen(["sleep", "3600"])
    state = Path(f"/proc/{sleeper.pid}/stat")
    with process.paused(sleeper.pid):
        os.waitid(os.P_PID, sleeper.pid, os.WSTOPPED | os.WNOWAIT)
        assert state.read_text().split()[2] == "T"
    assert state.read_text().split()[2] != "T"
    process.kill(sleeper.pid)
    assert sleeper.wait() == -9
    process.kill(sleeper.pid)
