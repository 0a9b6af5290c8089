"""pods/proxy and services/proxy: a request handed on to what runs in the cluster.

The name in the path may carry a scheme and a port: `[https:]name[:port]`. The backend is reached at its own
address
(a Service's at a ready endpoint, chosen at random), without any credentials of ours or the caller's;
certificates of
backends are not verified, as in Kubernetes.
"""

from __future__ import annotations

import random
import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import quote

from apimachinery import errors
from apimachinery.scheme import Kind, Scheme
from apiserver.registry.backends import SERVICE_NAME, authority, ready
from apiserver.registry.registry import Registry
from apiserver.rest.kubelet import NodeProxy
from apiserver.rest.message import Answer, Request
from apiserver.rest.resources import Endpoint
from componentbase import tlsutil

Object = dict[str, Any]


class BackendProxy(NodeProxy):
    """The way to pods and Services, with the relay and the tunnel that lead to kubelets too."""

    def __init__(self, registry: Registry, scheme: Scheme) -> None:
        super().__init__(registry, scheme, _unverified(), ())

    def table(self) -> dict[tuple[str, str, str], Mapping[str, Endpoint]]:
        return {
            ("", "pods", "proxy"): {"*": self.to_pod},
            ("", "services", "proxy"): {"*": self.to_service},
        }

    async def to_pod(self, request: Request, kind: Kind) -> Answer:
        scheme, name, port = split_name(request.info.name)
        pod = (await self._registry.reader.get(kind, request.info.namespace, name)).decoded()
        address = (pod.get("status") or {}).get("podIP")
        if not address:
            raise errors.bad_request("address not allowed")
        return await self._hand_on(request, scheme, address, _pod_port(pod, port, scheme))

    async def to_service(self, request: Request, kind: Kind) -> Answer:
        info = request.info
        scheme, name, port = split_name(info.name)
        service = (await self._registry.reader.get(kind, info.namespace, name)).decoded()
        address, number = self._endpoint(service, port)
        return await self._hand_on(request, scheme, address, number)

    def _endpoint(self, service: Object, wanted: str) -> tuple[str, int]:
        """A ready endpoint behind a Service's port. Raises 503 when there is none."""
        name, namespace = service["metadata"]["name"], service["metadata"]["namespace"]
        ports = service["spec"].get("ports") or []
        if not wanted and len(ports) == 1:
            chosen = ports[0]
        else:
            chosen = next((port for port in ports if wanted in (port.get("name"), str(port["port"]))), None)
        if chosen is None:
            raise errors.service_unavailable(f'no service port "{wanted}" found for service "{name}"')
        kind = self._scheme.resource("discovery.k8s.io", "v1", "endpointslices")
        found = []
        for entry in self._registry.cacher.of(kind).scan(f"{namespace}/") if kind else ():
            if entry.labels.get(SERVICE_NAME) == name:
                found += ready(entry.decoded(), chosen.get("name", ""))
        if not found:
            raise errors.service_unavailable(f'no endpoints available for service "{name}"')
        return random.choice(found)

    async def _hand_on(self, request: Request, scheme: str, address: str, port: int) -> Answer:
        base = f"{scheme}://{authority((address, port))}"
        query = [(key, value) for key, values in request.info.query.items() for value in values]
        path = "/" + quote(request.info.tail)
        if "hardway.upgrade" in request.extensions:
            return await self._tunnel(request, base, path, query)
        return await self._relay(request, base, path, query, text=False)


def split_name(text: str) -> tuple[str, str, str]:
    """`[scheme:]name[:port]` in its parts; the scheme is http unless it says otherwise. Raises 400."""
    parts = text.split(":")
    if len(parts) == 1:
        return "http", text, ""
    if len(parts) == 2:
        return "http", parts[0], parts[1]
    if len(parts) == 3 and parts[0] in ("", "http", "https"):
        return parts[0] or "http", parts[1], parts[2]
    raise errors.bad_request(f'invalid proxy name "{text}": it is [http:|https:]name[:port]')


def _pod_port(pod: Object, wanted: str, scheme: str) -> int:
    """A number as it is, a name as the containers give it; the first port when none is asked for."""
    if wanted.isdigit():
        return int(wanted)
    ports = [port for item in pod["spec"].get("containers") or () for port in item.get("ports") or ()]
    for port in ports:
        if not wanted or port.get("name") == wanted:
            return int(port["containerPort"])
    if wanted:
        raise errors.bad_request(f'pod {pod["metadata"]["name"]} has no port named "{wanted}"')
    return 443 if scheme == "https" else 80


def _unverified() -> ssl.SSLContext:
    return tlsutil.client_context(None, insecure=True)


__all__ = ["BackendProxy", "split_name"]
