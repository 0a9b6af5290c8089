"""System packages: what the lab needs of the distribution, what of it is absent, and how to install it."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Package:
    """A Debian package, the file or program that proves it is there, and what it is for."""

    name: str
    proof: str
    purpose: str
    runtime: str = ""  # needed by this runtime only
    filters: bool = False  # needed by proxies that program a packet filter only

    def present(self) -> bool:
        """Is what it brings there, from whatever source?"""
        if self.proof.startswith("/"):
            return Path(self.proof).exists()
        return shutil.which(self.proof, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin") is not None


PACKAGES = (
    Package("iproute2", "ip", "lays the lab's network"),
    Package("containerd", "containerd", "runs containers", "containerd"),
    Package("runc", "runc", "starts containers", "containerd"),
    Package("crun", "crun", "starts containers of pods with that RuntimeClass", "containerd"),
    Package("containernetworking-plugins", "/usr/lib/cni/bridge", "connects pods", "containerd"),
    Package("nftables", "nft", "carries kube-proxy's rules", filters=True),
    Package("iptables", "iptables", "carries host ports of pods"),
    Package("conntrack", "conntrack", "forgets connections to Services that moved", filters=True),
    Package("haproxy", "haproxy", "balances the apiservers"),
    Package("busybox-static", "/bin/busybox", "is the content of the example images"),
    Package("etcd-client", "etcdctl", "asks the store's members (status, smoke test)"),
    Package("faketime", "faketime", "shifts the clock of a daemon (chaos)"),
    Package("curl", "curl", "is a client of the smoke test"),
)

FOR_TESTS = (
    Package("etcd-server", "etcd", "is the real store beside ours in tests and benchmarks"),
    Package("chromium", "chromium", "looks at the console's page"),
    Package("chromium-driver", "chromedriver", "is how tests drive it"),
    Package("kubernetes-client", "kubectl", "drives the end-to-end tests if no newer kubectl is there"),
)


def needed(runtime: str, proxy_mode: str = "nftables") -> tuple[Package, ...]:
    """The packages of a lab whose containers are run by `runtime` and whose proxies are of that mode."""
    return tuple(
        package
        for package in PACKAGES
        if package.runtime in ("", runtime) and not (package.filters and proxy_mode == "userspace")
    )


def missing(
    *, runtime: str = "containerd", proxy_mode: str = "nftables", tests: bool = False
) -> list[Package]:
    """Which packages are absent; with `tests`, those that only the tests need as well."""
    wanted = needed(runtime, proxy_mode) + (FOR_TESTS if tests else ())
    return [package for package in wanted if not package.present()]


def install_command(packages: Sequence[Package]) -> list[str]:
    """The command line that installs `packages`."""
    names = [package.name for package in packages]
    return ["apt-get", "install", "--yes", "--no-install-recommends", *names]


def install(packages: Sequence[Package]) -> int:
    """Install with apt-get and return its exit code; nothing is run when there is nothing to install.

    RUNLEVEL=1 makes invoke-rc.d think the machine is in single-user mode: packages are unpacked and
    configured, but no service is started on the machine itself.
    """
    if not packages:
        return 0
    environment = {**os.environ, "RUNLEVEL": "1", "DEBIAN_FRONTEND": "noninteractive"}
    code = subprocess.run(["apt-get", "update"], env=environment, check=False).returncode
    if code != 0:
        return code
    return subprocess.run(install_command(packages), env=environment, check=False).returncode
