"""Sets up a pod's volumes, keeps their content fresh, and removes them when the pod has ended.

There is no table of what is mounted: every step is idempotent and looks at the disk, so a restarted kubelet
goes on where the last one stopped.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from kubelet.pods.environment import ConfigError, Sources
from kubelet.volumes import atomic, claims, host
from kubelet.volumes.payload import Material, TokenWish, VolumeError, files, needs

log = logging.getLogger(__name__)

Pod = Mapping[str, Any]
SUPPORTED = (
    *("emptyDir", "hostPath", "configMap", "secret", "downwardAPI", "projected"),
    *("persistentVolumeClaim", "ephemeral"),
)


class Objects(Protocol):
    """Where the content of volumes comes from."""

    async def configmap(self, namespace: str, name: str) -> Mapping[str, Any] | None: ...

    async def secret(self, namespace: str, name: str) -> Mapping[str, Any] | None: ...

    async def claim(self, namespace: str, name: str) -> Mapping[str, Any] | None: ...

    async def volume(self, name: str) -> Mapping[str, Any] | None: ...

    async def token(self, pod: Pod, wish: TokenWish) -> str: ...


class VolumeManager:
    """The volumes of all pods below `<root>/pods/<uid>/volumes`."""

    def __init__(
        self,
        root: Path,
        objects: Objects,
        sources: Callable[[Pod], Sources],
        labels: Callable[[], Mapping[str, str]] = dict,
    ) -> None:
        self._labels = labels
        self.root = root / "pods"
        self._objects = objects
        self._sources = sources

    def pod_dir(self, uid: str) -> Path:
        return self.root / uid

    def uids(self) -> set[str]:
        """Pods that have a directory here."""
        return {entry.name for entry in self.root.iterdir()} if self.root.exists() else set()

    async def ensure(self, pod: Pod) -> dict[str, Path]:
        """Set up or refresh every volume; returns their places. Raises `VolumeError` with what is wrong
        first.
        """
        wanted = pod["spec"].get("volumes", [])
        places = await asyncio.gather(*(self._one(pod, volume) for volume in wanted))
        return {volume["name"]: place for volume, place in zip(wanted, places, strict=True)}

    async def _one(self, pod: Pod, volume: Mapping[str, Any]) -> Path:
        name = volume["name"]
        try:
            kind = next((kind for kind in SUPPORTED if kind in volume), None)
            if kind is None:
                asked = sorted(key for key in volume if key != "name")
                raise VolumeError(f"volume source {asked} is not supported")
            return await self._set_up(kind, pod, volume)
        except (VolumeError, ConfigError, OSError) as error:
            raise VolumeError(f'MountVolume.SetUp failed for volume "{name}" : {error}') from error

    async def _set_up(self, kind: str, pod: Pod, volume: Mapping[str, Any]) -> Path:
        if kind == "hostPath":
            return await asyncio.to_thread(host.check_host_path, volume["hostPath"])
        if kind in ("persistentVolumeClaim", "ephemeral"):
            return await self._claimed(pod, volume)
        directory = kind.replace("configMap", "configmap").replace("emptyDir", "empty-dir")
        directory = directory.replace("downwardAPI", "downward-api")
        volumes = self.pod_dir(pod["metadata"]["uid"]) / "volumes"
        place: Path = volumes / f"kubernetes.io~{directory}" / volume["name"]
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        if kind == "emptyDir":
            await asyncio.to_thread(host.make_empty_dir, place, volume["emptyDir"] or {}, group)
            return place
        owner = _common_user(pod["spec"])
        material = await self._material(pod, volume)
        content = files(pod, volume, material, private_tokens=group is not None or owner is not None)
        if group is not None:
            content = {path: atomic.File(f.content, f.mode | 0o440) for path, f in content.items()}
        token_owner = owner if group is None and needs(volume).tokens else None
        await asyncio.to_thread(atomic.write, place, content, group=group, owner=token_owner)
        return place

    async def _claimed(self, pod: Pod, volume: Mapping[str, Any]) -> Path:
        """The directory of a bound claim's volume."""
        namespace = pod["metadata"].get("namespace", "default")
        claim = await self._objects.claim(namespace, claims.claim_name(pod, volume))
        name = claims.bound_volume(pod, volume, claim)
        assert claim is not None
        found = claims.backing(claim, await self._objects.volume(name), name, self._labels())
        if found.kind == "hostPath":
            return await asyncio.to_thread(host.check_host_path, found.source)
        group = (pod["spec"].get("securityContext") or {}).get("fsGroup")
        return await asyncio.to_thread(host.check_local, found.source, group)

    async def _material(self, pod: Pod, volume: Mapping[str, Any]) -> Material:
        wanted, namespace = needs(volume), pod["metadata"].get("namespace", "default")

        async def fetch(
            names: frozenset[str], get: Callable[[str, str], Awaitable[Mapping[str, Any] | None]]
        ) -> dict[str, Mapping[str, Any] | None]:
            return {name: await get(namespace, name) for name in names}

        facts = self._sources(pod)
        return Material(
            Sources(
                configmaps=await fetch(wanted.configmaps, self._objects.configmap),
                secrets=await fetch(wanted.secrets, self._objects.secret),
                pod_ips=facts.pod_ips,
                host_ips=facts.host_ips,
                allocatable=facts.allocatable,
            ),
            {wish: await self._objects.token(pod, wish) for wish in wanted.tokens},
        )

    async def tear_down(self, uid: str) -> None:
        """Unmount and delete the volumes of a pod that has ended; idempotent. Raises OSError."""
        await asyncio.to_thread(host.remove_tree, self.pod_dir(uid) / "volumes")

    async def remove(self, uid: str) -> None:
        """Unmount and delete everything of the pod; idempotent. Raises OSError."""
        await asyncio.to_thread(host.remove_tree, self.pod_dir(uid))


def _common_user(spec: Mapping[str, Any]) -> int | None:
    """The one user that every container runs as, if the spec says so: then tokens can belong to it alone."""
    of_pod = (spec.get("securityContext") or {}).get("runAsUser")
    users = {
        (container.get("securityContext") or {}).get("runAsUser", of_pod)
        for container in [*spec.get("initContainers", []), *spec.get("containers", [])]
    }
    return int(user) if len(users) == 1 and (user := users.pop()) is not None else None
