"""Objects for tests, as short as they can be said."""

from __future__ import annotations

import itertools
from typing import Any

from tests.controllers.memoryapi import START as START
from tests.controllers.memoryapi import Object

_uid = itertools.count(1)


def meta(name: str, namespace: str = "default", **extra: Any) -> Object:
    out: Object = {"name": name, "uid": f"u{next(_uid)}", "creationTimestamp": START, "resourceVersion": "1"}
    if namespace:
        out["namespace"] = namespace
    return {**out, **extra}


def pod(
    name: str,
    *,
    node: str = "n1",
    phase: str = "Running",
    ready: bool = True,
    since: str = START,
    owner: Object | None = None,
    kind: str = "ReplicaSet",
    **extra: Any,
) -> Object:
    references = (
        [
            {
                "uid": owner["metadata"]["uid"],
                "name": owner["metadata"]["name"],
                "kind": kind,
                "controller": True,
            }
        ]
        if owner
        else []
    )
    condition = {"type": "Ready", "status": "True" if ready else "False", "lastTransitionTime": since}
    return {
        "metadata": meta(name, ownerReferences=references, **extra),
        "spec": {"nodeName": node} if node else {},
        "status": {"phase": phase, "conditions": [condition], "podIP": "10.200.0.1"},
    }


TEMPLATE: Object = {
    "metadata": {"labels": {"app": "web"}},
    "spec": {"containers": [{"name": "c", "image": "web:1"}]},
}


def replicaset(name: str = "rs", size: int = 3, *, available: int = 0, **extra: Any) -> Object:
    return {
        "metadata": meta(name, **extra),
        "spec": {"replicas": size, "selector": {"matchLabels": {"app": "web"}}, "template": TEMPLATE},
        "status": {"replicas": size, "availableReplicas": available, "readyReplicas": available},
    }


def deployment(name: str = "web", size: int = 3, **spec: Any) -> Object:
    return {
        "metadata": meta(name, generation=1),
        "spec": {
            "replicas": size,
            "selector": {"matchLabels": {"app": "web"}},
            "template": TEMPLATE,
            "strategy": {
                "type": "RollingUpdate",
                "rollingUpdate": {"maxSurge": "25%", "maxUnavailable": "25%"},
            },
            "progressDeadlineSeconds": 600,
            "revisionHistoryLimit": 10,
            **spec,
        },
        "status": {},
    }


def node(name: str, *, labels: dict[str, str] | None = None, ready: str = "True", **spec: Any) -> Object:
    conditions = (
        [{"type": "Ready", "status": ready, "lastHeartbeatTime": START, "lastTransitionTime": START}]
        if ready
        else []
    )
    return {
        "metadata": meta(name, "", labels=labels or {}),
        "spec": spec,
        "status": {
            "conditions": conditions,
            "addresses": [{"type": "InternalIP", "address": f"10.240.0.{20 + int(name[-1])}"}],
        },
    }


def service(name: str = "web", **spec: Any) -> Object:
    return {
        "metadata": meta(name),
        "spec": {
            "selector": {"app": "web"},
            "clusterIP": "10.32.0.9",
            "ipFamilies": ["IPv4"],
            "ports": [{"name": "http", "port": 80, "targetPort": 8080, "protocol": "TCP"}],
            **spec,
        },
    }
