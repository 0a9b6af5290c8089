"""What the runtime says about a pod, and the marks by which a restarted kubelet finds its pods again.

Everything the kubelet must remember about a running pod is written on the sandbox and its containers as
labels and annotations (the names are Kubernetes' own), so there is no state of our own to lose.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import orjson

from kubelet.cri.pb import api_pb2 as pb

POD_UID = "io.kubernetes.pod.uid"
POD_NAME = "io.kubernetes.pod.name"
POD_NAMESPACE = "io.kubernetes.pod.namespace"
CONTAINER_NAME = "io.kubernetes.container.name"
HASH = "io.kubernetes.container.hash"
RESTART_COUNT = "io.kubernetes.container.restartCount"
MESSAGE_PATH = "io.kubernetes.container.terminationMessagePath"
MESSAGE_POLICY = "io.kubernetes.container.terminationMessagePolicy"
POD_GRACE = "io.kubernetes.pod.terminationGracePeriod"
PRE_STOP = "io.kubernetes.container.preStopHandler"
RESOURCES = "io.kubernetes.container.resources"

CREATED, RUNNING, EXITED, UNKNOWN = "created", "running", "exited", "unknown"
_STATES = {
    pb.CONTAINER_CREATED: CREATED,
    pb.CONTAINER_RUNNING: RUNNING,
    pb.CONTAINER_EXITED: EXITED,
    pb.CONTAINER_UNKNOWN: UNKNOWN,
}


@dataclass(frozen=True, slots=True)
class ContainerView:
    """One container as the runtime has it. Times are seconds since the epoch, 0 when it has not happened."""

    id: str
    name: str
    sandbox_id: str
    attempt: int
    state: str
    hash: str = ""
    created_at: float = 0.0
    started_at: float = 0.0
    finished_at: float = 0.0
    exit_code: int = 0
    reason: str = ""
    message: str = ""
    image: str = ""
    image_ref: str = ""
    log_path: str = ""
    annotations: Mapping[str, str] = field(default_factory=dict)

    @property
    def alive(self) -> bool:
        """Running, or perhaps running: the runtime must be asked to stop it before a successor may start."""
        return self.state in (RUNNING, UNKNOWN)


@dataclass(frozen=True, slots=True)
class SandboxView:
    """One sandbox as the runtime has it."""

    id: str
    attempt: int
    ready: bool
    created_at: float = 0.0
    ips: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class PodView:
    """All sandboxes and containers of one pod, newest first."""

    uid: str
    name: str = ""
    namespace: str = ""
    sandboxes: tuple[SandboxView, ...] = ()
    containers: tuple[ContainerView, ...] = ()

    def latest(self, name: str) -> ContainerView | None:
        """The youngest container of that name, whatever its state."""
        return next((container for container in self.containers if container.name == name), None)

    def previous(self, name: str) -> ContainerView | None:
        """The one before the youngest."""
        found = [container for container in self.containers if container.name == name]
        return found[1] if len(found) > 1 else None

    @property
    def sandbox(self) -> SandboxView | None:
        """The newest sandbox that is ready, if any."""
        return next((sandbox for sandbox in self.sandboxes if sandbox.ready), None)

    @property
    def alive(self) -> bool:
        return any(c.alive for c in self.containers) or any(s.ready for s in self.sandboxes)

    @property
    def empty(self) -> bool:
        return not self.sandboxes and not self.containers


def fingerprint(container: Mapping[str, Any]) -> str:
    """Which spec a container was made from: it is killed and made anew when this changes.

    Only the image of a running pod's container may change through the API, so only name and image count, as
    in Kubernetes since 1.31.
    """
    what = orjson.dumps([container["name"], container.get("image", "")])
    return hashlib.blake2b(what, digest_size=4).hexdigest()


def container_view(sandbox_id: str, status: pb.ContainerStatus) -> ContainerView:
    """Read a CRI container status."""
    annotations = dict(status.annotations)
    return ContainerView(
        id=status.id,
        name=status.labels.get(CONTAINER_NAME, status.metadata.name),
        sandbox_id=sandbox_id,
        attempt=int(annotations.get(RESTART_COUNT, status.metadata.attempt)),
        state=_STATES[status.state],
        hash=annotations.get(HASH, ""),
        created_at=status.created_at / 1e9,
        started_at=max(0, status.started_at) / 1e9,
        finished_at=max(0, status.finished_at) / 1e9,
        exit_code=status.exit_code,
        reason=status.reason,
        message=status.message,
        image=status.image.image,
        image_ref=status.image_ref,
        log_path=status.log_path,
        annotations=annotations,
    )


def sandbox_view(status: pb.PodSandboxStatus) -> SandboxView:
    """Read a CRI sandbox status."""
    ips = [status.network.ip, *(extra.ip for extra in status.network.additional_ips)]
    return SandboxView(
        id=status.id,
        attempt=status.metadata.attempt,
        ready=status.state == pb.SANDBOX_READY,
        created_at=status.created_at / 1e9,
        ips=tuple(ip for ip in ips if ip),
    )


def assemble(uid: str, name: str, namespace: str, parts: Iterable[SandboxView | ContainerView]) -> PodView:
    """Order what was found, newest first."""
    held = list(parts)
    sandboxes = sorted(
        (p for p in held if isinstance(p, SandboxView)), key=lambda s: (-s.attempt, -s.created_at)
    )
    containers = sorted(
        (p for p in held if isinstance(p, ContainerView)), key=lambda c: (-c.created_at, -c.attempt)
    )
    return PodView(uid, name, namespace, tuple(sandboxes), tuple(containers))


def with_message(view: ContainerView, message: str) -> ContainerView:
    """The same container with its termination message."""
    return replace(view, message=message)
