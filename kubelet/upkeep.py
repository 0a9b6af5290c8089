"""Keeps the node usable while it fills: watches its resources, removes unused images, evicts pods.

One pass every `PERIOD` seconds: measure, decide (`node.eviction`, `node.imagegc`), and do the least that
helps: images before pods, one pod a pass for pressure, every pod that exceeds its own storage limits.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from componentbase.clock import Clock
from kubelet.cache import RuntimeCache
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import Runtime, RuntimeFailure
from kubelet.node.eviction import (
    DISK,
    Crossed,
    Pressures,
    Usage,
    crossed,
    disk_usage,
    rank,
    reclaims_images,
    sentence,
    storage_excess,
    together,
)
from kubelet.node.imagegc import ImageLedger, Policy, excess
from kubelet.node.machine import Free, Machine, free
from kubelet.pods import observed

log = logging.getLogger(__name__)

PERIOD = 10.0
MINIMUM_GRACE = 1.0  # seconds a pod has that is evicted for what it wrote
Pod = Mapping[str, Any]


Tell = Callable[[str, str], None]
"""Says something about the node as a Warning event: reason, message."""


class Pods(Protocol):
    """The pods of this node, and how to end one."""

    def pods(self) -> list[Pod]: ...

    def evict(self, pod: Pod, message: str, grace: float, reason: str = ...) -> None: ...


class Upkeep:
    """The node's housekeeper."""

    def __init__(
        self,
        runtime: Runtime,
        cache: RuntimeCache,
        clock: Clock,
        machine: Machine,
        root: Path,
        pods: Pods,
        *,
        hard: Mapping[str, str],
        hold: float,
        images: Policy,
        tell: Tell,
        measure: Callable[[Path, Path | None], Free] = free,
    ) -> None:
        self._runtime, self._cache, self._clock, self._machine = runtime, cache, clock, machine
        self._root, self._pods, self._hard, self._policy = root, pods, hard, images
        self._measure, self._tell = measure, tell
        self._pressures = Pressures(hold)
        self._ledger = ImageLedger()
        self._image_root: Path | None = None
        self._leaving: set[str] = set()
        self._short_of_images = False
        self.conditions: frozenset[str] = frozenset()

    async def once(self) -> None:
        """One pass; none before it is known what runs here. Raises `RuntimeFailure`, OSError."""
        if self._cache.relisted_at is None:
            return
        settled = not self._leaving  # what is measured from here on knows of every pod that was evicted
        self._leaving = {uid for uid in self._leaving if self._cache.view(uid).alive}
        left = await self._look()
        found = crossed(self._hard, self._machine, left)
        self.conditions = self._pressures.observe(found, self._clock.monotonic())
        await self._collect_images(left, found)
        pods = self._pods.pods()
        stats = await self._stats()
        over = [pod for pod in pods if await self._evict_for_storage(pod, stats)]
        if found and settled and not over:
            left = await self._look()
            found = crossed(self._hard, self._machine, left)
            if found:
                await self._relieve(found[0], pods, stats, left.dedicated)

    async def _look(self) -> Free:
        if self._image_root is None:
            named = await self._runtime.image_filesystem()
            self._image_root = Path(named) if named else self._root
        return await asyncio.to_thread(self._measure, self._root, self._image_root)

    async def _stats(self) -> dict[str, list[pb.ContainerStats]]:
        out: dict[str, list[pb.ContainerStats]] = defaultdict(list)
        for stats in await self._runtime.container_stats():
            out[stats.attributes.labels.get(observed.POD_UID, "")].append(stats)
        return out

    async def _collect_images(self, left: Free, found: Iterable[Crossed]) -> None:
        """Remove what nobody uses while the image file system is too full; all of it, before a pod must go
        for the disk.
        """
        images = await self._runtime.list_images()
        used = {c.image_ref for uid in self._cache.uids() for c in self._cache.view(uid).containers}
        used |= {c.image for uid in self._cache.uids() for c in self._cache.view(uid).containers}
        now = self._clock.monotonic()
        self._ledger.observe(images, used, now)
        wanted = excess(left.image_capacity, left.image_disk, self._policy)
        reclaim = any(reclaims_images(threshold, left.dedicated) for threshold in found)
        freed = 0
        for image in self._ledger.removable(sys.maxsize if reclaim else wanted, self._policy, now):
            log.info("removing unused image", extra={"image": image, "bytes": self._ledger.sizes[image]})
            try:
                await self._runtime.remove_image(image)
                freed += self._ledger.sizes[image]
            except RuntimeFailure as error:
                log.warning("image not removed: %s", error, extra={"image": image})
        if freed < wanted and not self._short_of_images:
            text = f"Attempted to free {wanted} bytes, but only found {freed} bytes eligible to free."
            text = f"Failed to garbage collect required amount of images. {text}"
            self._tell("FreeDiskSpaceFailed", text)
        self._short_of_images = freed < wanted

    async def _evict_for_storage(self, pod: Pod, stats: Mapping[str, list[pb.ContainerStats]]) -> bool:
        uid = pod["metadata"]["uid"]
        if not _limited(pod):
            return False
        volumes = await asyncio.to_thread(empty_dirs, self._root / "pods" / uid, pod)
        message = storage_excess(pod, volumes, await self._written(uid, stats.get(uid, [])))
        if message:
            self._pods.evict(pod, message, MINIMUM_GRACE)
        return bool(message)

    async def _written(self, uid: str, stats: Iterable[pb.ContainerStats]) -> dict[str, int]:
        """Writable layer and logs of each container, in bytes."""
        return together(_layers(stats), await self._logs(uid))

    async def _logs(self, uid: str) -> dict[str, int]:
        out: dict[str, int] = {}
        for container in self._cache.view(uid).containers:
            if container.log_path:
                place = Path(container.log_path).parent
                out[container.name] = await asyncio.to_thread(tree_size, place)
        return out

    async def _relieve(
        self,
        threshold: Crossed,
        pods: list[Pod],
        stats: Mapping[str, list[pb.ContainerStats]],
        dedicated: bool,
    ) -> None:
        """Evict the one pod whose end helps most."""
        measure = self._disk_usage if threshold.condition == DISK else _memory_usage
        usage = {pod["metadata"]["uid"]: await measure(pod, stats, threshold, dedicated) for pod in pods}
        log.warning(
            "node under pressure",
            extra={"signal": threshold.signal, "available": threshold.available, "pods": len(pods)},
        )
        self._tell("EvictionThresholdMet", f"Attempting to reclaim {threshold.resource}")
        for pod in rank(pods, usage, threshold.resource)[:1]:
            self._pods.evict(pod, sentence(threshold, pod, usage[pod["metadata"]["uid"]]), 0.0)
            self._leaving.add(pod["metadata"]["uid"])

    async def _disk_usage(
        self,
        pod: Pod,
        stats: Mapping[str, list[pb.ContainerStats]],
        threshold: Crossed,
        dedicated: bool,
    ) -> Usage:
        uid = pod["metadata"]["uid"]
        volumes = await asyncio.to_thread(empty_dirs, self._root / "pods" / uid, pod)
        layers, logs = _layers(stats.get(uid, [])), await self._logs(uid)
        return disk_usage(threshold, dedicated, layers, logs, volumes)


async def _memory_usage(
    pod: Pod, stats: Mapping[str, list[pb.ContainerStats]], threshold: Crossed, dedicated: bool
) -> Usage:
    found = stats.get(pod["metadata"]["uid"], [])
    memory = {c.attributes.metadata.name: int(c.memory.working_set_bytes.value) for c in found}
    return Usage(sum(memory.values()), memory)


def _layers(stats: Iterable[pb.ContainerStats]) -> dict[str, int]:
    """Bytes in the writable layer of each container."""
    return {c.attributes.metadata.name: int(c.writable_layer.used_bytes.value) for c in stats}


def _limited(pod: Pod) -> bool:
    """Whether anything of the pod has a storage limit that only measuring can keep."""
    spec = pod["spec"]
    volumes = any((volume.get("emptyDir") or {}).get("sizeLimit") for volume in spec.get("volumes", []))
    return volumes or any(
        "ephemeral-storage" in ((c.get("resources") or {}).get("limits") or {})
        for c in spec.get("containers", [])
    )


def empty_dirs(pod_dir: Path, pod: Pod) -> dict[str, int]:
    """Bytes in each emptyDir that is on disk. Blocking."""
    place = pod_dir / "volumes" / "kubernetes.io~empty-dir"
    return {
        volume["name"]: tree_size(place / volume["name"])
        for volume in pod["spec"].get("volumes", [])
        if "emptyDir" in volume and (volume["emptyDir"] or {}).get("medium", "") != "Memory"
    }


def tree_size(root: Path) -> int:
    """Bytes on disk at and below `root`; what vanishes meanwhile counts for nothing. Blocking."""
    total = 0
    for directory, _, names in os.walk(root):
        for name in names:
            try:
                total += os.lstat(f"{directory}/{name}").st_blocks * 512
            except OSError:
                continue
    return total
