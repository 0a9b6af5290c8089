"""Manifests for tests, as short as they can be said; pods are busybox and end when they are told to."""

from __future__ import annotations

import json
from typing import Any

IMAGE = "busybox:1.35"
FOREVER = "trap 'exit 0' TERM; while :; do sleep 1 & wait $!; done"


def pod_spec(script: str = FOREVER, **extra: Any) -> dict[str, Any]:
    container = {
        "name": "c",
        "image": IMAGE,
        "imagePullPolicy": "IfNotPresent",
        "command": ["sh", "-c", script],
    }
    container |= extra.pop("container", {})
    return {"terminationGracePeriodSeconds": 1, "containers": [container], **extra}


def template(app: str, script: str = FOREVER, **extra: Any) -> dict[str, Any]:
    return {"metadata": {"labels": {"app": app}}, "spec": pod_spec(script, **extra)}


def workload(
    kind: str, name: str, script: str = FOREVER, *, pod: dict[str, Any] | None = None, **spec: Any
) -> str:
    """A Deployment, StatefulSet or DaemonSet of pods labelled `app=<name>`, as a manifest."""
    spec = {
        "selector": {"matchLabels": {"app": name}},
        "template": template(name, script, **(pod or {})),
        **spec,
    }
    return manifest("apps/v1", kind, name, spec=spec)


def job(name: str, script: str, **spec: Any) -> str:
    never = {"spec": pod_spec(script, restartPolicy="Never")}
    return manifest("batch/v1", "Job", name, spec={"template": never, **spec})


def manifest(api_version: str, kind: str, name: str, **parts: Any) -> str:
    metadata = {"name": name, **parts.pop("metadata", {})}
    return json.dumps({"apiVersion": api_version, "kind": kind, "metadata": metadata, **parts})
