"""Two schedulers, one lease: the leader is frozen in the middle of its work and thawed after another took
over. No pod may be bound twice, and no node may hold more than it can.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

import pytest
import yaml

from kubeclient.resources import EVENTS, LEASES, NODES, PODS, SERVICEACCOUNTS
from kubeclient.rest import MERGE, RestClient
from tests.apiserver.devserver import ROOT, end, running
from tests.ports import free_port

Object = dict[str, Any]
NODE_COUNT, PER_NODE, PODS_PER_WAVE = 10, 12, 30
WAVES = 4
pytestmark = [
    pytest.mark.serial,
    pytest.mark.skipif(shutil.which("etcd") is None, reason="etcd is not installed (package etcd-server)"),
]


def start(kubeconfig: Path, folder: Path, name: str) -> subprocess.Popen[bytes]:
    config = {
        "apiVersion": "kubescheduler.config.k8s.io/v1",
        "kind": "KubeSchedulerConfiguration",
        "clientConnection": {"kubeconfig": str(kubeconfig), "qps": 100, "burst": 5},
        "leaderElection": {"leaseDuration": "6s", "renewDeadline": "5s", "retryPeriod": "500ms"},
    }
    file = folder / f"{name}.yaml"
    file.write_text(yaml.safe_dump(config))
    command = [sys.executable, "-m", "scheduler", f"--config={file}", "--bind-address=127.0.0.1"]
    with (folder / f"{name}.log").open("wb") as log:
        return subprocess.Popen(
            [*command, f"--secure-port={free_port()}"],
            env={**os.environ, "PYTHONPATH": str(ROOT)},
            cwd=ROOT,
            stdout=log,
            stderr=log,
        )


async def furnish(client: RestClient) -> None:
    await client.create(SERVICEACCOUNTS, {"metadata": {"name": "default", "namespace": "default"}})
    room = {"cpu": "64", "memory": "64Gi", "pods": str(PER_NODE)}
    for index in range(NODE_COUNT):
        name = f"n{index}"
        await client.create(NODES, {"metadata": {"name": name}})
        status = {"status": {"allocatable": room, "capacity": room}}
        await client.patch(NODES, name, status, content_type=MERGE, subresource="status")
        await client.patch(NODES, name, {"spec": {"taints": None}}, content_type=MERGE)


async def wave(client: RestClient, number: int) -> None:
    for index in range(PODS_PER_WAVE):
        spec = {"containers": [{"name": "c", "image": "x"}], "automountServiceAccountToken": False}
        meta = {"name": f"p{number}-{index}", "namespace": "default"}
        await client.create(PODS, {"metadata": meta, "spec": spec})


async def bound(client: RestClient) -> int:
    return sum(bool(each["spec"].get("nodeName")) for each in (await client.list(PODS, "default"))["items"])


async def until_bound(client: RestClient, count: int) -> None:
    async with asyncio.timeout(40):
        while await bound(client) < count:  # noqa: ASYNC110 - the state is another process's
            await asyncio.sleep(0.05)


async def follow(client: RestClient, seen: dict[str, set[str]]) -> None:
    """Every node name that any version of a pod ever carried."""
    version = (await client.list(PODS, "default"))["metadata"]["resourceVersion"]
    async for event in client.watch(PODS, "default", resource_version=version):
        node = event.object.get("spec", {}).get("nodeName")
        if node:
            seen[event.object["metadata"]["name"]].add(node)


async def leader_pid(client: RestClient) -> int:
    async with asyncio.timeout(20):
        while True:
            leases = await client.list(LEASES, "kube-system")
            for lease in leases["items"]:
                holder = lease["spec"].get("holderIdentity")
                if lease["metadata"]["name"] == "kube-scheduler" and holder:
                    return int(holder.split("_")[1])
            await asyncio.sleep(0.1)


async def contend(admin: Path, schedulers: dict[int, subprocess.Popen[bytes]]) -> None:
    seen: dict[str, set[str]] = defaultdict(set)
    async with RestClient.from_kubeconfig(admin, user_agent="test") as client:
        await furnish(client)
        async with asyncio.TaskGroup() as group:
            watching = group.create_task(follow(client, seen))
            await leader_pid(client)
            await wave(client, 0)
            await until_bound(client, PODS_PER_WAVE // 3)
            frozen = await leader_pid(client)
            os.kill(frozen, signal.SIGSTOP)  # with bindings on their way
            await wave(client, 1)
            await until_bound(client, 2 * PODS_PER_WAVE)  # the other one took over
            assert await leader_pid(client) != frozen
            creating = group.create_task(wave(client, 2))
            os.kill(frozen, signal.SIGCONT)
            await creating
            await wave(client, 3)
            await until_bound(client, WAVES * PODS_PER_WAVE)
            await asyncio.to_thread(schedulers[frozen].wait, 20)  # it found out that it leads no more
            watching.cancel()
        await judge(client, seen)


async def judge(client: RestClient, seen: dict[str, set[str]]) -> None:
    pods = (await client.list(PODS, "default"))["items"]
    assert len(pods) == WAVES * PODS_PER_WAVE
    load: dict[str, int] = defaultdict(int)
    for each in pods:
        load[each["spec"]["nodeName"]] += 1
    assert max(load.values()) <= PER_NODE
    assert {name: nodes for name, nodes in seen.items() if len(nodes) > 1} == {}
    assigned: dict[str, set[str]] = defaultdict(set)
    for event in (await client.list(EVENTS, "default"))["items"]:
        if event["reason"] == "Scheduled":
            assigned[event["involvedObject"]["name"]].add(event["message"].rpartition(" ")[2])
    for each in pods:
        assert assigned[each["metadata"]["name"]] <= {each["spec"]["nodeName"]}


def test_a_frozen_leader_binds_nothing_twice(tmp_path: Path) -> None:
    with running(tmp_path / "server", quiet=True) as server:
        kubeconfig = server.directory / "pki" / "scheduler.kubeconfig"
        started = [start(kubeconfig, tmp_path, name) for name in ("one", "two")]
        schedulers = {process.pid: process for process in started}
        try:
            asyncio.run(contend(server.admin, schedulers))
        except BaseException:
            for name in ("one", "two"):
                print((tmp_path / f"{name}.log").read_text()[-2000:])
            raise
        finally:
            for process in started:
                if process.poll() is None:
                    process.send_signal(signal.SIGCONT)
                end(process)
