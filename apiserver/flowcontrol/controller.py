"""Takes FlowSchemas and PriorityLevelConfigurations into force as they change, and says in the schemas'
status whether their level exists. One task on every apiserver.
"""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.scheme import Kind, Scheme
from apiserver.auth.user import LOOPBACK
from apiserver.extensions.conditions import with_condition
from apiserver.kinds.flowcontrol import DANGLING, GROUP
from apiserver.registry.call import Call
from apiserver.registry.registry import Registry
from apiserver.rest.flow import FlowControl
from apiserver.storage.interface import StorageError
from componentbase.backoff import Backoff

logger = logging.getLogger("apiserver.flowcontrol")

Object = dict[str, Any]


class FlowConfiguration:
    def __init__(self, registry: Registry, scheme: Scheme, flow: FlowControl) -> None:
        self._registry = registry
        self._flow = flow
        self._schemas = _kind(scheme, "flowschemas")
        self._levels = _kind(scheme, "prioritylevelconfigurations")
        self._wake = asyncio.Event()

    async def run(self) -> None:
        """Ends only by cancellation."""
        cacher = self._registry.cacher
        await cacher.ready.wait()
        leave = [cacher.of(kind).on_change(self._wake.set) for kind in (self._schemas, self._levels)]
        backoff = Backoff(0.1, 5.0)
        try:
            while True:
                self._wake.clear()
                try:
                    await self._pass()
                    backoff.reset()
                except (StatusError, StorageError) as error:
                    pause = backoff.next()
                    logger.warning("flow control: %s; again in %.1f s", error, pause)
                    await asyncio.sleep(pause)
                    continue
                await self._wake.wait()
        finally:
            for stop in leave:
                stop()

    async def _pass(self) -> None:
        schemas, levels = (self._objects(kind) for kind in (self._schemas, self._levels))
        self._flow.configure(schemas, levels)
        for schema in schemas:
            await self._tell(schema)

    def _objects(self, kind: Kind) -> list[Object]:
        return [entry.decoded() for entry in self._registry.cacher.of(kind).scan()]

    async def _tell(self, schema: Object) -> None:
        """Write the Dangling condition where it is not what it should be."""
        level = schema["spec"]["priorityLevelConfiguration"]["name"]
        wanted = dangling(level, exists=level in self._flow.levels)
        held = (schema.get("status") or {}).get("conditions") or []
        if any(all(item.get(key) == value for key, value in wanted.items()) for item in held):
            return
        now = self._registry.settings.now()

        async def change(stored: Object) -> Object:
            if stored["metadata"]["resourceVersion"] == schema["metadata"]["resourceVersion"]:
                stored["status"] = {"conditions": with_condition(held, wanted, now)}
            return stored

        call = Call("update", self._schemas, "", schema["metadata"]["name"], LOOPBACK, "status")
        try:
            await self._registry.update(call, change)
        except StatusError as error:
            if not (errors.is_not_found(error) or errors.is_conflict(error)):
                raise


def dangling(level: str, *, exists: bool) -> Object:
    reference = f'This FlowSchema references the PriorityLevelConfiguration object named "{level}"'
    if exists:
        text = f"{reference} and it exists"
        return {"type": DANGLING, "status": "False", "reason": "Found", "message": text}
    text = f"{reference} but there is no such object"
    return {"type": DANGLING, "status": "True", "reason": "NotFound", "message": text}


def _kind(scheme: Scheme, resource: str) -> Kind:
    kind = scheme.resource(GROUP, "v1", resource)
    assert kind is not None
    return kind
