"""Where members run: one network namespace each, cabled to a bridge in the namespace of this process.

`enter` moves this process into namespaces of its own first, so nothing is ever added to the machine's network
or mounts, and everything goes with the process, however it ends.
"""

from __future__ import annotations

import contextlib
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from componentbase import linux
from pki.ca import Authority, ensure_authority, ensure_leaf, utc_now
from pki.certs import Profile, Usage

NETWORK = "10.77.0"
ROUTER = f"{NETWORK}.1"
CLIENT_PORT, PEER_PORT, METRICS_PORT = 2379, 2380, 2381
DISK_MEGABYTES = 512  # the real etcd reserves two log segments of 64 MiB
DIES_WITH_US = ("setpriv", "--pdeathsig", "KILL", "--")


@dataclass(frozen=True)
class Host:
    """One machine: its name, address, and the process that holds its network namespace."""

    name: str
    address: str
    pid: int

    @property
    def network(self) -> str:
        return f"/proc/{self.pid}/ns/net"


@dataclass(frozen=True)
class Certificates:
    """PEM files, one pair for all members and one for clients."""

    ca: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path


def enter() -> None:
    """Leave the machine's network and mount namespaces. To be called before any thread is started."""
    linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWNS)
    linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
    _ip(
        "link set lo up", "link add lab0 type bridge", f"address add {ROUTER}/24 dev lab0", "link set lab0 up"
    )


def _ip(*lines: str, namespace: str = "/proc/self/ns/net") -> None:
    command = ["nsenter", f"--net={namespace}", "--", "ip", "-batch", "-"]
    done = subprocess.run(command, input="\n".join(lines), text=True, capture_output=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"ip: {done.stderr.strip()}")


@contextlib.contextmanager
def hosts(count: int) -> Iterator[list[Host]]:
    """Machines `m0`, `m1`, ... on the bridge."""
    holders: list[subprocess.Popen[bytes]] = []
    made: list[Host] = []
    try:
        for number in range(count):
            hold = [*DIES_WITH_US, "unshare", "--net", "sh", "-c", "echo up; exec sleep infinity"]
            holder = subprocess.Popen(hold, stdout=subprocess.PIPE)
            holders.append(holder)
            assert holder.stdout is not None
            holder.stdout.readline()
            holder.stdout.close()
            host = Host(f"m{number}", f"{NETWORK}.{10 + number}", holder.pid)
            _ip(
                f"link add {host.name} type veth peer name eth0 netns {host.pid}",
                f"link set {host.name} master lab0",
                f"link set {host.name} up",
            )
            _ip(
                "link set lo up",
                f"address add {host.address}/24 dev eth0",
                "link set eth0 up",
                namespace=host.network,
            )
            made.append(host)
        yield made
    finally:
        for host in made:
            with contextlib.suppress(RuntimeError):
                _ip(f"link delete {host.name}")
        for holder in holders:
            holder.kill()
            holder.wait()


@contextlib.contextmanager
def disk(directory: Path) -> Iterator[None]:
    """A disk of bounded size at `directory`."""
    directory.mkdir(parents=True, exist_ok=True)
    linux.mount("tmpfs", directory, "tmpfs", data=f"size={DISK_MEGABYTES}m,mode=700")
    try:
        yield
    finally:
        linux.unmount(directory, linux.MNT_DETACH)


def certificates(folder: Path, count: int) -> Certificates:
    """An authority, one pair good for every member's address, and a client's."""
    now = utc_now()
    folder.mkdir(parents=True, exist_ok=True)
    authority: Authority = ensure_authority(folder, "ca", "robustness", now=now)
    addresses = tuple(f"{NETWORK}.{10 + number}" for number in range(count))
    both = frozenset({Usage.SERVER, Usage.CLIENT})
    server = Profile(common_name="member", ips=(*addresses, "127.0.0.1"), usages=both)
    ensure_leaf(folder, "server", server, authority, now=now)
    ensure_leaf(folder, "client", Profile(common_name="client"), authority, now=now)
    names = ("ca.pem", "server.pem", "server-key.pem", "client.pem", "client-key.pem")
    return Certificates(*(folder / name for name in names))


def check_tools() -> str | None:
    """What is missing here, or None."""
    if os.geteuid() != 0:
        return "needs root"
    for tool in ("ip", "iptables", "nft", "nsenter", "setpriv", "unshare"):
        if not any(Path(folder, tool).exists() for folder in os.get_exec_path()):
            return f"needs {tool}"
    return None
