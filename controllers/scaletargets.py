"""Reading and writing `scale` of whatever has it, built-in or custom."""

from __future__ import annotations

from apimachinery import errors
from controllers.discovery import Surface, discover
from controllers.objects import Object
from kubeclient.resources import DEPLOYMENTS, GVR, REPLICASETS, REPLICATIONCONTROLLERS, STATEFULSETS
from kubeclient.rest import RestClient

_KNOWN = {
    (gvr.group, gvr.kind): gvr for gvr in (DEPLOYMENTS, REPLICASETS, REPLICATIONCONTROLLERS, STATEFULSETS)
}


class NoScale(Exception):
    """The kind is not served, or has no scale; the message names it."""


class ScaleTargets:
    """Finds the resource behind (apiVersion, kind); what is not built in is looked up by discovery."""

    def __init__(self, client: RestClient) -> None:
        self._client = client
        self._surface = Surface()

    async def resource(self, api_version: str, kind: str) -> GVR:
        """Raises NoScale for a kind nobody serves."""
        group = api_version.rpartition("/")[0]
        found = _KNOWN.get((group, kind)) or self._surface.by_kind(api_version, kind)
        if found is None:
            self._surface = await discover(self._client)
            found = self._surface.by_kind(api_version, kind)
        if found is None:
            raise NoScale(f'no matches for kind "{kind}" in group "{group}"')
        return found

    async def get(self, api_version: str, kind: str, namespace: str, name: str) -> tuple[GVR, Object]:
        """The Scale object. Raises NoScale, StatusError (404 when the object itself is gone)."""
        gvr = await self.resource(api_version, kind)
        try:
            return gvr, await self._client.get(gvr, name, namespace, subresource="scale")
        except errors.StatusError as error:
            if error.code == 405:
                raise NoScale(f"{gvr.qualified} has no scale") from error
            raise

    async def set(self, gvr: GVR, scale: Object, replicas: int) -> Object:
        """Write the wanted number against the version that was read."""
        wanted = {**scale, "spec": {**(scale.get("spec") or {}), "replicas": replicas}}
        return await self._client.update(gvr, wanted, subresource="scale")
