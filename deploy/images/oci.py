"""Writing OCI images (image-spec v1.0: layout, index, manifest, config, one tar layer) without a container
tool.

The output is an archive that `ctr images import` reads. It is reproducible: times, owners and order are
fixed, so equal content has an equal digest and an import that finds the digest does nothing.
"""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, BinaryIO

EPOCH = "1970-01-01T00:00:00Z"
MANIFEST = "application/vnd.oci.image.manifest.v1+json"
CONFIG = "application/vnd.oci.image.config.v1+json"
LAYER = "application/vnd.oci.image.layer.v1.tar"
ARCHITECTURES = {
    "x86_64": "amd64",
    "aarch64": "arm64",
    "armv7l": "arm",
    "ppc64le": "ppc64le",
    "s390x": "s390x",
}


@dataclass(frozen=True)
class Entry:
    """One entry of the layer. Exactly one of `source` (a file on this machine), `content`, `link` (a
    symbolic link's target), `hard_link` (an earlier entry's path) is set; a directory has none."""

    path: str
    mode: int = 0o755
    source: Path | None = None
    content: bytes | None = None
    link: str | None = None
    hard_link: str | None = None


@dataclass(frozen=True, kw_only=True)
class Image:
    """What an image is called, holds and runs. `references` are full names
    ("docker.io/library/busybox:latest")."""

    references: tuple[str, ...]
    entries: Sequence[Entry]
    machine: str = "x86_64"
    entrypoint: tuple[str, ...] = ()
    command: tuple[str, ...] = ()
    environment: Mapping[str, str] = field(default_factory=dict)
    user: str = ""
    working_dir: str = "/"


def _info(entry: Entry) -> tarfile.TarInfo:
    info = tarfile.TarInfo(entry.path.lstrip("/"))
    info.mode = entry.mode
    if entry.link is not None:
        info.type, info.linkname, info.mode = tarfile.SYMTYPE, entry.link, 0o777
    elif entry.hard_link is not None:
        info.type, info.linkname = tarfile.LNKTYPE, entry.hard_link.lstrip("/")
    elif entry.content is not None:
        info.size = len(entry.content)
    elif entry.source is not None:
        info.size = entry.source.stat().st_size
    else:
        info.type = tarfile.DIRTYPE
    return info


def with_parents(entries: Iterable[Entry]) -> list[Entry]:
    """Put a directory entry before the first entry below it, where there is none."""
    known: set[str] = set()
    result: list[Entry] = []
    for entry in entries:
        path = entry.path.strip("/")
        parts = path.split("/")
        for depth in range(1, len(parts)):
            parent = "/".join(parts[:depth])
            if parent not in known:
                known.add(parent)
                result.append(Entry(parent))
        if path not in known:
            known.add(path)
            result.append(entry)
    return result


def write_layer(entries: Iterable[Entry], target: BinaryIO) -> None:
    """The layer: an uncompressed tar. It never leaves this machine, and unpacking it is on the way of every
    `up`."""
    with tarfile.open(fileobj=target, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for entry in with_parents(entries):
            info = _info(entry)
            if entry.content is not None:
                archive.addfile(info, io.BytesIO(entry.content))
            elif entry.source is not None:
                with entry.source.open("rb") as file:
                    archive.addfile(info, file)
            else:
                archive.addfile(info)


def config_document(image: Image, layer_digest: str) -> dict[str, Any]:
    """The image config (image-spec config.md)."""
    settings: dict[str, Any] = {"WorkingDir": image.working_dir}
    if image.entrypoint:
        settings["Entrypoint"] = list(image.entrypoint)
    if image.command:
        settings["Cmd"] = list(image.command)
    if image.environment:
        settings["Env"] = [f"{key}={value}" for key, value in image.environment.items()]
    if image.user:
        settings["User"] = image.user
    return {
        "created": EPOCH,
        "architecture": ARCHITECTURES.get(image.machine, image.machine),
        "os": "linux",
        "config": settings,
        "rootfs": {"type": "layers", "diff_ids": [layer_digest]},
        "history": [{"created": EPOCH, "created_by": "hardway"}],
    }


def _descriptor(media_type: str, digest: str, size: int) -> dict[str, Any]:
    return {"mediaType": media_type, "digest": digest, "size": size}


def _json(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, separators=(",", ":")).encode()


def _digest(data: bytes) -> str:
    return "sha256:" + hashlib.sha256(data).hexdigest()


def _file_digest(path: Path) -> str:
    with path.open("rb") as file:
        return "sha256:" + hashlib.file_digest(file, "sha256").hexdigest()


def write_archive(images: Sequence[Image], path: Path) -> list[str]:
    """Write the images as one OCI archive at `path` (whole or not at all); return their manifests'
    digests."""
    path.parent.mkdir(parents=True, exist_ok=True)
    layers = [path.with_name(f"{path.name}.layer{number}") for number in range(len(images))]
    unfinished = path.with_name(path.name + ".part")
    manifests: list[dict[str, Any]] = []
    blobs: list[Entry] = []
    try:
        for image, layer in zip(images, layers, strict=True):
            descriptor, files = _image_blobs(image, layer)
            manifests += _index_entries(image.references, descriptor)
            blobs += files
        index = _json({"schemaVersion": 2, "manifests": manifests})
        head = [
            Entry("oci-layout", 0o644, content=_json({"imageLayoutVersion": "1.0.0"})),
            Entry("index.json", 0o644, content=index),
        ]
        with unfinished.open("wb") as file:
            write_layer([*head, *blobs], file)
        unfinished.replace(path)
    finally:
        for litter in (*layers, unfinished):
            litter.unlink(missing_ok=True)
    return list(dict.fromkeys(manifest["digest"] for manifest in manifests))


def _image_blobs(image: Image, layer: Path) -> tuple[dict[str, Any], list[Entry]]:
    """The descriptor of an image's manifest, and the blobs it needs; the layer is written to a file of its
    own."""
    with layer.open("wb") as file:
        write_layer(image.entries, file)
    layer_digest = _file_digest(layer)
    config = _json(config_document(image, layer_digest))
    manifest = _json(
        {
            "schemaVersion": 2,
            "mediaType": MANIFEST,
            "config": _descriptor(CONFIG, _digest(config), len(config)),
            "layers": [_descriptor(LAYER, layer_digest, layer.stat().st_size)],
        }
    )
    files = [Entry(_blob(_digest(data)), 0o644, content=data) for data in (manifest, config)]
    files.append(Entry(_blob(layer_digest), 0o644, source=layer))
    return _descriptor(MANIFEST, _digest(manifest), len(manifest)), files


def _blob(digest: str) -> str:
    return "blobs/" + digest.replace(":", "/")


def _index_entries(references: Iterable[str], manifest: Mapping[str, Any]) -> list[dict[str, Any]]:
    """One manifest under several names: `io.containerd.image.name` is the full name, which containerd takes
    as is."""
    return [
        {
            **manifest,
            "annotations": {
                "io.containerd.image.name": reference,
                "org.opencontainers.image.ref.name": reference.rpartition(":")[2],
            },
        }
        for reference in references
    ]
