"""Two hosts on one cable, with namespaces that nothing but their own first processes holds."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Host:
    pid: int
    address: str

    @property
    def network(self) -> str:
        return f"/proc/{self.pid}/ns/net"

    def run(self, *command: str) -> subprocess.CompletedProcess[str]:
        """Run a program on this host."""
        argv = ["nsenter", f"--net={self.network}", f"--mount=/proc/{self.pid}/ns/mnt", "--", *command]
        return subprocess.run(argv, capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def hosts() -> Iterator[tuple[Host, Host]]:
    """10.9.0.1 and 10.9.0.2."""
    processes = [sleeper(), sleeper()]
    pair = tuple(Host(process.pid, f"10.9.0.{n}") for n, process in enumerate(processes, 1))
    try:
        pair[0].run("ip", "link", "add", "eth0", "type", "veth", "peer", "eth0", "netns", str(pair[1].pid))
        for host in pair:
            host.run("ip", "link", "set", "lo", "up")
            host.run("ip", "address", "add", f"{host.address}/24", "dev", "eth0")
            done = host.run("ip", "link", "set", "eth0", "up")
            assert done.returncode == 0, done.stderr
        yield pair[0], pair[1]
    finally:
        for process in processes:
            process.kill()
            process.wait()


def sleeper() -> subprocess.Popen[str]:
    """A process in a network and a mount namespace of its own."""
    argv = ["unshare", "--net", "--mount", "sh", "-c", "echo ready; exec sleep 3600"]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.stdout.close()
    return process
