"""Controllers through the API: a Deployment from nothing to 500 pods, a namespace with 500 pods gone, and
what an idle manager costs. Three stores, an apiserver, the controller manager, a scheduler and hollow nodes.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import Callable
from typing import Any

import uvloop

from apimachinery.errors import StatusError
from bench import plane
from bench.hollow import container
from bench.load import Row, heading, show
from bench.progress import spent
from kubeclient.informer import Informer
from kubeclient.resources import DEPLOYMENTS, NAMESPACES, NODES, PODS
from kubeclient.rest import RestClient

Object = dict[str, Any]
SPACE = "many"
REPLICAS = 500
HOLLOW = 50
IDLE = 30.0
PATIENCE = 600.0
MIB = 1024 * 1024


async def _until(what: str, done: Callable[[], bool]) -> float:
    """Seconds until the condition holds."""
    started = time.perf_counter()
    while not done():
        if time.perf_counter() - started > PATIENCE:
            raise TimeoutError(f"{what}: not within {PATIENCE:g} s")
        await asyncio.sleep(0.02)
    return time.perf_counter() - started


def _deployment() -> Object:
    labels = {"app": "many"}
    template = {"metadata": {"labels": labels}, "spec": {"containers": [container("app:1")]}}
    return {
        "metadata": {"name": "many", "namespace": SPACE},
        "spec": {"replicas": REPLICAS, "selector": {"matchLabels": labels}, "template": template},
    }


async def idle(running: plane.Plane) -> tuple[float, float]:
    """The manager's share of a core over some time, and its memory in MiB."""
    await asyncio.sleep(5)
    before = running.cpu()["controllers"]
    await asyncio.sleep(IDLE)
    return (running.cpu()["controllers"] - before) / IDLE, running.memory()["controllers"] / MIB


async def _gone(client: RestClient) -> bool:
    try:
        await client.get(NAMESPACES, SPACE)
    except StatusError as error:
        if error.code == 404:
            return True
        raise
    return False


async def measure(running: plane.Plane) -> None:
    async with RestClient.from_kubeconfig(running.admin) as client, asyncio.TaskGroup() as group:
        nodes, pods = Informer(client, NODES), Informer(client, PODS, namespace=SPACE)
        tasks = [group.create_task(each.run()) for each in (nodes, pods)]
        with contextlib.ExitStack() as stack:
            for task in tasks:
                stack.callback(task.cancel)
            await _until("nodes", lambda: sum(map(_is_ready, nodes.store.list())) == HOLLOW)
            share, memory = await idle(running)
            show(
                Row("idle manager: CPU", 100 * share, "% core"),
                Row("idle manager: memory", memory, "MiB"),
            )
            await _deploy_and_delete(running, client, pods)


async def _deploy_and_delete(running: plane.Plane, client: RestClient, pods: Informer) -> None:
    await client.create(NAMESPACES, {"metadata": {"name": SPACE}})
    await asyncio.sleep(2)  # its service account
    started, before = time.perf_counter(), running.cpu()
    await client.create(DEPLOYMENTS, _deployment())
    await _until("pods exist", lambda: len(pods.store) == REPLICAS)
    exist, made = time.perf_counter() - started, running.cpu()
    await _until("pods bound", lambda: all(pod["spec"].get("nodeName") for pod in pods.store.list()))
    bound = time.perf_counter() - started
    await _until("pods ready", lambda: all(_is_ready(pod) for pod in pods.store.list()))
    ready, started, full = time.perf_counter() - started, time.perf_counter(), running.cpu()
    await client.delete(NAMESPACES, SPACE)
    while not await _gone(client):  # noqa: ASYNC110 - asked as any client would ask
        await asyncio.sleep(0.05)
    gone = time.perf_counter() - started
    show(
        Row(f"Deployment 0 to {REPLICAS}: all pods exist", exist, "s", 3, more=False),
        Row(f"Deployment 0 to {REPLICAS}: all bound", bound, "s"),
        Row(f"Deployment 0 to {REPLICAS}: all ready ({HOLLOW} hollow nodes)", ready, "s"),
        Row(f"namespace with {REPLICAS} pods gone", gone, "s", 5, more=False),
    )
    print(f"    CPU s until all exist: {spent(before, made)}")
    print(f"    CPU s from there to ready: {spent(made, full)}")
    print(f"    CPU s until all are gone: {spent(full, running.cpu())}", flush=True)


def _is_ready(obj: Object) -> bool:
    conditions = (obj.get("status") or {}).get("conditions") or ()
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def main() -> None:
    """Print the table."""
    heading("controllers (3 stores, 1 apiserver, scheduler, hollow nodes)")
    with plane.running() as running:
        running.start_scheduler()
        running.start_controllers()
        flags = {"hollow": "true", "hollow-nodes": str(HOLLOW), "kubeconfig": str(running.admin)}
        running.start("hollow", "kubelet", flags)
        uvloop.run(measure(running))
