"""DNS answers per second over loopback: a service that was asked for before, one that was not, and a
forwarded name from the cache. The limit beside it: a server that echoes every datagram, asked the same way.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import socket
import time
from collections.abc import Callable, Iterable
from multiprocessing.connection import Connection
from typing import Any, cast

import uvloop
from dnslib import QTYPE, RR, A, DNSRecord

from clusterdns.cache import MAX_TTL, Cache
from clusterdns.forward import Forwarder
from clusterdns.records import Object, Records
from clusterdns.server import Resolver, serve

SECONDS = 3.0
IN_FLIGHT = 64
NAMES = 2000
_SPACE = "bench.svc.cluster.local"


class View:
    """As many services as are asked for."""

    def __init__(self) -> None:
        self._services = {
            f"s{number}": {
                "metadata": {"namespace": "bench", "name": f"s{number}"},
                "spec": {"clusterIP": f"10.32.{number // 250}.{number % 250 + 1}", "ports": [{"port": 80}]},
            }
            for number in range(NAMES)
        }

    def service(self, namespace: str, name: str) -> Object | None:
        return self._services.get(name)

    def slices(self, namespace: str, name: str) -> Iterable[Object]:
        return ()

    def has_namespace(self, namespace: str) -> bool:
        return namespace == "bench"

    def services_at(self, ip: str) -> Iterable[Object]:
        return ()

    def slices_at(self, ip: str) -> Iterable[Object]:
        return ()


class _Echo(asyncio.DatagramProtocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self._transport.sendto(data, addr)


async def _echo(told: Callable[[int], None]) -> None:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(_Echo, local_addr=("127.0.0.1", 0))
    told(transport.get_extra_info("sockname")[1])
    await asyncio.Event().wait()


async def _dns(told: Callable[[int], None], memo: bool) -> None:
    asked = DNSRecord.question("example.org")
    answer = asked.reply()
    answer.add_answer(RR("example.org", QTYPE.A, ttl=MAX_TTL, rdata=A("192.0.2.1")))
    cache = Cache()
    cache.put(bytes(asked.pack()), bytes(answer.pack()), time.monotonic())
    changes = iter(range(1 << 62))
    resolver = Resolver(
        Records(View()),
        Forwarder([("127.0.0.1", 9)]),
        domain="cluster.local",
        ready=lambda: True,
        version=(lambda: 1) if memo else (lambda: next(changes)),
        cache=cache,
    )
    await serve(resolver, "127.0.0.1", 0, on_listening=told)


def _serve(pipe: Connection, what: str) -> None:
    work = _echo(pipe.send) if what == "echo" else _dns(pipe.send, what != "cold")
    uvloop.run(work)


def rate(what: str, questions: list[bytes]) -> float:
    """Answers per second, with a window of queries always under way."""
    near, far = multiprocessing.Pipe()
    server = multiprocessing.get_context("spawn").Process(target=_serve, args=(far, what), daemon=True)
    server.start()
    try:
        if not near.poll(30):
            raise TimeoutError("the server did not start within 30 s")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
            client.settimeout(5)
            client.connect(("127.0.0.1", near.recv()))
            return _ask(client, questions)
    finally:
        server.kill()
        server.join()


def _ask(client: socket.socket, questions: list[bytes]) -> float:
    for number in range(IN_FLIGHT):
        client.send(questions[number % len(questions)])
    answered, started = 0, time.perf_counter()
    while (now := time.perf_counter()) - started < SECONDS:
        client.recv(2048)
        answered += 1
        client.send(questions[answered % len(questions)])
    return answered / (now - started)


def main() -> None:
    """Print the table."""
    names = [bytes(DNSRecord.question(f"s{number}.{_SPACE}").pack()) for number in range(NAMES)]
    foreign = [bytes(DNSRecord.question("example.org").pack())]
    limit = rate("echo", names)
    print("| what is asked for | answers per second | of bare echo |")
    print("| --- | ---: | ---: |")
    print(f"| bare UDP echo | {limit:,.0f} | 1.00 |")
    for title, what, questions in (
        ("a service, asked for before", "warm", names),
        ("a service, for the first time", "cold", names),
        ("a forwarded name, cached", "warm", foreign),
    ):
        answers = rate(what, questions)
        print(f"| {title} | {answers:,.0f} | {answers / limit:.2f} |", flush=True)


if __name__ == "__main__":
    main()
