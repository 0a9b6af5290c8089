"""A store and one apiserver on loopback, for trying daemons and clients by hand and in tests.

    python -m tests.apiserver.devserver --port 6443 --dir /tmp/dev

starts the real etcd (package etcd-server), makes a PKI in the directory, starts `python -m apiserver` and
prints the kubeconfigs it wrote. Ctrl-C ends both. State stays in the directory and is used again by the
next run.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx

from componentbase import tlsutil
from pki.layout import ClusterNames, Inventory, generate
from tests.ports import free_port

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 30.0


@dataclass(frozen=True)
class Running:
    """A started pair: where it listens and the files others need."""

    port: int
    etcd_port: int
    directory: Path
    inventory: Inventory
    processes: tuple[subprocess.Popen[bytes], ...]

    @property
    def admin(self) -> Path:
        return self.inventory.admin_kubeconfig


def names(port: int, node: str) -> ClusterNames:
    server = f"https://127.0.0.1:{port}"
    return ClusterNames(
        name="dev",
        controllers={"controller-0": "127.0.0.1"},
        workers={node: "127.0.0.1"},
        service_ip="10.32.0.1",
        server=server,
        outside_server=server,
    )


def etcd_command(directory: Path, inventory: Inventory, port: int, peer: int, store: str) -> list[str]:
    pki = inventory.directory
    certificate = pki / "controller-0"
    return [
        *(["etcd", "--log-level=error"] if store == "etcd" else [sys.executable, "-m", "etcdlite"]),
        "--name=dev",
        f"--data-dir={directory / store}",
        f"--listen-client-urls=https://127.0.0.1:{port}",
        f"--advertise-client-urls=https://127.0.0.1:{port}",
        f"--listen-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-advertise-peer-urls=http://127.0.0.1:{peer}",
        f"--initial-cluster=dev=http://127.0.0.1:{peer}",
        f"--cert-file={certificate / 'etcd-server.pem'}",
        f"--key-file={certificate / 'etcd-server-key.pem'}",
        f"--trusted-ca-file={pki / 'etcd-ca.pem'}",
        "--client-cert-auth",
    ]


def apiserver_command(inventory: Inventory, etcd_port: int, port: int) -> list[str]:
    pki = inventory.directory
    return [
        sys.executable,
        "-m",
        "apiserver",
        "--advertise-address=127.0.0.1",
        "--bind-address=127.0.0.1",
        f"--secure-port={port}",
        "--authorization-mode=Node,RBAC",
        "--enable-admission-plugins=NodeRestriction",
        f"--client-ca-file={pki / 'ca.pem'}",
        f"--etcd-servers=https://127.0.0.1:{etcd_port}",
        f"--etcd-cafile={pki / 'etcd-ca.pem'}",
        f"--etcd-certfile={pki / 'apiserver-etcd-client.pem'}",
        f"--etcd-keyfile={pki / 'apiserver-etcd-client-key.pem'}",
        f"--encryption-provider-config={pki / 'encryption-config.yaml'}",
        f"--kubelet-certificate-authority={pki / 'ca.pem'}",
        f"--kubelet-client-certificate={pki / 'apiserver-kubelet-client.pem'}",
        f"--kubelet-client-key={pki / 'apiserver-kubelet-client-key.pem'}",
        f"--requestheader-client-ca-file={pki / 'front-proxy-ca.pem'}",
        "--service-account-issuer=https://kubernetes.default.svc.cluster.local",
        f"--service-account-key-file={pki / 'service-account.pem'}",
        f"--service-account-signing-key-file={pki / 'service-account-key.pem'}",
        "--service-cluster-ip-range=10.32.0.0/24",
        f"--tls-cert-file={pki / 'apiserver.pem'}",
        f"--tls-private-key-file={pki / 'apiserver-key.pem'}",
    ]


def wait_ready(port: int, inventory: Inventory, process: subprocess.Popen[bytes]) -> None:
    """Until /readyz says ok. Raises RuntimeError with the reason when it does not in time."""
    context = tlsutil.client_context(inventory.path("ca.pem"))
    deadline, last = time.monotonic() + START_SECONDS, "no answer"
    with httpx.Client(verify=context, trust_env=False) as client:
        while time.monotonic() < deadline:
            if process.poll() is not None:
                raise RuntimeError(f"the apiserver ended with status {process.returncode}")
            try:
                answer = client.get(f"https://127.0.0.1:{port}/readyz?verbose", timeout=2)
            except httpx.HTTPError as error:
                last = str(error)
            else:
                if answer.status_code == 200:
                    return
                last = answer.text
            time.sleep(0.05)
    raise RuntimeError(f"the apiserver is not ready after {START_SECONDS:g} s: {last}")


@contextlib.contextmanager
def running(
    directory: Path, port: int = 0, node: str = "worker-0", *, quiet: bool = False, store: str = "etcd"
) -> Iterator[Running]:
    """Start both, wait until they are ready, and end both."""
    if store == "etcd" and shutil.which("etcd") is None:
        raise RuntimeError("etcd is not installed (package etcd-server)")
    directory.mkdir(parents=True, exist_ok=True)
    port, etcd_port = port or free_port(), free_port()
    inventory = generate(directory, names(port, node))
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    with (directory / "etcd.log").open("wb") as etcd_log, (directory / "apiserver.log").open("wb") as api_log:
        etcd = subprocess.Popen(
            etcd_command(directory, inventory, etcd_port, free_port(), store),
            cwd=ROOT,
            env=environment,
            stdout=etcd_log,
            stderr=etcd_log,
        )
        command = apiserver_command(inventory, etcd_port, port)
        api = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=api_log if quiet else None,
            stderr=api_log if quiet else None,
        )
        try:
            wait_ready(port, inventory, api)
            yield Running(port, etcd_port, directory, inventory, (etcd, api))
        finally:
            for process in (api, etcd):
                end(process)


def end(process: subprocess.Popen[bytes]) -> None:
    if process.poll() is None:
        process.send_signal(signal.SIGTERM)
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--port", type=int, default=0, help="port of the apiserver (default: a free one)")
    parser.add_argument("--dir", type=Path, required=True, help="directory for state, PKI and logs")
    parser.add_argument(
        "--node", default="worker-0", help="name of the node to make a kubelet kubeconfig for"
    )
    parser.add_argument("--store", choices=("etcd", "etcdlite"), default="etcd")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with (
        contextlib.suppress(KeyboardInterrupt),
        running(options.dir, options.port, options.node, store=options.store) as server,
    ):
        pki = server.inventory.directory
        print(f"apiserver  https://127.0.0.1:{server.port}")
        print(f"etcd       https://127.0.0.1:{server.etcd_port}")
        for path in (server.admin, pki / "controller-manager.kubeconfig", pki / "scheduler.kubeconfig"):
            print(f"kubeconfig {path}")
        for path in [*sorted(pki.glob(f"{options.node}/*.kubeconfig")), pki / "kube-proxy.kubeconfig"]:
            print(f"kubeconfig {path}")
        print(f"export KUBECONFIG={server.admin}", flush=True)
        api = server.processes[1]
        api.wait()
    return 0


if __name__ == "__main__":
    sys.exit(main())
