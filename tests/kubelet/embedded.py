"""The embedded runtime for tests: in a child with namespaces of its own, as root or as a user without root.

The child's bridge, mounts and processes go with it; the machine's network is never seen.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import shutil
import traceback
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from componentbase import linux
from kubelet.cgroups import hierarchies
from kubelet.embedded.network import PLUGINS, PodNetwork
from kubelet.embedded.runtime import EmbeddedRuntime
from tests import elsewhere
from tests.kubelet import containerd

TOOLS = ("ip", "nsenter")
Scenario = Callable[[EmbeddedRuntime], Awaitable[None]]


def missing() -> str:
    """What this machine lacks to run it; empty when nothing."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not containerd.BUSYBOX.exists():
        absent.append(str(containerd.BUSYBOX))
    return ", ".join(absent)


@dataclass(frozen=True)
class Ground:
    """The directories of one runtime."""

    root: Path

    def prepare(self) -> None:
        """An image archive and a network's configuration."""
        for name in ("images", "cni", "state"):
            (self.root / name).mkdir(parents=True, exist_ok=True)
        (self.root / "images" / "busybox.tar").write_bytes(containerd.oci_image(containerd.IMAGE, ["sh"]))
        ipam = {"type": "host-local", "subnet": "10.222.0.0/24", "dataDir": f"{self.root}/ipam"}
        bridge = {"type": "bridge", "bridge": "test0", "isGateway": True, "ipam": ipam}
        (self.root / "cni" / "10-test.conflist").write_text(
            json.dumps({"cniVersion": "0.4.0", "name": "test", "plugins": [bridge]})
        )

    @property
    def endpoint(self) -> str:
        return f"embedded://{self.root}/state?images={self.root}/images&cni={self.root}/cni"

    def runtime(self, *, plugins: Path = PLUGINS) -> EmbeddedRuntime:
        """A runtime over what is there: the one before it may have been killed."""
        network = PodNetwork(self.root / "cni", plugins, self.root / "addresses")
        return EmbeddedRuntime(self.root / "state", self.root / "images", network)


def _become_user(tmp: Path) -> None:
    """Lose root, then be root of a user namespace, in which nobody else exists."""
    elsewhere.open_ways([*elsewhere.interpreter(), tmp])
    for folder, _, names in os.walk(tmp):
        for path in (folder, *(os.path.join(folder, name) for name in names)):  # noqa: PTH118
            os.chown(path, elsewhere.USER, elsewhere.USER, follow_symlinks=False)
    os.setgroups([])
    os.setresgid(elsewhere.USER, elsewhere.USER, elsewhere.USER)
    os.setresuid(elsewhere.USER, elsewhere.USER, elsewhere.USER)
    _dumpable()
    linux.unshare(linux.CLONE_NEWUSER)
    Path("/proc/self/uid_map").write_text(f"0 {elsewhere.USER} 1\n")
    Path("/proc/self/setgroups").write_text("deny")
    Path("/proc/self/gid_map").write_text(f"0 {elsewhere.USER} 1\n")
    linux.unshare(linux.CLONE_NEWNS)


def _dumpable() -> None:
    """Whoever changes identity loses the ownership of its own /proc entry (prctl(2), PR_SET_DUMPABLE)."""
    linux.control(linux.PR_SET_DUMPABLE, 1)


def in_child(work: Callable[[], None], tmp: Path, *, rootless: bool, group: str = "") -> None:
    """Do `work` in a forked child with a network of its own; what it raises fails the caller."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.close(reading)
            linux.unshare(linux.CLONE_NEWNS)
            if rootless:
                _become_user(tmp)
            linux.unshare(linux.CLONE_NEWNET | linux.CLONE_NEWPID)
            inner = os.fork()  # pid 1: with it, whatever a scenario forgot is gone
            if inner == 0:
                linux.mount("none", "/", flags=linux.MS_REC | linux.MS_PRIVATE)
                linux.mount("proc", "/proc", "proc")
                work()
                os._exit(0)
            os._exit(0 if os.waitpid(inner, 0)[1] == 0 else 1)
        except BaseException:
            os.write(writing, traceback.format_exc().encode()[-8000:])
        finally:
            os._exit(1)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        trouble = pipe.read().decode()
    _, status = os.waitpid(pid, 0)
    if group:
        remove_groups(group)
    assert status == 0, trouble or "the child died"


def remove_groups(name: str) -> None:
    """Remove the control groups below `/<name>` that stayed behind."""
    for hierarchy in hierarchies():
        for path in sorted((hierarchy / name).rglob("*"), reverse=True):
            if path.is_dir():
                with contextlib.suppress(OSError):
                    path.rmdir()
        with contextlib.suppress(OSError):
            (hierarchy / name).rmdir()


def play(scenario: Scenario, tmp: Path, *, rootless: bool, group: str = "") -> None:
    """A scenario over a fresh runtime: as root with the CNI plugins if they are there, or without both."""
    ground = Ground(tmp / "embedded")
    ground.prepare()

    async def run() -> None:
        runtime = ground.runtime(plugins=Path("/nowhere") if rootless else PLUGINS)
        try:
            async with asyncio.timeout(120):
                await scenario(runtime)
        finally:
            for sandbox in await runtime.list_sandboxes():
                await runtime.remove_sandbox(sandbox.id)
            await runtime.close()

    in_child(lambda: asyncio.run(run()), tmp, rootless=rootless, group=group)
