"""OCI images: the bytes are a valid layout, and equal content gives equal bytes."""

from __future__ import annotations

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from deploy.images.catalogue import BUSYBOX, busybox_image, pause_image
from deploy.images.oci import Entry, Image, with_parents, write_archive


def example(tmp_path: Path) -> Image:
    source = tmp_path / "source"
    source.write_bytes(b"#!/bin/sh\n")
    return Image(
        references=("docker.io/library/example:1", "docker.io/library/example:latest"),
        entries=[
            Entry("bin/tool", 0o755, source=source),
            Entry("bin/alias", link="tool"),
            Entry("bin/hard", hard_link="bin/tool"),
            Entry("etc/config", 0o640, content=b"x=1"),
            Entry("tmp", 0o1777),
        ],
        entrypoint=("/bin/tool",),
        command=("serve",),
        environment={"A": "1"},
        user="1000",
    )


def read(path: Path) -> tuple[dict[str, bytes], dict[str, Any]]:
    with tarfile.open(path) as archive:
        files = {m.name: archive.extractfile(m).read() for m in archive if m.isfile()}  # type: ignore[union-attr]
    return files, json.loads(files["index.json"])


def blob(files: dict[str, bytes], descriptor: dict[str, Any]) -> bytes:
    data = files["blobs/" + descriptor["digest"].replace(":", "/")]
    assert hashlib.sha256(data).hexdigest() == descriptor["digest"].removeprefix("sha256:")
    assert len(data) == descriptor["size"]
    return data


def test_layout_index_manifest_config_and_layer_agree(tmp_path: Path) -> None:
    [digest] = write_archive([example(tmp_path)], tmp_path / "image.tar")
    files, index = read(tmp_path / "image.tar")
    assert json.loads(files["oci-layout"]) == {"imageLayoutVersion": "1.0.0"}
    assert [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]] == [
        "docker.io/library/example:1",
        "docker.io/library/example:latest",
    ]
    assert {entry["digest"] for entry in index["manifests"]} == {digest}
    manifest = json.loads(blob(files, index["manifests"][0]))
    config = json.loads(blob(files, manifest["config"]))
    layer = blob(files, manifest["layers"][0])
    assert config["rootfs"]["diff_ids"] == [manifest["layers"][0]["digest"]]
    assert (config["os"], config["architecture"]) == ("linux", "amd64")
    assert config["config"] == {
        "WorkingDir": "/",
        "Entrypoint": ["/bin/tool"],
        "Cmd": ["serve"],
        "Env": ["A=1"],
        "User": "1000",
    }
    with tarfile.open(fileobj=io.BytesIO(layer)) as archive:
        found = {m.name: (m.type, m.mode, m.linkname) for m in archive}
    assert found == {
        "bin": (tarfile.DIRTYPE, 0o755, ""),
        "bin/tool": (tarfile.REGTYPE, 0o755, ""),
        "bin/alias": (tarfile.SYMTYPE, 0o777, "tool"),
        "bin/hard": (tarfile.LNKTYPE, 0o755, "bin/tool"),
        "etc": (tarfile.DIRTYPE, 0o755, ""),
        "etc/config": (tarfile.REGTYPE, 0o640, ""),
        "tmp": (tarfile.DIRTYPE, 0o1777, ""),
    }


def test_equal_content_gives_equal_bytes(tmp_path: Path) -> None:
    one = write_archive([example(tmp_path)], tmp_path / "one.tar")
    (tmp_path / "source").touch()
    other = write_archive([example(tmp_path)], tmp_path / "other.tar")
    assert one == other
    assert (tmp_path / "one.tar").read_bytes() == (tmp_path / "other.tar").read_bytes()


def test_several_images_share_an_archive(tmp_path: Path) -> None:
    second = Image(references=("docker.io/library/second:1",), entries=[Entry("x", content=b"2")])
    digests = write_archive([example(tmp_path), second], tmp_path / "images.tar")
    files, index = read(tmp_path / "images.tar")
    names = [entry["annotations"]["io.containerd.image.name"] for entry in index["manifests"]]
    assert names == [*example(tmp_path).references, *second.references]
    assert len(digests) == 2
    for entry in index["manifests"]:
        assert blob(files, entry)


def test_a_failed_build_leaves_no_archive(tmp_path: Path) -> None:
    image = Image(references=("x:1",), entries=[Entry("a", source=tmp_path / "absent")])
    with pytest.raises(FileNotFoundError):
        write_archive([image], tmp_path / "image.tar")
    assert list(tmp_path.iterdir()) == []


def test_parents_come_first_and_once() -> None:
    paths = [
        entry.path
        for entry in with_parents([Entry("a/b/c", content=b""), Entry("a/b"), Entry("a/d", link="c")])
    ]
    assert paths == ["a", "a/b", "a/b/c", "a/d"]


@pytest.mark.skipif(not BUSYBOX.exists(), reason="busybox-static is not installed")
def test_busybox_has_its_applets_and_pause_waits_for_ever() -> None:
    links = {entry.path: entry.link for entry in busybox_image().entries if entry.link}
    assert links["bin/httpd"] == links["bin/wget"] == links["bin/sh"] == "busybox"
    assert busybox_image().references == (
        "docker.io/library/busybox:latest",
        "docker.io/library/busybox:1.35",
    )
    assert pause_image().entrypoint == ("/pause",)
