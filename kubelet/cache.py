"""What runs on this node: the runtime asked once a second, and at once after every action of our own.

The relist (Kubernetes' PLEG) compares ids and states only; a pod whose fingerprint changed is read in full
and its worker told. A view is never patched from events, always read anew, so it cannot drift.
"""

from __future__ import annotations

import asyncio
import logging
from collections import defaultdict
from collections.abc import Callable, Mapping
from pathlib import Path

from componentbase.clock import Clock
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import NotFound, Runtime
from kubelet.pods import observed
from kubelet.pods.observed import ContainerView, PodView, SandboxView

log = logging.getLogger(__name__)

MESSAGE_LIMIT = 4096
HEALTHY_WITHIN = 180.0  # seconds since the last relist, after which the node is not ready

Listed = tuple[dict[str, list[pb.PodSandbox]], dict[str, list[pb.Container]]]


class RuntimeCache:
    """Views of all pods that the runtime knows; `on_change(uid)` is called after a view has changed."""

    def __init__(
        self,
        runtime: Runtime,
        clock: Clock,
        on_change: Callable[[str], None],
        message_file: Callable[[str, str, int], Path],
    ) -> None:
        self._runtime = runtime
        self._clock = clock
        self._on_change = on_change
        self._message_file = message_file
        self._views: dict[str, PodView] = {}
        self._marks: dict[str, object] = {}
        self._ended: dict[str, ContainerView] = {}
        self.relisted_at: float | None = None

    def view(self, uid: str) -> PodView:
        return self._views.get(uid) or PodView(uid)

    def uids(self) -> set[str]:
        return {uid for uid, view in self._views.items() if not view.empty}

    def find_container(self, uid: str, name: str) -> ContainerView | None:
        return self.view(uid).latest(name)

    @property
    def healthy(self) -> bool:
        return self.relisted_at is not None and self._clock.monotonic() - self.relisted_at < HEALTHY_WITHIN

    async def _list(self) -> Listed:
        sandboxes: dict[str, list[pb.PodSandbox]] = defaultdict(list)
        containers: dict[str, list[pb.Container]] = defaultdict(list)
        for sandbox in await self._runtime.list_sandboxes():
            if uid := sandbox.labels.get(observed.POD_UID):
                sandboxes[uid].append(sandbox)
        for container in await self._runtime.list_containers():
            if uid := container.labels.get(observed.POD_UID):
                containers[uid].append(container)
        return sandboxes, containers

    async def relist(self) -> None:
        """Read what changed since the last time. Raises `RuntimeFailure`."""
        sandboxes, containers = await self._list()
        for uid in {*sandboxes, *containers, *self._marks}:
            mark = _mark(sandboxes.get(uid, ()), containers.get(uid, ()))
            if self._marks.get(uid) != mark:
                await self._read(uid, sandboxes.get(uid, []), containers.get(uid, []), mark)
                self._on_change(uid)
        self.relisted_at = self._clock.monotonic()
        known = {container.id for found in containers.values() for container in found}
        self._ended = {key: view for key, view in self._ended.items() if key in known}

    async def refresh(self, uid: str) -> PodView:
        """Read one pod now. Raises `RuntimeFailure`."""
        sandboxes, containers = await self._list()
        mark = _mark(sandboxes.get(uid, ()), containers.get(uid, ()))
        await self._read(uid, sandboxes.get(uid, []), containers.get(uid, []), mark)
        return self.view(uid)

    async def _read(
        self, uid: str, sandboxes: list[pb.PodSandbox], containers: list[pb.Container], mark: object
    ) -> None:
        parts: list[SandboxView | ContainerView] = []
        labels: Mapping[str, str] = {}
        for sandbox in sandboxes:
            labels = sandbox.labels
            try:
                parts.append(observed.sandbox_view((await self._runtime.sandbox_status(sandbox.id)).status))
            except NotFound:
                continue
        for container in containers:
            labels = container.labels
            try:
                parts.append(await self._container(uid, container))
            except NotFound:
                continue
        if not parts:
            self._views.pop(uid, None)
            self._marks.pop(uid, None)
            return
        name, namespace = labels.get(observed.POD_NAME, ""), labels.get(observed.POD_NAMESPACE, "")
        self._views[uid] = observed.assemble(uid, name, namespace, parts)
        self._marks[uid] = mark

    async def _container(self, uid: str, listed: pb.Container) -> ContainerView:
        if listed.id in self._ended:
            return self._ended[listed.id]
        status = await self._runtime.container_status(listed.id)
        view = observed.container_view(listed.pod_sandbox_id, status)
        if view.state == observed.EXITED:
            view = await asyncio.to_thread(self._with_message, uid, view)
            self._ended[view.id] = view
        return view

    def _with_message(self, uid: str, view: ContainerView) -> ContainerView:
        """The termination message, from its file or, where asked for and failed, from the end of the log."""
        path = self._message_file(uid, view.name, view.attempt)
        try:
            text = path.read_bytes()[:MESSAGE_LIMIT].decode("utf-8", "replace")
        except OSError:
            text = ""
        fallback = view.annotations.get(observed.MESSAGE_POLICY) == "FallbackToLogsOnError"
        if not text and fallback and view.exit_code != 0 and view.log_path:
            text = _log_tail(Path(view.log_path))
        return observed.with_message(view, text or view.message)


def _mark(sandboxes: list[pb.PodSandbox] | tuple[()], containers: list[pb.Container] | tuple[()]) -> object:
    """What a change of is a change of the pod."""
    return (
        frozenset((sandbox.id, sandbox.state) for sandbox in sandboxes),
        frozenset((container.id, container.state) for container in containers),
    )


def _log_tail(path: Path, lines: int = 80, limit: int = 2048) -> str:
    try:
        with path.open("rb") as file:
            file.seek(0, 2)
            file.seek(max(0, file.tell() - 16 * 1024))
            tail = file.read().splitlines()[-lines:]
    except OSError:
        return ""
    text = b"\n".join(line.split(b" ", 3)[-1] for line in tail)
    return text[-limit:].decode("utf-8", "replace")
