"""A Deployment behind a Service, as its users have it: how many replicas are ready and where, and whether a
request to the Service, made on a worker, is answered. Looked at again and again, and written down.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

from apimachinery import errors
from deploy import probes
from deploy.chaos.lab import Lab
from deploy.chaos.load.setup import create
from deploy.control import HostDown
from kubeclient.resources import DEPLOYMENTS, PODS, SERVICES
from kubeclient.rest import ConnectionFailed, RestClient

NAME = "web"
LABELS = {"app": NAME}
PORT = 8080
INTERVAL = 0.5
FAILURES = (errors.StatusError, ConnectionFailed, TimeoutError)


@dataclass(frozen=True, slots=True)
class Look:
    """The Deployment at one moment. `nodes`: uid of a ready pod -> its node; None: nobody answered."""

    at: float
    ready: int
    nodes: dict[str, str] | None


@dataclass
class Seen:
    """All looks and all answers of the Service (when, from which worker, whether it answered)."""

    looks: list[Look] = field(default_factory=list)
    answers: list[tuple[float, str, bool]] = field(default_factory=list)


def deployment(namespace: str, replicas: int, toleration: int) -> dict[str, Any]:
    """A small web server that leaves a lost node after `toleration` seconds instead of five minutes."""
    container = {
        "name": "web",
        "image": "busybox:1.35",
        "command": [
            "sh",
            "-c",
            "mkdir /tmp/www; hostname > /tmp/www/index.html; exec httpd -f -p 8080 -h /tmp/www",
        ],
        "readinessProbe": {"tcpSocket": {"port": PORT}, "periodSeconds": 2, "timeoutSeconds": 5},
    }
    leave = [
        {"key": f"node.kubernetes.io/{taint}", "operator": "Exists", "effect": "NoExecute"}
        for taint in ("not-ready", "unreachable")
    ]
    pod = {
        "terminationGracePeriodSeconds": 0,
        "containers": [container],
        "tolerations": [{**one, "tolerationSeconds": toleration} for one in leave],
    }
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": LABELS},
            "template": {"metadata": {"labels": LABELS}, "spec": pod},
        },
    }


def service(namespace: str) -> dict[str, Any]:
    """One address for it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": NAME, "namespace": namespace},
        "spec": {"selector": LABELS, "ports": [{"port": 80, "targetPort": PORT}]},
    }


def is_ready(pod: dict[str, Any]) -> bool:
    """Does this pod serve, and is it not on its way out?"""
    if pod["metadata"].get("deletionTimestamp"):
        return False
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


class Load:
    """The Deployment and its observers, in a namespace that is there already."""

    def __init__(
        self, lab: Lab, client: RestClient, namespace: str, *, replicas: int, toleration: int
    ) -> None:
        self.seen = Seen()
        self.replicas = replicas
        self._lab, self._client, self._namespace = lab, client, namespace
        self._toleration = toleration
        self._address = ""

    async def prepare(self) -> None:
        """Create both."""
        wanted = deployment(self._namespace, self.replicas, self._toleration)
        await create(self._client, DEPLOYMENTS, wanted, self._namespace)
        made = await create(self._client, SERVICES, service(self._namespace), self._namespace)
        self._address = str(made["spec"]["clusterIP"])

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Look while the block runs."""
        await self.prepare()
        async with asyncio.TaskGroup() as looking:
            tasks = [looking.create_task(self._look_on(), name="deployment")]
            tasks += [
                looking.create_task(self._knock_on(worker), name=f"service from {worker}")
                for worker in self._lab.hosts("worker")
            ]
            try:
                yield
            finally:
                for task in tasks:
                    task.cancel()

    async def _look_on(self) -> None:
        while True:
            began = time.monotonic()
            try:
                async with asyncio.timeout(5.0):
                    self.seen.looks.append(await self.look())
            except FAILURES:
                self.seen.looks.append(Look(time.monotonic(), 0, None))
            await asyncio.sleep(max(0.05, INTERVAL - (time.monotonic() - began)))

    async def look(self) -> Look:
        """Once. Raises what the client raises."""
        found = await self._client.get(DEPLOYMENTS, NAME, self._namespace)
        listed = await self._client.list(PODS, self._namespace, label_selector=f"app={NAME}")
        nodes = {
            pod["metadata"]["uid"]: pod["spec"].get("nodeName", "")
            for pod in listed["items"]
            if is_ready(pod)
        }
        return Look(time.monotonic(), int((found.get("status") or {}).get("readyReplicas", 0)), nodes)

    async def _knock_on(self, worker: str) -> None:
        while True:
            began = time.monotonic()
            answered = await asyncio.to_thread(self._knock, worker)
            self.seen.answers.append((time.monotonic(), worker, answered))
            await asyncio.sleep(max(0.05, INTERVAL - (time.monotonic() - began)))

    def _knock(self, worker: str) -> bool:
        """One request to the Service, by way of this worker's kube-proxy."""
        try:
            status, body = probes.fetch(self._lab.network(worker), self._address, 80, "/")
        except (OSError, http.client.HTTPException, HostDown):
            return False
        return status == 200 and body.startswith(NAME.encode())

    def whole(self, look: Look) -> bool:
        """As many ready pods as were asked for, by both accounts."""
        return look.nodes is not None and look.ready == self.replicas and len(look.nodes) == self.replicas
