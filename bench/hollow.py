"""A thousand nodes on one machine: registration, 10,000 pods, a rolling update, a drain, a zone that dies.

Nodes are hollow (`python -m kubelet --hollow`): the kubelet's real agent over a runtime in memory, a third of
them in each of three processes, one process a zone. A zone dies by SIGSTOP. Pods, leases and statuses go
through the same API as everything else, so the question is whether the control plane holds.

    python -m bench hollow                         # 1,000 nodes, 10,000 pods
    HOLLOW_NODES=90 HOLLOW_PODS=600 python -m bench hollow

It says every few seconds how far it is and what that cost. Interrupted (or stopped by `timeout`) it ends its
processes and prints the table of what was finished.
"""

from __future__ import annotations

import asyncio
import contextlib
import datetime
import os
import signal
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field
from typing import Any

import uvloop

from apimachinery.errors import StatusError
from bench import plane
from bench.load import Row, calls, heading, show
from bench.progress import Progress
from kubeclient.informer import Informer
from kubeclient.leaderelection import LeaseLost
from kubeclient.resources import DEPLOYMENTS, LEASES, NAMESPACES, NODES, PODS
from kubeclient.rest import RestClient

Object = dict[str, Any]
ZONES = ("a", "b", "c")
ZONE = "topology.kubernetes.io/zone"
SPACE = "crowd"
LEADERS = {"scheduler", "controllers"}
"""What ends by itself when it cannot renew its lease, and is started again; the table says how often."""
GRACE = 40.0
"""Seconds without a heartbeat after which a node counts as lost (the controllers' default)."""
MIB = 1024 * 1024


@dataclass
class Scale:
    """How much of everything; `patience` bounds each step, `idle` is how long nothing happens, in seconds."""

    nodes: int = 1_000
    pods: int = 10_000
    deployment: int = 500
    drained: int = 10
    patience: float = 1_800.0
    idle: float = 30.0

    @property
    def deployments(self) -> int:
        return max(self.pods // self.deployment, 1)


class Late(AssertionError):
    """A step did not come to its end within its patience."""


class Ended(AssertionError):
    """A daemon ended that should not have."""


@dataclass
class Crowd:
    """The cluster as its informers show it."""

    running: plane.Plane
    scale: Scale
    client: RestClient
    nodes: Informer
    pods: Informer
    progress: Progress = field(default_factory=Progress)
    hollow: list[str] = field(default_factory=list)

    # -- what is seen ----------------------------------------------------------------------------------------

    def ready_nodes(self) -> int:
        return sum(_true(node, "Ready") for node in self.nodes.store.list())

    def lost_nodes(self) -> int:
        return sum(_condition(node, "Ready") == "Unknown" for node in self.nodes.store.list())

    def live(self) -> list[Object]:
        """Pods of the crowd that nobody has asked to go."""
        return [
            pod
            for pod in self.pods.store.list()
            if pod["metadata"]["namespace"] == SPACE and "deletionTimestamp" not in pod["metadata"]
        ]

    def ready_pods(self, image: str = "", deployment: str = "") -> int:
        return sum(
            _true(pod, "Ready")
            for pod in self.live()
            if (not image or pod["spec"]["containers"][0]["image"] == image)
            and (not deployment or pod["metadata"]["labels"]["app"] == deployment)
        )

    # -- steps -----------------------------------------------------------------------------------------------

    async def until(self, what: str, done: Callable[[], bool], why: Callable[[], object]) -> float:
        """Seconds until the condition holds. Raises Late, and says what was seen last."""
        started = asked = time.perf_counter()
        while not done():
            self.revive_leaders(what)
            if time.perf_counter() - started > self.scale.patience:
                raise Late(f"{what}: not within {self.scale.patience:g} s; seen last: {why()}")
            self.progress.maybe_line(lambda: f"{what}: {why()}")
            # A look at ten thousand pods costs what the cluster could use: it takes a twentieth of the time.
            await asyncio.sleep(max(0.2, 20 * (time.perf_counter() - asked)))
            asked = time.perf_counter()
        return time.perf_counter() - started

    def revive_leaders(self, during: str) -> None:
        """Start leaders again that have lost their lease. Raises Ended for any other end, with its words."""
        died = self.running.died()
        for name in died:
            words = self.running.last_words(name)
            if name not in LEADERS or LeaseLost.__name__ not in words:
                raise Ended(f"{during}: {name} ended:\n{words}")
        self.running.revive(died)

    async def register(self) -> None:
        """All nodes there and ready, each with its zone on it."""
        share, rest = divmod(self.scale.nodes, len(ZONES))
        with self.progress.step("registered"):
            for index, zone in enumerate(ZONES):
                name = f"hollow-{zone}"
                flags = {
                    "hollow": "true",
                    "hollow-nodes": str(share + (index < rest)),
                    "hollow-prefix": f"{zone}-",
                    "kubeconfig": str(self.running.admin),
                }
                self.running.start(name, "kubelet", flags)
                self.hollow.append(name)
            await self.until("nodes ready", lambda: self.ready_nodes() == self.scale.nodes, self.ready_nodes)
        names = [node["metadata"]["name"] for node in self.nodes.store.list()]

        async def zoned(index: int) -> None:
            labels = {ZONE: f"zone-{names[index].partition('-')[0]}"}
            await self.client.patch(NODES, names[index], {"metadata": {"labels": labels}})

        await calls(len(names), 16, zoned)

    async def fill(self) -> None:
        """All pods made by Deployments, placed, and ready."""
        await self.client.create(NAMESPACES, {"metadata": {"name": SPACE}})
        wanted = self.scale.deployments * self.scale.deployment
        with self.progress.step("filled"):
            for index in range(self.scale.deployments):
                await self.client.create(DEPLOYMENTS, deployment(f"d{index}", self.scale.deployment))
            await self.until("pods ready", lambda: self.ready_pods() == wanted, self.ready_pods)

    async def roll(self) -> None:
        """One Deployment to another image."""
        template = {"spec": {"template": {"spec": {"containers": [container("app:2")]}}}}
        count = self.scale.deployment
        with self.progress.step("rolled"):
            await self.client.patch(DEPLOYMENTS, "d0", template, SPACE)
            await self.until(
                "pods of the new image ready",
                lambda: self.ready_pods("app:2", "d0") == count and len(self._of("d0")) == count,
                lambda: self.ready_pods("app:2", "d0"),
            )

    def _of(self, name: str) -> list[Object]:
        return [pod for pod in self.live() if pod["metadata"]["labels"]["app"] == name]

    async def drain(self) -> None:
        """Cordon some nodes and evict what runs there, as `kubectl drain` does."""
        nodes = sorted(node["metadata"]["name"] for node in self.nodes.store.list())[: self.scale.drained]
        with self.progress.step("drained"):
            await self._evict_all(nodes)
        for name in nodes:
            await self.client.patch(NODES, name, {"spec": {"unschedulable": False}})

    async def _evict_all(self, nodes: list[str]) -> None:
        for name in nodes:
            await self.client.patch(NODES, name, {"spec": {"unschedulable": True}})
        victims = [pod for pod in self.live() if pod["spec"].get("nodeName") in nodes]

        async def evict(index: int) -> None:
            name = victims[index]["metadata"]["name"]
            body = {
                "apiVersion": "policy/v1",
                "kind": "Eviction",
                "metadata": {"name": name, "namespace": SPACE},
            }
            with contextlib.suppress(StatusError):  # gone already
                await self.client.create(PODS, body, SPACE, name=name, subresource="eviction")

        await calls(len(victims), 8, evict)
        wanted = self.scale.deployments * self.scale.deployment
        await self.until(
            "replacements ready",
            lambda: (
                not any(pod["spec"].get("nodeName") in nodes for pod in self.live())
                and self.ready_pods() == wanted
            ),
            self.ready_pods,
        )

    async def lose_zone(self) -> None:
        """Stop one zone's process, see its nodes declared lost and its pods unready, and bring it back."""
        process = self.running.processes[self.hollow[0]]
        wanted = self.scale.deployments * self.scale.deployment
        process.send_signal(signal.SIGSTOP)
        try:
            with self.progress.step("zone's pods unready"):
                await self._see_zone_lost()
        finally:
            process.send_signal(signal.SIGCONT)
        with self.progress.step("zone back"):
            await self.until(
                "nodes and pods ready again",
                lambda: self.ready_nodes() == self.scale.nodes and self.ready_pods() == wanted,
                lambda: (self.ready_nodes(), self.ready_pods()),
            )

    async def _see_zone_lost(self) -> None:
        lost = sum(node["metadata"]["name"].startswith("a-") for node in self.nodes.store.list())
        with self.progress.step("zone lost"):
            await self.until("nodes unknown", lambda: self.lost_nodes() == lost, self.lost_nodes)
        await self.until(
            "its pods unready",
            lambda: not any(_true(pod, "Ready") and _in_zone_a(pod) for pod in self.live()),
            self.ready_pods,
        )
        others = self.scale.nodes - lost
        if self.ready_nodes() != others:
            raise Late(f"nodes of other zones were lost too: {self.ready_nodes()} of {others} are ready")

    async def heartbeats(self, seconds: float) -> tuple[float, float]:
        """Of an idle cluster: the age in seconds of the oldest lease, and the apiserver's share of a core."""
        before, started = self.running.cpu()["apiserver"], time.perf_counter()
        await asyncio.sleep(seconds)
        share = (self.running.cpu()["apiserver"] - before) / (time.perf_counter() - started)
        leases = (await self.client.list(LEASES, "kube-node-lease"))["items"]
        now = time.time()
        return max(now - _unix(lease["spec"]["renewTime"]) for lease in leases), share


def container(image: str) -> Object:
    return {"name": "c", "image": image, "resources": {"requests": {"cpu": "10m", "memory": "16Mi"}}}


def deployment(name: str, replicas: int) -> Object:
    labels = {"app": name}
    return {
        "metadata": {"name": name, "namespace": SPACE},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [container("app:1")]}},
        },
    }


def _condition(obj: Object, kind: str) -> str:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return next((str(each["status"]) for each in conditions if each["type"] == kind), "")


def _true(obj: Object, kind: str) -> bool:
    return _condition(obj, kind) == "True"


def _in_zone_a(pod: Object) -> bool:
    return str(pod["spec"].get("nodeName", "")).startswith("a-")


def _unix(stamp: str) -> float:
    return datetime.datetime.fromisoformat(stamp).timestamp()


@contextlib.asynccontextmanager
async def crowd(running: plane.Plane, scale: Scale, progress: Progress) -> AsyncIterator[Crowd]:
    """Informers of all nodes and pods, while the context lasts."""
    async with RestClient.from_kubeconfig(running.admin, user_agent="bench") as client:
        nodes, pods = Informer(client, NODES), Informer(client, PODS)
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(each.run()) for each in (nodes, pods)]
            await nodes.wait_synced(60)
            await pods.wait_synced(60)
            try:
                yield Crowd(running, scale, client, nodes, pods, progress)
            finally:
                for task in tasks:
                    task.cancel()


async def story(running: plane.Plane, scale: Scale, progress: Progress | None = None) -> dict[str, float]:
    """Everything in its order; seconds by step, and what the cluster costs when nothing happens."""
    progress = progress or Progress(running.cpu)
    async with crowd(running, scale, progress) as cast:
        await cast.register()
        await cast.fill()
        await cast.roll()
        await cast.drain()
        await cast.lose_zone()
        with progress.step("heartbeats"):
            oldest, share = await cast.heartbeats(scale.idle)
        progress.took |= {"oldest lease": oldest, "apiserver idle share": share}
        return progress.took


def scale_of(environment: dict[str, str]) -> Scale:
    """The default, or as HOLLOW_NODES, HOLLOW_PODS and HOLLOW_DEPLOYMENT say."""
    chosen = Scale()
    for name in ("nodes", "pods", "deployment"):
        if given := environment.get(f"HOLLOW_{name.upper()}"):
            setattr(chosen, name, int(given))
    return chosen


def rows(scale: Scale, took: dict[str, float]) -> list[Row]:
    """The table, of what was finished."""
    pods = scale.deployments * scale.deployment
    measures = {
        "registered": "nodes registered and ready",
        "filled": f"{pods:,} pods made, placed and ready",
        "rolled": f"rolling update of {scale.deployment} replicas",
        "drained": f"drain of {scale.drained} nodes, replacements ready",
        "zone lost": "a zone stopped: its nodes Unknown",
        "zone's pods unready": "a zone stopped: its pods not ready",
        "zone back": "the zone back: all nodes and pods ready",
        "oldest lease": "heartbeats: the oldest lease is",
    }
    targets = {"zone lost": GRACE + 15, "oldest lease": GRACE / 2}
    out = [
        Row(text, took[step], "s", targets.get(step), more=False)
        for step, text in measures.items()
        if step in took
    ]
    if "filled" in took:
        out.append(Row("pods made, placed and ready a second", pods / took["filled"], "/s"))
    if "apiserver idle share" in took:
        out.append(Row("apiserver with heartbeats alone", 100 * took["apiserver idle share"], "% core"))
    return out


def main() -> None:
    """Print the table; of a story that is interrupted or fails, what there is of it."""
    scale = scale_of(dict(os.environ))
    heading(f"{scale.nodes:,} hollow nodes, {scale.pods:,} pods")
    with plane.running() as running:
        running.start_scheduler()
        running.start_controllers()
        progress = Progress(lambda: {**running.cpu(), "measurement": time.process_time()})
        try:
            uvloop.run(story(running, scale, progress))
        finally:
            memory, spent_cpu = running.memory(), progress.cpu()
            show(
                *rows(scale, progress.took),
                Row("leaders that lost their lease", running.restarts, "times"),
                *(Row(f"memory of {name}", size / MIB, "MiB") for name, size in sorted(memory.items())),
                *(Row(f"CPU of {name}", seconds, "s") for name, seconds in sorted(spent_cpu.items())),
            )
