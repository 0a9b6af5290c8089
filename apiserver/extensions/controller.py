"""Keeps what is served equal to what is defined: one task on every apiserver, driven by the watch cache.

Level-triggered: each pass compares the definitions in the cache with what is installed. Statuses are
written by
whichever server comes first; the others find nothing left to change (all write the same, by
compare-and-swap).
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from typing import Any

import orjson

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.scheme import Kind, Object, Scheme
from apiserver.auth.user import User
from apiserver.extensions import conditions
from apiserver.extensions.conversion import WebhookConversion
from apiserver.extensions.serving import (
    GROUP,
    RESOURCE,
    CustomKind,
    kinds_of,
    schemas_of,
    storage_version,
)
from apiserver.registry.backends import Backends
from apiserver.registry.call import Call
from apiserver.registry.registry import Registry
from apiserver.registry.webhookclient import WebhookClient
from apiserver.rest.openapi import OpenApi
from apiserver.rest.options import DeleteOptions
from apiserver.storage.interface import PREFIX, StorageError
from componentbase.backoff import Backoff

logger = logging.getLogger("apiserver.extensions")

USER = User("system:apiserver", ("system:masters",))
CLEANUP_PAUSE = 0.5  # seconds between looks at instances that something still holds
SETTLE_SECONDS = 2.0
MAX_CONVERTED = 64 << 20  # bytes of a whole list's conversion


@dataclass(frozen=True, slots=True)
class Installed:
    """What one definition serves now; `signature` is all that it depends on."""

    signature: bytes
    shape: bytes  # the part that decides how stored objects are read
    kinds: tuple[CustomKind, ...]


class CustomResources:
    """The controller. `run()` is its one task."""

    def __init__(self, registry: Registry, scheme: Scheme, openapi: OpenApi) -> None:
        kind = scheme.resource(GROUP, "v1", RESOURCE)
        assert kind is not None
        self._kind: Kind = kind
        self._registry = registry
        self._cacher = registry.cacher
        self._scheme = scheme
        self._openapi = openapi
        self._webhooks = WebhookClient(Backends(registry.cacher, scheme), max_answer=MAX_CONVERTED)
        self._builtin = _names_by_group(scheme)
        self._installed: dict[str, Installed] = {}
        self._wake = asyncio.Event()
        self._passed = asyncio.Condition()
        self._seen = 0

    async def run(self) -> None:
        """Ends only by cancellation."""
        await self._cacher.ready.wait()
        cache = self._cacher.of(self._kind)
        leave = cache.on_change(self._wake.set)
        backoff = Backoff(0.1, 5.0)
        try:
            while True:
                self._wake.clear()
                revision = self._cacher.revision
                try:
                    pending = await self._pass()
                except (StatusError, StorageError) as error:
                    pause = backoff.next()
                    logger.warning("custom resources: %s; trying again in %.1f s", error, pause)
                    await asyncio.sleep(pause)
                    self._wake.set()
                    continue
                backoff.reset()
                async with self._passed:
                    self._seen = revision
                    self._passed.notify_all()
                await self._sleep(CLEANUP_PAUSE if pending else None)
        finally:
            leave()

    async def settle(self) -> None:
        """Wait until every definition acknowledged before this call is served, or a short time is over.

        So a client that saw a definition established through one server finds its kind on every other.
        """
        await self._registry.reader.reach("")
        latest = self._cacher.of(self._kind).latest
        try:
            async with asyncio.timeout(SETTLE_SECONDS), self._passed:
                await self._passed.wait_for(lambda: self._seen >= latest)
        except TimeoutError:
            return

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    async def _pass(self) -> bool:
        """One comparison; whether something has to be looked at again without a change."""
        definitions = [entry.decoded() for entry in self._cacher.of(self._kind).scan()]
        names = {crd["metadata"]["name"] for crd in definitions}
        for name in [name for name in self._installed if name not in names]:
            self._uninstall(name)
        pending = False
        for crd in definitions:
            # One definition that fails must not keep the others from being served.
            try:
                pending |= await self._one(crd, definitions)
            except (StatusError, StorageError) as error:
                logger.warning("custom resource definition %s: %s", crd["metadata"]["name"], error)
                pending = True
            except Exception:
                logger.exception("custom resource definition %s cannot be served", crd["metadata"]["name"])
                pending = True
        return pending

    async def _one(self, crd: Object, definitions: list[Object]) -> bool:
        if not conditions.is_terminating(crd):
            await self._update_status(crd, definitions)
        if conditions.is_true(crd, conditions.ESTABLISHED):
            await self._install(crd)
        if conditions.is_terminating(crd):
            return await self._clean_up(crd)
        return False

    async def _update_status(self, crd: Object, definitions: list[Object]) -> None:
        group = crd["spec"]["group"]
        others = [
            other
            for other in definitions
            if other["spec"]["group"] == group and other["metadata"]["name"] != crd["metadata"]["name"]
        ]
        now = self._registry.settings.now()
        status = conditions.next_status(crd, others, self._builtin.get(group, ()), now)
        if status == crd.get("status"):
            return

        async def change(stored: Object) -> Object:
            if stored["metadata"]["resourceVersion"] == crd["metadata"]["resourceVersion"]:
                stored["status"] = status
            return stored

        await self._write(crd, "status", change)

    async def _write(self, crd: Object, subresource: str, change: Any) -> None:
        call = Call("update", self._kind, "", crd["metadata"]["name"], USER, subresource)
        try:
            await self._registry.update(call, change)
        except StatusError as error:
            if not (errors.is_not_found(error) or errors.is_conflict(error)):
                raise
            self._wake.set()

    # -- serving ---------------------------------------------------------------------------------------------

    async def _install(self, crd: Object) -> None:
        name = crd["metadata"]["name"]
        signature = orjson.dumps(
            [crd["spec"], crd["status"].get("acceptedNames"), conditions.is_terminating(crd)]
        )
        current = self._installed.get(name)
        if current is not None and current.signature == signature:
            return
        spec = crd["spec"]
        shape = orjson.dumps(
            [spec["versions"], spec.get("conversion"), spec["names"]["plural"], crd["metadata"]["uid"]]
        )
        keeps = current is not None and current.shape == shape
        kinds = tuple(kinds_of(crd, self._converter(crd)))
        caches = [] if keeps else [await self._cacher.load(kind) for kind in kinds]
        # No suspension from here on: requests see the old kinds or the new ones.
        if current is not None:
            self._withdraw(current, {kind.version for kind in kinds} if keeps else set())
        for kind, cache in zip(kinds, caches, strict=False):
            self._cacher.install(kind, cache)
        for kind in kinds:
            self._scheme.add(kind)
            self._openapi.forget(kind.group, kind.version)
        self._installed[name] = Installed(signature, shape, kinds)
        logger.info("serving %s (%s)", name, ", ".join(kind.version for kind in kinds))

    def _converter(self, crd: Object) -> WebhookConversion | None:
        conversion = crd["spec"].get("conversion") or {}
        if conversion.get("strategy") != "Webhook":
            return None
        config = conversion["webhook"]["clientConfig"]
        return WebhookConversion(config, storage_version(crd), schemas_of(crd), self._webhooks)

    def _uninstall(self, name: str) -> None:
        self._withdraw(self._installed.pop(name), set())
        logger.info("no longer serving %s", name)

    def _withdraw(self, installed: Installed, kept: set[str]) -> None:
        """Take kinds out of the scheme; `kept` versions keep their caches and watches."""
        for kind in installed.kinds:
            self._scheme.remove(kind)
            self._openapi.forget(kind.group, kind.version)
            if kind.version not in kept:
                self._cacher.remove(kind)

    # -- the end of a definition -----------------------------------------------------------------------------

    async def _clean_up(self, crd: Object) -> bool:
        """Delete the instances; when none is left, let the definition go. True while something is left."""
        if conditions.FINALIZER not in (crd["metadata"].get("finalizers") or ()):
            return False
        installed = self._installed.get(crd["metadata"]["name"])
        if installed is not None and await self._delete_instances(installed.kinds):
            message = "CustomResource deletion is in progress"
            await self._report(crd, "True", "InstanceDeletionInProgress", message)
            return True
        await self._report(crd, "False", "InstanceDeletionCompleted", "removed all instances")

        async def release(stored: Object) -> Object:
            held = stored["metadata"].get("finalizers") or []
            stored["metadata"]["finalizers"] = [name for name in held if name != conditions.FINALIZER]
            return stored

        await self._write(crd, "", release)
        return False

    async def _delete_instances(self, kinds: tuple[CustomKind, ...]) -> bool:
        """Ask for the deletion of all instances; whether any is left in the store."""
        if not kinds:
            return False
        # In the stored version, which needs no conversion.
        kind = next((kind for kind in kinds if kind.api_version == _stored_as(kind)), kinds[0])
        await self._registry.reader.reach("")
        for entry in list(self._cacher.of(kind).scan()):
            call = Call("delete", kind, entry.namespace, entry.name, USER)
            try:
                await self._registry.delete(call, DeleteOptions())
            except StatusError as error:
                if not errors.is_not_found(error):
                    raise
        page = await self._registry.store.list(f"{PREFIX}{kind.storage_prefix}/", limit=1)
        return bool(page.items)

    async def _report(self, crd: Object, status: str, reason: str, message: str) -> None:
        wanted = conditions.terminating_condition(status, reason, message)
        found = conditions.condition(crd, conditions.TERMINATING) or {}
        if all(found.get(key) == value for key, value in wanted.items()):
            return
        now = self._registry.settings.now()

        async def change(stored: Object) -> Object:
            held = stored.setdefault("status", {}).get("conditions") or []
            stored["status"]["conditions"] = conditions.with_condition(held, wanted, now)
            return stored

        await self._write(crd, "status", change)


def _stored_as(kind: CustomKind) -> str:
    return kind.converter.storage_version if kind.converter else kind.api_version


def _names_by_group(scheme: Scheme) -> dict[str, set[str]]:
    """The resource names that built-in kinds have taken, by group."""
    out: dict[str, set[str]] = {}
    for kind in scheme:
        names = (kind.resource, kind.singular or kind.kind.lower(), *kind.short_names)
        out.setdefault(kind.group, set()).update(names)
    return out
