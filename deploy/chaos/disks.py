"""Faults of a store member's disk and data. The host's data directory is `/var/lib/etcd`."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from deploy.chaos import daemons
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.control import HostDown
from deploy.faults import disk, fsync
from deploy.faults.fault import Fault, FaultError

DATA = "/var/lib/etcd"
UNIT = "etcdlite"
# Below /run: forgotten when the host goes down, as the member's new life is not watched either.
RULE = "/run/fsync-rule"
TORN_BYTES = 4096
WATCHED_TIMEOUT = 30.0
POLL = 0.05
ETCDCTL_TIMEOUT = 30.0


def data(lab: Lab, host: str) -> Path:
    """The member's data directory, reached from outside. Raises HostDown."""
    return lab.root(host) / DATA.lstrip("/")


def _stopped(lab: Lab, host: str, **changes: object) -> _Stopped:
    return _Stopped(lab, host, changes)


class _Stopped:
    """The member is down inside the block and started again after it, whatever happened."""

    def __init__(self, lab: Lab, host: str, changes: Mapping[str, object]) -> None:
        self.lab, self.host, self.changes = lab, host, changes

    def __enter__(self) -> None:
        daemons.stop(self.lab, self.host, UNIT, signal.SIGKILL)

    def __exit__(self, *_: object) -> None:
        daemons.start_if_up(self.lab, self.host, UNIT, **self.changes)


def is_small(lab: Lab, host: str) -> bool:
    """Is the data directory on a disk of its own?"""
    try:
        where = data(lab, host)
        return where.stat().st_dev != where.parent.stat().st_dev
    except (OSError, HostDown):
        return False


def is_watched(lab: Lab, host: str) -> bool:
    """Does the member run under a system call filter (the one of `watched`)?"""
    try:
        pid = lab.control(host).call("status")["units"][UNIT]["pid"]
        status = (lab.root(host) / "proc" / str(pid) / "status").read_text()
    except (OSError, HostDown):
        return False
    return "\nSeccomp:\t2\n" in status


SATISFIED = {"small-disk": is_small, "watched-disk": is_watched}


def small(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Stop the member, put its data on a disk of its own, start it; and back."""
    host, megabytes = targets[0].host, int(float(str(values["mb"])))

    def apply() -> None:
        with _stopped(lab, host):
            disk.small_disk(DATA, megabytes, pid=lab.pid(host)).apply()

    def undo() -> None:
        if is_small(lab, host):
            fault = disk.small_disk(DATA, megabytes, pid=lab.pid(host))
            fault.adopt()
            with _stopped(lab, host):
                fault.undo()

    return Fault("small disk", apply, undo)


def full(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Fill the small disk with one file; and remove it."""
    host, leave = targets[0].host, int(float(str(values["leave"])))

    def undo() -> None:
        if is_small(lab, host):
            filler = disk.full(data(lab, host))
            filler.adopt()
            filler.undo()

    return Fault("disk full", lambda: disk.full(data(lab, host), leave=leave).apply(), undo)


def watched(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Run the member under the filter that hands its syncs to a helper; and without it again."""
    host = targets[0].host
    # The command of the fault without its program: the supervisor appends the member's own command line.
    wrap = fsync.command(RULE, [])

    def apply() -> None:
        with _stopped(lab, host, wrap=wrap):
            pass
        deadline = time.monotonic() + WATCHED_TIMEOUT
        while not is_watched(lab, host):
            if time.monotonic() > deadline:
                raise FaultError(f"{host}: the member did not start under the filter; see its log")
            time.sleep(POLL)

    def undo() -> None:
        if is_watched(lab, host):
            with _stopped(lab, host):
                pass

    return Fault("watched disk", apply, undo)


def _rule(lab: Lab, host: str) -> Path:
    return lab.root(host) / RULE.lstrip("/")


def _ruled(lab: Lab, host: str, delay: float, *, fails: bool) -> Fault:
    def make() -> Fault:
        return fsync.failing_fsync(_rule(lab, host)) if fails else fsync.slow_fsync(_rule(lab, host), delay)

    def undo() -> None:
        if lab.is_up(host):
            rule = make()
            rule.adopt()
            rule.undo()

    return Fault("fsync", lambda: make().apply(), undo)


def slow(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Every sync of the member takes longer."""
    return _ruled(lab, targets[0].host, float(str(values["ms"])) / 1000, fails=False)


def failing(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Every sync of the member fails."""
    return _ruled(lab, targets[0].host, 0.0, fails=True)


def last_segment(directory: Path) -> Path:
    """The log file that was written last. Raises FaultError when there is none."""
    segments = sorted((directory / "member" / "wal").glob("*.wal"))
    if not segments:
        raise FaultError(f"{directory} has no log")
    return segments[-1]


def torn_wal(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Kill the member, let its log end in a page that was allocated and never written, start it.

    That is what a write cut short by a loss of power looks like, and not like damage: the member must cut it
    off and go on. Only what was never synced may be torn: cutting into synced records would break the
    word that the member gave.
    """
    host = targets[0].host

    def apply() -> None:
        with _stopped(lab, host), last_segment(data(lab, host)).open("ab") as file:
            file.write(bytes(TORN_BYTES))

    return Fault("torn log", apply, lambda: None)


def corrupt_wal(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """Flip a byte in the middle of the log, and later put the file back as it was."""
    host = targets[0].host
    kept = lab.state.host(host) / f"wal-{key}"

    def apply() -> None:
        with _stopped(lab, host):
            segment = last_segment(data(lab, host))
            shutil.copy2(segment, kept)
            disk.flip_byte(segment, segment.stat().st_size // 2)

    def undo() -> None:
        if not kept.exists():
            return
        with contextlib.suppress(HostDown):
            daemons.stop(lab, host, UNIT, signal.SIGKILL)
        shutil.copy2(kept, last_segment(lab.state.host(host) / "var-lib" / "etcd"))
        kept.unlink()
        daemons.start_if_up(lab, host, UNIT)

    return Fault("corrupt log", apply, undo)


def etcdctl(lab: Lab, endpoints: Sequence[str], *arguments: str) -> str:
    """Run etcdctl on the lab's network. Raises FaultError."""
    pki = lab.state.root / "pki"
    urls = ",".join(f"https://{lab.address(host)}:2379" for host in endpoints)
    argv = ["nsenter", f"--net={lab.state.router_netns}", "etcdctl", f"--endpoints={urls}"]
    argv += [
        f"--cacert={pki}/etcd-ca.pem",
        f"--cert={pki}/etcd-client.pem",
        f"--key={pki}/etcd-client-key.pem",
    ]
    environment = {**os.environ, "ETCDCTL_API": "3"}
    done = subprocess.run(
        [*argv, *arguments],
        capture_output=True,
        text=True,
        timeout=ETCDCTL_TIMEOUT,
        check=False,
        env=environment,
    )
    if done.returncode != 0:
        raise FaultError(f"etcdctl {' '.join(arguments)}: {done.stderr.strip()[-300:]}")
    return done.stdout


def _member_id(lab: Lab, host: str, left: Sequence[str]) -> str:
    members = json.loads(etcdctl(lab, left, "member", "list", "-w", "json"))["members"]
    for member in members:
        if member.get("name") == host:
            return f"{int(member['ID']):x}"
    raise FaultError(f"{host} is no member of the store")


def replaced(lab: Lab, targets: tuple[Target, ...], values: Mapping[str, object], key: str) -> Fault:
    """What an operator does after the loss of a disk: `member remove`, an empty directory, `member add`,
    start with `--initial-cluster-state=existing`.
    """
    host = targets[0].host
    left = [name for name in lab.hosts("controller") if name != host]

    def apply() -> None:
        number = _member_id(lab, host, left)
        daemons.stop(lab, host, UNIT, signal.SIGKILL)
        etcdctl(lab, left, "member", "remove", number)
        _empty(data(lab, host))
        etcdctl(lab, left, "member", "add", host, f"--peer-urls=https://{lab.address(host)}:2380")
        daemons.start(lab, host, UNIT, flags={"initial-cluster-state": "existing"})

    return Fault("replace member", apply, lambda: None)


def _empty(directory: Path) -> None:
    """Delete what the directory holds, not the directory: it may be a mount."""
    for entry in directory.iterdir():
        if stat.S_ISDIR(entry.lstat().st_mode):
            shutil.rmtree(entry)
        else:
            entry.unlink()
