"""Resizing a running pod in place (KEP-1287): what differs, what to do, and what its status says. Pure.

What a container was last given is written where the container is: as an annotation when it is created, and
in a file of the pod's directory after each update, so a restarted kubelet knows it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from kubelet.pods.observed import RUNNING, PodView
from kubelet.pods.resources import milli
from kubelet.pods.spec import Container

PENDING, IN_PROGRESS = "PodResizePending", "PodResizeInProgress"
Resources = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Resize:
    """Bring one running container to these resources, in place or by a restart of it."""

    id: str
    name: str
    resources: Resources
    restart: bool


def amounts(resources: Resources) -> dict[tuple[str, str], int]:
    """The resources as comparable numbers: (limits or requests, name) -> thousandths; requests default to
    limits.
    """
    limits = resources.get("limits") or {}
    requests = {**limits, **(resources.get("requests") or {})}
    return {
        (kind, name): milli(value)
        for kind, held in (("limits", limits), ("requests", requests))
        for name, value in held.items()
    }


def _restarts(container: Container, given: Resources) -> bool:
    """Whether a resource that changes has the resize policy RestartContainer."""
    policies = {
        policy["resourceName"]: policy["restartPolicy"] for policy in container.get("resizePolicy") or []
    }
    old, new = amounts(given), amounts(container.get("resources") or {})
    changed = {key[1] for key in {*old, *new} if old.get(key) != new.get(key)}
    return any(policies.get(name) == "RestartContainer" for name in changed)


def compute_resizes(spec: Mapping[str, Any], view: PodView, given: Mapping[str, Resources]) -> list[Resize]:
    """The running containers whose resources are not what the spec says. `given` is keyed by container id;
    a container that is not in it was made by someone who did not say, and is left alone.
    """
    out = []
    for container in spec.get("containers", []):
        current = view.latest(container["name"])
        if current is None or current.state != RUNNING or current.id not in given:
            continue
        wanted = container.get("resources") or {}
        if amounts(wanted) != amounts(given[current.id]):
            restart = _restarts(container, given[current.id])
            out.append(Resize(current.id, current.name, wanted, restart))
    return out


def given_pod(pod: Mapping[str, Any], view: PodView, given: Mapping[str, Resources]) -> dict[str, Any]:
    """The pod with the resources that its running containers hold now, instead of those it asks for."""
    containers = []
    for container in pod["spec"].get("containers", []):
        current = view.latest(container["name"])
        held = given.get(current.id) if current is not None else None
        containers.append(container if held is None else {**container, "resources": held})
    return {**pod, "spec": {**pod["spec"], "containers": containers}}
