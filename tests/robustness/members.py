"""Member processes: etcdlite, the real etcd, or one that is broken on purpose."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from deploy.faults import fsync
from tests.robustness.lab import CLIENT_PORT, DIES_WITH_US, METRICS_PORT, PEER_PORT, Certificates, Host

ROOT = Path(__file__).parents[2]
ETCD = "etcd"
ETCDLITE = "etcdlite"
COMMON = {"heartbeat-interval": "100", "election-timeout": "1000"}
THEIRS = {"logger": "zap", "snapshot-count": "500"}
OURS = {
    "watch-progress-notify-interval": "1s",
    "snapshot-count": "100",
    "snapshot-catchup-entries": "20",  # who was away for a moment needs a snapshot
    "corrupt-check-time": "3s",
    "initial-corrupt-check": "true",
}


def program(kind: str) -> list[str]:
    """The command that runs a member of this kind: `etcd`, `etcdlite`, or a name of broken.STORES."""
    if kind == ETCD:
        return [shutil.which("etcd") or "etcd"]
    module = ["etcdlite"] if kind == ETCDLITE else ["tests.robustness.broken", kind]
    return [sys.executable, "-m", *module]


def tells_progress(kind: str) -> bool:
    """May a watch of this store be asked how far it is? Before 3.4.25 and 3.5.8 etcd answers ahead of events
    that are still to come (etcd-io/etcd issue 15220): that promise is known to be broken there.
    """
    if kind != ETCD:
        return True
    said = subprocess.run([*program(kind), "--version"], capture_output=True, text=True, check=True).stdout
    version = tuple(int(part) for part in said.splitlines()[0].rpartition(" ")[2].split("."))
    return version >= (3, 5, 8) or (3, 5) > version >= (3, 4, 25)


@dataclass
class Member:
    """One member, started and ended any number of times on the same host and data."""

    kind: str
    host: Host
    peers: dict[str, str]  # name -> peer URL, of the first members
    folder: Path
    certificates: Certificates
    state: str = "new"
    generation: int = 0
    process: subprocess.Popen[bytes] | None = None
    ordered: bool = False  # its end was asked for
    torn: tuple[str, int] | None = None  # the log's last segment and its size, when its end was torn
    trouble: list[str] = field(default_factory=list)  # what must not be

    @property
    def name(self) -> str:
        return self.host.name

    @property
    def url(self) -> str:
        """Where clients find it."""
        return f"https://{self.host.address}:{CLIENT_PORT}"

    @property
    def peer_url(self) -> str:
        return f"https://{self.host.address}:{PEER_PORT}"

    @property
    def disk(self) -> Path:
        """Its disk: what can be filled."""
        return self.folder / "disk"

    @property
    def data(self) -> Path:
        return self.disk / f"data-{self.generation}"

    @property
    def rule(self) -> Path:
        """What its fsync does: see deploy/faults/fsync.py."""
        return self.folder / "fsync-rule"

    @property
    def log(self) -> Path:
        return self.folder / "log"

    @property
    def running(self) -> bool:
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Of the running process."""
        assert self.process is not None, f"{self.name} was never started"
        return self.process.pid

    def flags(self) -> dict[str, str]:
        """The command line's, as etcd names them."""
        server, key, ca = (
            str(path)
            for path in (self.certificates.server, self.certificates.server_key, self.certificates.ca)
        )
        return {
            "name": self.name,
            "data-dir": str(self.data),
            "listen-client-urls": f"{self.url},https://127.0.0.1:{CLIENT_PORT}",
            "advertise-client-urls": self.url,
            "listen-peer-urls": self.peer_url,
            "initial-advertise-peer-urls": self.peer_url,
            "initial-cluster": ",".join(f"{name}={url}" for name, url in self.peers.items()),
            "initial-cluster-state": self.state,
            "listen-metrics-urls": f"http://127.0.0.1:{METRICS_PORT}",
            "cert-file": server,
            "key-file": key,
            "trusted-ca-file": ca,
            "client-cert-auth": "true",
            "peer-cert-file": server,
            "peer-key-file": key,
            "peer-trusted-ca-file": ca,
            "peer-client-cert-auth": "true",
            **COMMON,
            **(THEIRS if self.kind == ETCD else OURS),
        }

    def start(self) -> None:
        """Start (again) on the same data. From the main thread: the process dies with its maker."""
        if self.running:
            return
        self.ordered = False
        argv = [*program(self.kind), *(f"--{flag}={value}" for flag, value in self.flags().items())]
        under = [*DIES_WITH_US, "nsenter", f"--net={self.host.network}", "--"]
        environment = {**os.environ, "PYTHONPATH": str(ROOT)}
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(
                [*under, *fsync.command(self.rule, argv)], cwd=ROOT, env=environment, stdout=log, stderr=log
            )

    def order_end(self, how: int) -> None:
        """Ask for its end; `end` waits for it."""
        self.ordered = True
        if self.process is not None:
            self.process.send_signal(how)

    def end(self, how: int = signal.SIGKILL, timeout: float = 20.0) -> None:
        """End it by a signal; one that does not end in time is killed, and that is noted."""
        process = self.process
        if process is None:
            return
        if not self.ordered or how == signal.SIGKILL:
            self.order_end(how)
        try:
            process.wait(timeout)
        except subprocess.TimeoutExpired:
            self.trouble.append(f"{self.name} did not end within {timeout:g} s of signal {how}")
            process.kill()
            process.wait()

    def note_death(self) -> str | None:
        """What killed it, if it ended by itself since the last look."""
        if self.ordered or self.process is None or self.process.poll() is None:
            return None
        code, self.process = self.process.returncode, None
        return f"{self.name} ended by itself (status {code}): {' | '.join(self.tail(6))}"

    def tail(self, lines: int) -> Sequence[str]:
        """The last lines of its log."""
        return self.log.read_text(errors="replace").splitlines()[-lines:] if self.log.exists() else []
