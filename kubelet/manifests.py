"""Static pods: reads the manifest directory, runs what it says, and keeps a mirror of each in the API.

The directory decides; the API only shows. A mirror that is deleted or changed by others is made anew, and
one without a manifest is removed. Without an apiserver static pods run all the same.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from apimachinery.errors import StatusError
from kubeclient.resources import PODS
from kubeclient.rest import ConnectionFailed, RestClient
from kubelet.pods.static import CONFIG_MIRROR, ManifestError, is_static, mirror_of, mirrors, static_pod

log = logging.getLogger(__name__)

CHECK = 1.0  # seconds between looks at the directory
Pod = Mapping[str, Any]
Name = tuple[str, str]


class Manifests:
    """The static pods of one node."""

    def __init__(
        self,
        directory: str,
        node: str,
        client: RestClient,
        node_object: Callable[[], Mapping[str, Any]],
        on_pod: Callable[[Pod], None],
        on_gone: Callable[[Pod], None],
        on_mirror: Callable[[str], None],
    ) -> None:
        self._directory, self._node, self._client = directory, node, client
        self._node_object = node_object
        self._on_pod, self._on_gone, self._on_mirror = on_pod, on_gone, on_mirror
        self._pods: dict[Name, Pod] = {}
        self._mirrors: dict[Name, Pod] = {}
        self._said: dict[str, str] = {}
        self.mirrors_known = False
        self.scanned = not directory

    def address(self, pod: Pod) -> Pod | None:
        """The API object that stands for this pod: itself, or the mirror of a static one, if there is one."""
        if not is_static(pod):
            return pod
        mirror = self._mirrors.get(_name(pod))
        return mirror if mirror is not None and mirrors(mirror, pod) else None

    def mirror_changed(self, mirror: Pod) -> None:
        before = self._mirrors.get(_name(mirror))
        self._mirrors[_name(mirror)] = mirror
        if before is None or before["metadata"]["uid"] != mirror["metadata"]["uid"]:
            self._on_mirror(mirror["metadata"]["annotations"][CONFIG_MIRROR])

    def mirror_gone(self, mirror: Pod) -> None:
        held = self._mirrors.get(_name(mirror))
        if held is not None and held["metadata"]["uid"] == mirror["metadata"]["uid"]:
            del self._mirrors[_name(mirror)]

    async def once(self) -> None:
        """One look at the directory and at the mirrors."""
        if self._directory:
            self._take(await asyncio.to_thread(self._read))
            self.scanned = True
        if self.mirrors_known and self._node_object():
            await self._reconcile()

    def _read(self) -> dict[Name, Pod]:
        """Every manifest of the directory; a file that is none is said once and skipped. Blocking."""
        found: dict[Name, Pod] = {}
        problems: dict[str, str] = {}
        root = Path(self._directory)
        for path in sorted(root.iterdir()) if root.is_dir() else []:
            if path.name.startswith(".") or not path.is_file():
                continue
            try:
                pod = static_pod(path.read_bytes(), path.name, self._node)
                found[_name(pod)] = pod
            except (ManifestError, OSError) as error:
                problems[str(path)] = str(error)
        for path_name, problem in problems.items():
            if self._said.get(path_name) != problem:
                log.error("manifest cannot be used: %s", problem, extra={"file": path_name})
        self._said = problems
        return found

    def _take(self, found: dict[Name, Pod]) -> None:
        """A changed file is the end of one pod and the beginning of another."""
        before, self._pods = self._pods, found
        for name, pod in before.items():
            if name not in found or found[name]["metadata"]["uid"] != pod["metadata"]["uid"]:
                self._on_gone(pod)
        for name, pod in found.items():
            if name not in before or before[name]["metadata"]["uid"] != pod["metadata"]["uid"]:
                self._on_pod(pod)

    async def _reconcile(self) -> None:
        for name, mirror in list(self._mirrors.items()):
            pod = self._pods.get(name)
            if pod is None or not mirrors(mirror, pod):
                await self._delete(mirror)
        for name, pod in self._pods.items():
            if name not in self._mirrors:
                await self._create(pod)

    async def _delete(self, mirror: Pod) -> None:
        metadata = mirror["metadata"]
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": metadata["uid"]}}
        try:
            await self._client.delete(PODS, metadata["name"], metadata["namespace"], options=options)
        except (StatusError, ConnectionFailed) as error:
            log.warning("mirror not deleted: %s", error, extra={"pod": metadata["name"]})

    async def _create(self, pod: Pod) -> None:
        metadata = pod["metadata"]
        try:
            await self._client.create(PODS, mirror_of(pod, self._node_object()), metadata["namespace"])
        except (StatusError, ConnectionFailed) as error:
            if not isinstance(error, StatusError) or error.code != 409:
                log.warning("mirror not created: %s", error, extra={"pod": metadata["name"]})


def _name(pod: Pod) -> Name:
    return pod["metadata"]["namespace"], pod["metadata"]["name"]
