"""Keeps the Node object: registers it, reports its status, renews its Lease."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Any

from apimachinery.errors import StatusError
from componentbase.backoff import Backoff
from componentbase.clock import Clock
from componentbase.tasks import forever
from kubeclient.resources import LEASES, NODES
from kubeclient.rest import STRATEGIC, ConnectionFailed, RestClient
from kubelet.cache import RuntimeCache
from kubelet.cri.port import Runtime, RuntimeFailure
from kubelet.node.machine import Machine
from kubelet.node.status import (
    NOT_ISOLATED,
    NodeSpec,
    changes,
    conditions,
    essence,
    node_object,
    node_status,
    runtime_problems,
)

log = logging.getLogger(__name__)

LEASE_NAMESPACE = "kube-node-lease"
QUICK = 0.25  # seconds until the first second look at a runtime that is not ready

Object = dict[str, Any]


class NodeAgent:
    """One node's object in the API."""

    def __init__(
        self,
        client: RestClient,
        runtime: Runtime,
        cache: RuntimeCache,
        clock: Clock,
        spec: NodeSpec,
        machine: Machine,
        pressures: Callable[[], frozenset[str]],
        troubles: Callable[[], list[str]],
        tell: Callable[[str, str], None],
        *,
        update_every: float,
        report_every: float,
        lease_seconds: int,
    ) -> None:
        self._client, self._runtime, self._cache, self._clock = client, runtime, cache, clock
        self._spec, self._machine, self._pressures, self._troubles = spec, machine, pressures, troubles
        self._tell = tell
        self._update_every, self._report_every = update_every, report_every
        self._lease_seconds = lease_seconds
        self._node: Object = {}
        self._lease: Object | None = None
        self._reported: Object | None = None
        self._reported_at = 0.0
        self.ready = False

    @property
    def object(self) -> Object:
        """The Node as last seen; empty before registration."""
        return self._node

    async def register(self) -> None:
        """Create the Node, or adopt the one that is there; tries until it succeeds."""
        backoff = Backoff(0.1, 7.0)
        wanted = node_object(self._spec, self._machine)
        wanted["status"] = await self._status()
        while True:
            try:
                self._node = await self._create_or_adopt(wanted)
                return
            except (StatusError, ConnectionFailed) as error:
                log.warning("registration failed: %s", error, extra={"node": self._spec.name})
                await self._clock.sleep(backoff.next())

    async def _create_or_adopt(self, wanted: Object) -> Object:
        try:
            created = await self._client.create(NODES, wanted)
            log.info("node registered", extra={"node": self._spec.name})
            return created
        except StatusError as error:
            if error.code != 409:
                raise
        metadata = wanted["metadata"]
        patch = {
            "metadata": {
                "labels": metadata["labels"],
                "annotations": {NOT_ISOLATED: None, **metadata["annotations"]},
            }
        }
        return await self._client.patch(NODES, self._spec.name, patch, content_type=STRATEGIC)

    async def run(self) -> None:
        """Register, then report for ever."""
        await self.register()
        async with asyncio.TaskGroup() as group:
            group.create_task(self._report_for_ever(), name="node-status")
            renew = self._lease_seconds * 0.25
            group.create_task(forever("lease renewal", self._renew, renew, jitter=0.04, clock=self._clock))

    async def _report_for_ever(self) -> None:
        backoff, waiting = Backoff(0.2, self._update_every), Backoff(QUICK, self._update_every, 1.3)
        while True:
            try:
                await self.report()
                backoff.reset()
                if self.ready:
                    waiting.reset()
                pause = self._update_every if self.ready else waiting.next()
            except (StatusError, ConnectionFailed, OSError) as error:
                log.warning("node status not reported: %s", error)
                pause = backoff.next()
            await self._clock.sleep(pause)

    async def _status(self) -> Object:
        runtime = version = None
        images: list[Any] = []
        try:
            runtime = await self._runtime.status()
            version = await self._runtime.version()
            images = await self._runtime.list_images()
        except RuntimeFailure as error:
            log.warning("container runtime: %s", error)
        problems = runtime_problems(runtime, self._cache.healthy) + self._troubles()
        old = (self._node.get("status") or {}).get("conditions") or []
        made = conditions(self._pressures(), problems, old, self._clock.now())
        self.ready = not problems
        status = node_status(self._spec, self._machine, version=version, images=images, made=made)
        if self._spec.external_cloud and (self._node.get("status") or {}).get("addresses"):
            del status["addresses"]  # from registration on they are the cloud's to say
        return status

    async def report(self) -> None:
        """Write the status if it changed, or others changed its conditions (the node was taken for lost while
        this process stood still), or it was not written for long. Raises what the client raises.
        """
        try:
            # From the server's cache: a stale answer costs one patch that changes nothing.
            self._node = await self._client.get(NODES, self._spec.name, params={"resourceVersion": "0"})
            status = await self._status()
            before = (self._node.get("status") or {}).get("conditions") or []
            now = self._clock.monotonic()
            if self._stands(status) and now - self._reported_at < self._report_every:
                return
            self._node = await self._client.patch(
                NODES, self._spec.name, {"status": status}, content_type=STRATEGIC, subresource="status"
            )
        except StatusError as error:
            if error.code == 404:
                log.warning("the node object is gone, registering again", extra={"node": self._spec.name})
                await self.register()
                return
            raise
        self._reported, self._reported_at = status, now
        for reason in changes(before, status["conditions"]):
            self._tell(reason, f"Node {self._spec.name} status is now: {reason}")

    def _stands(self, status: Object) -> bool:
        """Whether what was reported last is this status, and the node's conditions still say so."""
        if self._reported is None or essence(self._reported) != essence(status):
            return False
        held = {
            each["type"]: each["status"] for each in (self._node.get("status") or {}).get("conditions") or ()
        }
        return all(held.get(each["type"]) == each["status"] for each in status["conditions"])

    async def _renew(self) -> None:
        """Write the time into the Lease; a conflict or absence is settled by reading it anew."""
        moment = datetime.fromtimestamp(self._clock.now(), UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")
        name = self._spec.name
        if self._lease is None:
            self._lease = await self._find_lease(moment)
        spec = {"holderIdentity": name, "leaseDurationSeconds": self._lease_seconds, "renewTime": moment}
        try:
            self._lease = await self._client.update(LEASES, {**self._lease, "spec": spec})
        except StatusError:
            self._lease = None
            raise

    async def _find_lease(self, moment: str) -> Object:
        name = self._spec.name
        try:
            return await self._client.get(LEASES, name, LEASE_NAMESPACE)
        except StatusError as error:
            if error.code != 404:
                raise
        owner = {"apiVersion": "v1", "kind": "Node", "name": name, "uid": self._node["metadata"]["uid"]}
        lease = {
            "apiVersion": "coordination.k8s.io/v1",
            "kind": "Lease",
            "metadata": {"name": name, "namespace": LEASE_NAMESPACE, "ownerReferences": [owner]},
            "spec": {
                "holderIdentity": name,
                "leaseDurationSeconds": self._lease_seconds,
                "renewTime": moment,
            },
        }
        return await self._client.create(LEASES, lease, LEASE_NAMESPACE)
