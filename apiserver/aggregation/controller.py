"""Keeps APIServices true: one task on every apiserver, driven by the watch cache.

It registers what this server serves itself (kube-aggregator's autoregister controller), finds out which
extension servers answer and writes that into their Available conditions (its available controller), and
knows for every request whether it is for one of them.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import orjson

from apimachinery import errors
from apimachinery.errors import StatusError
from apimachinery.scheme import Kind, Scheme
from apiserver.aggregation import documents, local
from apiserver.aggregation.documents import Documents, GroupVersion
from apiserver.aggregation.remote import CHECK_SECONDS, Failed, ProxyIdentity, Remote
from apiserver.auth.user import LOOPBACK
from apiserver.extensions.conditions import with_condition
from apiserver.extensions.serving import GROUP as EXTENSIONS
from apiserver.extensions.serving import RESOURCE as DEFINITIONS
from apiserver.kinds.apiservices import AVAILABLE, GROUP, available_condition
from apiserver.registry.backends import Address, Backends, NoBackend
from apiserver.registry.call import Call
from apiserver.registry.registry import Registry
from apiserver.rest.info import RequestInfo
from apiserver.rest.options import DeleteOptions
from apiserver.storage.interface import StorageError

logger = logging.getLogger("apiserver.aggregation")

Object = dict[str, Any]

LOOK_SECONDS = 1.0  # how often the endpoints of extension servers are compared
RECHECK_SECONDS, RETRY_SECONDS = 30.0, 5.0  # how often one that is available, or is not, is asked again
RETRY_PASS_SECONDS = 1.0


@dataclass(slots=True)
class Extension:
    """An extension server and what is known of it."""

    signature: bytes  # of the APIService's spec
    remote: Remote
    documents: Documents | None = None  # None until it has answered once
    asked: tuple[Address, ...] | str = ""  # where it was when it was last asked, or why it was nowhere
    due: float = 0.0  # monotonic time to ask again, and to say so again: servers that disagree take turns
    verdict: Object = field(default_factory=dict)  # the condition that came of it


class Aggregator:
    """`run()` is its one task. The other methods are questions answered from memory."""

    def __init__(
        self,
        registry: Registry,
        scheme: Scheme,
        builtin: Iterable[GroupVersion],
        identity: ProxyIdentity,
        monotonic: Callable[[], float] = time.monotonic,
    ) -> None:
        kind, definitions = (
            scheme.resource(GROUP, "v1", "apiservices"),
            scheme.resource(EXTENSIONS, "v1", DEFINITIONS),
        )
        assert kind is not None and definitions is not None
        self._kind: Kind = kind
        self._definitions: Kind = definitions
        self._registry = registry
        self._cacher = registry.cacher
        self._backends = Backends(registry.cacher, scheme)
        self._builtin = [item for item in builtin if item[0] != GROUP]
        self._identity = identity
        self._monotonic = monotonic
        self._extensions: dict[GroupVersion, Extension] = {}
        self._ranks: dict[GroupVersion, local.Rank] = {}
        self._unreadable: dict[str, str] = {}
        self._registered = False
        self._wake = asyncio.Event()
        self.changed: Callable[[], None] = lambda: None  # called when what extensions serve has changed

    # -- questions ------------------------------------------------------------------------------------------

    def remote_of(self, info: RequestInfo) -> Remote | None:
        """The extension server a request is for; None when it is for this one."""
        if not self._extensions:
            return None
        if info.is_resource:
            found = self._extensions.get((info.group, info.version))
        else:
            parts = info.path.strip("/").removeprefix("openapi/v3/").split("/")
            found = self._extensions.get((parts[1], parts[2])) if _is_group_version(parts) else None
        return found.remote if found else None

    def versions(self) -> Mapping[GroupVersion, Documents | None]:
        """What is served elsewhere; None for what is not known, its server never having answered."""
        return {item: extension.documents for item, extension in self._extensions.items()}

    def is_fresh(self, item: GroupVersion) -> bool:
        return self._extensions[item].remote.available

    def order(self, found: Iterable[GroupVersion]) -> dict[str, list[str]]:
        """Group -> versions in the order of discovery, with what is served elsewhere."""
        return local.ordered({*found, *self._extensions}, self._ranks)

    # -- the task -------------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Ends only by cancellation."""
        await self._cacher.ready.wait()
        leave = [self._cacher.of(kind).on_change(self._wake.set) for kind in (self._kind, self._definitions)]
        try:
            while True:
                self._wake.clear()
                pause = LOOK_SECONDS if self._extensions else None
                try:
                    await self._register()
                    await self._follow()
                    pause = LOOK_SECONDS if self._extensions else None
                except* (StatusError, StorageError) as failed:  # services are judged side by side
                    logger.warning("APIServices: %s", failed.exceptions[0])
                    pause = RETRY_PASS_SECONDS
                await self._sleep(pause)
        finally:
            for stop in leave:
                stop()
            for extension in self._extensions.values():
                await extension.remote.close()

    async def _sleep(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wake.wait()
        except TimeoutError:
            return

    def _stored(self) -> list[Object]:
        return [entry.decoded() for entry in self._cacher.of(self._kind).scan()]

    # -- what this server serves itself ---------------------------------------------------------------------

    async def _register(self) -> None:
        custom = local.custom_versions(e.decoded() for e in self._cacher.of(self._definitions).scan())
        wanted = dict.fromkeys(custom, local.ALWAYS)
        if not self._registered:
            wanted = {**dict.fromkeys(self._builtin, local.ON_START), **wanted}
        for (group, version), managed in wanted.items():
            name = f"{version}.{group}"
            if self._cacher.of(self._kind).get(name) is None:
                await self._create(name, local.api_service(group, version, managed))
        self._registered = True
        for name in local.stale(self._stored(), custom):
            await self._delete(name)

    async def _create(self, name: str, service: Object) -> None:
        try:
            await self._registry.create(Call("create", self._kind, "", name, LOOPBACK), service)
        except StatusError as error:
            if not errors.is_already_exists(error):
                raise

    async def _delete(self, name: str) -> None:
        try:
            await self._registry.delete(Call("delete", self._kind, "", name, LOOPBACK), DeleteOptions())
        except StatusError as error:
            if not errors.is_not_found(error):
                raise

    # -- what others serve ----------------------------------------------------------------------------------

    async def _follow(self) -> None:
        """One comparison of the APIServices with what is known of their servers."""
        stored = self._stored()
        self._ranks = {
            local.group_version(item): local.Rank(
                item["spec"]["groupPriorityMinimum"], item["spec"]["versionPriority"]
            )
            for item in stored
        }
        wanted = {local.group_version(item): item for item in stored if item["spec"].get("service")}
        for gone in [item for item in self._extensions if item not in wanted]:
            await self._extensions.pop(gone).remote.close()
            self.changed()
        for item, service in wanted.items():
            await self._adopt(item, service)
        async with asyncio.TaskGroup() as group:
            for item, service in wanted.items():
                group.create_task(
                    self._judge(item, service), name=f"apiservice-{service['metadata']['name']}"
                )

    async def _adopt(self, item: GroupVersion, service: Object) -> None:
        """Know the extension server that the spec speaks of now."""
        signature = orjson.dumps(service["spec"])
        known = self._extensions.get(item)
        if known is None or known.signature != signature:
            try:
                remote = Remote(service["spec"], self._backends, self._identity)
            except (ValueError, ssl.SSLError) as error:
                # A bundle that is none: a server nobody can verify.
                remote = Remote({**service["spec"], "caBundle": ""}, self._backends, ProxyIdentity())
                self._unreadable[service["metadata"]["name"]] = f"unable to load root certificates: {error}"
            else:
                self._unreadable.pop(service["metadata"]["name"], None)
            if known is not None:
                await known.remote.close()
            self._extensions[item] = Extension(signature, remote)
            self.changed()
        condition = available_condition(service)
        self._extensions[item].remote.available = condition is not None and condition["status"] == "True"

    async def _judge(self, item: GroupVersion, service: Object) -> None:
        """Ask a server when it is time to, or when it has moved; write what came of it."""
        extension, now = self._extensions[item], self._monotonic()
        due = extension.due
        try:
            where: tuple[Address, ...] | str = tuple(sorted(extension.remote.addresses()))
            missing = None
        except NoBackend as error:
            where, missing = str(error), error
        if where != extension.asked or now >= extension.due or not extension.verdict:
            extension.asked = where
            if missing is not None:
                extension.verdict = _condition("False", missing.reason, str(missing))
            else:
                extension.verdict = await self._ask(extension, service["metadata"]["name"])
            good = extension.verdict["status"] == "True"
            due = now + (RECHECK_SECONDS if good else RETRY_SECONDS)
            extension.due = now  # a verdict that cannot be written is reached again
        elif available_condition(service) is not None:
            return
        await self._report(service, extension.verdict)
        extension.due = due

    async def _ask(self, extension: Extension, name: str) -> Object:
        group, version = extension.remote.group_version
        path = f"/apis/{group}/{version}"
        try:
            if name in self._unreadable:
                raise Failed(self._unreadable[name])
            async with asyncio.timeout(CHECK_SECONDS):
                listed = await extension.remote.fetch(path)
        except (Failed, NoBackend, TimeoutError) as error:
            shown = f"https://{extension.remote.host}{path}"
            why = str(error) or "context deadline exceeded"
            return _condition(
                "False", "FailedDiscoveryCheck", f"failing or missing response from {shown}: {why}"
            )
        found = await self._learn(extension, listed)
        if found != extension.documents:
            extension.documents = found
            self.changed()
        return _condition("True", "Passed", "all checks passed")

    async def _learn(self, extension: Extension, listed: Object) -> Documents:
        """What the server tells of itself. Documents that it does not have are left out."""
        item = extension.remote.group_version
        resources = documents.aggregated_resources(listed.get("resources") or (), item)
        url = documents.openapi_url(await self._optional(extension, "/openapi/v3"), item)
        known = extension.documents
        if known is not None and url and known.openapi_v3 == url:
            return Documents(resources, url, known.definitions)
        swagger = await self._optional(extension, "/openapi/v2")
        return Documents(resources, url, swagger.get("definitions") or {})

    @staticmethod
    async def _optional(extension: Extension, path: str) -> Object:
        try:
            async with asyncio.timeout(CHECK_SECONDS):
                return await extension.remote.fetch(path)
        except (Failed, NoBackend, TimeoutError):
            return {}

    async def _report(self, service: Object, verdict: Object) -> None:
        held = available_condition(service) or {}
        if all(held.get(name) == value for name, value in verdict.items()):
            return
        now = self._registry.settings.now()

        async def change(stored: Object) -> Object:
            conditions = (stored.get("status") or {}).get("conditions") or []
            if stored["metadata"]["resourceVersion"] == service["metadata"]["resourceVersion"]:
                stored["status"] = {"conditions": with_condition(conditions, verdict, now)}
            return stored

        call = Call("update", self._kind, "", service["metadata"]["name"], LOOPBACK, "status")
        try:
            await self._registry.update(call, change)
        except StatusError as error:
            if not (errors.is_not_found(error) or errors.is_conflict(error)):
                raise
            self._wake.set()


def _is_group_version(parts: list[str]) -> bool:
    return len(parts) == 3 and parts[0] == "apis"


def _condition(status: str, reason: str, message: str) -> Object:
    return {"type": AVAILABLE, "status": status, "reason": reason, "message": message}
