"""Who is the leader of what, killing it, and seeing its work go on."""

from __future__ import annotations

import asyncio
import http.client
import signal
import ssl
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

from apimachinery import errors
from deploy import probes
from deploy.control import Control
from deploy.state import State
from deploy.topology import API_PORT, Topology
from kubeclient.resources import DEPLOYMENTS, LEASES, PODS
from kubeclient.rest import MERGE, ConnectionFailed, RestClient

Object = dict[str, Any]
T = TypeVar("T")
BACK_TIMEOUT = 90.0


class NotBack(Exception):
    """What was killed did not do its work again in time."""


@dataclass(slots=True)
class Lab:
    """The cluster under test, and how to hurt it."""

    state: State
    topology: Topology
    client: RestClient
    namespace: str

    @property
    def controllers(self) -> list[str]:
        return [host.name for host in self.topology.by_role("controller")]

    def _control(self, host: str) -> Control:
        return Control(host, self.state.socket(host))

    def _network(self, host: str) -> str:
        return f"/proc/{self._control(host).pid()}/ns/net"

    def kill(self, host: str, unit: str) -> None:
        """kill -9, by way of the host's supervisor, which starts the unit again on its own."""
        self._control(host).call("signal", unit=unit, signal=int(signal.SIGKILL))

    async def store_leader(self) -> str:
        async def found() -> str | None:
            for host in self.controllers:
                if await asyncio.to_thread(self._leads, host):
                    return host
            return None

        return await self._until("a Raft leader", found)

    def _leads(self, host: str) -> bool:
        try:
            _, body = probes.fetch(self._network(host), "127.0.0.1", 2381, "/metrics")
        except (OSError, http.client.HTTPException):
            return False
        return any(
            line in (b"etcd_server_is_leader 1", b"etcd_server_is_leader 1.0") for line in body.splitlines()
        )

    async def holder(self, lease: str) -> str:
        """The host that holds a leader-election lease."""

        async def found() -> str | None:
            held = await self.client.get(LEASES, lease, "kube-system")
            identity = (held.get("spec") or {}).get("holderIdentity") or ""
            host = identity.split("_")[0]
            return host or None

        return await self._until(f"a holder of {lease}", found)

    async def member_back(self, host: str) -> None:
        """The member takes part again."""

        async def healthy() -> bool | None:
            return (await asyncio.to_thread(probes.etcd_lacking, self._network(host)) is None) or None

        await self._until(f"member {host}", healthy)

    async def apiserver_back(self, host: str) -> None:
        """The instance on this host is ready, asked directly and not through the balancer."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE  # only whether it answers is asked

        def lacking() -> str | None:
            return probes.lacking(self._network(host), "127.0.0.1", API_PORT, "/readyz", context)

        async def ready() -> bool | None:
            return (await asyncio.to_thread(lacking) is None) or None

        await self._until(f"apiserver on {host}", ready)

    async def pod_scheduled(self, name: str) -> None:
        """A new pod gets a node: proof that some scheduler works."""
        pod = {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {"name": name, "namespace": self.namespace},
            "spec": {
                "terminationGracePeriodSeconds": 0,
                "containers": [{"name": "c", "image": "busybox:1.35", "command": ["sleep", "60"]}],
            },
        }
        await self.client.create(PODS, pod)

        async def bound() -> bool | None:
            found = await self.client.get(PODS, name, self.namespace)
            return bool(found["spec"].get("nodeName")) or None

        await self._until(f"a node for pod {name}", bound)

    async def deployment_follows(self, name: str, replicas: int) -> None:
        """The deployment observes a new size: proof that some controller-manager works."""
        patch = {"spec": {"replicas": replicas}}
        await self.client.patch(DEPLOYMENTS, name, patch, self.namespace, content_type=MERGE)

        async def followed() -> bool | None:
            found = await self.client.get(DEPLOYMENTS, name, self.namespace)
            status = found.get("status") or {}
            seen = status.get("observedGeneration") == found["metadata"]["generation"]
            return (seen and status.get("replicas") == replicas) or None

        await self._until(f"{replicas} replicas of {name}", followed)

    async def _until(self, what: str, probe: Callable[[], Awaitable[T | None]]) -> T:
        deadline = time.monotonic() + BACK_TIMEOUT
        last = ""
        while time.monotonic() < deadline:
            try:
                async with asyncio.timeout(10):
                    result = await probe()
                if result is not None:
                    return result
            except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
                last = f": {error}"
            await asyncio.sleep(0.05)
        raise NotBack(f"{what}: not within {BACK_TIMEOUT:g}s{last}")
