"""Nodes that nobody runs, and pods on them: what controllers do is seen, and no container starts."""

from __future__ import annotations

import datetime as dt
from typing import Any

from tests.e2e.lab import Lab, Object

# The cloud has not taken such a node up, so it does not miss its machine.
STRANGER = {"key": "node.cloudprovider.kubernetes.io/uninitialized", "value": "true", "effect": "NoSchedule"}
ROLE = "e2e-hollow"
UNMOVED = [{"operator": "Exists"}]  # pods that stay whatever becomes of their node


def node(
    name: str,
    *,
    ready: bool = True,
    taints: list[Object] | None = None,
    annotations: Object | None = None,
    **labels: str,
) -> Object:
    """It says once how it is, and then never a word."""
    now = dt.datetime.now(dt.UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    says = {"type": "Ready", "status": str(ready), "lastHeartbeatTime": now, "lastTransitionTime": now}
    room = {"cpu": "64", "memory": "64Gi", "pods": "110"}
    own = {ROLE: "", "kubernetes.io/hostname": name, **labels}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {"name": name, "labels": own, "annotations": annotations or {}},
        "spec": {"taints": [STRANGER, *(taints or [])]},
        "status": {"conditions": [says], "capacity": room, "allocatable": room},
    }


def pod_spec(**more: Any) -> Object:
    container = {"name": "c", "image": "nowhere/nothing:1", "imagePullPolicy": "Never"}
    container |= more.pop("container", {})
    return {
        "terminationGracePeriodSeconds": 0,
        "tolerations": UNMOVED,
        "containers": [container],
        **more,
    }


def pod(name: str, **more: Any) -> Object:
    return {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": name}, "spec": pod_spec(**more)}


def remove(lab: Lab) -> None:
    lab.kubectl("delete", "nodes", "-l", ROLE, "--timeout=60s", code=None)
