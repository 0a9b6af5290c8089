"""Usages as objects of metrics.k8s.io/v1beta1, their lists and their tables. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from decimal import Decimal
from typing import Any

from apimachinery import meta, quantity
from apimachinery.quantity import Quantity
from componentbase.flags import format_duration
from metricsserver.store import Usage

GROUP, VERSION = "metrics.k8s.io", "v1beta1"
API_VERSION = f"{GROUP}/{VERSION}"

Object = dict[str, Any]


def _usage(usage: Usage) -> dict[str, str]:
    return {
        "cpu": str(quantity.parse(f"{usage.cpu_nanocores}n")),
        "memory": _bytes(usage.memory_bytes),
    }


def _bytes(count: int) -> str:
    return str(Quantity(Decimal(count), quantity.BINARY))


def _when(usage: Usage) -> Object:
    return {
        "timestamp": meta.now_rfc3339(usage.at),
        "window": format_duration(round(usage.window, 3)),
    }


def _metadata(of: Mapping[str, Any], now: float) -> Object:
    found = {name: of["metadata"][name] for name in ("name", "namespace") if of["metadata"].get(name)}
    labels = meta.labels_of(of)
    return {
        **found,
        "creationTimestamp": meta.now_rfc3339(now),
        **({"labels": dict(labels)} if labels else {}),
    }


def node_metrics(node: Mapping[str, Any], usage: Usage, now: float) -> Object:
    """A NodeMetrics with the labels of its Node."""
    head = {"kind": "NodeMetrics", "apiVersion": API_VERSION, "metadata": _metadata(node, now)}
    return {**head, **_when(usage), "usage": _usage(usage)}


def pod_metrics(pod: Mapping[str, Any], containers: Mapping[str, Usage], now: float) -> Object:
    """A PodMetrics with the labels of its Pod; the time is that of the container looked at first."""
    head = {"kind": "PodMetrics", "apiVersion": API_VERSION, "metadata": _metadata(pod, now)}
    earliest = min(containers.values(), key=lambda usage: usage.at)
    listed = [{"name": name, "usage": _usage(usage)} for name, usage in sorted(containers.items())]
    return {**head, **_when(earliest), "containers": listed}


def listing(kind: str, items: Sequence[Object]) -> Object:
    """A NodeMetricsList or PodMetricsList."""
    return {"kind": f"{kind}List", "apiVersion": API_VERSION, "metadata": {}, "items": list(items)}


def table(items: Sequence[Object]) -> Object:
    """What `kubectl get` prints: a column for each resource, the sums of a pod's containers."""
    columns = [_column("Name", "name", "Name of the resource")]
    columns += [_column(name, "quantity", f"Usage of {name}") for name in ("cpu", "memory")]
    columns.append(_column("Window", "duration", "The time over which usage was measured"))
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": {},
        "columnDefinitions": columns if items else columns[:1],
        "rows": [_row(item) for item in items],
    }


def _column(name: str, form: str, text: str) -> Object:
    return {"name": name, "type": "string", "format": form, "description": text, "priority": 0}


def _row(item: Object) -> Object:
    parts = item.get("containers") or [item]
    sums = [
        sum((quantity.parse(part["usage"][name]) for part in parts), quantity.ZERO)
        for name in ("cpu", "memory")
    ]
    cells = [item["metadata"]["name"], *map(str, sums), item["window"]]
    partial = {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": item["metadata"]}
    return {"cells": cells, "object": partial}


def resources() -> Object:
    """The APIResourceList of the group version."""
    kinds = (("nodes", "NodeMetrics", False), ("pods", "PodMetrics", True))
    return {
        "kind": "APIResourceList",
        "apiVersion": "v1",
        "groupVersion": API_VERSION,
        "resources": [
            {"name": name, "singularName": "", "namespaced": scoped, "kind": kind, "verbs": ["get", "list"]}
            for name, kind, scoped in kinds
        ],
    }


def group() -> Object:
    """The APIGroup."""
    version = {"groupVersion": API_VERSION, "version": VERSION}
    head = {"kind": "APIGroup", "apiVersion": "v1", "name": GROUP}
    return {**head, "versions": [version], "preferredVersion": version}
