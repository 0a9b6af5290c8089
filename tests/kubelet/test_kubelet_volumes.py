"""Volumes: contents, the atomic switch, host paths and sub-paths."""

from __future__ import annotations

import base64
from pathlib import Path
from typing import Any

import pytest

from kubelet.pods.environment import ConfigError, Sources
from kubelet.volumes import atomic, host, mounts
from kubelet.volumes.atomic import File
from kubelet.volumes.payload import Material, TokenWish, VolumeError, files, needs
from tests.kubelet.builders import container, pod


def visible(target: Path) -> dict[str, bytes]:
    """What a container sees: every file that is not internal, links followed."""
    roots = [entry for entry in target.iterdir() if not entry.name.startswith("..")]
    found = [path for root in roots for path in ([root] if root.is_file() else sorted(root.rglob("*")))]
    return {str(path.relative_to(target)): path.read_bytes() for path in found if path.is_file()}


def test_atomic_write_replaces_everything_at_once(tmp_path: Path) -> None:
    assert atomic.write(tmp_path, {"a": File(b"1"), "d/b": File(b"2", 0o400)})
    assert visible(tmp_path) == {"a": b"1", "d/b": b"2"}
    assert (tmp_path / "d/b").stat().st_mode & 0o777 == 0o400
    before = (tmp_path / "..data").readlink()
    assert not atomic.write(tmp_path, {"a": File(b"1"), "d/b": File(b"2", 0o400)})
    assert (tmp_path / "..data").readlink() == before
    assert atomic.write(tmp_path, {"a": File(b"3")})
    assert visible(tmp_path) == {"a": b"3"}
    assert not (tmp_path / before).exists()


@pytest.mark.parametrize("crash_at", ["chmod", "symlink_to", "rename"])
def test_a_crash_between_any_two_steps_leaves_the_old_content(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, crash_at: str
) -> None:
    atomic.write(tmp_path, {"a": File(b"old")})

    def crash(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as broken:
        broken.setattr(Path, crash_at, crash)
        with pytest.raises(KeyboardInterrupt):
            atomic.write(tmp_path, {"a": File(b"new")})
    assert visible(tmp_path) == {"a": b"old"}
    atomic.write(tmp_path, {"a": File(b"new")})
    assert visible(tmp_path) == {"a": b"new"}
    assert len(list(tmp_path.iterdir())) == 3  # the name, ..data, and one directory of content


@pytest.mark.parametrize("path", ["../x", "/x", "a/../../x", "..data", ""])
def test_paths_that_leave_the_volume_are_refused(tmp_path: Path, path: str) -> None:
    with pytest.raises(ValueError, match="invalid path"):
        atomic.write(tmp_path, {path: File(b"")})


MATERIAL = Material(
    Sources(
        configmaps={
            "cm": {"data": {"k": "v"}, "binaryData": {"b": base64.b64encode(b"\xff").decode()}},
            "no": None,
        },
        secrets={"s": {"data": {"p": base64.b64encode(b"hidden").decode()}}},
    ),
    {TokenWish("", 3600): "token", TokenWish("vault", 600): "other"},
)


def test_projected_volume_joins_its_sources() -> None:
    sources: list[dict[str, Any]] = [
        {"serviceAccountToken": {"path": "token", "expirationSeconds": 3600}},
        {"serviceAccountToken": {"path": "vault", "expirationSeconds": 600, "audience": "vault"}},
        {"configMap": {"name": "cm", "items": [{"key": "k", "path": "sub/k", "mode": 0o440}]}},
        {"downwardAPI": {"items": [{"path": "name", "fieldRef": {"fieldPath": "metadata.name"}}]}},
    ]
    volume = {"name": "v", "projected": {"sources": sources, "defaultMode": 0o640}}
    assert needs(volume).tokens == {TokenWish("", 3600), TokenWish("vault", 600)}
    assert files(pod(), volume, MATERIAL, private_tokens=True) == {
        "token": File(b"token", 0o600),
        "vault": File(b"other", 0o600),
        "sub/k": File(b"v", 0o440),
        "name": File(b"p", 0o640),
    }


def test_plain_configmap_and_secret() -> None:
    made = files(pod(), {"name": "v", "configMap": {"name": "cm"}}, MATERIAL)
    assert made == {"k": File(b"v"), "b": File(b"\xff")}
    made = files(pod(), {"name": "v", "secret": {"secretName": "s", "defaultMode": 0o400}}, MATERIAL)
    assert made == {"p": File(b"hidden", 0o400)}


def test_missing_objects_and_keys_fail_unless_optional() -> None:
    with pytest.raises(VolumeError, match='configmap "no" not found'):
        files(pod(), {"name": "v", "configMap": {"name": "no"}}, MATERIAL)
    assert files(pod(), {"name": "v", "configMap": {"name": "no", "optional": True}}, MATERIAL) == {}
    items = [{"key": "absent", "path": "x"}]
    with pytest.raises(VolumeError, match="references non-existent configmap key: ns/cm: absent"):
        files(pod(), {"name": "v", "configMap": {"name": "cm", "items": items}}, MATERIAL)


def test_host_path_types(tmp_path: Path) -> None:
    assert host.check_host_path({"path": str(tmp_path / "new"), "type": "DirectoryOrCreate"}).is_dir()
    assert host.check_host_path({"path": str(tmp_path / "f"), "type": "FileOrCreate"}).is_file()
    assert host.check_host_path({"path": str(tmp_path / "absent")}) == tmp_path / "absent"
    for kind in ("Directory", "Socket", "BlockDevice"):
        with pytest.raises(VolumeError, match="hostPath type check failed"):
            host.check_host_path({"path": str(tmp_path / "f"), "type": kind})
    with pytest.raises(VolumeError, match="'Nonsense' is not supported"):
        host.check_host_path({"path": "/", "type": "Nonsense"})


def test_sub_paths_stay_inside(tmp_path: Path) -> None:
    (tmp_path / "v").mkdir()
    (tmp_path / "v" / "out").symlink_to(tmp_path)
    made = container(
        volumeMounts=[{"name": "v", "mountPath": "/d", "subPathExpr": "$(N)/x", "readOnly": True}]
    )
    (mount,) = mounts.mounts(made, {"v": tmp_path / "v"}, {"N": "sub"})
    assert (mount.host_path, mount.readonly) == (str(tmp_path / "v" / "sub" / "x"), True)
    for bad in ("../v", "out", "/etc"):
        with pytest.raises(ConfigError):
            mounts.sub_path(tmp_path / "v", bad)


def test_remove_tree_is_idempotent(tmp_path: Path) -> None:
    (tmp_path / "pod" / "volumes").mkdir(parents=True)
    host.remove_tree(tmp_path / "pod")
    host.remove_tree(tmp_path / "pod")
    assert not (tmp_path / "pod").exists()
