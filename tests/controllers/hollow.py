"""Hollow nodes for a real API server: register, renew Leases, bind, run and end pods without running
anything.

    python -m tests.controllers.hollow KUBECONFIG NODE...

plays the scheduler too, so that only the controllers are needed beside it.
"""

from __future__ import annotations

import asyncio
import itertools
import sys
from collections.abc import Sequence

from apimachinery import errors
from componentbase.clock import RealClock
from controllers import objects as o
from controllers.daemonset.plan import target_node
from kubeclient.informer import Informer
from kubeclient.leaderelection import micro_time
from kubeclient.resources import LEASES, NODES, PODS
from kubeclient.rest import RestClient
from kubeclient.workqueue import WorkQueue
from tests.controllers.memoryapi import Object

HEARTBEAT = 2.0


class HollowNodes:
    """All nodes named; those in `silent` stop renewing their Leases."""

    def __init__(self, client: RestClient, names: Sequence[str]) -> None:
        self.client, self.names = client, names
        self.silent: set[str] = set()
        self.clock = RealClock()
        self.pods = Informer(client, PODS)
        self.queue: WorkQueue[str] = WorkQueue(self.clock)
        self._next = itertools.count()

    async def run(self) -> None:
        for number, name in enumerate(self.names):
            await self._register(name, number)
        self.pods.add_handler(self._enqueue, lambda _, new: self._enqueue(new))
        async with asyncio.TaskGroup() as group:
            group.create_task(self.pods.run())
            group.create_task(self._beat())
            for _ in range(4):
                group.create_task(self._work())

    def _enqueue(self, pod: Object) -> None:
        self.queue.add(o.key(pod))

    async def _register(self, name: str, number: int) -> None:
        node = {"metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}}
        try:
            await self.client.create(NODES, {"apiVersion": "v1", "kind": "Node", **node})
        except errors.StatusError as error:
            if not errors.is_already_exists(error):
                raise
        stamp = o.format_time(self.clock.now())
        condition = {"type": "Ready", "status": "True", "reason": "KubeletReady", "message": "hollow"}
        condition |= {"lastHeartbeatTime": stamp, "lastTransitionTime": stamp}
        addresses = [{"type": "InternalIP", "address": f"10.240.0.{20 + number}"}]
        status = {"conditions": [condition], "addresses": addresses, "capacity": {"cpu": "4", "pods": "110"}}
        await self.client.patch(NODES, name, {"status": status}, subresource="status")

    async def _beat(self) -> None:
        while True:
            for name in self.names:
                if name not in self.silent:
                    await self._renew(name)
            await self.clock.sleep(HEARTBEAT)

    async def _renew(self, name: str) -> None:
        spec = {"holderIdentity": name, "leaseDurationSeconds": 40, "renewTime": micro_time(self.clock.now())}
        try:
            lease = await self.client.get(LEASES, name, "kube-node-lease")
            await self.client.update(LEASES, {**lease, "spec": spec})
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
            metadata = {"name": name, "namespace": "kube-node-lease"}
            lease = {"apiVersion": LEASES.api_version, "kind": "Lease", "metadata": metadata, "spec": spec}
            await self.client.create(LEASES, lease)

    async def _work(self) -> None:
        while True:
            key = await self.queue.get()
            try:
                pod = self.pods.store.get(key)
                if pod is not None:
                    await self._play(pod)
            except errors.StatusError as error:
                if not errors.is_not_found(error):
                    print(f"hollow: {key}: {error}", file=sys.stderr)
                    self.queue.add_rate_limited(key)
            finally:
                self.queue.done(key)

    async def _play(self, pod: Object) -> None:
        name, namespace, where = o.name(pod), o.namespace(pod), o.spec(pod).get("nodeName")
        if where in self.silent:
            return
        if o.is_terminating(pod):
            options = {"gracePeriodSeconds": 0, "preconditions": {"uid": o.uid(pod)}}
            await self.client.delete(PODS, name, namespace, options=options)
        elif not where:
            target = target_node(pod) or self.names[next(self._next) % len(self.names)]
            binding = {
                "apiVersion": "v1",
                "kind": "Binding",
                "metadata": {"name": name, "namespace": namespace},
                "target": {"apiVersion": "v1", "kind": "Node", "name": target},
            }
            await self.client.create(PODS, binding, namespace, name=name, subresource="binding")
        elif o.status(pod).get("phase", "Pending") == "Pending":
            await self._start(pod)

    async def _start(self, pod: Object) -> None:
        stamp, number = o.format_time(self.clock.now()), next(self._next)
        address = f"10.200.{number // 250}.{number % 250 + 2}"
        conditions = [
            {"type": kind, "status": "True", "lastTransitionTime": stamp}
            for kind in ("Initialized", "ContainersReady", "Ready", "PodScheduled")
        ]
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": conditions,
            "startTime": stamp,
        }
        await self.client.patch(PODS, o.name(pod), {"status": status}, o.namespace(pod), subresource="status")


async def main(kubeconfig: str, names: Sequence[str]) -> None:
    async with RestClient.from_kubeconfig(kubeconfig) as client:
        await HollowNodes(client, names).run()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2:]))
