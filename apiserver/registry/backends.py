"""Where a Service is reached from here: at its ready endpoints, since the host of an apiserver has no
service network of its own (what `--enable-aggregator-routing` asks for in Kubernetes).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from apimachinery.scheme import Scheme
from apiserver.registry.reading import relative_key
from apiserver.storage.cacher import Cacher

Object = dict[str, Any]
Address = tuple[str, int]

SERVICE_NAME = "kubernetes.io/service-name"


class NoBackend(Exception):
    """There is no way to a Service; text and `reason` are those of an APIService's Available condition."""

    def __init__(self, reason: str, message: str, service: str, port: int = 0) -> None:
        super().__init__(message)
        self.reason = reason
        self._service, self._port = service, port

    def dialling(self) -> str:
        """The same in the words of a caller of webhooks (apiserver/pkg/util/proxy)."""
        if self.reason == "ServiceNotFound":
            return f'service "{self._service}" not found'
        if self.reason == "ServicePortError":
            return f'no service port {self._port} found for service "{self._service}"'
        return f'no endpoints available for service "{self._service}"'


class Backends:
    """Looks into the watch cache alone."""

    def __init__(self, cacher: Cacher, scheme: Scheme) -> None:
        self._cacher = cacher
        self._scheme = scheme

    def addresses(self, namespace: str, name: str, port: int) -> list[Address]:
        """All ready endpoints behind a Service's port, never none. Raises NoBackend."""
        spec = self._service(namespace, name).get("spec") or {}
        where = f'service/{name} in "{namespace}"'
        if spec.get("type") == "ExternalName":
            return [(spec.get("externalName", ""), port)]
        chosen = next((item for item in spec.get("ports") or () if item["port"] == port), None)
        if chosen is None:
            raise NoBackend("ServicePortError", f"{where} is not listening on port {port}", name, port)
        slices = list(self._slices(namespace, name))
        if not slices:
            raise NoBackend("EndpointsNotFound", f"cannot find endpointslices for {where}", name)
        port_name = chosen.get("name", "")
        found = [address for item in slices for address in ready(item, port_name)]
        if not found:
            why = f'endpointslices for {where} have no addresses with port name "{port_name}"'
            raise NoBackend("MissingEndpoints", why, name)
        return found

    def _service(self, namespace: str, name: str) -> Object:
        kind = self._scheme.resource("", "v1", "services")
        entry = self._cacher.of(kind).get(relative_key(kind, namespace, name)) if kind else None
        if entry is None:
            raise NoBackend("ServiceNotFound", f'service/{name} in "{namespace}" is not present', name)
        return entry.decoded()

    def _slices(self, namespace: str, name: str) -> Iterator[Object]:
        kind = self._scheme.resource("discovery.k8s.io", "v1", "endpointslices")
        for entry in self._cacher.of(kind).scan(f"{namespace}/") if kind else ():
            if entry.labels.get(SERVICE_NAME) == name:
                yield entry.decoded()


def ready(endpoint_slice: Object, port_name: str) -> list[Address]:
    """The addresses of an EndpointSlice that are ready (or do not say), with the port of that name."""
    ports = [port["port"] for port in endpoint_slice.get("ports") or () if port.get("name", "") == port_name]
    return [
        (endpoint["addresses"][0], int(ports[0]))
        for endpoint in endpoint_slice.get("endpoints") or ()
        if ports and (endpoint.get("conditions") or {}).get("ready") is not False
    ]


def authority(address: Address) -> str:
    """`host:port` as a URL has it."""
    host, port = address
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
