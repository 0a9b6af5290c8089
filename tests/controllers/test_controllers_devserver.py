"""The whole manager, as a process under its own certificate and RBAC, against a real store and apiserver."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from apimachinery import errors
from controllers import objects as o
from kubeclient import resources as r
from kubeclient.rest import RestClient
from tests.apiserver import devserver
from tests.controllers import make
from tests.controllers.hollow import HollowNodes
from tests.controllers.memoryapi import Object

pytestmark = pytest.mark.skipif(shutil.which("etcd") is None, reason="package etcd-server is not installed")
NODES = ("n1", "n2", "n3")


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[devserver.Running]:
    with devserver.running(tmp_path_factory.mktemp("controllers"), quiet=True) as running:
        yield running


class Manager:
    """`python -m controllers`, started and killed."""

    def __init__(self, server: devserver.Running, log: Path) -> None:
        pki = server.inventory.directory
        self.command = [
            sys.executable,
            "-m",
            "controllers",
            f"--kubeconfig={pki / 'controller-manager.kubeconfig'}",
            "--use-service-account-credentials",
            "--allocate-node-cidrs",
            "--cluster-cidr=10.200.0.0/16",
            f"--root-ca-file={pki / 'ca.pem'}",
            "--secure-port=0",
            "--node-monitor-period=1s",
            "--node-monitor-grace-period=8s",
            "--leader-elect-lease-duration=4s",
            "--leader-elect-renew-deadline=3s",
            "--leader-elect-retry-period=1s",
        ]
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> None:
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(self.command, cwd=devserver.ROOT, stdout=log, stderr=log)

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()


async def until(true: Callable[[], Awaitable[Any]], manager: Manager, seconds: float = 60) -> None:
    for _ in range(int(seconds / 0.2)):
        try:
            if await true():
                return
        except errors.StatusError as error:
            if not errors.is_not_found(error):
                raise
        await asyncio.sleep(0.2)
    pytest.fail("not reached; the manager says:\n" + manager.log.read_text()[-3000:])


async def rolled_out(client: RestClient, image: str, size: int) -> bool:
    found = await client.get(r.DEPLOYMENTS, "web", "default")
    counts = {o.status(found).get(name) for name in ("replicas", "updatedReplicas", "availableReplicas")}
    listed = (await client.list(r.PODS, "default", label_selector="app=web"))["items"]
    images = {p["spec"]["containers"][0]["image"] for p in listed if not o.is_terminating(p)}
    observed = o.status(found).get("observedGeneration") == o.generation(found)
    return observed and counts == {size} and images == {image}


def manifest(obj: Object, gvr: r.GVR) -> Object:
    metadata = {part: obj["metadata"][part] for part in ("name", "namespace") if part in obj["metadata"]}
    body = {part: value for part, value in obj.items() if part != "status"}
    return {"apiVersion": gvr.api_version, "kind": gvr.kind, **body, "metadata": metadata}


async def scenario(server: devserver.Running, manager: Manager) -> None:
    async with RestClient.from_kubeconfig(server.admin) as client, asyncio.TaskGroup() as group:
        hollow = HollowNodes(client, NODES)
        play = group.create_task(hollow.run())
        manager.start()
        await until(lambda: client.get(r.CONFIGMAPS, "kube-root-ca.crt", "default"), manager)
        await client.create(r.SERVICES, manifest(make.service(clusterIP="", ipFamilies=None), r.SERVICES))
        await client.create(r.DEPLOYMENTS, manifest(make.deployment(size=4), r.DEPLOYMENTS))
        await until(lambda: rolled_out(client, "web:1", 4), manager)
        patch = [{"op": "replace", "path": "/spec/template/spec/containers/0/image", "value": "web:2"}]
        json_patch = "application/json-patch+json"
        await client.patch(r.DEPLOYMENTS, "web", patch, "default", content_type=json_patch)
        for _ in range(3):  # killed in the middle of a roll-out, again and again
            await asyncio.sleep(0.15)
            manager.kill()
            manager.start()
        await until(lambda: rolled_out(client, "web:2", 4), manager)
        await _endpoints_are_right(client, manager)
        cidrs = [n["spec"]["podCIDR"] for n in (await client.list(r.NODES))["items"]]
        assert len(set(cidrs)) == len(NODES)
        await _lose_a_node(client, hollow, manager)
        await _delete_everything(client, manager)
        play.cancel()


async def _endpoints_are_right(client: RestClient, manager: Manager) -> None:
    async def agree() -> bool:
        pods = (await client.list(r.PODS, "default", label_selector="app=web"))["items"]
        ips = sorted(p["status"]["podIP"] for p in pods)
        slices = (
            await client.list(r.ENDPOINTSLICES, "default", label_selector="kubernetes.io/service-name=web")
        )["items"]
        in_slices = sorted(
            e["addresses"][0] for s in slices for e in s["endpoints"] if e["conditions"]["ready"]
        )
        subsets = (await client.get(r.ENDPOINTS, "web", "default")).get("subsets") or []
        in_endpoints = sorted(a["ip"] for s in subsets for a in s.get("addresses", ()))
        return ips == in_slices == in_endpoints

    await until(agree, manager)


async def _lose_a_node(client: RestClient, hollow: HollowNodes, manager: Manager) -> None:
    hollow.silent.add("n3")

    async def lost() -> bool:
        node = await client.get(r.NODES, "n3")
        keys = {(t["key"], t["effect"]) for t in o.spec(node).get("taints") or ()}
        return o.condition_status(node, "Ready") == "Unknown" and len(keys) == 2

    await until(lost, manager)
    hollow.silent.discard("n3")
    # As a kubelet does: with a fresh heartbeat, without which the node would be judged silent again.
    ready = {"type": "Ready", "status": "True", "lastHeartbeatTime": o.format_time(hollow.clock.now())}
    body = {"status": {"conditions": [ready]}}
    strategic = "application/strategic-merge-patch+json"
    await client.patch(r.NODES, "n3", body, content_type=strategic, subresource="status")

    async def back() -> bool:
        return not o.spec(await client.get(r.NODES, "n3")).get("taints")

    await until(back, manager)


async def _delete_everything(client: RestClient, manager: Manager) -> None:
    await client.delete(r.DEPLOYMENTS, "web", "default", options={"propagationPolicy": "Foreground"})

    async def nothing() -> bool:
        left = [
            len((await client.list(g, "default"))["items"]) for g in (r.DEPLOYMENTS, r.REPLICASETS, r.PODS)
        ]
        return left == [0, 0, 0]

    await until(nothing, manager)
    await client.create(r.NAMESPACES, {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "gone"}})
    await until(lambda: client.get(r.SERVICEACCOUNTS, "default", "gone"), manager)
    await client.delete(r.NAMESPACES, "gone")

    async def absent() -> bool:
        return all(o.name(n) != "gone" for n in (await client.list(r.NAMESPACES))["items"])

    await until(absent, manager)


def test_the_manager_keeps_a_cluster_through_kills_and_a_lost_node(
    server: devserver.Running, tmp_path: Path
) -> None:
    manager = Manager(server, tmp_path / "manager.log")
    try:
        asyncio.run(asyncio.wait_for(scenario(server, manager), 110))
    finally:
        if manager.process is not None:
            manager.kill()
