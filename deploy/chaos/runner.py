"""`make chaos`: kill -9 of everything that leads, one after the other, while clients write; then the
reckoning.
"""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from apimachinery import errors
from deploy.chaos.faults import Lab, NotBack
from deploy.chaos.history import Violation, behind, lost_writes, watch_violations
from deploy.chaos.report import Row, table, verdict
from deploy.chaos.workload import Workload
from deploy.state import State
from deploy.topology import Topology
from kubeclient.resources import DEPLOYMENTS, NAMESPACES
from kubeclient.rest import ConnectionFailed, RestClient

SETTLE = 3.0  # steady writes before and after each fault
DEPLOYMENT = "steady"


@dataclass(frozen=True, slots=True)
class Fault:
    """What to kill, chosen when its turn comes, and how to see that its work goes on."""

    name: str
    unit: str
    choose: Callable[[], Awaitable[str]]
    back: Callable[[str], Awaitable[None]]
    proof: str


def schedule(lab: Lab) -> list[Fault]:
    """Each store member, the leader first; then an apiserver, the active scheduler, the active
    controller-manager.
    """
    struck: list[str] = []

    async def another_member() -> str:
        left = [host for host in lab.controllers if host not in struck]
        leader = await lab.store_leader()
        host = leader if leader in left else left[0]
        struck.append(host)
        return host

    async def any_apiserver() -> str:
        return lab.controllers[0]

    async def new_pod(_: str) -> None:
        await lab.pod_scheduled(f"after-{time.monotonic_ns()}")

    async def new_size(_: str) -> None:
        await lab.deployment_follows(DEPLOYMENT, 2)

    members = [
        Fault(name, "etcdlite", another_member, lab.member_back, "member healthy again")
        for name in ("store leader", *("store member",) * (len(lab.controllers) - 1))
    ]
    return [
        *members,
        Fault("apiserver", "apiserver", any_apiserver, lab.apiserver_back, "/readyz again"),
        Fault("scheduler", "scheduler", lambda: lab.holder("kube-scheduler"), new_pod, "new pod placed"),
        Fault(
            "controller-manager",
            "controllers",
            lambda: lab.holder("kube-controller-manager"),
            new_size,
            "deployment resized",
        ),
    ]


async def _strike(lab: Lab, fault: Fault, workload: Workload) -> Row:
    host = await fault.choose()
    print(f"  kill -9 {fault.unit} on {host} ({fault.name})", flush=True)
    started = time.monotonic()
    lab.kill(host, fault.unit)
    await fault.back(host)
    back = time.monotonic() - started
    await asyncio.sleep(SETTLE)
    ended = time.monotonic()
    promised = workload.history.promised()
    lost = behind(promised, await workload.stored())
    return Row(
        f"{fault.name} ({host})",
        workload.history.longest_gap(started, ended),
        workload.history.count(started, ended),
        lost,
        back,
        fault.proof,
    )


def _deployment(namespace: str) -> dict[str, object]:
    labels = {"app": DEPLOYMENT}
    container = {"name": "c", "image": "busybox:1.35", "command": ["sleep", "3600"]}
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": DEPLOYMENT, "namespace": namespace},
        "spec": {
            "replicas": 1,
            "selector": {"matchLabels": labels},
            "template": {
                "metadata": {"labels": labels},
                "spec": {"terminationGracePeriodSeconds": 0, "containers": [container]},
            },
        },
    }


async def _run(state: State, topology: Topology, admin: Path) -> bool:
    namespace = f"chaos-{os.getpid()}"
    async with RestClient.from_kubeconfig(admin, user_agent="hardway-chaos") as client:
        lab = Lab(state, topology, client, namespace)
        workload = Workload(client, namespace)
        rows: list[Row] = []
        try:
            async with workload.running():
                await client.create(DEPLOYMENTS, _deployment(namespace))
                await asyncio.sleep(SETTLE)
                rows = [await _strike(lab, fault, workload) for fault in schedule(lab)]
            stored = await workload.stored()
        finally:
            await _tidy(client, namespace)
    return _report(rows, workload, stored)


def _report(rows: Sequence[Row], workload: Workload, stored: dict[str, int]) -> bool:
    history = workload.history
    lost: list[Violation] = lost_writes(history, stored)
    watch = watch_violations(history, history.watched)
    acknowledged = sum(len(done.acknowledged) for done in history.keys.values())
    unknown = sum(len(done.unknown) for done in history.keys.values())
    print()
    print(table(rows))
    print()
    print(verdict(lost, watch, acknowledged, unknown))
    return not lost and not watch and not any(row.lost for row in rows)


async def _tidy(client: RestClient, namespace: str) -> None:
    try:
        async with asyncio.timeout(10):
            await client.delete(NAMESPACES, namespace)
    except (errors.StatusError, ConnectionFailed, TimeoutError) as error:
        print(f"  namespace {namespace} could not be removed: {error}")


def chaos(state: State, topology: Topology, admin: Path) -> bool:
    """Run the schedule on a running cluster; returns whether every promise was kept."""
    print(f"chaos on cluster {topology.name}: steady writes through the API")
    try:
        return asyncio.run(_run(state, topology, admin))
    except* (NotBack, ConnectionFailed, errors.StatusError) as group:
        for error in group.exceptions:
            print(f"FAILED: {type(error).__name__}: {error}")
    return False
