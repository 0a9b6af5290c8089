"""Three members with mutual TLS on loopback, of etcdlite or of the etcd that is installed: the same flags,
certificates and ports for both.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import socket
import ssl
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from bench.processes import cpu_seconds, descendants, pss
from componentbase import tlsutil
from pki import ca, certs

KINDS = ("etcdlite", "etcd")
SIZE = 3
_START_SECONDS = 60.0


def installed(kind: str) -> bool:
    """Whether members of this kind can be started here."""
    return kind == "etcdlite" or shutil.which("etcd") is not None


def make_pki(folder: Path) -> None:
    """One CA and one P-256 pair for everything: `ca.pem`, `member.pem`, `member-key.pem`."""
    now = ca.utc_now()
    authority = ca.ensure_authority(folder, "ca", "bench", now=now)
    usages = frozenset({certs.Usage.SERVER, certs.Usage.CLIENT})
    profile = certs.Profile(common_name="member", ips=("127.0.0.1",), dns=("localhost",), usages=usages)
    ca.ensure_leaf(folder, "member", profile, authority, now=now)


def client_tls(pki: Path) -> ssl.SSLContext:
    """For a client of the members."""
    return tlsutil.client_context(pki / "ca.pem", pki / "member.pem", pki / "member-key.pem")


def _free_ports(count: int) -> list[int]:
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in held:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in held]


class Cluster:
    """Members of one kind, and what they cost."""

    def __init__(self, kind: str, folder: Path, pki: Path) -> None:
        self.kind, self.pki, self._folder = kind, pki, folder
        ports = _free_ports(2 * SIZE)
        self.ports = ports[:SIZE]
        self.urls = [f"https://127.0.0.1:{port}" for port in self.ports]
        self._peers = [f"https://127.0.0.1:{port}" for port in ports[SIZE:]]
        self.processes: list[subprocess.Popen[bytes] | None] = [None] * SIZE

    def _command(self, number: int) -> list[str]:
        pair = (self.pki / "member.pem", self.pki / "member-key.pem", self.pki / "ca.pem")
        ours = [sys.executable, "-m", *_module(number)]
        program = ours if self.kind == "etcdlite" else ["etcd"]
        flags = {
            "name": f"m{number}",
            "data-dir": self._folder / f"m{number}",
            "listen-client-urls": self.urls[number],
            "advertise-client-urls": self.urls[number],
            "listen-peer-urls": self._peers[number],
            "initial-advertise-peer-urls": self._peers[number],
            "initial-cluster": ",".join(f"m{n}={url}" for n, url in enumerate(self._peers)),
            "log-level": "error",
        }
        for prefix in ("", "peer-"):
            names = (f"{prefix}cert-file", f"{prefix}key-file", f"{prefix}trusted-ca-file")
            flags |= dict(zip(names, pair, strict=True))
        return [
            *program,
            *(f"--{name}={value}" for name, value in flags.items()),
            "--client-cert-auth",
            "--peer-client-cert-auth",
        ]

    def start(self) -> None:
        """Start all members, and wait until each of them answers on its port."""
        for number in range(SIZE):
            with (self._folder / f"m{number}.log").open("ab") as log:
                command = self._command(number)
                self.processes[number] = subprocess.Popen(command, stdout=log, stderr=log, env=_environment())
        end = time.monotonic() + _START_SECONDS
        for number, port in enumerate(self.ports):
            while not _listens(port):
                process = self.processes[number]
                if time.monotonic() > end or process is None or process.poll() is not None:
                    text = (self._folder / f"m{number}.log").read_text()[-2000:]
                    raise RuntimeError(f"{self.kind} m{number} did not start:\n{text}")
                time.sleep(0.01)

    def stop(self, how: int = signal.SIGTERM) -> None:
        """End all members."""
        for process in self.processes:
            if process is not None:
                process.send_signal(how)
        for process in self.processes:
            if process is not None:
                process.wait(60)
        self.processes = [None] * SIZE

    def kill(self, number: int) -> None:
        """SIGKILL for one."""
        process, self.processes[number] = self.processes[number], None
        if process is not None:
            process.kill()
            process.wait(60)

    def _pids(self) -> list[int]:
        return [pid for each in self.processes if each is not None for pid in descendants(each.pid)]

    def cpu(self) -> float:
        """CPU seconds of all members so far."""
        return sum(cpu_seconds(pid) for pid in self._pids())

    def memory(self) -> float:
        """Bytes (PSS) of one member, on average."""
        return sum(pss(pid) for pid in self._pids()) / SIZE


def _environment() -> dict[str, str]:
    """As installed: compiled modules are kept, as on any machine where a member starts twice."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def _module(number: int) -> list[str]:
    """With BENCH_PROFILE=<folder> each member leaves a profile there (see bench.profiled)."""
    folder = os.environ.get("BENCH_PROFILE")
    return ["bench.profiled", f"{folder}/m{number}.prof"] if folder else ["etcdlite"]


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def raised(kind: str) -> Iterator[Cluster]:
    """A running cluster with nothing in it."""
    with tempfile.TemporaryDirectory(prefix="hardway-store-") as name:
        folder = Path(name)
        (folder / "pki").mkdir()
        make_pki(folder / "pki")
        cluster = Cluster(kind, folder, folder / "pki")
        try:
            cluster.start()
            yield cluster
        finally:
            cluster.stop(signal.SIGTERM if os.environ.get("BENCH_PROFILE") else signal.SIGKILL)
