"""A cluster without what clusters are made of: without containerd, and without root.

After `test_9_down`, so that there is room for them; each is gone when its test ends, and the machine is as it
was.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import yaml

from deploy.topology import TOPOLOGIES
from tests import elsewhere
from tests.e2e.lab import CommandFailed, Lab, eventually
from tests.ports import free_port

SEARCH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
PROGRAMS = [shutil.which(name, path=SEARCH) for name in ("containerd", "runc", "crun")]
ABSENT = [*(Path(path) for path in PROGRAMS if path), Path("/usr/lib/cni")]
SMALL = ("controller-0", "worker-0", "worker-1", "balancer")


def small_topology(folder: Path, name: str) -> Path:
    """One controller and two workers (the checklist's packets must cross hosts); nothing says a runtime."""
    document = yaml.safe_load((TOPOLOGIES / "lab.yaml").read_text())
    document["name"], document["outside"] = name, f"127.0.0.1:{free_port()}"
    document["hosts"] = [host for host in document["hosts"] if host["name"] in SMALL]
    assert document["runtime"] == "auto"
    topology = folder / f"{name}.yaml"
    topology.write_text(yaml.safe_dump(document))
    topology.chmod(0o644)
    return topology


@contextmanager
def cluster(name: str, *, rootless: bool) -> Iterator[tuple[Lab, str]]:
    """A small cluster, and what `up` printed; afterwards nothing of it is left."""
    with tempfile.TemporaryDirectory(prefix="hardway-e2e-") as place:
        folder = Path(place)
        folder.chmod(0o755)
        home = folder / "home"
        home.mkdir()
        os.chown(home, elsewhere.USER, elsewhere.USER)
        topology = small_topology(folder, name)
        with elsewhere.machine(absent=() if rootless else ABSENT) as front:
            user = elsewhere.as_user(home) if rootless else []
            lab = Lab(topology, (home if rootless else folder) / "state", (*front, *user))
            try:
                yield lab, lab.hardway("up", timeout=300)
                assert left_behind(name, folder, rootless=rootless), "what is looked for must be there before"
                lab.hardway("down")
                assert left_behind(name, folder, rootless=rootless) == []
            finally:
                try:
                    lab.hardway("clean")
                except CommandFailed as error:
                    print(f"the cluster could not be removed: {error}")


def left_behind(name: str, folder: Path, *, rootless: bool) -> list[str]:
    """What of a cluster is still on the machine: groups, mounts, and processes, which all have its folder in
    their command line, are in its groups, or belong to a user whom nobody else is.
    """
    groups = [str(path) for path in Path("/sys/fs/cgroup").glob(f"*/hardway/{name}-*")]
    mounts = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f"/{name}-" in line]
    processes = []
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            command = (entry / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            theirs = rootless and entry.stat().st_uid == elsewhere.USER
        except OSError:
            continue
        if theirs or str(folder) in command:
            processes.append(f"{entry.name} {command}")
    return [*groups, *mounts, *processes]


def run_a_pod(lab: Lab) -> None:
    """What the checklist has not: a terminal, files copied, a port forwarded is tested nearer to the code."""
    lab.kubectl("run", "web", "--image=busybox:1.35", "--restart=Never", "--", "sleep", "600")
    lab.kubectl("wait", "pod/web", "--for=condition=Ready", "--timeout=60s")
    assert lab.kubectl("exec", "-i", "web", "--", "wc", "-c", stdin="x" * 100_000).strip() == "100000"
    assert "exit code 7" in lab.kubectl("exec", "web", "--", "sh", "-c", "exit 7", code=7)
    status = lab.get("pod", "web")["status"]
    assert status["containerStatuses"][0]["containerID"].startswith("embedded://")
    worker = {"10.240.0.20": "worker-0", "10.240.0.21": "worker-1"}[status["hostIP"]]
    lab.hardway("restart", worker, "kubelet")
    eventually("the kubelet is back", lambda: lab.kubectl("exec", "web", "--", "echo", "still") == "still\n")
    assert lab.get("pod", "web")["status"]["containerStatuses"][0]["restartCount"] == 0
    lab.kubectl("delete", "pod", "web", "--now", "--timeout=60s")


def test_without_containerd() -> None:
    """Its packages and the CNI plugins are not there: `auto` is the embedded runtime."""
    with cluster("bare", rootless=False) as (lab, said):
        assert "runtime: embedded, since" in said
        assert "NOT ISOLATED on worker-0, worker-1: seccomp" in said
        assert "limits are not enforced" not in said
        assert ", 0 failed" in lab.hardway("smoke", timeout=400)
        run_a_pod(lab)


def test_without_root() -> None:
    """A user of whom the machine knows nothing but a number."""
    with cluster("user", rootless=True) as (lab, said):
        assert "runtime: embedded, since there is no root" in said
        assert "NOT ISOLATED on worker-0, worker-1: users are not told apart" in said
        assert "NOT ISOLATED on worker-0, worker-1: CPU, memory and process limits are not enforced" in said
        annotations = lab.get("node", "worker-0")["metadata"]["annotations"]
        assert "users are not told apart" in annotations["hardway.dev/not-isolated"]
        assert ", 0 failed" in lab.hardway("smoke", timeout=400)
        run_a_pod(lab)
        assert "worker-1" in lab.hardway("status")
