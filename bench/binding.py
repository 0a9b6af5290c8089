"""Pods bound per second through the API, and the time from a pod's creation to its binding.

Nodes are objects without kubelets, as in the runs the targets come from. Throughput is that of a backlog,
the scheduler's informers being warm: the measurement holds the scheduler's lease while it makes the pods,
gives it back, and counts bindings as a watch shows them, from the first to the last.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from typing import Any

import uvloop

from bench import plane
from bench.load import Row, calls, heading, percentile, show
from kubeclient.resources import EVENTS, LEASES, NODES, PODS, SERVICEACCOUNTS
from kubeclient.rest import RestClient

Object = dict[str, Any]
NODE_COUNTS = (100, 1_000, 5_000)
BURST = 2_000
STEADY_RATE, STEADY_SECONDS = 20, 30
TARGET = 300.0
ZONE, HOST = "topology.kubernetes.io/zone", "kubernetes.io/hostname"
DEADLINE = 300.0


def node(index: int) -> Object:
    name, room = f"node-{index}", {"cpu": "64", "memory": "256Gi", "pods": "250"}
    return {
        "metadata": {"name": name, "labels": {HOST: name, ZONE: f"zone-{index % 3}"}},
        "status": {
            "capacity": room,
            "allocatable": room,
            "conditions": [{"type": "Ready", "status": "True"}],
        },
    }


def pod(name: str) -> Object:
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}}
    container = {"name": "c", "image": "registry/app:1", "resources": resources}
    metadata = {"name": name, "namespace": "default", "labels": {"app": "web"}}
    return {"metadata": metadata, "spec": {"containers": [container]}}


async def make_nodes(client: RestClient, count: int) -> None:
    async def make(index: int) -> None:
        made = await client.create(NODES, node(index))
        # Nobody else would take away what admission puts on every new node.
        await client.patch(NODES, made["metadata"]["name"], {"spec": {"taints": None}})

    await calls(count, 32, make)


async def hold_lease(client: RestClient) -> Object:
    spec = {
        "holderIdentity": "bench",
        "leaseDurationSeconds": 3600,
        "renewTime": "2026-01-01T00:00:00.000000Z",
        "leaseTransitions": 0,
    }
    return await client.create(
        LEASES, {"metadata": {"name": "kube-scheduler", "namespace": "kube-system"}, "spec": spec}
    )


async def give_back(client: RestClient, lease: Object) -> None:
    await client.update(LEASES, {**lease, "spec": {**lease["spec"], "holderIdentity": ""}})


async def bindings(client: RestClient, since: str, count: int) -> dict[str, float]:
    """When each of the next `count` pods was seen bound."""
    seen: dict[str, float] = {}
    async with contextlib.aclosing(client.watch(PODS, "default", resource_version=since)) as events:
        async for event in events:
            name = event.object["metadata"].get("name", "")  # a bookmark has none
            if event.object.get("spec", {}).get("nodeName") and name not in seen:
                seen[name] = time.perf_counter()
                if len(seen) == count:
                    break
    return seen


async def burst(running: plane.Plane, nodes: int, pods: int) -> tuple[float, dict[str, float]]:
    """Bound per second, and microseconds of CPU a pod by process."""
    async with RestClient.from_kubeconfig(running.admin) as client, asyncio.timeout(DEADLINE):
        await _account(client)
        await make_nodes(client, nodes)
        lease = await hold_lease(client)
        running.start_scheduler()
        await calls(pods, 32, lambda index: client.create(PODS, pod(f"burst-{index}")))
        listed = await client.list(PODS, "default", limit=1)
        await asyncio.sleep(2)
        before = running.cpu()
        await give_back(client, lease)
        seen = await bindings(client, listed["metadata"]["resourceVersion"], pods)
        spent = {name: (now - before[name]) / pods * 1e6 for name, now in running.cpu().items()}
    times = sorted(seen.values())
    return (pods - 1) / (times[-1] - times[0]), spent


async def steady(running: plane.Plane) -> list[float]:
    """Seconds from creation to binding, at a fixed rate of new pods."""
    count = STEADY_RATE * STEADY_SECONDS
    created: dict[str, float] = {}
    async with RestClient.from_kubeconfig(running.admin) as client, asyncio.timeout(DEADLINE):
        listed = await client.list(PODS, "default", limit=1)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(bindings(client, listed["metadata"]["resourceVersion"], count))
            start = time.perf_counter()
            for index in range(count):
                await asyncio.sleep(max(start + index / STEADY_RATE - time.perf_counter(), 0))
                name = f"steady-{index}"
                created[name] = time.perf_counter()
                await client.create(PODS, pod(name))
        seen = watching.result()
    return [seen[name] - made for name, made in created.items()]


async def _account(client: RestClient) -> None:
    await client.create(SERVICEACCOUNTS, {"metadata": {"name": "default", "namespace": "default"}})


async def events_written(running: plane.Plane) -> int:
    async with RestClient.from_kubeconfig(running.admin) as client:
        page = await client.list(EVENTS, "default")
    return len(page["items"])


def main() -> None:
    """Print the table."""
    heading("scheduling through the API (3 stores, 1 apiserver, scheduler)")
    for nodes in NODE_COUNTS:
        with plane.running() as running:
            rate, spent = uvloop.run(burst(running, nodes, BURST))
            events = uvloop.run(events_written(running))
            cpu = ", ".join(f"{name} {value:,.0f}" for name, value in sorted(spent.items()))
            show(Row(f"pods bound, {BURST:,} waiting, {nodes:,} nodes", rate, "/s", TARGET))
            print(f"    CPU in us a pod: {cpu}; events written by then: {events}", flush=True)
            if nodes == 1_000:
                took = uvloop.run(steady(running))
                title = f"create to bound at {STEADY_RATE}/s, {nodes:,} nodes"
                show(
                    Row(f"{title}, p50", percentile(took, 0.5), "ms", 12.7, more=False),
                    Row(f"{title}, p99", percentile(took, 0.99), "ms", 32, more=False),
                )
