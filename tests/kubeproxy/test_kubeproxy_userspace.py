"""Mode userspace: the relays, over loopback."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Callable, Iterable
from typing import Any

import pytest

from kubeproxy.compiler import Settings
from kubeproxy.model import Endpoint
from kubeproxy.userspace import tcp, udp
from kubeproxy.userspace.addresses import AddressError, Held
from kubeproxy.userspace.backend import Userspace
from kubeproxy.userspace.compiler import (
    Front,
    Plan,
    Route,
)
from tests.kubeclient.loops import eventually, on_loop

SETTINGS = Settings(cluster_cidrs=("10.200.0.0/16",))


class FakeAddresses:
    """127/8 is the machine's anyhow: nothing has to be added for a test to be served there."""

    def __init__(self, own: Iterable[str] = ("10.240.0.20",)) -> None:
        self.ours: set[str] = set()
        self.own = frozenset(own)
        self.networks: tuple[str, ...] = ()
        self.refuse = False

    async def held(self) -> Held:
        return Held(frozenset(self.ours), self.own, self.networks)

    async def change(self, add: Iterable[str], remove: Iterable[str]) -> None:
        if self.refuse:
            raise AddressError("Operation not permitted")
        self.ours = (self.ours | set(add)) - set(remove)


class Time:
    """A clock that stands still until it is moved; whoever sleeps on it is never woken."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def now(self) -> float:
        return self.seconds

    def monotonic(self) -> float:
        return self.seconds

    async def sleep(self, seconds: float) -> None:
        await asyncio.Event().wait()


SERVED = "127.77.0.1"


def free_port(kind: int) -> int:
    with socket.socket(socket.AF_INET, kind) as probe:
        probe.bind((SERVED, 0))
        number: int = probe.getsockname()[1]
        return number


class World:
    """A back end whose one service is at `front`, and servers that it may lead to."""

    def __init__(self, backend: Userspace, addresses: FakeAddresses, clock: Time, protocol: str) -> None:
        self.backend, self.addresses, self.clock = backend, addresses, clock
        kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
        self.front = Front(SERVED, protocol, free_port(kind))

    async def lead(self, *ends: Endpoint, **more: Any) -> bool:
        route = Route("default/web/x", ends, ends, **more)
        plan = Plan({self.front: route} if ends else {}, frozenset({SERVED}))
        return await self.backend.program(self.backend._plan, plan)

    async def dial(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        return await asyncio.open_connection(self.front.ip, self.front.port)

    async def ask(self) -> str:
        """What the endpoint says to a new connection."""
        reader, writer = await self.dial()
        try:
            return (await reader.read(100)).decode()
        finally:
            writer.close()


@contextlib.asynccontextmanager
async def world(protocol: str = "tcp") -> AsyncIterator[World]:
    addresses, clock = FakeAddresses(), Time()
    async with Userspace(SETTINGS, addresses=addresses, clock=clock) as backend:
        yield World(backend, addresses, clock, protocol)


@contextlib.asynccontextmanager
async def serving(handler: Callable[..., Any], host: str = "127.77.0.2") -> AsyncIterator[Endpoint]:
    server = await asyncio.start_server(handler, host, 0)
    try:
        yield Endpoint(host, server.sockets[0].getsockname()[1])
    finally:
        server.close()


def named(name: str) -> Callable[..., Any]:
    async def handler(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(name.encode())
        writer.close()

    return handler


async def at_the_end(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Answers only when the client has said all it has to say."""
    said = await reader.read()
    writer.write(str(len(said)).encode())
    writer.close()


async def echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(100):
        writer.write(data)
    writer.close()


def test_a_half_closed_connection_still_gets_its_answer() -> None:
    async def test() -> None:
        async with world() as lab, serving(at_the_end) as end:
            assert await lab.lead(end)
            reader, writer = await lab.dial()
            # More than all buffers on the way: it only gets through if both pumps go on.
            writer.write(b"x" * 5_000_000)
            writer.write_eof()
            assert await reader.read() == b"5000000"
            writer.close()
            await eventually(lambda: not lab.backend._relays.addresses)

    on_loop(test)


def test_an_endpoint_that_refuses_is_passed_over_and_one_that_stays_silent_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tcp, "CONNECT_TIMEOUT", 0.2)

    async def test() -> None:
        async with world() as lab, serving(named("good")) as end:
            # Bound but not listening refuses; a backlog that is full does not answer at all.
            with socket.create_server(("127.77.0.3", 0), backlog=0) as full:
                address = full.getsockname()
                with socket.create_connection(address):
                    silent = Endpoint(address[0], address[1])
                    await lab.lead(end, silent, Endpoint("127.77.0.4", 9))
                    assert [await lab.ask() for _ in range(6)] == ["good"] * 6

    on_loop(test)


def test_nobody_left_to_ask_is_a_reset_not_an_orderly_end() -> None:
    async def test() -> None:
        async with world() as lab:
            await lab.lead(Endpoint("127.77.0.4", 9))
            with pytest.raises(ConnectionResetError):
                await lab.ask()

    on_loop(test)


def test_whom_source_ranges_keep_out_is_reset() -> None:
    async def test() -> None:
        async with world() as lab, serving(named("good")) as end:
            await lab.lead(end, source_ranges=("198.51.100.0/24",))
            with pytest.raises(ConnectionResetError):
                await lab.ask()
            await lab.lead(end, source_ranges=("127.0.0.0/8",))
            assert await lab.ask() == "good"

    on_loop(test)


def test_without_endpoints_the_kernel_refuses_and_the_address_stays() -> None:
    async def test() -> None:
        async with world() as lab, serving(named("good")) as end:
            await lab.lead(end)
            assert await lab.ask() == "good"
            await lab.lead()
            with pytest.raises(ConnectionRefusedError):
                await lab.ask()
            assert lab.addresses.ours == {SERVED}

    on_loop(test)


def test_an_open_connection_survives_its_endpoints_and_its_service() -> None:
    async def test() -> None:
        async with world() as lab, serving(echo) as old, serving(named("new"), "127.77.0.3") as new:
            await lab.lead(old)
            reader, writer = await lab.dial()

            async def alive() -> None:
                writer.write(b"still")
                assert await reader.readexactly(5) == b"still"

            await alive()
            await lab.lead(new)
            assert await lab.ask() == "new"
            await alive()
            await lab.backend.program(lab.backend._plan, Plan())
            await alive()
            assert lab.addresses.ours == {SERVED}, "an address in use"
            writer.close()
            await eventually(lambda: not lab.backend._relays.addresses)
            assert await lab.backend.present()
            assert not lab.addresses.ours

    on_loop(test)


def test_a_reset_by_the_endpoint_reaches_the_client() -> None:
    async def resets(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tcp.reset(writer)

    async def test() -> None:
        async with world() as lab, serving(resets) as end:
            await lab.lead(end)
            with pytest.raises(ConnectionResetError):
                await lab.ask()

    on_loop(test)


def test_more_connections_than_allowed_are_reset() -> None:
    async def test() -> None:
        async with world() as lab, serving(echo) as end:
            lab.backend._relays._limit = 1
            await lab.lead(end)
            reader, writer = await lab.dial()
            writer.write(b"x")
            assert await reader.read(1) == b"x"
            with pytest.raises(ConnectionResetError):
                await lab.ask()
            writer.close()
            await eventually(lambda: not lab.backend._relays.addresses)

    on_loop(test)


def test_affinity_holds_a_client_over_many_connections() -> None:
    async def test() -> None:
        async with world() as lab, serving(named("a")) as one, serving(named("b"), "127.77.0.3") as two:
            await lab.lead(one, two, affinity_seconds=60)
            assert len({await lab.ask() for _ in range(12)}) == 1
            lab.clock.seconds = 61
            await lab.lead(one, two)
            assert {await lab.ask() for _ in range(40)} == {"a", "b"}

    on_loop(test)


def test_a_port_that_cannot_be_had_keeps_no_other_and_is_tried_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def test() -> None:
        async with world() as lab, serving(named("good")) as end:
            with socket.create_server((SERVED, 0)) as taken:
                front = Front(SERVED, "tcp", taken.getsockname()[1])
                route = Route("default/web/x", (end,), (end,))
                await lab.backend.program(None, Plan({front: route, lab.front: route}, frozenset({SERVED})))
                assert await lab.ask() == "good"
                assert await lab.backend.present()
                assert caplog.text.count(f"cannot listen on {SERVED}:{front.port}/tcp") == 1
            assert await lab.backend.present()
            lab.front = front
            assert await lab.ask() == "good"

    on_loop(test)


def test_addresses_that_somebody_took_away_are_missed_and_a_refusal_is_raised() -> None:
    async def test() -> None:
        async with world() as lab, serving(named("good")) as end:
            lab.addresses.ours = {"10.32.9.9"}
            assert await lab.lead(end)
            assert lab.addresses.ours == {SERVED}, "what an earlier life left is gone"
            assert not await lab.lead(end)
            lab.addresses.ours = set()
            assert not await lab.backend.present()
            lab.addresses.refuse = True
            with pytest.raises(AddressError):
                await lab.lead(end)

    on_loop(test)


def test_an_address_that_others_have_is_named_and_left_alone(caplog: pytest.LogCaptureFixture) -> None:
    async def test() -> None:
        async with world() as lab, serving(named("good")) as end:
            lab.addresses.networks = ("127.77.0.0/24",)
            await lab.lead(end)
            assert not lab.addresses.ours
            assert await lab.backend.present()
            with pytest.raises(ConnectionRefusedError):
                await lab.ask()
            assert caplog.text.count("not served: other machines or pods") == 1

    on_loop(test)


def test_an_address_of_the_nodes_own_is_neither_added_nor_taken_away() -> None:
    async def test() -> None:
        async with world() as lab, serving(named("good")) as end:
            lab.addresses.own = frozenset({SERVED})
            await lab.lead(end)
            assert not lab.addresses.ours
            assert await lab.ask() == "good"

    on_loop(test)


# -- datagrams
# -----------------------------------------------------------------------------------------------


class Asker:
    """One client socket."""

    def __init__(self, front: Front) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        self.sock.connect((front.ip, front.port))

    async def ask(self) -> str:
        self.sock.send(b"?")
        return (await asyncio.get_running_loop().sock_recv(self.sock, 100)).decode()

    def __enter__(self) -> Asker:
        return self

    def __exit__(self, *_: object) -> None:
        self.sock.close()


class Named(asyncio.DatagramProtocol):
    def __init__(self, name: str) -> None:
        self.name = name
        self.transport: Any = None

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        self.transport.sendto(self.name.encode(), addr)


@contextlib.asynccontextmanager
async def answering(name: str, host: str = "127.77.0.2") -> AsyncIterator[Endpoint]:
    loop = asyncio.get_running_loop()
    transport, _ = await loop.create_datagram_endpoint(lambda: Named(name), local_addr=(host, 0))
    try:
        yield Endpoint(host, transport.get_extra_info("sockname")[1])
    finally:
        transport.close()


def test_a_flow_keeps_its_endpoint_until_that_is_gone() -> None:
    async def test() -> None:
        async with world("udp") as lab, answering("a") as one, answering("b", "127.77.0.3") as two:
            await lab.lead(one)
            with Asker(lab.front) as flow:
                assert await flow.ask() == "a"
                await lab.lead(one, two)
                assert {await flow.ask() for _ in range(10)} == {"a"}
                await lab.lead(two)
                assert await flow.ask() == "b"

    on_loop(test)


def test_an_endpoint_that_refuses_datagrams_loses_its_flow() -> None:
    async def test() -> None:
        async with world("udp") as lab, answering("good") as end:
            dead = Endpoint("127.77.0.4", 9)
            await lab.lead(dead, end, affinity_seconds=60)
            route = lab.backend._plan.routes[lab.front]
            lab.backend._director.reached(route, "127.0.0.1", dead)
            with Asker(lab.front) as flow:
                said: list[str] = []
                while not said:
                    # The first is lost; had the client not been forgotten, so would be all others.
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(0.1):
                            said.append(await flow.ask())
                assert said == ["good"]

    on_loop(test)


def test_idle_flows_expire_and_too_many_push_the_oldest_out() -> None:
    async def test() -> None:
        async with world("udp") as lab, answering("a") as end:
            flows = lab.backend._flows
            flows._limit = 2
            await lab.lead(end)
            with Asker(lab.front) as one, Asker(lab.front) as two, Asker(lab.front) as three:
                for each in (one, two, three):
                    assert await each.ask() == "a"
                assert {each.port for each in flows._flows} == {
                    each.sock.getsockname()[1] for each in (two, three)
                }
                lab.clock.seconds = udp.IDLE - 1
                assert await two.ask() == "a"
                lab.clock.seconds = udp.IDLE
                flows.expire()
                assert [each.port for each in flows._flows] == [two.sock.getsockname()[1]]

    on_loop(test)


def test_without_endpoints_datagrams_are_refused() -> None:
    async def test() -> None:
        async with world("udp") as lab, answering("a") as end:
            await lab.lead(end)
            with Asker(lab.front) as flow:
                assert await flow.ask() == "a"
                await lab.lead()
                assert len(lab.backend._flows) == 0
                with pytest.raises(ConnectionRefusedError):
                    await flow.ask()

    on_loop(test)
