"""A control plane on loopback, as separate processes over mutual TLS: three stores and one apiserver, and
what else a measurement asks for. The same parts as those the targets were measured with, and no host of its
own, so that a figure is not about network namespaces.
"""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from bench.processes import cpu_seconds, pss
from kubeclient.rest import ConnectionFailed, RestClient
from pki.layout import ClusterNames, Inventory, generate
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 60.0
MEMBERS = 3
POD_CIDR = "10.64.0.0/10"
"""Room for 16,384 nodes with a /24 each."""


@dataclass
class Plane:
    """A running control plane. `processes` are named after their daemon (`etcdlite-0`, `apiserver`, ...); of
    those in `sampled` a profile is written when they end (`bench.sampled`).
    """

    directory: Path
    inventory: Inventory
    port: int
    sampled: frozenset[str] = frozenset()
    processes: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    restarts: int = 0
    _started: dict[str, tuple[str, dict[str, str]]] = field(default_factory=dict)

    @property
    def server(self) -> str:
        return f"https://127.0.0.1:{self.port}"

    @property
    def admin(self) -> Path:
        return self.inventory.admin_kubeconfig

    def pki(self, name: str) -> Path:
        return self.inventory.directory / name

    def profile(self, name: str) -> Path:
        return self.directory / f"{name}.profile"

    def start(self, name: str, package: str, flags: dict[str, str]) -> subprocess.Popen[bytes]:
        """Start a daemon; its log is a file of its name in the directory."""
        run = ["bench.sampled", str(self.profile(name)), package] if name in self.sampled else [package]
        argv = [sys.executable, "-m", *run, *(f"--{flag}={value}" for flag, value in flags.items())]
        with (self.directory / f"{name}.log").open("ab") as log:
            # A session of its own: an interrupted measurement ends its daemons in order, not the terminal.
            process = subprocess.Popen(argv, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)
        self.processes[name] = process
        self._started[name] = package, flags
        return process

    def revive(self, names: Iterable[str]) -> None:
        """Start again what has ended, as a supervisor would (a leader that lost its lease ends itself)."""
        for name in list(names):
            self.restarts += 1
            self.start(name, *self._started[name])

    def stop(self, *names: str) -> None:
        for name in names:
            process = self.processes.pop(name)
            if process.poll() is None:
                process.send_signal(signal.SIGTERM)
            try:
                process.wait(30)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    def start_scheduler(self) -> None:
        self.start(
            "scheduler",
            "scheduler",
            {
                "kubeconfig": str(self.pki("scheduler.kubeconfig")),
                "secure-port": str(free_port()),
                "bind-address": "127.0.0.1",
                "leader-elect": "true",
            },
        )

    def start_controllers(self, **flags: str) -> None:
        self.start(
            "controllers",
            "controllers",
            {
                "kubeconfig": str(self.pki("controller-manager.kubeconfig")),
                "secure-port": str(free_port()),
                "bind-address": "127.0.0.1",
                "leader-elect": "true",
                "use-service-account-credentials": "true",
                "allocate-node-cidrs": "true",
                "cluster-cidr": POD_CIDR,
                "service-cluster-ip-range": "10.32.0.0/24",
                "root-ca-file": str(self.pki("ca.pem")),
                "service-account-private-key-file": str(self.pki("service-account-key.pem")),
                "cluster-signing-cert-file": str(self.pki("ca.pem")),
                "cluster-signing-key-file": str(self.pki("ca-key.pem")),
                **{flag.replace("_", "-"): value for flag, value in flags.items()},
            },
        )

    def cpu(self) -> dict[str, float]:
        """Seconds of CPU of each process so far."""
        return {name: cpu_seconds(process.pid) for name, process in self.processes.items()}

    def memory(self) -> dict[str, int]:
        """Proportional memory of each process, in bytes."""
        return {name: pss(process.pid) for name, process in self.processes.items()}

    def last_words(self, name: str) -> str:
        """The end of a daemon's log."""
        return (self.directory / f"{name}.log").read_text(errors="replace")[-2000:]

    def died(self) -> list[str]:
        return [name for name, process in self.processes.items() if process.poll() is not None]


def _names(port: int) -> ClusterNames:
    server = f"https://127.0.0.1:{port}"
    return ClusterNames(
        name="bench",
        controllers={f"member-{number}": "127.0.0.1" for number in range(MEMBERS)},
        workers={},
        service_ip="10.32.0.1",
        server=server,
        outside_server=server,
    )


def _start_stores(plane: Plane) -> list[str]:
    clients = [f"https://127.0.0.1:{free_port()}" for _ in range(MEMBERS)]
    peers = [f"https://127.0.0.1:{free_port()}" for _ in range(MEMBERS)]
    for number in range(MEMBERS):
        own = plane.pki(f"member-{number}")
        authority = str(plane.pki("etcd-ca.pem"))
        plane.start(
            f"etcdlite-{number}",
            "etcdlite",
            {
                "name": f"member-{number}",
                "data-dir": str(plane.directory / f"store-{number}"),
                "listen-client-urls": clients[number],
                "advertise-client-urls": clients[number],
                "listen-peer-urls": peers[number],
                "initial-advertise-peer-urls": peers[number],
                "initial-cluster": ",".join(f"member-{each}={url}" for each, url in enumerate(peers)),
                "cert-file": str(own / "etcd-server.pem"),
                "key-file": str(own / "etcd-server-key.pem"),
                "trusted-ca-file": authority,
                "client-cert-auth": "true",
                "peer-cert-file": str(own / "etcd-peer.pem"),
                "peer-key-file": str(own / "etcd-peer-key.pem"),
                "peer-trusted-ca-file": authority,
                "peer-client-cert-auth": "true",
            },
        )
    return clients


def _start_apiserver(plane: Plane, stores: Sequence[str]) -> None:
    plane.start(
        "apiserver",
        "apiserver",
        {
            "advertise-address": "127.0.0.1",
            "bind-address": "127.0.0.1",
            "secure-port": str(plane.port),
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NamespaceLifecycle,ServiceAccount,NodeRestriction",
            "client-ca-file": str(plane.pki("ca.pem")),
            "etcd-servers": ",".join(stores),
            "etcd-cafile": str(plane.pki("etcd-ca.pem")),
            "etcd-certfile": str(plane.pki("apiserver-etcd-client.pem")),
            "etcd-keyfile": str(plane.pki("apiserver-etcd-client-key.pem")),
            "encryption-provider-config": str(plane.pki("encryption-config.yaml")),
            "service-account-issuer": "https://kubernetes.default.svc.cluster.local",
            "service-account-key-file": str(plane.pki("service-account.pem")),
            "service-account-signing-key-file": str(plane.pki("service-account-key.pem")),
            "service-cluster-ip-range": "10.32.0.0/24",
            "tls-cert-file": str(plane.pki("apiserver.pem")),
            "tls-private-key-file": str(plane.pki("apiserver-key.pem")),
        },
    )


async def _ready(plane: Plane) -> None:
    deadline, last = time.monotonic() + START_SECONDS, "no answer"
    async with RestClient.from_kubeconfig(plane.admin) as client:
        while time.monotonic() < deadline:
            if died := plane.died():
                last = "\n".join(plane.last_words(name) for name in died)
                raise RuntimeError(f"{', '.join(died)} ended before the apiserver was ready:\n{last}")
            try:
                answer = await client.raw("GET", "/readyz")
            except ConnectionFailed as error:
                last = str(error)
            else:
                if answer.status == 200:
                    return
                last = answer.content.decode()
            await asyncio.sleep(0.1)
    raise TimeoutError(f"the apiserver is not ready within {START_SECONDS:g} s: {last}")


@contextlib.contextmanager
def running(sampled: Iterable[str] = ()) -> Iterator[Plane]:
    """Stores and apiserver, ready; everything ends with the context."""
    with tempfile.TemporaryDirectory(prefix="hardway-bench-") as folder:
        directory, port = Path(folder), free_port()
        plane = Plane(directory, generate(directory, _names(port)), port, frozenset(sampled))
        try:
            _start_apiserver(plane, _start_stores(plane))
            asyncio.run(_ready(plane))
            yield plane
        finally:
            plane.stop(*reversed(plane.processes))
