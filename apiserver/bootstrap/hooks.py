"""Post-start hooks: what the cluster must contain before this server calls itself ready, and what it keeps
right after.

Each hook is a named, idempotent step; several servers run them at once without harm, since every write is a
create that tolerates existence or a compare-and-swap. /readyz fails until all have succeeded once.
"""

from __future__ import annotations

import asyncio
import copy
import datetime
import logging
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from pathlib import Path
from typing import Any

from apimachinery import errors, meta
from apimachinery.errors import StatusError
from apimachinery.scheme import Kind, Scheme
from apiserver.admission.pods import SYSTEM_CLASSES
from apiserver.auth import legacytokens, policy
from apiserver.auth.user import LOOPBACK
from apiserver.auth.wording import RBAC_GROUP
from apiserver.bootstrap.kubernetes_service import KubernetesService
from apiserver.flowcontrol import defaults as flow_defaults
from apiserver.kinds.serviceaddresses import cidr_object
from apiserver.registry.allocation import ServiceAllocator
from apiserver.registry.call import Call
from apiserver.registry.registry import Registry
from apiserver.rest.options import ListOptions
from apiserver.storage.interface import StorageError, Store
from componentbase.backoff import Backoff

logger = logging.getLogger("apiserver.bootstrap")

Object = dict[str, Any]
Step = Callable[[], Awaitable[None]]

NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
REPAIR_SECONDS = 180.0
PRIORITY_TEXT = {
    "system-node-critical": "Used for system critical pods that must not be moved from their current node.",
    "system-cluster-critical": "Used for system critical pods that must run in the cluster, but can be "
    "moved to another node if necessary.",
}


class Bootstrap:
    """`run()` performs the hooks in order, then keeps the periodic ones going."""

    def __init__(self, registry: Registry, scheme: Scheme, store: Store, values: Any) -> None:
        self._registry = registry
        self._scheme = scheme
        self._values = values
        self._allocator = ServiceAllocator(
            store, values.service_cluster_ip_range, values.service_node_port_range
        )
        self._service = KubernetesService(registry, scheme, store, values)
        self._steps: dict[str, Step] = {
            "start-system-namespaces-controller": self._namespaces,
            "rbac/bootstrap-roles": self._policy,
            "scheduling/bootstrap-system-priority-classes": self._priority_classes,
            "start-cluster-authentication-info-controller": self._authentication_info,
            "start-legacy-token-tracking-controller": self._token_tracking,
            "start-service-ip-repair-controllers": self.repair,
            "bootstrap-controller": self._service.reconcile,
            "priority-and-fairness-config-producer": self._flow_control,
        }
        self.done: set[str] = set()
        self.finished = asyncio.Event()
        self.names = tuple(self._steps)

    def check(self, name: str) -> Callable[[], None]:
        def done() -> None:
            if name not in self.done:
                raise RuntimeError("not finished")

        return done

    async def run(self) -> None:
        await self._registry.cacher.ready.wait()
        for name, step in self._steps.items():
            await self._until_done(name, step)
        self.finished.set()
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._service.keep(), name="kubernetes-service")
            tasks.create_task(
                self._repeat("service repair", self.repair, REPAIR_SECONDS), name="service-repair"
            )
            tasks.create_task(
                self._repeat("system namespaces", self._namespaces, 60.0), name="system-namespaces"
            )
            tasks.create_task(self._repeat("flow control", self._flow_control, 60.0), name="flow-control")
            tasks.create_task(
                self._repeat("token tracking", self._token_tracking, 60.0), name="token-tracking"
            )

    async def leave(self) -> None:
        """Take this server out of the kubernetes Service."""
        await self._service.leave()

    async def _until_done(self, name: str, step: Step) -> None:
        backoff = Backoff(0.1, 5.0)
        while name not in self.done:
            try:
                await step()
                self.done.add(name)
            except (StatusError, StorageError) as error:
                pause = backoff.next()
                logger.warning("post-start hook %s failed: %s; again in %.1f s", name, error, pause)
                await asyncio.sleep(pause)

    @staticmethod
    async def _repeat(name: str, step: Step, seconds: float) -> None:
        while True:
            await asyncio.sleep(seconds)
            try:
                await step()
            except (StatusError, StorageError) as error:
                logger.warning("%s failed: %s", name, error)

    # -- steps -----------------------------------------------------------------------------------------------

    async def _namespaces(self) -> None:
        for name in NAMESPACES:
            namespace = {"kind": "Namespace", "apiVersion": "v1", "metadata": {"name": name}}
            await self._ensure("", "v1", "namespaces", namespace)

    async def _policy(self) -> None:
        made = (
            ("clusterroles", policy.cluster_roles()),
            ("clusterrolebindings", policy.cluster_role_bindings()),
            ("roles", policy.roles()),
            ("rolebindings", policy.role_bindings()),
        )
        for resource, objects in made:
            await _together(self._reconcile_policy(resource, obj) for obj in objects)

    async def _reconcile_policy(self, resource: str, wanted: Object) -> None:
        """Add what is missing from a role or binding, unless its owner has turned autoupdate off; remove
        nothing.
        """
        kind, fields = self._kind(RBAC_GROUP, "v1", resource), wanted["metadata"]
        entry = self._registry.cacher.of(kind).get(
            f"{fields['namespace']}/{fields['name']}" if kind.namespaced else fields["name"]
        )
        if entry is None:
            await self._ensure(RBAC_GROUP, "v1", resource, wanted)
            return
        if lacks_nothing(entry.decoded(), wanted):
            return

        async def add(stored: Object) -> Object:
            return with_missing(stored, wanted)

        await self._registry.update(
            self._call(kind, "update", fields.get("namespace", ""), fields["name"]), add
        )

    async def _priority_classes(self) -> None:
        for name, value in SYSTEM_CLASSES.items():
            body = {
                "kind": "PriorityClass",
                "apiVersion": "scheduling.k8s.io/v1",
                "metadata": {"name": name},
                "value": value,
                "preemptionPolicy": "PreemptLowerPriority",
                "description": PRIORITY_TEXT[name],
            }
            if self._scheme.resource("scheduling.k8s.io", "v1", "priorityclasses"):
                await self._ensure("scheduling.k8s.io", "v1", "priorityclasses", body)

    async def _flow_control(self) -> None:
        """What is in force anyway, as objects that may be looked at and changed."""
        group = "flowcontrol.apiserver.k8s.io"
        made = (("prioritylevelconfigurations", flow_defaults.LEVELS), ("flowschemas", flow_defaults.SCHEMAS))
        for resource, objects in made:
            await _together(self._ensure(group, "v1", resource, copy.deepcopy(obj)) for obj in objects)

    async def _authentication_info(self) -> None:
        data = authentication_data(self._values)
        fields = {"name": "extension-apiserver-authentication", "namespace": "kube-system"}
        wanted = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": fields, "data": data}
        if await self._ensure("", "v1", "configmaps", wanted):
            return

        async def put(stored: Object) -> Object:
            return {**stored, "data": {**(stored.get("data") or {}), **data}}

        kind = self._kind("", "v1", "configmaps")
        await self._registry.update(self._call(kind, "update", "kube-system", fields["name"]), put)

    async def _token_tracking(self) -> None:
        """Since when last uses of legacy tokens are known; who cleans them away must not guess."""
        now = datetime.datetime.fromtimestamp(self._registry.settings.now(), datetime.UTC)
        today, fields = now.date().isoformat(), {"name": legacytokens.TRACKING, "namespace": "kube-system"}
        wanted = {"kind": "ConfigMap", "apiVersion": "v1", "metadata": fields, "data": {"since": today}}
        kind = self._kind("", "v1", "configmaps")
        entry = self._registry.cacher.of(kind).get(f"kube-system/{legacytokens.TRACKING}")

        async def begin(stored: Object) -> Object:
            data = stored.get("data") or {}
            return {**stored, "data": {**data, **(legacytokens.tracked_since(stored, today) or {})}}

        if entry is None:
            await self._ensure("", "v1", "configmaps", wanted)
        elif legacytokens.tracked_since(entry.decoded(), today) is not None:
            await self._registry.update(self._call(kind, "update", "kube-system", fields["name"]), begin)

    async def repair(self) -> None:
        """Compare what is allocated with the Services, and let their range be seen."""
        created = meta.now_rfc3339(self._registry.settings.now())
        cidr = cidr_object(self._values.service_cluster_ip_range, created)
        if await self._ensure("networking.k8s.io", "v1", "servicecidrs", cidr):
            await self._ready(cidr)
        services = await self._registry.reader.list(self._kind("", "v1", "services"), "", ListOptions())
        await self._allocator.repair([entry.decoded() for entry in services.entries])

    async def _ready(self, cidr: Object) -> None:
        """A range is created without a status; ours is ready from the start."""

        async def put(stored: Object) -> Object:
            return {**stored, "status": cidr["status"]}

        kind = self._kind("networking.k8s.io", "v1", "servicecidrs")
        call = self._call(kind, "update", "", cidr["metadata"]["name"])
        call.subresource = "status"
        await self._registry.update(call, put)

    async def _ensure(self, group: str, version: str, resource: str, obj: Object) -> bool:
        """Create unless it is there; whether it was created."""
        kind, fields = self._kind(group, version, resource), obj["metadata"]
        key = f"{fields['namespace']}/{fields['name']}" if kind.namespaced else fields["name"]
        if self._registry.cacher.of(kind).get(key) is not None:
            return False
        call = self._call(kind, "create", fields.get("namespace", ""), fields["name"])
        try:
            await self._registry.create(call, {**obj, "metadata": dict(fields)})
        except StatusError as error:
            if not errors.is_already_exists(error):
                raise
            return False
        return True

    def _kind(self, group: str, version: str, resource: str) -> Kind:
        kind = self._scheme.resource(group, version, resource)
        if kind is None:
            raise LookupError(f"the scheme does not serve {resource}.{version}.{group}")
        return kind

    @staticmethod
    def _call(kind: Kind, verb: str, namespace: str, name: str) -> Call:
        return Call(verb, kind, namespace, name, LOOPBACK)


async def _together(steps: Iterable[Coroutine[Any, Any, Any]]) -> None:
    """All steps at once: the store commits what arrives together in one go. Raises the first failure."""
    try:
        async with asyncio.TaskGroup() as tasks:
            for step in steps:
                tasks.create_task(step, name="bootstrap-step")
    except BaseExceptionGroup as failed:
        raise failed.exceptions[0] from failed


def authentication_data(values: Any) -> dict[str, str]:
    """What extension servers need to know to authenticate callers the way this server does."""
    data: dict[str, str] = {}
    if values.client_ca_file:
        data["client-ca-file"] = Path(values.client_ca_file).read_text()
    if values.requestheader_client_ca_file:
        data["requestheader-client-ca-file"] = Path(values.requestheader_client_ca_file).read_text()
        data["requestheader-allowed-names"] = _json_list(values.requestheader_allowed_names)
        data["requestheader-username-headers"] = _json_list(values.requestheader_username_headers)
        data["requestheader-group-headers"] = _json_list(values.requestheader_group_headers)
        data["requestheader-extra-headers-prefix"] = _json_list(values.requestheader_extra_headers_prefix)
    return data


def _json_list(values: list[str]) -> str:
    return "[" + ",".join(f'"{value}"' for value in values) + "]"


def lacks_nothing(stored: Object, wanted: Object) -> bool:
    return with_missing(stored, wanted) == stored


def with_missing(stored: Object, wanted: Object) -> Object:
    """The stored role or binding with the rules, subjects and labels it lacks."""
    if (stored["metadata"].get("annotations") or {}).get(
        "rbac.authorization.kubernetes.io/autoupdate"
    ) == "false":
        return stored
    fields = dict(stored["metadata"])
    for name in ("labels", "annotations"):
        fields[name] = {**(fields.get(name) or {}), **wanted["metadata"][name]}
    out = {**stored, "metadata": fields}
    if "aggregationRule" in wanted:
        out.setdefault("aggregationRule", wanted["aggregationRule"])
    for name in ("rules", "subjects"):
        missing = [item for item in wanted.get(name) or [] if item not in (stored.get(name) or [])]
        if missing:
            out[name] = [*(stored.get(name) or []), *missing]
    return out
