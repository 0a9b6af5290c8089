"""The images of the embedded runtime: OCI archives in a directory, unpacked into plain trees when first used.

There is no registry: an archive in the directory is an image that is present, and pulling one means finding
it there. `ctr images import` and this module read the same files (image-spec v1, "Image Layout").
Everything here blocks.
"""

from __future__ import annotations

import gzip
import json
import logging
import platform
import shutil
import tarfile
import threading
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from kubelet.cri.fake import normalize
from kubelet.cri.port import NotFound, RuntimeFailure

log = logging.getLogger(__name__)

NAME = "io.containerd.image.name"
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64", "armv7l": "arm"}
WHITEOUT = ".wh."
OPAQUE = ".wh..wh..opq"


@dataclass(frozen=True, slots=True)
class LocalImage:
    """An image of one archive. `id` is the digest of its configuration, as in containerd."""

    id: str
    digest: str
    references: tuple[str, ...]
    size: int
    config: Mapping[str, Any]
    archive: Path
    layers: tuple[Mapping[str, Any], ...]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What it runs and how: Entrypoint, Cmd, Env, User, WorkingDir, StopSignal."""
        found: Mapping[str, Any] = self.config.get("config") or {}
        return found


class _Layout:
    """An open archive."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.tar = tarfile.open(path)  # noqa: SIM115 - closed by __exit__
        self.members = {member.name.removeprefix("./"): member for member in self.tar.getmembers()}

    def __enter__(self) -> _Layout:
        return self

    def __exit__(self, *_: object) -> None:
        self.tar.close()

    def open(self, name: str) -> IO[bytes]:
        member = self.members.get(name)
        file = self.tar.extractfile(member) if member is not None else None
        if file is None:
            raise RuntimeFailure(f"{self.path.name}: {name} is not in the archive")
        return file

    def json(self, name: str) -> dict[str, Any]:
        with self.open(name) as file:
            found: dict[str, Any] = json.load(file)
        return found

    def blob(self, digest: str) -> str:
        return "blobs/" + digest.replace(":", "/")

    def manifests(self) -> Iterator[tuple[dict[str, Any], str]]:
        """Each manifest's descriptor with the name it bears; of an image for several machines, ours."""
        for entry in self.json("index.json")["manifests"]:
            name = (entry.get("annotations") or {}).get(NAME, "")
            yield self._ours(entry), name

    def _ours(self, entry: dict[str, Any]) -> dict[str, Any]:
        if not str(entry.get("mediaType", "")).endswith(("image.index.v1+json", "manifest.list.v2+json")):
            return entry
        wanted = ARCHITECTURES.get(platform.machine(), platform.machine())
        for each in self.json(self.blob(entry["digest"]))["manifests"]:
            if (each.get("platform") or {}).get("architecture") == wanted:
                return dict(each)
        raise RuntimeFailure(f"{self.path.name}: no image for {wanted}")


def read_archive(path: Path) -> list[LocalImage]:
    """The images of an archive. Raises OSError, `RuntimeFailure`, tarfile.TarError, ValueError."""
    names: dict[str, list[str]] = {}
    found: dict[str, dict[str, Any]] = {}
    with _Layout(path) as layout:
        for entry, name in layout.manifests():
            found[entry["digest"]] = layout.json(layout.blob(entry["digest"]))
            names.setdefault(entry["digest"], []).extend([normalize(name)] if name else [])
        return [
            LocalImage(
                id=manifest["config"]["digest"],
                digest=digest,
                references=tuple(names[digest]),
                size=sum(int(layer["size"]) for layer in manifest["layers"]),
                config=layout.json(layout.blob(manifest["config"]["digest"])),
                archive=path,
                layers=tuple(manifest["layers"]),
            )
            for digest, manifest in found.items()
        ]


class ImageStore:
    """The images below `archives`, with their trees below `root`."""

    def __init__(self, root: Path, archives: Path) -> None:
        self.root, self.archives = root, archives
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._unpacking = threading.Lock()  # calls come from several threads
        self._read: dict[Path, tuple[tuple[int, int], list[LocalImage]]] = {}

    def present(self) -> list[LocalImage]:
        """Every image that is there and was not removed, each once."""
        by_id = {image.id: image for image in self._all() if not self._removed(image).exists()}
        return list(by_id.values())

    def find(self, reference: str) -> LocalImage | None:
        """The image by its id, the digest of its manifest, or a name."""
        return self._among(self.present(), reference)

    def pull(self, reference: str) -> LocalImage:
        """What is there already is "pulled", also after its removal. Raises `NotFound`."""
        image = self._among(self._all(), reference)
        if image is None:
            raise NotFound(
                f'image "{reference}" is not found: the embedded runtime asks no registry, only the '
                f"archives in {self.archives}"
            )
        self._removed(image).unlink(missing_ok=True)
        self.tree(image)
        return image

    def remove(self, reference: str) -> None:
        """Forget an image and its tree; its archive, which other nodes use as well, stays."""
        image = self.find(reference)
        if image is not None:
            self._removed(image).parent.mkdir(parents=True, exist_ok=True)
            self._removed(image).touch()
            shutil.rmtree(self._place(image), ignore_errors=True)

    def tree(self, image: LocalImage) -> Path:
        """The image's file tree, unpacked whole or not at all. Raises `RuntimeFailure`."""
        with self._unpacking:
            place = self._place(image)
            if not place.exists():
                self._unpack_all(image, place)
            return place

    def _unpack_all(self, image: LocalImage, place: Path) -> None:
        unfinished = place.with_name(f"{place.name}.part")
        shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(parents=True)
        try:
            with _Layout(image.archive) as layout:
                for layer in image.layers:
                    self._unpack(layout, layer, unfinished)
            unfinished.rename(place)
        except (OSError, tarfile.TarError, EOFError) as error:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise RuntimeFailure(f"failed to unpack image {image.id}: {error}") from error

    def _unpack(self, layout: _Layout, layer: Mapping[str, Any], target: Path) -> None:
        kind = str(layer["mediaType"])
        if not kind.endswith((".tar", ".tar+gzip", ".tar.gzip")):
            raise RuntimeFailure(f"{layout.path.name}: layers of type {kind} are not supported")
        with layout.open(layout.blob(layer["digest"])) as raw:
            packed = kind.endswith("gzip")
            stream: Any = gzip.GzipFile(fileobj=raw) if packed else raw
            with tarfile.open(fileobj=stream, mode="r|" if packed else "r:") as tar:
                apply_layer(tar, target)

    def _place(self, image: LocalImage) -> Path:
        return self.root / image.id.replace(":", "-")

    def _removed(self, image: LocalImage) -> Path:
        return self.root / "removed" / image.id.replace(":", "-")

    def _all(self) -> list[LocalImage]:
        known: dict[Path, tuple[tuple[int, int], list[LocalImage]]] = {}
        for path in sorted(self.archives.glob("*.tar")):
            try:
                about = path.stat()
                mark = (about.st_mtime_ns, about.st_size)
                held = self._read.get(path)
                known[path] = held if held and held[0] == mark else (mark, read_archive(path))
            except (OSError, RuntimeFailure, tarfile.TarError, ValueError, KeyError) as error:
                log.warning("image archive %s cannot be read: %s", path, error)
        self._read = known
        return [image for _, images in known.values() for image in images]

    @staticmethod
    def _among(images: list[LocalImage], reference: str) -> LocalImage | None:
        for image in images:
            if reference in (image.id, image.digest) or reference.endswith(f"@{image.digest}"):
                return image
        name = normalize(reference)
        return next((image for image in images if name in image.references), None)


def apply_layer(tar: tarfile.TarFile, target: Path) -> None:
    """Lay one layer over what is there; files that begin with `.wh.` take others away (image-spec, "Layer
    Filesystem Changeset").
    """
    for member in tar:
        name = member.name.removeprefix("./").strip("/")
        base = name.rpartition("/")[2]
        if base == OPAQUE:
            for child in (target / name).parent.iterdir():
                _take_away(child)
        elif base.startswith(WHITEOUT):
            _take_away((target / name).with_name(base.removeprefix(WHITEOUT)))
        elif name and not member.isdev():
            _make_way(member, target / name)
            tar.extract(member, target, numeric_owner=True, filter="tar")


def _take_away(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


def _make_way(member: tarfile.TarInfo, path: Path) -> None:
    """A later layer may put one kind of entry where another was."""
    if path.is_symlink() or (path.exists() and path.is_dir() != member.isdir()):
        _take_away(path)
