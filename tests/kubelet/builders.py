"""Short ways to make pods and views in tests."""

from __future__ import annotations

from typing import Any

from kubelet.pods.observed import (
    CREATED,
    EXITED,
    RUNNING,
    UNKNOWN,
    ContainerView,
    PodView,
    SandboxView,
    assemble,
    fingerprint,
)

NOW = 1_767_225_600.0
__all__ = ["CREATED", "EXITED", "NOW", "RUNNING", "UNKNOWN", "container", "pod", "sandbox", "seen", "view"]


def container(name: str = "c", **fields: Any) -> dict[str, Any]:
    return {"name": name, "image": "busybox:1.36", **fields}


def pod(*containers: dict[str, Any], init: tuple[dict[str, Any], ...] = (), **spec: Any) -> dict[str, Any]:
    body = {"containers": list(containers) or [container()], "nodeName": "worker-0", **spec}
    if init:
        body["initContainers"] = list(init)
    metadata = {"name": "p", "namespace": "ns", "uid": "uid-1"}
    return {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": body, "status": {}}


def sandbox(attempt: int = 0, *, ready: bool = True) -> SandboxView:
    return SandboxView(f"s{attempt}", attempt, ready, NOW + attempt, ("10.200.0.5",) if ready else ())


def seen(
    name: str = "c",
    state: str = RUNNING,
    *,
    code: int = 0,
    attempt: int = 0,
    sandbox_id: str = "s0",
    ended: float = NOW,
    image: str = "busybox:1.36",
) -> ContainerView:
    return ContainerView(
        id=f"{name}-{attempt}",
        name=name,
        sandbox_id=sandbox_id,
        attempt=attempt,
        state=state,
        hash=fingerprint({"name": name, "image": image}),
        created_at=NOW + attempt,
        started_at=NOW + attempt,
        finished_at=ended if state == EXITED else 0.0,
        exit_code=code,
    )


def view(*parts: SandboxView | ContainerView) -> PodView:
    return assemble("uid-1", "p", "ns", parts)
