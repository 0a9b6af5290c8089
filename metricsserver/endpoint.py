"""Where the Service `metrics-server` leads: its one EndpointSlice names the server that leads, and no other.

Several servers scrape apart, and a client that is sent now to one and then to another sees pods come and
go. So one scrapes and answers, and the Service is told which.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
from typing import Any

from apimachinery.errors import StatusError
from componentbase.backoff import Backoff
from kubeclient.informer import Informer
from kubeclient.resources import ENDPOINTSLICES
from kubeclient.rest import APPLY, ConnectionFailed, RestClient

MANAGER = "metrics-server"

log = logging.getLogger(__name__)


def slice_of(namespace: str, service: str, address: str, port: int) -> dict[str, Any]:
    """The EndpointSlice that leads to `address` alone. Pure."""
    return {
        "apiVersion": ENDPOINTSLICES.api_version,
        "kind": ENDPOINTSLICES.kind,
        "metadata": {
            "name": service,
            "namespace": namespace,
            "labels": {
                "kubernetes.io/service-name": service,
                "endpointslice.kubernetes.io/managed-by": MANAGER,
            },
        },
        "addressType": f"IPv{ipaddress.ip_address(address).version}",
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": True}}],
    }


def leads_alike(found: dict[str, Any] | None, wanted: dict[str, Any]) -> bool:
    """Whether the slice that was found sends callers where the wanted one does. Pure."""
    return found is not None and _leads_to(found) == _leads_to(wanted)


def _leads_to(endpoint_slice: dict[str, Any]) -> tuple[Any, ...]:
    service = (endpoint_slice["metadata"].get("labels") or {}).get("kubernetes.io/service-name")
    ports = [(each.get("name"), each.get("port")) for each in endpoint_slice.get("ports") or ()]
    endpoints = endpoint_slice.get("endpoints") or ()
    ready = [(each["addresses"], (each.get("conditions") or {}).get("ready")) for each in endpoints]
    return service, endpoint_slice.get("addressType"), ports, ready


class Endpoint:
    """Keeps the slice as the leader wants it, whoever changes it.

    A leader that was frozen writes once more before it finds that its lease is lost; the one that leads
    by then sees that and writes again.
    """

    def __init__(self, client: RestClient, wanted: dict[str, Any]) -> None:
        self._client, self._wanted = client, wanted
        metadata = wanted["metadata"]
        self._name, self._namespace = metadata["name"], metadata["namespace"]

    async def keep(self) -> None:
        """Until cancelled."""
        only = f"metadata.name={self._name}"
        informer = Informer(self._client, ENDPOINTSLICES, namespace=self._namespace, field_selector=only)
        changed = asyncio.Event()

        def wake(*_: object) -> None:
            changed.set()

        informer.add_handler(wake, wake, wake)
        async with asyncio.TaskGroup() as group:
            group.create_task(informer.run(), name="informer/endpointslices")
            backoff = Backoff(0.2, 5.0)
            while True:
                changed.clear()
                try:
                    if not leads_alike(informer.store.get(f"{self._namespace}/{self._name}"), self._wanted):
                        await self._write()
                except (StatusError, ConnectionFailed) as error:
                    log.warning("the endpoint cannot be written: %s", error)
                    await asyncio.sleep(backoff.next())
                    continue
                backoff.reset()
                await changed.wait()

    async def _write(self) -> None:
        params = {"fieldManager": MANAGER, "force": "true"}
        await self._client.patch(
            ENDPOINTSLICES, self._name, self._wanted, self._namespace, content_type=APPLY, params=params
        )
