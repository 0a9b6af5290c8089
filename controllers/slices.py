"""Writing EndpointSlices: what the two controllers that plan them have in common."""

from __future__ import annotations

from dataclasses import dataclass

from apimachinery import errors
from controllers import objects as o
from controllers.objects import Object
from controllers.podcontrol import namespace_terminating
from controllers.runtime import ignore_not_found
from controllers.written import Written
from kubeclient.resources import ENDPOINTSLICES
from kubeclient.rest import RestClient


@dataclass(frozen=True, slots=True)
class SlicePlan:
    """Slices to make, to write again and to remove."""

    create: tuple[Object, ...] = ()
    update: tuple[Object, ...] = ()
    delete: tuple[Object, ...] = ()


@dataclass(frozen=True, slots=True)
class SliceWriter:
    """Carries plans out; every write is remembered under the key it was made for."""

    client: RestClient
    written: Written

    async def execute(self, key: str, namespace: str, plan: SlicePlan) -> None:
        """Additions before removals, so that an endpoint that moves between slices is never in none. A
        namespace that is going away refuses new slices, and nothing is lost by that.
        """
        try:
            for body in plan.create:
                self.written.wrote(key, await self.client.create(ENDPOINTSLICES, body, namespace))
            for body in plan.update:
                self.written.wrote(key, await self.client.update(ENDPOINTSLICES, body))
            for existing in plan.delete:
                await ignore_not_found(self.client.delete(ENDPOINTSLICES, o.name(existing), namespace))
                self.written.deleted(key, existing)
        except errors.StatusError as error:
            if not namespace_terminating(error):
                raise
