"""Reading a pod's spec: which containers it has and what events call them. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

Container = Mapping[str, Any]
KINDS = ("initContainers", "containers", "ephemeralContainers")


def known_containers(spec: Mapping[str, Any]) -> list[Container]:
    """Every container of the pod: init, regular and ephemeral ones."""
    return [container for kind in KINDS for container in spec.get(kind) or []]


def find_container(spec: Mapping[str, Any], name: str) -> Container:
    """The container of that name; raises `KeyError`."""
    found = next((container for container in known_containers(spec) if container["name"] == name), None)
    if found is None:
        raise KeyError(name)
    return found


def field_path(spec: Mapping[str, Any], name: str) -> str:
    """Where in the pod a container is, `spec.containers{name}`; empty when the pod has no such container."""
    for kind in KINDS:
        if any(container["name"] == name for container in spec.get(kind) or []):
            return f"spec.{kind}{{{name}}}"
    return ""


def about_container(pod: Mapping[str, Any], name: str) -> dict[str, Any]:
    """What an event about one container of a pod is recorded on."""
    return {**pod, "fieldPath": field_path(pod["spec"], name)}
