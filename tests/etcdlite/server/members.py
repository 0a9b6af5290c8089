"""Real processes for tests: a member of etcdlite, or the etcd of the distribution, on free loopback ports."""

from __future__ import annotations

import contextlib
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.ports import free_port

ROOT = Path(__file__).parents[3]
START_SECONDS = 30.0
KINDS = ("etcdlite", "etcd")


def installed(kind: str) -> bool:
    """Whether members of this kind can be started here."""
    return kind == "etcdlite" or shutil.which("etcd") is not None


@dataclass
class MemberProcess:
    """One member and where it listens."""

    command: list[str]
    client_url: str
    peer_url: str
    metrics_url: str
    log: Path
    process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        """Start (again) on the same data."""
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=ROOT, stderr=log, stdout=log)

    def wait_ready(self) -> None:
        """Wait until it serves; fails with its log if it does not."""
        port = int(self.client_url.rpartition(":")[2])
        end = time.monotonic() + START_SECONDS
        while time.monotonic() < end:
            assert self.process is not None
            if self.process.poll() is not None:
                break
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
                return
            time.sleep(0.02)
        raise AssertionError(f"member did not start:\n{self.log.read_text()[-4000:]}")

    def stop(self, how: int = signal.SIGTERM) -> int:
        """End it with a signal; its exit status."""
        if self.process is None:
            return 0
        self.process.send_signal(how)
        if how == signal.SIGSTOP:
            return 0
        status = self.process.wait(30)
        self.process = None
        return status


def member(
    kind: str,
    folder: Path,
    name: str = "m0",
    *,
    cluster: str = "",
    extra: Sequence[str] = (),
    scheme: str = "http",
) -> MemberProcess:
    """A member that is not started yet; alone in its cluster unless `cluster` names others."""
    client, peer, metrics = (free_port() for _ in range(3))
    client_url, peer_url = f"{scheme}://127.0.0.1:{client}", f"http://127.0.0.1:{peer}"
    if cluster:
        peer_url = dict(part.split("=") for part in cluster.split(","))[name]
    program = [sys.executable, "-m", "etcdlite"] if kind == "etcdlite" else ["etcd"]
    metrics_url = f"http://127.0.0.1:{metrics}"
    flags = {
        "name": name,
        "data-dir": str(folder / name),
        "listen-client-urls": client_url,
        "advertise-client-urls": client_url,
        "listen-peer-urls": peer_url,
        "initial-advertise-peer-urls": peer_url,
        "initial-cluster": cluster or f"{name}={peer_url}",
        "listen-metrics-urls": metrics_url,
    }
    command = [*program, *(f"--{flag}={value}" for flag, value in flags.items()), *extra]
    return MemberProcess(command, client_url, peer_url, metrics_url, folder / f"{name}.log")


@contextlib.contextmanager
def running(
    kind: str, folder: Path, *, extra: Sequence[str] = (), scheme: str = "http"
) -> Iterator[MemberProcess]:
    """One member, ready, killed at the end."""
    one = member(kind, folder, extra=extra, scheme=scheme)
    one.start()
    try:
        one.wait_ready()
        yield one
    finally:
        one.stop(signal.SIGKILL)


@contextlib.contextmanager
def running_cluster(
    folder: Path, size: int = 3, *, extra: Sequence[str] = (), kind: str = "etcdlite"
) -> Iterator[list[MemberProcess]]:
    """Members that form one cluster. Those a test adds to the list are stopped at the end too."""
    names = [f"m{number}" for number in range(size)]
    cluster = ",".join(f"{name}=http://127.0.0.1:{free_port()}" for name in names)
    members = [member(kind, folder, name, cluster=cluster, extra=extra) for name in names]
    try:
        for each in members:
            each.start()
        for each in members:
            each.wait_ready()
        yield members
    finally:
        for each in members:
            if each.process is not None:
                each.process.send_signal(signal.SIGCONT)
            each.stop(signal.SIGKILL)
