"""The API: reads, lists, writes, watches, first over little and then again over 50,000 stored objects.

A bearer token over TLS, as in the runs the targets come from; pods of about 2.2 KB in one namespace; three
stores and one apiserver on this machine; the load comes from here, a process of its own, whose client costs
less than half of what the server spends on a request. LISTs are timed to the last byte and not decoded.

    python -m bench api
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import signal
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import uvloop

from bench import plane
from bench.load import Outcome, Row, calls, heading, percentile, show
from componentbase import tlsutil
from kubeclient.http1.pool import Pool
from kubeclient.resources import CLUSTERROLEBINDINGS, CONFIGMAPS, NAMESPACES, PODS, SERVICEACCOUNTS
from kubeclient.rest import RestClient
from kubeclient.transport import Target

Object = dict[str, Any]
SPACE, FILLER = "bench", "filler"
MIB = 1024 * 1024
PODS_SMALL, PODS_LARGE = 1_000, 5_000
STORED = 50_000
WRITES = 1_500
READS = 4_000
WATCHERS = 100
FANOUT = 200
DEADLINE = 1_800.0
# Middle of what the real kube-apiserver did, times what we ask of ourselves (shared/targets.md).
GET = {1: 2 * 640.0, 16: 2 * 1_280.0, 64: 2 * 1_560.0}
LIST = {PODS_SMALL: 10.0, PODS_LARGE: 40.0}


def pod(index: int) -> Object:
    """About 2.2 KB once the server has filled it in."""
    labels = {"app": f"app-{index % 20}", "tier": "backend", "release": "bench"}
    env = [{"name": f"SETTING_{number}", "value": f"value-of-setting-{number}"} for number in range(8)]
    resources = {"requests": {"cpu": "100m", "memory": "128Mi"}, "limits": {"memory": "256Mi"}}
    container = {"name": "main", "image": "registry.example.com/team/app:1.2.3", "env": env}
    spec = {
        "nodeName": f"node-{index % 100}",
        "automountServiceAccountToken": False,
        "containers": [{**container, "resources": resources, "ports": [{"containerPort": 8080}]}],
    }
    return {"metadata": {"name": f"pod-{index:06}", "namespace": SPACE, "labels": labels}, "spec": spec}


def config(index: int, text: str = "", namespace: str = SPACE) -> Object:
    data = {"text": text or "x" * 200}
    return {"metadata": {"name": f"config-{index:06}", "namespace": namespace}, "data": data}


async def token(admin: RestClient) -> str:
    """Of a service account that may do everything."""
    await admin.create(SERVICEACCOUNTS, {"metadata": {"name": "load", "namespace": SPACE}})
    subject = {"kind": "ServiceAccount", "name": "load", "namespace": SPACE}
    role = {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": "cluster-admin"}
    await admin.create(
        CLUSTERROLEBINDINGS, {"metadata": {"name": "load"}, "subjects": [subject], "roleRef": role}
    )
    request = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {}}
    made = await admin.create(SERVICEACCOUNTS, request, SPACE, name="load", subresource="token")
    return str(made["status"]["token"])


@contextlib.asynccontextmanager
async def caller(running: plane.Plane) -> AsyncIterator[RestClient]:
    """A client with a token, after the namespaces and the account are made."""
    async with RestClient.from_kubeconfig(running.admin) as admin:
        for name in (SPACE, FILLER):
            await admin.create(NAMESPACES, {"metadata": {"name": name}})
        await admin.create(SERVICEACCOUNTS, {"metadata": {"name": "default", "namespace": SPACE}})
        bearer = await token(admin)
    context = tlsutil.client_context(running.pki("ca.pem"))
    target = Target(running.server, context, lambda: bearer)
    async with RestClient(target, transport=Pool(running.server, context, limit=256)) as client:
        yield client


class Measurement:
    """One pass over everything. `note` tells the passes apart in the table, `first` what they make."""

    def __init__(self, running: plane.Plane, client: RestClient, note: str, first: int) -> None:
        self._running, self._client, self._note = running, client, note
        self._first = first

    async def everything(self, pods: int) -> None:
        await self.reads(pods)
        await self.writes()
        await self.watches()
        size = self._running.memory()["apiserver"] / MIB
        show(Row("memory of the apiserver", size, "MiB", note=self._note))

    async def reads(self, pods: int) -> None:
        for connections, target in GET.items():
            found = await calls(READS, connections, lambda n: self._get(f"pod-{n % PODS_SMALL:06}"))
            self._row(f"GET a pod, {connections} connections", found, target)
        for size in (PODS_SMALL, PODS_LARGE):
            if size <= pods:
                took = [await self._list(size) for _ in range(15)]
                target = LIST[size]
                show(Row(f"LIST {size:,} pods, p50", percentile(took, 0.5), "ms", target, False, self._note))

    async def _get(self, name: str) -> object:
        return await self._client.raw("GET", f"/api/v1/namespaces/{SPACE}/pods/{name}")

    async def _list(self, size: int) -> float:
        started = time.perf_counter()
        answer = await self._client.raw("GET", f"/api/v1/namespaces/{SPACE}/pods", params={"limit": size})
        took = time.perf_counter() - started
        if (found := answer.content.count(b'"kind":"Pod"')) not in (0, size):
            raise AssertionError(f"{found} of {size} pods in the list")
        return took

    async def writes(self) -> None:
        client, first = self._client, self._first
        self._first += 10 * WRITES
        one = await calls(WRITES // 4, 1, lambda n: client.create(CONFIGMAPS, config(first + WRITES + n)))
        self._row("create ConfigMap, 1 client", one, 190)
        verbs: list[tuple[str, float, Callable[[int], Awaitable[object]]]] = [
            ("create", 920, lambda n: client.create(CONFIGMAPS, config(first + n))),
            ("update", 700, lambda n: client.update(CONFIGMAPS, config(first + n, "new"))),
            ("patch", 700, lambda n: client.patch(CONFIGMAPS, _name(first + n), {"data": {"a": "b"}}, SPACE)),
            ("delete", 700, lambda n: client.delete(CONFIGMAPS, _name(first + n), SPACE)),
        ]
        for verb, target, call in verbs:
            self._row(f"{verb} ConfigMap, 32 clients", await calls(WRITES, 32, call), target)
        made = await calls(WRITES, 32, lambda n: client.create(PODS, _renamed(first + n)))
        self._row("create pod, 32 clients", made, 500)
        await calls(
            WRITES,
            32,
            lambda n: client.delete(
                PODS, _renamed(first + n)["metadata"]["name"], SPACE, options={"gracePeriodSeconds": 0}
            ),
        )

    async def watches(self) -> None:
        latency = await self._latency()
        show(
            Row("watch, create to event, p50", percentile(latency, 0.5), "ms", 3.3, False, self._note),
            Row("watch, create to event, p99", percentile(latency, 0.99), "ms", 7.5, False, self._note),
            Row(f"fan-out to {WATCHERS} watchers", await self._fanout(), "/s", 43_000, note=self._note),
        )

    async def _latency(self) -> list[float]:
        """From before the request is sent to the event's arrival."""
        sent: dict[str, float] = {}
        took: list[float] = []
        async with self._watching(lambda name: took.append(time.perf_counter() - sent[name])):
            for number in range(200):
                name = f"latency-{self._first}-{number}"
                sent[name] = time.perf_counter()
                await self._client.create(CONFIGMAPS, _plain(name))
                await asyncio.sleep(0.005)
            await _until(lambda: len(took) == 200)
        self._first += 1
        return took

    @contextlib.asynccontextmanager
    async def _watching(self, seen: Callable[[str], None]) -> AsyncIterator[None]:
        since = await self._version()

        async def follow() -> None:
            events = self._client.watch(CONFIGMAPS, SPACE, resource_version=since)
            async with contextlib.aclosing(events):
                async for event in events:
                    if event.type != "BOOKMARK":
                        seen(event.object["metadata"]["name"])

        async with asyncio.TaskGroup() as group:
            task = group.create_task(follow())
            yield
            task.cancel()

    async def _fanout(self) -> float:
        """Events delivered per second, from the first write to the last delivery; not decoded."""
        since, delivered = await self._version(), Counter[int]()

        async def follow(number: int) -> None:
            path = f"/api/v1/namespaces/{SPACE}/configmaps"
            query = f"?watch=1&resourceVersion={since}&timeoutSeconds=600"
            request = self._client._request("GET", path + query)
            request.stream, request.timeout = True, 600.0
            answer = await self._client._send(request)
            assert answer.stream is not None
            async for chunk in answer.stream:
                delivered[number] += chunk.count(b'"type":"ADDED"')

        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(follow(number)) for number in range(WATCHERS)]
            await asyncio.sleep(1)
            started = time.perf_counter()
            first = self._first
            await calls(
                FANOUT, 32, lambda n: self._client.create(CONFIGMAPS, _plain(f"fan-{first}-{n}", "x" * 600))
            )
            await _until(lambda: sum(delivered.values()) >= FANOUT * WATCHERS)
            took = time.perf_counter() - started
            for task in tasks:
                task.cancel()
        self._first += 1
        return FANOUT * WATCHERS / took

    async def _version(self) -> str:
        page = await self._client.list(CONFIGMAPS, SPACE, limit=1)
        return str(page["metadata"]["resourceVersion"])

    def _row(self, measure: str, found: Outcome, target: float) -> None:
        latency = f"p50 {found.percentile(0.5):.1f} p99 {found.percentile(0.99):.1f} ms"
        show(Row(measure, found.rate, "/s", target, note=f"{latency} {self._note}".rstrip()))


def _name(index: int) -> str:
    return f"config-{index:06}"


def _plain(name: str, text: str = "x") -> Object:
    return {"metadata": {"name": name, "namespace": SPACE}, "data": {"text": text}}


def _renamed(index: int) -> Object:
    made = pod(index)
    made["metadata"]["name"] = f"new-{index:06}"
    return made


async def _until(done: Callable[[], bool]) -> None:
    async with asyncio.timeout(120):
        while not done():  # noqa: ASYNC110 - polled: what is counted arrives by the thousand
            await asyncio.sleep(0.005)


async def measure(running: plane.Plane) -> None:
    async with asyncio.timeout(DEADLINE), caller(running) as client:
        size = running.memory()["apiserver"] / MIB
        show(Row("memory of the apiserver, idle", size, "MiB", 145, more=False))
        await calls(PODS_LARGE, 32, lambda n: client.create(PODS, pod(n)))
        size = running.memory()["apiserver"] / MIB
        show(Row(f"memory of the apiserver, {PODS_LARGE:,} pods", size, "MiB", 365, more=False))
        await Measurement(running, client, "", 0).everything(PODS_LARGE)
        await calls(STORED, 64, lambda n: client.create(CONFIGMAPS, config(n, namespace=FILLER)))
        size = running.memory()["apiserver"] / MIB
        show(Row(f"memory of the apiserver, {STORED:,} more", size, "MiB", 645, more=False))
        again = Measurement(running, client, f"({STORED:,} more)", 500_000)
        await again.everything(PODS_LARGE)


# -- where the time goes -------------------------------------------------------------------------------------

PARTS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("TLS", ("/ssl.py",)),
    ("writing the answer (TLS and socket)", ("RequestResponseCycle.send",)),
    ("authentication", ("apiserver/auth/authenticate", "apiserver/auth/tokens", "apiserver/auth/user")),
    ("authorization", ("apiserver/auth/",)),
    ("admission", ("apiserver/admission/",)),
    ("store client", ("etcdlite/", "apiserver/storage/etcd", "/grpc/", "apiserver/storage/transform")),
    ("watch cache", ("apiserver/storage/",)),
    ("schema", ("apimachinery/schema", "apimachinery/codec", "apiserver/kinds/")),
    ("managed fields", ("apimachinery/managedfields", "apiserver/registry/ownership")),
    ("registry", ("apiserver/registry/", "apimachinery/")),
    ("REST (request info, flow control, metrics, rendering)", ("apiserver/rest/", "prometheus_client/")),
    ("HTTP parsing and dispatch", ("uvicorn/", "componentbase/http/")),
)
LOOP = "event loop, sockets, C threads"


def part_of(stack: list[str]) -> str:
    """The part that the innermost function of ours, or of a library that counts as a part, belongs to."""
    for name in stack:
        for part, marks in PARTS:
            if any(mark in name for mark in marks):
                return part
    return LOOP


def shares(profile: Path) -> dict[str, float]:
    rows = json.loads(profile.read_text())
    total = sum(row[0] for row in rows)
    found: Counter[str] = Counter()
    for count, *stack in rows:
        found[part_of(stack)] += count
    return {part: count / total for part, count in found.most_common()}


async def _one_kind(running: plane.Plane, what: str) -> float:
    """Seconds of the apiserver's CPU a request."""
    async with asyncio.timeout(DEADLINE), caller(running) as client:
        stored = PODS_LARGE if what == "LIST" else 500
        await calls(stored, 32, lambda n: client.create(PODS, pod(n)))
        running.processes["apiserver"].send_signal(signal.SIGUSR2)
        before, path = running.cpu()["apiserver"], f"/api/v1/namespaces/{SPACE}/pods"
        if what == "LIST":
            found = await calls(50, 1, lambda _: client.raw("GET", path))
        elif what == "GET":
            found = await calls(8_000, 16, lambda n: client.raw("GET", f"{path}/pod-{n % 500:06}"))
        else:
            found = await calls(4_000, 32, lambda n: client.create(CONFIGMAPS, config(n)))
        return (running.cpu()["apiserver"] - before) / len(found.latencies)


def profile() -> None:
    """Print the shares of the apiserver's CPU."""
    columns: dict[str, dict[str, float]] = {}
    for what in ("GET", "create", "LIST"):
        with plane.running({"apiserver"}) as running:
            spent = uvloop.run(_one_kind(running, what))
            running.stop("apiserver")
            columns[f"{what} {1e6 * spent:,.0f} us"] = shares(running.profile("apiserver"))
    print(f"\n{'share of the apiserver CPU':58}" + "".join(f"{title:>18}" for title in columns))
    for part in [*(part for part, _ in PARTS), LOOP]:
        cells = "".join(f"{100 * column.get(part, 0.0):>16.1f} %" for column in columns.values())
        print(f"{part:58}{cells}", flush=True)


def main() -> None:
    """Print the tables."""
    heading("the API (3 stores, 1 apiserver, token over TLS)")
    with plane.running() as running:
        uvloop.run(measure(running))
    profile()
