"""The informers' stores as the records want to see them."""

from __future__ import annotations

from collections.abc import Iterable

from clusterdns.records import Object
from kubeclient.informer import InformerFactory
from kubeclient.resources import ENDPOINTSLICES, NAMESPACES, SERVICES

_SERVICE_LABEL = "kubernetes.io/service-name"


def _cluster_ips(service: Object) -> Iterable[str]:
    spec = service["spec"]
    return [ip for ip in spec.get("clusterIPs") or [spec.get("clusterIP")] if ip and ip != "None"]


def _addresses(each: Object) -> Iterable[str]:
    return {ip for endpoint in each.get("endpoints") or [] for ip in endpoint.get("addresses") or []}


def _owner(each: Object) -> Iterable[str]:
    metadata = each["metadata"]
    name = (metadata.get("labels") or {}).get(_SERVICE_LABEL)
    return [f"{metadata['namespace']}/{name}"] if name else []


class InformerView:
    """A `records.View` over live caches."""

    def __init__(self, factory: InformerFactory) -> None:
        self._factory = factory
        self._services = factory.informer(SERVICES)
        self._slices = factory.informer(ENDPOINTSLICES)
        self._namespaces = factory.informer(NAMESPACES)
        self._services.add_index("ip", _cluster_ips)
        self._slices.add_index("ip", _addresses)
        self._slices.add_index("service", _owner)
        self._version = 0
        for informer in (self._services, self._slices, self._namespaces):
            informer.add_handler(self._changed, lambda old, new: self._changed(new), self._changed)

    def _changed(self, _: Object) -> None:
        self._version += 1

    def version(self) -> int:
        """Grows with every change of what the view shows."""
        return self._version

    def ready(self) -> bool:
        return self._factory.synced

    def service(self, namespace: str, name: str) -> Object | None:
        return self._services.store.get(f"{namespace}/{name}")

    def slices(self, namespace: str, name: str) -> Iterable[Object]:
        return self._slices.store.by_index("service", f"{namespace}/{name}")

    def has_namespace(self, namespace: str) -> bool:
        return namespace in self._namespaces.store

    def services_at(self, ip: str) -> Iterable[Object]:
        return self._services.store.by_index("ip", ip)

    def slices_at(self, ip: str) -> Iterable[Object]:
        return self._slices.store.by_index("ip", ip)
