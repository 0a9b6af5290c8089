"""Services and EndpointSlices as the API gives them, for tests."""

from __future__ import annotations

from typing import Any

Object = dict[str, Any]


def service(
    name: str = "web", *, ip: str = "10.32.0.10", ports: list[Object] | None = None, **spec: Any
) -> Object:
    return {
        "metadata": {"namespace": "default", "name": name, "uid": name, "resourceVersion": "1"},
        "spec": {
            "clusterIP": ip,
            "type": "ClusterIP",
            "ports": ports or [{"name": "http", "port": 80, "protocol": "TCP"}],
            **spec,
        },
    }


def endpoint(ip: str, node: str = "node-a", **conditions: bool) -> Object:
    return {"addresses": [ip], "nodeName": node, "conditions": conditions}


def slice_of(
    name: str = "web", *endpoints: Object, port: int = 8080, port_name: str = "http", protocol: str = "TCP"
) -> Object:
    return {
        "metadata": {
            "namespace": "default",
            "name": f"{name}-1",
            "uid": f"{name}-1",
            "resourceVersion": "1",
            "labels": {"kubernetes.io/service-name": name},
        },
        "addressType": "IPv4",
        "ports": [{"name": port_name, "port": port, "protocol": protocol}],
        "endpoints": list(endpoints),
    }
