"""Which images a lab carries, and keeping their archives below `<state>/images/`."""

from __future__ import annotations

import platform
import subprocess
from dataclasses import dataclass
from pathlib import Path

from deploy.configs import PAUSE_IMAGE
from deploy.images import python
from deploy.images.oci import Entry, Image, write_archive

BUSYBOX = Path("/bin/busybox")
BUSYBOX_REFERENCES = ("docker.io/library/busybox:latest", "docker.io/library/busybox:1.35")
# `controllers` is for the provisioner of local volumes, which runs from the same image: a second image would
# cost every worker a second import.
DNS_PACKAGES = ("apimachinery", "clusterdns", "componentbase", "controllers", "kubeclient", "pki")
DNS_REPOSITORY = "docker.io/hardway/clusterdns"
# Nothing but waiting: it holds a pod's namespaces. Being pid 1 of them, it must also reap and obey SIGTERM.
PAUSE_SCRIPT = b"#!/bin/sh\ntrap 'exit 0' TERM INT\nwhile :; do sleep 2147483647 & wait $!; done\n"


class ImageError(Exception):
    """An image cannot be built; says what is missing."""


@dataclass(frozen=True)
class Archive:
    """One image archive: the names it carries and its file."""

    references: tuple[str, ...]
    path: Path


def _busybox_entries(binary: Path) -> list[Entry]:
    """The busybox file system: one binary, a link for each of its applets, and the files a shell expects."""
    done = subprocess.run([str(binary), "--list"], capture_output=True, text=True, timeout=10, check=True)
    content = binary.read_bytes()
    if b"/ld-linux" in content or b"/ld-musl" in content:
        raise ImageError(f"{binary} is linked dynamically: install package busybox-static")
    entries = [Entry("bin/busybox", 0o755, content=content)]
    entries += [Entry(f"bin/{name}", link="busybox") for name in done.stdout.split() if name != "busybox"]
    return [
        *entries,
        Entry(
            "etc/passwd",
            0o644,
            content=b"root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534::/:/bin/false\n",
        ),
        Entry("etc/group", 0o644, content=b"root:x:0:\nnobody:x:65534:\n"),
        Entry("root", 0o700),
        Entry("tmp", 0o1777),
        Entry("var/www", 0o755),
    ]


def busybox_image() -> Image:
    """The image `busybox`: a shell and small tools; its `httpd` is the example web server."""
    return Image(
        references=BUSYBOX_REFERENCES,
        entries=_busybox_entries(BUSYBOX),
        machine=platform.machine(),
        command=("sh",),
        environment={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
    )


def pause_image() -> Image:
    """The sandbox image, the parent of a pod's containers."""
    content = BUSYBOX.read_bytes()
    return Image(
        references=(PAUSE_IMAGE,),
        entries=[
            Entry("bin/busybox", 0o755, content=content),
            Entry("bin/sh", link="busybox"),
            Entry("bin/sleep", link="busybox"),
            Entry("pause", 0o755, content=PAUSE_SCRIPT),
        ],
        machine=platform.machine(),
        entrypoint=("/pause",),
        environment={"PATH": "/bin"},
    )


def dns_reference(root: Path) -> str:
    """The name of the image of cluster DNS as of the sources below `root`: new sources, new name, new
    rollout."""
    return f"{DNS_REPOSITORY}:{python.fingerprint(DNS_PACKAGES, root)}"


def basic(directory: Path) -> Archive:
    """The sandbox and busybox images, in one archive: each import costs the start of a program on each
    worker."""
    return Archive((PAUSE_IMAGE, *BUSYBOX_REFERENCES), directory / "basic.tar")


def dns(directory: Path, root: Path) -> Archive:
    """The image of cluster DNS for the present sources."""
    reference = dns_reference(root)
    return Archive((reference,), directory / f"clusterdns-{reference.rpartition(':')[2]}.tar")


def build_basic(directory: Path) -> None:
    """Write the basic archive if it is absent. Raises ImageError, OSError."""
    if not BUSYBOX.exists():
        raise ImageError(f"{BUSYBOX} is absent: install package busybox-static")
    archive = basic(directory)
    if not archive.path.exists():
        write_archive([pause_image(), busybox_image()], archive.path)


def build_dns(archive: Archive, root: Path) -> None:
    """Write the archive of cluster DNS if it is absent; those of older sources are removed. Raises
    PackingError."""
    if not archive.path.exists():
        image = python.daemon_image(archive.references[0], "clusterdns", DNS_PACKAGES, root)
        write_archive([image], archive.path)
    for other in archive.path.parent.glob("clusterdns-*.tar"):
        if other != archive.path:
            other.unlink(missing_ok=True)
