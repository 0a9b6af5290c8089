"""A containerd of our own for tests: own network and mount namespace, own directories, an image made on the
spot.

Nothing of the machine is touched but the cgroup below `/<name>`, which `stop` removes.
"""

from __future__ import annotations

import hashlib
import io
import json
import shutil
import signal
import subprocess
import tarfile
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from kubelet.cgroups import hierarchies

BUSYBOX = Path("/bin/busybox")
IMAGE = "docker.io/library/busybox:1.36"
PAUSE = "registry.k8s.io/pause:3.6"
TOOLS = ("containerd", "runc", "ctr", "unshare", "nsenter", "ip")

CONFIG = """version = 2
root = "{root}/root"
state = "{root}/state"
[grpc]
  address = "{root}/containerd.sock"
[plugins."io.containerd.grpc.v1.cri"]
  restrict_oom_score_adj = true
  sandbox_image = "{pause}"
  [plugins."io.containerd.grpc.v1.cri".cni]
    bin_dir = "/usr/lib/cni"
    conf_dir = "{root}/cni"
"""


def missing() -> str:
    """What this machine lacks to run it; empty when nothing."""
    absent = [tool for tool in TOOLS if shutil.which(tool) is None]
    if not BUSYBOX.exists():
        absent.append(str(BUSYBOX))
    if not Path("/usr/lib/cni/bridge").exists():
        absent.append("containernetworking-plugins")
    return ", ".join(absent)


def oci_image(name: str, command: list[str]) -> bytes:
    """An OCI layout as a tar: one layer with busybox and its names."""
    layer = io.BytesIO()
    with tarfile.open(fileobj=layer, mode="w") as tar:
        for folder in ("bin", "tmp", "etc"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            tar.addfile(entry)
        _file(tar, "bin/busybox", BUSYBOX.read_bytes(), 0o755)
        for applet in ("sh", "sleep", "cat", "echo", "true", "false", "httpd", "wc", "stty", "mkdir"):
            entry = tarfile.TarInfo(f"bin/{applet}")
            entry.type, entry.linkname = tarfile.SYMTYPE, "busybox"
            tar.addfile(entry)
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as tar:
        content = layer.getvalue()
        base = _blob(tar, content)
        settings = {
            "architecture": "amd64",
            "os": "linux",
            "config": {"Env": ["PATH=/bin"], "Cmd": command},
            "rootfs": {"type": "layers", "diff_ids": [base["digest"]]},
        }
        config = _blob(tar, json.dumps(settings).encode())
        kind = "application/vnd.oci.image"
        manifest = {
            "schemaVersion": 2,
            "mediaType": f"{kind}.manifest.v1+json",
            "config": {"mediaType": f"{kind}.config.v1+json", **config},
            "layers": [{"mediaType": f"{kind}.layer.v1.tar", **base}],
        }
        named = {"mediaType": f"{kind}.manifest.v1+json", **_blob(tar, json.dumps(manifest).encode())}
        index = {
            "schemaVersion": 2,
            "manifests": [{**named, "annotations": {"io.containerd.image.name": name}}],
        }
        _file(tar, "index.json", json.dumps(index).encode())
        _file(tar, "oci-layout", b'{"imageLayoutVersion":"1.0.0"}')
    return out.getvalue()


def _file(tar: tarfile.TarFile, name: str, content: bytes, mode: int = 0o644) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), mode
    tar.addfile(entry, io.BytesIO(content))


def _blob(tar: tarfile.TarFile, content: bytes) -> dict[str, object]:
    digest = hashlib.sha256(content).hexdigest()
    _file(tar, f"blobs/sha256/{digest}", content)
    return {"digest": f"sha256:{digest}", "size": len(content)}


@dataclass
class Containerd:
    """The running daemon."""

    root: Path
    name: str
    process: subprocess.Popen[bytes]

    @property
    def endpoint(self) -> str:
        return f"unix://{self.root}/containerd.sock"

    def inside(self, *command: str) -> list[str]:
        """A command line that runs in the daemon's network and mount namespaces."""
        return ["nsenter", "-t", str(self.process.pid), "-n", "-m", *command]

    def load(self, name: str, command: list[str]) -> None:
        archive = self.root / "image.tar"
        archive.write_bytes(oci_image(name, command))
        socket = f"{self.root}/containerd.sock"
        load = ["ctr", "-a", socket, "-n", "k8s.io", "images", "import", str(archive)]
        subprocess.run(self.inside(*load), check=True, capture_output=True)

    def stop(self) -> None:
        """End the daemon and its shims, and remove the cgroups that stay behind."""
        self.process.send_signal(signal.SIGTERM)
        self.process.wait(10)
        for hierarchy in hierarchies():
            for path in sorted((hierarchy / self.name).rglob("*"), reverse=True):
                if path.is_dir():
                    with suppress(OSError):
                        path.rmdir()
            with suppress(OSError):
                (hierarchy / self.name).rmdir()


def start(root: Path, name: str) -> Containerd:
    """Start a daemon with its images loaded. Raises RuntimeError with its log when it does not come up."""
    for folder in ("root", "state", "cni"):
        (root / folder).mkdir(parents=True)
    (root / "config.toml").write_text(CONFIG.format(root=root, pause=PAUSE))
    ipam = {"type": "host-local", "subnet": "10.222.0.0/24", "dataDir": f"{root}/ipam"}
    plugins = [{"type": "bridge", "bridge": "test0", "isGateway": True, "ipam": ipam}]
    (root / "cni" / "10-test.conflist").write_text(
        json.dumps({"cniVersion": "0.4.0", "name": "test", "plugins": plugins})
    )
    prepare = "ip link set lo up && mount -t tmpfs tmpfs /run && mkdir -p /run/containerd /run/netns"
    script = f"{prepare} && exec containerd -c $0"
    log = (root / "log").open("wb")
    process = subprocess.Popen(
        ["unshare", "-n", "-m", "sh", "-c", script, str(root / "config.toml")], stdout=log, stderr=log
    )
    log.close()
    made = Containerd(root, name, process)
    deadline = time.monotonic() + 20
    while not (root / "containerd.sock").exists():
        if process.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError((root / "log").read_text()[-2000:])
        time.sleep(0.05)
    made.load(IMAGE, ["sh"])
    made.load(PAUSE, ["sleep", "2147483647"])
    return made
