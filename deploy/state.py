"""Where a cluster keeps things. Two places: what must survive (`<state>/`), and what must not survive a
reboot (`/run/hardway/<id>/`: sockets, the lock, the pinned network namespace)."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

RUN = Path("/run/hardway")
# Overlayfs reads these as separators in its mount options.
FORBIDDEN = frozenset(",:\\")


class Busy(Exception):
    """Another `up` or `down` works on this cluster."""


@dataclass(frozen=True)
class State:
    """The paths of one cluster. `root` is absolute; its hash keeps clusters of one name apart."""

    name: str
    root: Path

    def __post_init__(self) -> None:
        bad = FORBIDDEN & set(str(self.root))
        if bad:
            raise ValueError(f"state directory {self.root}: must not contain {' '.join(sorted(bad))}")

    @property
    def id(self) -> str:
        """Names this cluster in what the whole machine shares: /run and the cgroups."""
        return f"{self.name}-{hashlib.sha256(os.fsencode(self.root)).hexdigest()[:8]}"

    @property
    def run(self) -> Path:
        return RUN / self.id

    @property
    def router_netns(self) -> Path:
        """The outer network namespace, pinned by a mount on this file."""
        return self.run / "router.netns"

    @property
    def lock_file(self) -> Path:
        """Beside `run`, not in it: `down` removes that one while it holds this one."""
        return RUN / f"{self.id}.lock"

    def socket(self, host: str) -> Path:
        """Where the host's supervisor takes commands."""
        return self.run / f"{host}.sock"

    @property
    def images(self) -> Path:
        return self.root / "images"

    def host(self, host: str) -> Path:
        """What the host `host` keeps between two lives."""
        return self.root / "hosts" / host

    def log(self, host: str, unit: str) -> Path:
        """The log of a unit, seen from the machine."""
        return self.host(host) / "var-log" / f"{unit}.log"

    @property
    def cgroup(self) -> str:
        """Path of the cluster's cgroup below each hierarchy's root."""
        return f"/hardway/{self.id}"

    def host_cgroup(self, host: str) -> str:
        return f"{self.cgroup}/{host}"

    @contextlib.contextmanager
    def lock(self) -> Iterator[int]:
        """Be the only one who changes this cluster. Raises Busy at once when another is; yields the
        descriptor, which children that outlive the caller must close."""
        descriptor = self._locked()
        try:
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
            yield descriptor
        finally:
            os.close(descriptor)

    def _locked(self) -> int:
        while True:
            RUN.mkdir(mode=0o755, exist_ok=True)
            descriptor = os.open(self.lock_file, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                if os.path.samestat(os.fstat(descriptor), os.stat(self.lock_file)):  # noqa: PTH116
                    return descriptor
            except BlockingIOError:
                owner = os.pread(descriptor, 32, 0).decode(errors="replace").strip()
                os.close(descriptor)
                raise Busy(
                    f"cluster {self.name!r} is being changed by process {owner or 'unknown'}"
                ) from None
            except FileNotFoundError:
                pass
            # The holder before us removed the file: what we locked is nobody's lock any more.
            os.close(descriptor)

    def forget(self) -> None:
        """Remove what the cluster keeps below /run, the lock file last. For the holder of the lock."""
        shutil.rmtree(self.run, ignore_errors=True)
        self.lock_file.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            RUN.rmdir()
