"""The store beside the real etcd, in one run on one machine: three members each, mutual TLS everywhere.

Figures are medians of `RUNS` rounds in which the two take turns. Beside the rate stands the CPU an operation
costs the three members together, which a busy machine does not change much.
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

from bench.processes import cpu_seconds
from bench.storecluster import KINDS, Cluster, installed, raised
from bench.storeecho import serving
from bench.storeload import Job, Report
from etcdlite.client import EtcdClient, EtcdError, op_put

RUNS = int(os.environ.get("BENCH_RUNS", "3"))
SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
KEYS, KEY_BYTES = 100_000, 1024
MIB = 1024 * 1024
GENERATORS = 2  # processes


@dataclass(frozen=True)
class Result:
    """One figure: more is better unless `less`. `note` says what stands beside it."""

    name: str
    value: float
    unit: str
    target: float  # of ours to theirs
    less: bool = False
    note: str = ""


# -- load


def _spawn(job: Job) -> subprocess.Popen[str]:
    argv = [sys.executable, "-m", "bench.storeload", json.dumps(asdict(job))]
    process = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    if process.stdout.readline().strip() != "ready":
        raise RuntimeError("a load generator failed")
    return process


def _begin(processes: Sequence[subprocess.Popen[str]]) -> None:
    for process in processes:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()


def _collect(processes: Sequence[subprocess.Popen[str]]) -> Report:
    total = Report()
    for process in processes:
        out, _ = process.communicate(timeout=600)
        if process.returncode:
            raise RuntimeError("a load generator failed")
        one = Report(**json.loads(out.splitlines()[-1]))
        total.micros += one.micros
        total.cpu += one.cpu
        total.events += one.events
        total.seconds = max(total.seconds, one.seconds)
    total.micros.sort()
    return total


def _shares(job: Job) -> Iterator[Job]:
    """The job, divided among the generator processes."""
    count = min(GENERATORS, job.clients)
    for number in range(count):
        clients = job.clients // count
        connections = max(job.connections // count, 1) if job.connections else 0
        yield replace(job, clients=clients, connections=connections, first=number * clients)


def _at(micros: Sequence[int], share: float) -> float:
    return micros[min(int(len(micros) * share), len(micros) - 1)] / 1000 if micros else 0.0


def _load(cluster: Cluster, name: str, target: float, **job: Any) -> list[Result]:
    work = Job(ports=cluster.ports, pki=str(cluster.pki), seconds=SECONDS, **job)
    generators = [_spawn(each) for each in _shares(work)]
    before = cluster.cpu()
    _begin(generators)
    found = _collect(generators)
    count = len(found.micros)
    cost = 1e6 * (cluster.cpu() - before) / count
    note = (
        f"p50 {_at(found.micros, 0.5):.2f} ms, p99 {_at(found.micros, 0.99):.2f} ms, "
        f"{cost:.0f} us CPU of members, {1e6 * found.cpu / count:.0f} of generator"
    )
    return [Result(name, count / found.seconds, "/s", target, note=note)]


# -- measurements; each takes a running cluster that it may fill


def _puts(cluster: Cluster) -> Iterator[Result]:
    for clients in (1, 64, 256):
        yield from _load(
            cluster, f"put, {clients} client{'s' * (clients > 1)}", 1.0, work="put", clients=clients
        )
    name = "put, 64 clients over 6 connections"
    yield from _load(cluster, name, 1.0, work="put", clients=64, connections=6)


def _gets(cluster: Cluster) -> Iterator[Result]:
    for serializable in (False, True):
        for clients in (1, 64):
            kind = "serializable" if serializable else "linearizable"
            name = f"{kind} get, {clients} client{'s' * (clients > 1)}"
            yield from _load(cluster, name, 0.5, work="get", clients=clients, serializable=serializable)


def _watch_latency(cluster: Cluster) -> Iterator[Result]:
    job = Job("latency", cluster.ports, str(cluster.pki), SECONDS)
    generator = _spawn(job)
    _begin([generator])
    micros = _collect([generator]).micros
    yield Result("watch, put to event, p50", _at(micros, 0.5), "ms", 1.5, less=True)
    yield Result("watch, put to event, p99", _at(micros, 0.99), "ms", 1.5, less=True)


def _fanout(cluster: Cluster) -> Iterator[Result]:
    watchers = Job("fanout", cluster.ports[:1], str(cluster.pki), SECONDS, clients=100, connections=10)
    waiting = [_spawn(each) for each in _shares(watchers)]
    writers = Job("put", cluster.ports, str(cluster.pki), SECONDS + 0.5, clients=16)
    writing = _spawn(writers)
    before = cluster.cpu()
    _begin([writing, *waiting])
    found = _collect(waiting)
    cost = 1e6 * (cluster.cpu() - before) / max(found.events, 1)
    _collect([writing])
    note = f"{cost:.1f} us CPU of members an event"
    yield Result("fan-out to 100 watchers", found.events / found.seconds, " events/s", 1.0, note=note)


def _failover(cluster: Cluster) -> Iterator[Result]:
    gap = asyncio.run(_longest_gap(cluster))
    yield Result("kill -9 of the leader: longest time without a write", gap, "s", 1.0, less=True)


async def _longest_gap(cluster: Cluster) -> float:
    """Of one writer that knows only the members that survive."""
    files: dict[str, Any] = {
        "ca": cluster.pki / "ca.pem",
        "cert": cluster.pki / "member.pem",
        "key": cluster.pki / "member-key.pem",
    }
    statuses = []
    for url in cluster.urls:
        async with EtcdClient([url], timeout=60.0, **files) as asked:
            statuses.append(await asked.status())
    leader = next(n for n, each in enumerate(statuses) if each.leader == each.header.member_id)
    others = [url for n, url in enumerate(cluster.urls) if n != leader]
    async with EtcdClient(others, timeout=10.0, **files) as client:
        await client.put(b"gap", b"")
        last = time.monotonic()
        longest, end, killed = 0.0, last + 6.0, False
        while (now := time.monotonic()) < end:
            if not killed and now > end - 5.0:
                killed = True
                await asyncio.to_thread(cluster.kill, leader)
            with contextlib.suppress(EtcdError):
                await client.put(b"gap", b"x", timeout=0.25)
                longest, last = max(longest, time.monotonic() - last), time.monotonic()
    return longest


def _restart(cluster: Cluster) -> Iterator[Result]:
    asyncio.run(_fill(cluster))
    yield Result("memory with 100,000 keys of 1 KiB", cluster.memory() / MIB, "MiB", 1.0, less=True)
    cluster.stop(signal.SIGTERM)
    started = time.monotonic()
    cluster.start()
    asyncio.run(_read_one(cluster))
    took, note = time.monotonic() - started, f"{cluster.cpu():.1f} s CPU of the members"
    yield Result("restart with them, until a read", took, "s", 1.0, less=True, note=note)
    time.sleep(1.0)
    yield Result("memory after that restart", cluster.memory() / MIB, "MiB", 1.0, less=True)
    time.sleep(5.0)
    before, idle = cluster.cpu(), 10.0
    time.sleep(idle)
    share = 100 * (cluster.cpu() - before) / idle / len(cluster.urls)
    yield Result("idle CPU of a member", share, "%", 1.0, less=True)


def _client(cluster: Cluster) -> EtcdClient:
    pki = cluster.pki
    return EtcdClient(
        cluster.urls, ca=pki / "ca.pem", cert=pki / "member.pem", key=pki / "member-key.pem", timeout=60.0
    )


async def _fill(cluster: Cluster) -> None:
    async with _client(cluster) as client:
        for start in range(0, KEYS, 800):
            batches = [range(start + n, min(start + n + 100, KEYS)) for n in range(0, 800, 100)]
            await asyncio.gather(
                *(
                    client.txn([], [op_put(b"k%08d" % n, b"v" * KEY_BYTES) for n in batch])
                    for batch in batches
                    if batch
                )
            )


async def _read_one(cluster: Cluster) -> None:
    async with _client(cluster) as client:
        assert (await client.range(b"k00000007")).kvs


MEASUREMENTS: tuple[Callable[[Cluster], Iterator[Result]], ...] = (
    _puts,
    _gets,
    _watch_latency,
    _fanout,
    _failover,
    _restart,
)


def _bare_echo() -> Iterator[str]:
    """What one server process of each kind answers when it does nothing: the limit of its building block."""
    for kind in ("grpcwire", "grpcio"):
        with contextlib.ExitStack() as stack:
            port, pid, pki = stack.enter_context(serving(kind))
            for clients, connections in ((64, 0), (64, 1)):
                job = Job(
                    "echo",
                    [port],
                    str(pki),
                    SECONDS,
                    clients,
                    connections or clients,
                    path="/bench.Echo/Echo",
                )
                generators = [_spawn(each) for each in _shares(job)]
                before = cpu_seconds(pid)
                _begin(generators)
                found = _collect(generators)
                count = len(found.micros)
                spread = GENERATORS if connections else clients
                cost = 1e6 * (cpu_seconds(pid) - before) / count
                yield (
                    f"  bare echo, {kind}, 64 clients, {spread} connections: {count / found.seconds:.0f}/s,"
                    f" {cost:.0f} us CPU of the server, {1e6 * found.cpu / count:.0f} of the generator"
                )


def main() -> None:
    """Print the table."""
    chosen = os.environ.get("BENCH_ONLY", "")
    profiled = os.environ.get("BENCH_PROFILE")
    kinds = [kind for kind in KINDS if installed(kind) and not (profiled and kind == "etcd")]
    found: dict[str, dict[str, list[Result]]] = {}
    for run in range(RUNS):
        for measure in MEASUREMENTS:
            if chosen and measure.__name__.strip("_") not in chosen.split(","):
                continue
            for kind in kinds:
                with raised(kind) as cluster:
                    for result in measure(cluster):
                        found.setdefault(result.name, {}).setdefault(kind, []).append(result)
                        print(f"    run {run + 1} {kind:9} {_line(result)}", flush=True)
    print(f"{'measure':52} {'etcdlite':>14} {'etcd':>14}  {'ratio':>6} {'target':>7}")
    for name, by_kind in found.items():
        _row(name, by_kind)
    if not chosen or "echo" in chosen:
        for line in _bare_echo():
            print(line, flush=True)


def _line(result: Result) -> str:
    return f"{result.name}: {result.value:.4g}{result.unit} {result.note}"


def _row(name: str, by_kind: dict[str, list[Result]]) -> None:
    medians = {kind: statistics.median(each.value for each in results) for kind, results in by_kind.items()}
    one = next(iter(by_kind.values()))[0]
    cells = [f"{medians[kind]:.4g} {one.unit.strip()}" if kind in medians else "-" for kind in KINDS]
    both = len(medians) == len(KINDS) and medians["etcd"]
    ratio = f"{medians['etcdlite'] / medians['etcd']:6.2f}" if both else "     -"
    bound = f"{'<=' if one.less else '>='} {one.target:g}"
    print(f"{name:52} {cells[0]:>14} {cells[1]:>14}  {ratio} {bound:>7}")


if __name__ == "__main__":
    main()
