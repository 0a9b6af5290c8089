"""A whole apiserver in the test's loop, an administrator, a hollow rest of the cluster, and managers that
come and go.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Sequence
from typing import Any

from apimachinery import errors
from apiserver import options as server_options
from apiserver.app import Server
from apiserver.storage.memory import MemoryStore
from componentbase.clock import FakeClock
from controllers import objects as o
from controllers.daemonset.plan import target_node
from controllers.objects import Object
from controllers.options import Options
from controllers.runtime import Context, Runnable
from kubeclient import resources as r
from kubeclient.informer import InformerFactory
from kubeclient.resources import GVR
from kubeclient.rest import MERGE, RestClient
from kubeclient.transport import Target
from tests.apiserver.harness import FLAGS, ByHeader
from tests.controllers.faults.wire import Fault, Faulty, Wire
from tests.controllers.world import Events, running_status

TARGET = Target("http://api")
QUIET_TURNS = 40  # of the loop, after which nothing is going on any more
Build = Callable[[Context], Runnable]


class Admin:
    """What users, nodes and the tests do to the API; nothing of it is disturbed."""

    def __init__(self, client: RestClient) -> None:
        self.client = client

    async def get(self, gvr: GVR, name: str, namespace: str = "default") -> Object:
        """The object, or an empty one."""
        try:
            return await self.client.get(gvr, name, namespace if gvr.namespaced else None)
        except errors.StatusError as error:
            if errors.is_not_found(error):
                return {}
            raise

    async def all(self, gvr: GVR, namespace: str | None = None) -> list[Object]:
        items: list[Object] = (await self.client.list(gvr, namespace))["items"]
        return items

    async def create(self, gvr: GVR, obj: Object, namespace: str = "default") -> Object:
        """The object as manifests are written: without what only the server knows."""
        kept = ("name", "namespace", "generateName", "labels", "annotations", "finalizers", "ownerReferences")
        metadata = {part: obj["metadata"][part] for part in kept if obj["metadata"].get(part)}
        body = {**obj, "apiVersion": gvr.api_version, "kind": gvr.kind, "metadata": metadata}
        made = await self.client.create(gvr, body, namespace if gvr.namespaced else None)
        if obj.get("status"):
            made = await self.status(gvr, o.name(made), obj["status"], namespace)
        return made

    async def patch(self, gvr: GVR, name: str, patch: Object, namespace: str = "default") -> Object:
        where = namespace if gvr.namespaced else None
        return await self.client.patch(gvr, name, patch, where, content_type=MERGE)

    async def status(self, gvr: GVR, name: str, status: Object, namespace: str = "default") -> Object:
        where, body = namespace if gvr.namespaced else None, {"status": status}
        return await self.client.patch(gvr, name, body, where, content_type=MERGE, subresource="status")

    async def delete(self, gvr: GVR, name: str, namespace: str = "default", **options: Any) -> None:
        with contextlib.suppress(errors.StatusError):
            where = namespace if gvr.namespaced else None
            await self.client.delete(gvr, name, where, options=options or None)


class Stage:
    """One cluster, from nothing."""

    def __init__(self, wire: Wire, admin: Admin, store: MemoryStore) -> None:
        self.wire, self.admin, self.store = wire, admin, store
        # Ahead of the server's clock, and early in a minute: a CronJob has one run in a story.
        self.clock = FakeClock(now=float(int(time.time()) // 60 * 60 + 61))
        self.events = Events()
        self.manager: Faulty | None = None
        self.answers: dict[str, Any] = {}
        self._addresses = iter(range(2, 250))

    @contextlib.asynccontextmanager
    async def running(
        self, builders: Sequence[Build], options: Options, fault: Fault
    ) -> AsyncIterator[Faulty]:
        """One manager; leaving the block kills it."""
        self.manager = Faulty(self.wire, self.clock, fault, self.answers)
        async with RestClient(TARGET, transport=self.manager, clock=self.clock) as client:
            informers = InformerFactory(client)
            ctx = Context(client, informers, self.clock, options, recorder=lambda _: self.events)
            controllers = [build(ctx) for build in builders]
            async with asyncio.TaskGroup() as group:
                tasks = [group.create_task(informers.run())]
                await informers.wait_synced(60)
                tasks += [group.create_task(each.run()) for each in controllers]
                try:
                    yield self.manager
                finally:
                    for task in tasks:
                        task.cancel()

    async def settle(self) -> None:
        """Let everything happen that happens without time passing."""
        quiet = 0
        while quiet < QUIET_TURNS:
            await asyncio.sleep(0)
            quiet = 0 if self.wire.busy else quiet + 1

    # -- the rest of the cluster -----------------------------------------------------------------------------

    async def kubelets(self) -> None:
        """Every pod is bound and runs ready; every terminating one ends."""
        for pod in await self.admin.all(r.PODS):
            name, namespace = o.name(pod), o.namespace(pod)
            if o.is_terminating(pod):
                await self.admin.delete(r.PODS, name, namespace, gracePeriodSeconds=0)
            elif not o.spec(pod).get("nodeName"):
                await self.bind(pod)
            elif o.status(pod).get("phase", "Pending") == "Pending":
                status = running_status(self.now(), number=next(self._addresses))
                status["startTime"] = self.now()
                await self.admin.status(r.PODS, name, status, namespace)

    async def bind(self, pod: Object) -> None:
        target = {"apiVersion": "v1", "kind": "Node", "name": target_node(pod) or "n1"}
        metadata = {"name": o.name(pod), "namespace": o.namespace(pod)}
        body = {"apiVersion": "v1", "kind": "Binding", "metadata": metadata, "target": target}
        await self.admin.client.create(
            r.PODS, body, o.namespace(pod), name=o.name(pod), subresource="binding"
        )

    def now(self) -> str:
        return o.format_time(self.clock.now())


@contextlib.asynccontextmanager
async def stage() -> AsyncIterator[Stage]:
    """A server with its own empty store, and the service accounts that pods need."""
    store = MemoryStore()
    server = Server(server_options.parse(list(FLAGS)), store, ByHeader())
    async with asyncio.TaskGroup() as group, server.running():
        async with asyncio.timeout(60):
            await server.bootstrap.finished.wait()
        wire = Wire(server.app, group)
        async with RestClient(TARGET, transport=wire) as client:
            admin = Admin(client)
            for namespace in ("default", "kube-system"):
                await admin.create(r.SERVICEACCOUNTS, {"metadata": {"name": "default"}}, namespace)
            yield Stage(wire, admin, store)
