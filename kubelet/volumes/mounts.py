"""Where a container sees its volumes: volumeMounts to CRI mounts, sub-paths kept inside their volume."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from kubelet.cri.pb import api_pb2 as pb
from kubelet.pods.environment import ConfigError
from kubelet.pods.expand import expand

_PROPAGATION = {
    "": pb.PROPAGATION_PRIVATE,
    "None": pb.PROPAGATION_PRIVATE,
    "HostToContainer": pb.PROPAGATION_HOST_TO_CONTAINER,
    "Bidirectional": pb.PROPAGATION_BIDIRECTIONAL,
}


def mounts(
    container: Mapping[str, Any],
    volumes: Mapping[str, Path],
    env: Mapping[str, str],
    read_only: Collection[str] = (),
) -> list[pb.Mount]:
    """The mounts of one container; creates missing sub-paths. `read_only` names volumes that nobody may write
    to. Raises `ConfigError`.
    """
    if container.get("volumeDevices"):
        raise ConfigError("volumeDevices is not supported")
    out = []
    for mount in container.get("volumeMounts", []):
        if mount["name"] not in volumes:
            raise ConfigError(
                f'cannot find volume "{mount["name"]}" to mount into container "{container["name"]}"'
            )
        path = volumes[mount["name"]]
        sub = mount.get("subPath") or expand(mount.get("subPathExpr", ""), env)
        if sub:
            path = sub_path(path, sub)
        target = mount["mountPath"]
        out.append(
            pb.Mount(
                container_path=target if target.startswith("/") else f"/{target}",
                host_path=str(path),
                readonly=bool(mount.get("readOnly")) or mount["name"] in read_only,
                propagation=_PROPAGATION[mount.get("mountPropagation") or ""],
            )
        )
    return out


def sub_path(volume: Path, sub: str) -> Path:
    """The place of `sub` below the volume, links resolved; refuses what would lead outside."""
    if sub.startswith("/") or ".." in PurePosixPath(sub).parts:
        raise ConfigError(f"subPath {sub!r} must stay inside its volume")
    root = volume.resolve()
    place = (root / sub).resolve()
    if place != root and root not in place.parents:
        raise ConfigError(f"subPath {sub!r} leads outside its volume")
    if not place.exists():
        place.mkdir(parents=True, mode=0o750)
    return place
