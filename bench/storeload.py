"""The load generator: `python -m bench.storeload '{"work": "put", ...}'` in processes of its own.

It speaks gRPC by `componentbase.grpcwire` and makes its requests once, so that an operation costs it a
fraction of what it costs any server; what it spends itself is in its report. It prints "ready" when it is
connected, begins at a line of input, and prints its report as one line of JSON.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

import uvloop

from bench.storecluster import client_tls
from componentbase.grpcwire.client import Channel, ClientStream
from componentbase.grpcwire.status import RpcError
from etcdlite.pb import rpc_pb2 as rpc

KV, WATCH = "/etcdserverpb.KV/", "/etcdserverpb.Watch/Watch"
TIMEOUT = 30.0


@dataclass
class Job:
    """What one generator process does. `clients` work at once, each with its own connection unless
    `connections` says fewer.
    """

    work: str  # put, get, fanout, latency, echo
    ports: list[int]
    pki: str
    seconds: float = 5.0
    clients: int = 1
    connections: int = 0
    first: int = 0  # number of the first client, so that processes do not share keys
    value_bytes: int = 256
    serializable: bool = False
    path: str = KV + "Put"


@dataclass
class Report:
    """What it found: microseconds each operation took, and its own CPU seconds."""

    micros: list[int] = field(default_factory=list)
    seconds: float = 0.0
    cpu: float = 0.0
    events: int = 0


async def _channels(job: Job) -> list[Channel]:
    tls = client_tls(Path(job.pki))
    count = job.connections or job.clients
    made = [
        Channel("127.0.0.1", job.ports[(job.first + n) % len(job.ports)], tls=tls, connect_timeout=30.0)
        for n in range(count)
    ]
    for channel in made:  # one after the other: handshakes are not what is measured
        await channel.connect(TIMEOUT)
    return made


def _key(number: int) -> bytes:
    return b"bench/%08d" % number


def _get(key: bytes, serializable: bool) -> bytes:
    return rpc.RangeRequest(key=key, serializable=serializable).SerializeToString()


def _request(job: Job, client: int, number: int) -> bytes:
    key = _key((job.first + client) * 1000 + number % 1000)
    if job.work == "put":
        return rpc.PutRequest(key=key, value=b"v" * job.value_bytes).SerializeToString()
    if job.work == "get":
        return _get(key, job.serializable)
    return b"x" * 100


async def _calls(job: Job, report: Report) -> None:
    """Closed loop: each client sends its next request when it has the answer to the last."""
    channels = await _channels(job)
    path = {"put": KV + "Put", "get": KV + "Range", "echo": job.path}[job.work]
    requests = [[_request(job, client, n) for n in range(20)] for client in range(job.clients)]
    clock = time.perf_counter

    async def client(number: int) -> None:
        channel, mine, count = channels[number % len(channels)], requests[number], 0
        while (begun := clock()) < end:
            await channel.unary(path, mine[count % 20], timeout=TIMEOUT)
            report.micros.append(int((clock() - begun) * 1e6))
            count += 1

    _wait_for_start()
    started, cpu = clock(), time.process_time()
    end = started + job.seconds
    await asyncio.gather(*(client(number) for number in range(job.clients)))
    report.seconds, report.cpu = clock() - started, time.process_time() - cpu


async def _watch(channel: Channel, key: bytes, range_end: bytes) -> ClientStream:
    stream = await channel.stream(WATCH)
    create = rpc.WatchCreateRequest(key=key, range_end=range_end)
    await stream.write(rpc.WatchRequest(create_request=create).SerializeToString())
    await stream.read()
    return stream


async def _fanout(job: Job, report: Report) -> None:
    """`clients` watchers of one range; counts what reaches them. Others write."""
    channels = await _channels(job)
    streams = [await _watch(channels[n % len(channels)], b"bench/", b"bench0") for n in range(job.clients)]

    async def count(stream: ClientStream) -> None:
        while True:
            message = await stream.read()
            if message is None:
                return
            report.events += len(rpc.WatchResponse.FromString(message).events)

    _wait_for_start()
    started, cpu = time.perf_counter(), time.process_time()
    readers = asyncio.gather(*(count(stream) for stream in streams))
    try:
        async with asyncio.timeout(job.seconds):
            await readers
    except TimeoutError:
        pass
    report.seconds, report.cpu = time.perf_counter() - started, time.process_time() - cpu


async def _latency(job: Job, report: Report) -> None:
    """From sending a put until its event arrives at a watcher of another member, one after the other."""
    first, second = (Channel("127.0.0.1", port, tls=client_tls(Path(job.pki))) for port in job.ports[:2])
    stream = await _watch(second, b"latency", b"")
    put = rpc.PutRequest(key=b"latency", value=b"v" * job.value_bytes).SerializeToString()
    _wait_for_start()
    started = time.perf_counter()
    while (begun := time.perf_counter()) < started + job.seconds:
        seen, _ = await asyncio.gather(stream.read(), first.unary(KV + "Put", put, timeout=TIMEOUT))
        if seen is None:
            raise RuntimeError("the watch has ended")
        report.micros.append(int((time.perf_counter() - begun) * 1e6))
        await asyncio.sleep(0.005)
    report.seconds = time.perf_counter() - started


def _wait_for_start() -> None:
    print("ready", flush=True)
    sys.stdin.readline()


async def run(job: Job) -> Report:
    """Do the work."""
    report = Report()
    if job.work == "fanout":
        await _fanout(job, report)
    elif job.work == "latency":
        await _latency(job, report)
    else:
        await _calls(job, report)
    return report


def main(text: str) -> int:
    """One job."""
    try:
        report = uvloop.run(run(Job(**json.loads(text))))
    except RpcError as error:
        print(f"the store failed: {error}", file=sys.stderr)
        return 1
    # With PYTHONUNBUFFERED a print is one write(2), which a pipe may take a part of.
    with open(sys.stdout.fileno(), "w", closefd=False) as out:
        print(json.dumps(asdict(report)), file=out)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
