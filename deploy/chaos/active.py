"""The faults that are in force: applied here, written down, and undone by whoever comes first: the caller,
another process, or the keeper when their time is over or their owner has died.

Each is one file `<state>/chaos/active/<id>.json`, written before the fault is applied and removed after it is
undone, both under one lock a cluster; so a crash at any point leaves a record of what may be in force, and
undoing something that is not is harmless.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from deploy.chaos import catalogue, disks
from deploy.chaos.lab import Lab
from deploy.chaos.targets import Target
from deploy.faults.fault import Fault

KEEPER_INTERVAL = 0.5
KEEPER_GRACE = 5.0  # seconds it has to end when it is sent away
KEEPER_IDLE = 20.0  # seconds it stays when nothing is in force: the next fault is often near


@dataclass(frozen=True)
class Record:
    """One fault in force. `until` is wall-clock seconds (None: until somebody undoes it or `owner` dies).

    `owner` and `owner_started` identify the process that injected it (pid and its start time in clock ticks);
    an owner of 0 is nobody: only `until` ends such a fault.
    """

    id: str
    fault: str
    targets: tuple[str, ...]
    values: Mapping[str, catalogue.Value]
    since: float
    until: float | None
    owner: int
    owner_started: int

    @classmethod
    def load(cls, path: Path) -> Record:
        """Read one back. Raises OSError, ValueError, TypeError."""
        document: dict[str, Any] = json.loads(path.read_bytes())
        return cls(**{**document, "targets": tuple(document["targets"])})

    def say(self, now: float) -> str:
        """One line for a person."""
        ends = "until undone" if self.until is None else f"for {max(0.0, self.until - now):.0f} s more"
        knobs = " ".join(f"{name}={_said(value)}" for name, value in self.values.items())
        return f"{self.id}  {self.fault} {', '.join(self.targets)} {knobs} ({ends})".replace("  (", " (")


def _said(value: catalogue.Value) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def started_at(pid: int) -> int | None:
    """When a process started, in clock ticks since boot (proc(5), field 22); None when it is gone."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    return int(text.rpartition(")")[2].split()[19])


def orphaned(record: Record) -> bool:
    """Has the process that injected it ended without undoing it?"""
    return record.owner != 0 and started_at(record.owner) != record.owner_started


def folder(lab: Lab) -> Path:
    """Where the records are."""
    return lab.folder / "active"


def child_environment() -> dict[str, str]:
    """For processes that import what this one has imported, from wherever it found it."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(entry for entry in sys.path if entry)}


@contextlib.contextmanager
def _locked(lab: Lab, name: str = "lock", *, wait: bool = True) -> Iterator[bool]:
    """Hold a lock of this cluster's chaos; yields whether it was got."""
    lab.folder.mkdir(parents=True, exist_ok=True)
    with (lab.folder / name).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            yield False
            return
        yield True


def active(lab: Lab) -> list[Record]:
    """Every fault in force, the oldest first."""
    found = []
    for path in folder(lab).glob("*.json"):
        with contextlib.suppress(OSError, ValueError, TypeError):
            found.append(Record.load(path))
    return sorted(found, key=lambda record: record.since)


def _write(lab: Lab, record: Record) -> None:
    path = folder(lab) / f"{record.id}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(asdict(record)))
    fresh.replace(path)


def _build(lab: Lab, record: Record) -> Fault:
    targets = tuple(Target(*text.split("/")) for text in record.targets)
    return catalogue.entry(record.fault).build(lab, targets, record.values, record.id)


def undo(lab: Lab, record: Record) -> bool:
    """Take one fault away; False when somebody else has done so already. Raises FaultError, OSError."""
    with _locked(lab):
        path = folder(lab) / f"{record.id}.json"
        if not path.exists():
            return False
        fault = _build(lab, record)
        fault.adopt()
        fault.undo()
        path.unlink()
        return True


@dataclass(frozen=True)
class Handle:
    """What `inject` gives back: the fault it put in force, and before it what that one needed."""

    lab: Lab
    records: tuple[Record, ...]

    @property
    def record(self) -> Record:
        return self.records[-1]

    def undo(self) -> None:
        """Take it away, and what it needed. Safe to repeat. Raises FaultError, OSError."""
        for record in reversed(self.records):
            undo(self.lab, record)


def inject(
    lab: Lab,
    fault: str,
    target: Target | Sequence[Target],
    duration: float | None = None,
    *,
    detached: bool = False,
    **params: object,
) -> Handle:
    """Put a fault in force on a running cluster, for `duration` seconds or until `handle.undo()`.

    It also ends when this process ends, however it ends, unless `detached`. Faults that are not lasting
    (kill, restart) happen once when no duration is given: the handle then has nothing to undo. Blocking.
    Raises CatalogueError, TargetError, FaultError, HostDown, OSError.
    """
    entry = catalogue.entry(fault)
    wanted = entry.check(lab, (target,) if isinstance(target, Target) else tuple(target))
    values = entry.values(params)
    owner = 0 if detached else os.getpid()
    lasting = entry.lasting or duration is not None
    until = None if duration is None else time.time() + duration
    done: list[Record] = []
    try:
        for name, its_values in (*_needs(lab, entry, wanted[0]), (entry.name, values)):
            done.append(_apply(lab, name, wanted, its_values, until, owner))
    except BaseException:
        Handle(lab, tuple(done)).undo()
        raise
    handle = Handle(lab, tuple(done))
    if not lasting:
        handle.undo()
    else:
        ensure_keeper(lab)
    return handle


def _needs(lab: Lab, entry: catalogue.Entry, target: Target) -> list[tuple[str, dict[str, catalogue.Value]]]:
    if entry.needs is None or disks.SATISFIED[entry.needs](lab, target.host):
        return []
    return [(entry.needs, catalogue.entry(entry.needs).values({}))]


def _apply(
    lab: Lab,
    fault: str,
    targets: Sequence[Target],
    values: Mapping[str, catalogue.Value],
    until: float | None,
    owner: int,
) -> Record:
    record = Record(
        id=secrets.token_hex(4),
        fault=fault,
        targets=tuple(str(target) for target in targets),
        values=values,
        since=time.time(),
        until=until,
        owner=owner,
        owner_started=started_at(owner) or 0 if owner else 0,
    )
    with _locked(lab):
        made = _build(lab, record)
        _write(lab, record)
        try:
            made.apply()
        except BaseException:
            (folder(lab) / f"{record.id}.json").unlink(missing_ok=True)
            raise
    return record


def due(record: Record, now: float) -> bool:
    """Is its time over, or its owner gone?"""
    return (record.until is not None and record.until <= now) or orphaned(record)


def sweep(lab: Lab, *, everything: bool = False) -> list[Record]:
    """Undo what is due (or all of it), the newest first; what was undone. Raises FaultError, OSError."""
    now = time.time()
    chosen = [record for record in reversed(active(lab)) if everything or due(record, now)]
    return [record for record in chosen if undo(lab, record)]


def ensure_keeper(lab: Lab) -> None:
    """See that a keeper runs: a process of its own, so that it outlives whoever injects."""
    with _locked(lab, "keeper.lock", wait=False) as free:
        if not free:
            return
    argv = [sys.executable, "-m", "deploy.chaos.keeper", str(lab.topology_file), str(lab.state.root)]
    with (lab.folder / "keeper.log").open("ab") as log:
        # By way of a shell that ends at once: a keeper is nobody's child, so nobody has to wait for its end.
        subprocess.run(
            ["sh", "-c", '"$@" &', "sh", *argv],
            check=True,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            env=child_environment(),
        )


def keep(lab: Lab) -> None:
    """The life of a keeper: undo what is due, while any fault is in force and a while longer, as long as the
    cluster is up. One at a time a cluster.
    """
    with _locked(lab, "keeper.lock", wait=False) as free:
        if not free:
            return
        idle_since = time.monotonic()
        while True:
            try:
                sweep(lab)
            except Exception as error:
                print(f"keeper: {type(error).__name__}: {error}", file=sys.stderr, flush=True)
            now = time.monotonic()
            idle_since = now if active(lab) else idle_since
            if now - idle_since >= KEEPER_IDLE or not lab.state.run.is_dir() or _farewell(lab).exists():
                return
            time.sleep(KEEPER_INTERVAL)


def _farewell(lab: Lab) -> Path:
    """While it is there, a keeper ends."""
    return lab.folder / "farewell"


def _dismiss_keeper(lab: Lab) -> None:
    """Nothing may be left when `down` returns: wait until the keeper has let go of its lock."""
    if not lab.folder.is_dir():
        return
    _farewell(lab).touch()
    try:
        deadline = time.monotonic() + KEEPER_GRACE
        while time.monotonic() < deadline:
            with _locked(lab, "keeper.lock", wait=False) as free:
                if free:
                    return
            time.sleep(KEEPER_INTERVAL / 10)
    finally:
        _farewell(lab).unlink(missing_ok=True)


def end_all(lab: Lab) -> None:
    """Before the cluster is taken down: undo what would outlive it or need it. Errors are only said."""
    for record in reversed(active(lab)):
        if record.fault == "power-off":  # its hosts are down, as they are meant to be
            (folder(lab) / f"{record.id}.json").unlink(missing_ok=True)
            continue
        try:
            undo(lab, record)
        except Exception as error:
            print(f"{record.fault} {', '.join(record.targets)}: {error}", file=sys.stderr)
    _dismiss_keeper(lab)
