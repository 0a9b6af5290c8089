"""The Service `kubernetes` and its Endpoints: the addresses of all apiservers that are alive.

Each server keeps a key below /registry/masterleases/ that expires unless renewed; the Endpoints and
EndpointSlice are reconciled with the keys that exist (pkg/controlplane/reconcilers/lease.go). So an address
disappears some seconds after its server died, and no server ever removes another one's by mistake.
"""

from __future__ import annotations

import asyncio
import contextlib
import ipaddress
import logging
from typing import Any

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.scheme import Scheme
from apiserver.auth.user import LOOPBACK
from apiserver.registry.call import Call
from apiserver.registry.registry import Registry
from apiserver.storage import codec
from apiserver.storage.interface import PREFIX, KeyExists, RevisionMismatch, StorageError, Store

logger = logging.getLogger("apiserver.bootstrap")

Object = dict[str, Any]

LEASES = f"{PREFIX}masterleases/"
LEASE_TTL = 15
RENEW_SECONDS = 10.0
MANAGED = "endpointslice.kubernetes.io/skip-mirror"


class KubernetesService:
    def __init__(self, registry: Registry, scheme: Scheme, store: Store, values: Any) -> None:
        self._registry = registry
        self._scheme = scheme
        self._store = store
        self._address = values.advertise_address
        self._port = values.secure_port
        self._enabled = values.endpoint_reconciler_type == "lease" and bool(self._address)
        self._service_ip = str(ipaddress.ip_network(values.service_cluster_ip_range)[1])

    async def reconcile(self) -> None:
        """Renew our lease, then make Service, Endpoints and EndpointSlice what they must be."""
        await self._service()
        if not self._enabled:
            return
        await self._renew()
        page = await self._store.list(LEASES)
        await self._publish(sorted({item.key[len(LEASES) :] for item in page.items}))

    async def keep(self) -> None:
        while True:
            await asyncio.sleep(RENEW_SECONDS)
            try:
                await self.reconcile()
            except (StatusError, StorageError) as error:
                logger.warning("cannot reconcile the kubernetes Service: %s", error)

    async def leave(self) -> None:
        """Give up our address at a graceful shutdown."""
        if not self._enabled:
            return
        with contextlib.suppress(StatusError, StorageError):
            found, _ = await self._store.get(LEASES + self._address)
            if found is not None:
                await self._store.delete(found.key, found.revision)
            page = await self._store.list(LEASES)
            await self._publish(sorted({item.key[len(LEASES) :] for item in page.items}))

    async def _renew(self) -> None:
        """Every renewal writes the key anew, under a lease that outlives the next one or two renewals."""
        key = LEASES + self._address
        found, _ = await self._store.get(key)
        counter = codec.decode(found.value)["metadata"].get("generation", 0) + 1 if found else 1
        value = codec.encode(
            {
                "kind": "Endpoints",
                "apiVersion": "v1",
                "metadata": {"generation": counter},
                "subsets": [{"addresses": [{"ip": self._address}]}],
            }
        )
        with contextlib.suppress(KeyExists, RevisionMismatch):
            if found is None:
                await self._store.create(key, value, ttl=LEASE_TTL)
            else:
                await self._store.update(key, value, found.revision, ttl=LEASE_TTL)

    async def _service(self) -> None:
        fields = {
            "name": "kubernetes",
            "namespace": "default",
            "labels": {"component": "apiserver", "provider": "kubernetes"},
        }
        ports = [{"name": "https", "port": 443, "protocol": "TCP", "targetPort": self._port}]
        spec = {
            "type": "ClusterIP",
            "clusterIP": self._service_ip,
            "clusterIPs": [self._service_ip],
            "ports": ports,
            "sessionAffinity": "None",
        }
        await self._create(
            "", "v1", "services", {"kind": "Service", "apiVersion": "v1", "metadata": fields, "spec": spec}
        )

    async def _publish(self, addresses: list[str]) -> None:
        ports = [{"name": "https", "port": self._port, "protocol": "TCP"}]
        subsets = [{"addresses": [{"ip": ip} for ip in addresses], "ports": ports}] if addresses else []
        labels = {MANAGED: "true"}
        fields = {"name": "kubernetes", "namespace": "default", "labels": labels}
        await self._put(
            "",
            "v1",
            "endpoints",
            {"kind": "Endpoints", "apiVersion": "v1", "metadata": fields, "subsets": subsets},
            ("subsets",),
        )
        sliced = {
            "kind": "EndpointSlice",
            "apiVersion": "discovery.k8s.io/v1",
            "metadata": {
                "name": "kubernetes",
                "namespace": "default",
                "labels": {"kubernetes.io/service-name": "kubernetes"},
            },
            "addressType": "IPv6" if ":" in self._address else "IPv4",
            "endpoints": [{"addresses": [ip], "conditions": {"ready": True}} for ip in addresses],
            "ports": ports,
        }
        await self._put("discovery.k8s.io", "v1", "endpointslices", sliced, ("endpoints", "ports"))

    async def _put(
        self, group: str, version: str, resource: str, obj: Object, parts: tuple[str, ...]
    ) -> None:
        """Create the object, or set these parts of it if they differ."""
        if await self._create(group, version, resource, obj):
            return

        async def change(stored: Object) -> Object:
            return {**stored, **{part: obj[part] for part in parts}}

        kind = self._scheme.resource(group, version, resource)
        assert kind is not None
        await self._registry.update(Call("update", kind, "default", "kubernetes", LOOPBACK), change)

    async def _create(self, group: str, version: str, resource: str, obj: Object) -> bool:
        kind = self._scheme.resource(group, version, resource)
        if kind is None:
            raise LookupError(f"the scheme does not serve {resource}.{group}")
        if self._registry.cacher.of(kind).get("default/kubernetes") is not None:
            return False
        try:
            await self._registry.create(
                Call("create", kind, "default", "kubernetes", LOOPBACK),
                {**obj, "metadata": dict(obj["metadata"])},
            )
        except StatusError as error:
            if not errors.is_already_exists(error):
                raise
            return False
        return True
