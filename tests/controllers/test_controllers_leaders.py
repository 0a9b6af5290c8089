"""Two managers contend while the leader is paused (SIGSTOP) and resumed: nothing is made twice."""

from __future__ import annotations

import asyncio
import shutil
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from controllers import objects as o
from kubeclient import resources as r
from kubeclient.rest import RestClient
from tests.apiserver import devserver
from tests.controllers import make
from tests.controllers.hollow import HollowNodes
from tests.controllers.memoryapi import Object
from tests.controllers.test_controllers_devserver import Manager, manifest, until

pytestmark = pytest.mark.skipif(shutil.which("etcd") is None, reason="package etcd-server is not installed")
LEASE = "kube-controller-manager"
ROUNDS, PODS, COMPLETIONS = 2, 80, 10


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[devserver.Running]:
    with devserver.running(tmp_path_factory.mktemp("leaders"), quiet=True) as running:
        yield running


class Ledger:
    """Every pod that was ever made, from a watch: UID -> (owner's UID, deleted)."""

    def __init__(self, client: RestClient) -> None:
        self._client = client
        self.made: dict[str, str] = {}
        self.gone: set[str] = set()

    async def keep(self) -> None:
        version = (await self._client.list(r.PODS, "default"))["metadata"]["resourceVersion"]
        async for event in self._client.watch(r.PODS, "default", resource_version=version):
            if event.type == "BOOKMARK":
                continue
            owner = o.controller_of(event.object)
            self.made.setdefault(o.uid(event.object), owner["uid"] if owner else "")
            if event.type == "DELETED" or o.is_terminating(event.object):
                self.gone.add(o.uid(event.object))

    def of(self, owner: Object) -> int:
        return sum(uid == o.uid(owner) for uid in self.made.values())


async def leader(client: RestClient) -> str:
    lease = await client.get(r.LEASES, LEASE, "kube-system")
    return str(o.spec(lease).get("holderIdentity") or "")


def stateless(name: str, size: int) -> Object:
    return manifest(make.replicaset(name, size), r.REPLICASETS)


def job(name: str) -> Object:
    template = {"spec": {**make.TEMPLATE["spec"], "restartPolicy": "Never"}}
    spec = {"completions": COMPLETIONS, "parallelism": COMPLETIONS, "template": template}
    return {**_named(r.JOBS, name), "spec": spec}


def _named(gvr: r.GVR, name: str) -> Object:
    metadata = {"name": name, "namespace": "default"}
    return {"apiVersion": gvr.api_version, "kind": gvr.kind, "metadata": metadata}


async def one_round(client: RestClient, ledger: Ledger, managers: list[Manager], number: int) -> None:
    """Freeze the leader in the middle of its creations, let the other take over, thaw it again."""
    first = await leader(client)
    leading, standby = managers
    rs = await client.create(r.REPLICASETS, unique(stateless(f"rs-{number}", PODS), number))
    work = await client.create(r.JOBS, job(f"job-{number}"))
    assert leading.process is not None
    await asyncio.sleep(0.1 + 0.1 * number)
    leading.process.send_signal(signal.SIGSTOP)

    async def taken_over() -> bool:
        return await leader(client) != first

    await until(taken_over, standby)

    async def stands() -> bool:
        rs_now = await client.get(r.REPLICASETS, o.name(rs), "default")
        job_now = await client.get(r.JOBS, o.name(work), "default")
        ready = o.status(rs_now).get("readyReplicas") == PODS
        return ready and o.status(job_now).get("active") == COMPLETIONS

    await until(stands, standby)
    leading.process.send_signal(signal.SIGCONT)
    # It finds its lease lost and ends by itself; whoever runs it starts it again as a candidate.
    await asyncio.wait_for(asyncio.to_thread(leading.process.wait), 20)
    leading.start()
    await asyncio.sleep(1.0)
    for owner, size in ((rs, PODS), (work, COMPLETIONS)):
        assert ledger.of(owner) == size, f"{o.name(owner)}: made {ledger.of(owner)}"
    assert not ledger.gone
    managers.reverse()


def unique(rs: Object, number: int) -> Object:
    labels = {"app": f"web-{number}"}
    template = {**make.TEMPLATE, "metadata": {"labels": labels}}
    return {**rs, "spec": {**rs["spec"], "selector": {"matchLabels": labels}, "template": template}}


async def scenario(server: devserver.Running, managers: list[Manager]) -> None:
    async with RestClient.from_kubeconfig(server.admin) as client, asyncio.TaskGroup() as group:
        ledger = Ledger(client)
        tasks = [group.create_task(HollowNodes(client, ("n1", "n2")).run())]
        tasks.append(group.create_task(ledger.keep()))
        managers[0].start()
        await until(lambda: client.get(r.CONFIGMAPS, "kube-root-ca.crt", "default"), managers[0])
        managers[1].start()
        for number in range(ROUNDS):
            await one_round(client, ledger, managers, number)
        for task in tasks:
            task.cancel()


def test_a_paused_leader_makes_nothing_twice(server: devserver.Running, tmp_path: Path) -> None:
    managers = [Manager(server, tmp_path / f"manager-{number}.log") for number in range(2)]
    try:
        asyncio.run(asyncio.wait_for(scenario(server, managers), 110))
    finally:
        for manager in managers:
            if manager.process is not None:
                manager.process.send_signal(signal.SIGCONT)
                manager.kill()
