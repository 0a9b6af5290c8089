"""Real UDP and TCP on loopback: answers, truncation, forwarding, and messages nobody should send."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from dnslib import EDNS0, QTYPE, RCODE, RR, A, DNSHeader, DNSRecord

from clusterdns import app, forward, wire
from clusterdns.forward import Forwarder, Upstream, parse_upstream
from clusterdns.records import Records
from clusterdns.server import Reply, Resolver, serve
from tests.clusterdns.test_clusterdns_records import VIEW, Fixed, endpoint, service, slice_of
from tests.kubeclient.loops import on_loop
from tests.ports import free_port

MANY = Fixed(
    [service("crowd", clusterIP="None")],
    [slice_of("crowd", *(endpoint(f"10.200.{n // 250}.{n % 250 + 1}") for n in range(200)))],
)


@contextlib.asynccontextmanager
async def serving(
    view: Any = VIEW, upstreams: list[Upstream] | None = None, ready: bool = True
) -> AsyncIterator[tuple[int, Forwarder]]:
    forwarder = Forwarder(upstreams or [])
    resolver = Resolver(Records(view), forwarder, domain="cluster.local", ready=lambda: ready)
    listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        # Not 0: what the kernel takes for TCP may be another's over UDP.
        task = group.create_task(serve(resolver, "127.0.0.1", free_port(), on_listening=listening.set_result))
        try:
            yield await listening, forwarder
        finally:
            task.cancel()


async def udp(port: int, data: bytes) -> bytes:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(("127.0.0.1", port))
        await loop.sock_sendall(sock, data)
        async with asyncio.timeout(5):
            return await loop.sock_recv(sock, 65535)


async def tcp(port: int, *messages: bytes) -> list[bytes]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    answers = []
    for data in messages:
        writer.write(len(data).to_bytes(2, "big") + data)
        size = int.from_bytes(await reader.readexactly(2), "big")
        answers.append(await reader.readexactly(size))
    writer.close()
    await writer.wait_closed()
    return answers


def question(name: str, kind: str = "A") -> bytes:
    return bytes(DNSRecord.question(name, kind).pack())


def rcode(data: bytes) -> str:
    return str(RCODE[DNSRecord.parse(data).header.rcode])


def addresses(data: bytes) -> list[str]:
    return [str(rr.rdata) for rr in DNSRecord.parse(data).rr]


def test_udp_and_tcp_give_the_same_answer() -> None:
    async def test() -> None:
        async with serving() as (port, _):
            asked = question("web.default.svc.cluster.local")
            over_udp = await udp(port, asked)
            assert addresses(over_udp) == ["10.32.0.20"]
            header = DNSRecord.parse(over_udp).header
            assert (header.aa, header.qr, header.rd, header.ra) == (1, 1, 1, 1)
            assert await tcp(port, asked, asked) == [over_udp, over_udp]

    on_loop(test)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("nothing.default.svc.cluster.local", "NXDOMAIN"),
        ("example.org", "REFUSED"),
    ],
)
def test_negative_answers(name: str, expected: str) -> None:
    async def test() -> None:
        async with serving() as (port, _):
            answer = await udp(port, question(name))
            assert rcode(answer) == expected
            if expected == "NXDOMAIN":
                assert [QTYPE[rr.rtype] for rr in DNSRecord.parse(answer).auth] == ["SOA"]

    on_loop(test)


def test_before_the_first_list_cluster_names_fail_rather_than_not_exist() -> None:
    async def test() -> None:
        async with serving(ready=False) as (port, _):
            assert rcode(await udp(port, question("web.default.svc.cluster.local"))) == "SERVFAIL"

    on_loop(test)


def test_a_large_answer_is_truncated_over_udp_and_whole_over_tcp() -> None:
    async def test() -> None:
        async with serving(MANY) as (port, _):
            asked = DNSRecord.question("crowd.default.svc.cluster.local")
            short = await udp(port, bytes(asked.pack()))
            assert len(short) <= 512
            assert DNSRecord.parse(short).header.tc == 1
            (whole,) = await tcp(port, bytes(asked.pack()))
            assert len(addresses(whole)) == 200

    on_loop(test)


def test_edns_raises_the_limit_up_to_ours() -> None:
    view = Fixed(
        [service("some", clusterIP="None")],
        [slice_of("some", *(endpoint(f"10.200.0.{n}") for n in range(1, 41)))],
    )

    async def test() -> None:
        async with serving(view) as (port, _):
            asked = DNSRecord.question("some.default.svc.cluster.local")
            asked.add_ar(EDNS0(udp_len=4096))
            answer = DNSRecord.parse(await udp(port, bytes(asked.pack())))
            assert len(answer.rr) == 40
            assert [QTYPE[rr.rtype] for rr in answer.ar] == ["OPT"]

    on_loop(test)


@pytest.mark.parametrize(
    ("data", "reply"),
    [
        (b"", None),
        (b"\x00\x01\x02", None),
        (b"\x12\x34\x01\x00\x00\x01\x00\x00\x00\x00\x00\x00\xff\xff", "FORMERR"),
        (bytes(DNSRecord(DNSHeader(id=1, opcode=5)).pack()), "NOTIMP"),
        (bytes(DNSRecord(DNSHeader(id=1)).pack()), "FORMERR"),
        (bytes(DNSRecord.question("a.b").reply().pack()), None),
    ],
    ids=["nothing", "a stump", "cut off", "another opcode", "no question", "an answer"],
)
def test_messages_nobody_should_send(data: bytes, reply: str | None) -> None:
    with pytest.raises(wire.BadQuery) as caught:
        wire.parse(data)
    assert (rcode(caught.value.reply) if caught.value.reply else None) == reply

    async def test() -> None:
        async with serving() as (port, _):
            loop = asyncio.get_running_loop()
            with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
                sock.setblocking(False)
                sock.connect(("127.0.0.1", port))
                await loop.sock_sendall(sock, data)
            assert addresses(await udp(port, question("web.default.svc.cluster.local"))) == ["10.32.0.20"]

    on_loop(test)


class Upstreams(asyncio.DatagramProtocol):
    """An upstream server that knows one address, after some forged answers."""

    def __init__(self) -> None:
        self.transport: Any = None
        self.forge = False

    def connection_made(self, transport: Any) -> None:
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Any) -> None:
        asked = DNSRecord.parse(data)
        if self.forge:
            wrong = asked.reply()
            wrong.header.id ^= 1
            wrong.add_answer(RR(asked.q.qname, QTYPE.A, rdata=A("6.6.6.6")))
            self.transport.sendto(wrong.pack(), addr)
            other = DNSRecord.question("other.org").reply()
            other.header.id = asked.header.id
            self.transport.sendto(other.pack(), addr)
        reply = asked.reply()
        reply.add_answer(RR(asked.q.qname, QTYPE.A, ttl=30, rdata=A("192.0.2.1")))
        self.transport.sendto(reply.pack(), addr)


@contextlib.asynccontextmanager
async def upstream(forge: bool = False) -> AsyncIterator[Upstream]:
    loop = asyncio.get_running_loop()
    transport, protocol = await loop.create_datagram_endpoint(Upstreams, local_addr=("127.0.0.1", 0))
    protocol.forge = forge
    try:
        yield transport.get_extra_info("sockname")
    finally:
        transport.close()


@pytest.mark.parametrize("forge", [False, True])
def test_other_names_are_forwarded_and_forged_answers_ignored(forge: bool) -> None:
    async def test() -> None:
        async with upstream(forge) as server, serving(upstreams=[server]) as (port, _):
            asked = question("example.org")
            answer = await udp(port, asked)
            assert addresses(answer) == ["192.0.2.1"]
            assert answer[:2] == asked[:2]
            assert addresses(await udp(port, question("web.default.svc.cluster.local"))) == ["10.32.0.20"]

    on_loop(test)


def test_a_dead_upstream_is_passed_over(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "TIMEOUT", 0.2)

    async def test() -> None:
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as mute:
            mute.bind(("127.0.0.1", 0))
            async with (
                upstream() as server,
                serving(upstreams=[mute.getsockname(), server]) as (port, forwarder),
            ):
                assert addresses(await udp(port, question("example.org"))) == ["192.0.2.1"]
                assert forwarder._upstreams[0] == server
            async with serving(upstreams=[mute.getsockname()]) as (port, _):
                assert rcode(await udp(port, question("example.org"))) == "SERVFAIL"

    on_loop(test)


def test_an_upstream_that_asks_us_back_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(forward, "TIMEOUT", 1.0)

    async def test() -> None:
        async with serving() as (port, forwarder):
            forwarder._upstreams.append(("127.0.0.1", port))
            await forwarder.probe_loop("cluster.local")
            assert not forwarder.available
            assert rcode(await udp(port, question("example.org"))) == "REFUSED"

    on_loop(test)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1.2.3.4", ("1.2.3.4", 53)),
        ("1.2.3.4:5353", ("1.2.3.4", 5353)),
        ("fd00::1", ("fd00::1", 53)),
        ("[fd00::1]:54", ("fd00::1", 54)),
    ],
)
def test_upstream_addresses(text: str, expected: Upstream) -> None:
    assert parse_upstream(text) == expected


def test_upstreams_are_addresses() -> None:
    with pytest.raises(ValueError, match="example"):
        parse_upstream("example.org")


def test_resolv_conf(tmp_path: Path) -> None:
    path = tmp_path / "resolv.conf"
    path.write_text("# x\nsearch a.b\nnameserver 10.0.0.1\nnameserver fe80::1%eth0\nnameserver\n")
    assert forward.from_resolv_conf(path) == [("10.0.0.1", 53), ("fe80::1", 53)]
    assert forward.from_resolv_conf(tmp_path / "none") == []


def test_listen_addresses() -> None:
    assert app.split_address(":8080", "--x") == ("0.0.0.0", 8080)
    with pytest.raises(ValueError, match="--x: 'eighty' is not host:port"):
        app.split_address("eighty", "--x")


# -- the cache, CNAMEs that leave the cluster, and what is refused ------------------------------------------


def test_a_forwarded_answer_is_asked_for_once() -> None:
    async def test() -> None:
        async with upstream() as server, serving(upstreams=[server]) as (port, forwarder):
            first = await udp(port, question("example.org"))
            forwarder._upstreams[:] = [("127.0.0.1", 1)]
            asked = question("EXAMPLE.org")
            again = await udp(port, asked)
            assert addresses(again) == addresses(first)
            assert again[:2] == asked[:2]

    on_loop(test)


CHAIN = Fixed(
    [
        service("out", type="ExternalName", externalName="example.org"),
        service("in", type="ExternalName", externalName="web.default.svc.cluster.local"),
        service("loop", type="ExternalName", externalName="loop.default.svc.cluster.local"),
        service("lost", type="ExternalName", externalName="nothing.default.svc.cluster.local"),
        service("web", clusterIP="10.32.0.20"),
    ],
    [],
)


@pytest.mark.parametrize(
    ("name", "kind", "expected", "code"),
    [
        ("out", "A", ["example.org.", "192.0.2.1"], "NOERROR"),
        ("out", "CNAME", ["example.org."], "NOERROR"),
        ("in", "A", ["web.default.svc.cluster.local.", "10.32.0.20"], "NOERROR"),
        ("in", "AAAA", ["web.default.svc.cluster.local."], "NOERROR"),
        ("lost", "A", ["nothing.default.svc.cluster.local."], "NXDOMAIN"),
    ],
)
def test_external_names_are_followed(name: str, kind: str, expected: list[str], code: str) -> None:
    async def test() -> None:
        async with upstream() as server, serving(CHAIN, upstreams=[server]) as (port, _):
            asked = question(f"{name}.default.svc.cluster.local", kind)
            for answer in (await udp(port, asked), *(await tcp(port, asked))):
                assert (addresses(answer), rcode(answer)) == (expected, code)

    on_loop(test)


def test_a_loop_of_names_ends() -> None:
    async def test() -> None:
        async with serving(CHAIN) as (port, _):
            answer = await udp(port, question("loop.default.svc.cluster.local"))
            assert 1 < len(addresses(answer)) < 12

    on_loop(test)


def test_an_external_name_without_upstream_is_its_cname() -> None:
    async def test() -> None:
        async with serving(CHAIN) as (port, _):
            answer = await udp(port, question("out.default.svc.cluster.local"))
            assert addresses(answer) == ["example.org."]

    on_loop(test)


@pytest.mark.parametrize("kind", ["AXFR", "IXFR"])
def test_the_zone_is_not_given_away(kind: str) -> None:
    async def test() -> None:
        async with upstream() as server, serving(upstreams=[server]) as (port, _):
            (answer,) = await tcp(port, question("cluster.local", kind))
            assert rcode(answer) == "REFUSED"

    on_loop(test)


def test_another_version_of_edns_is_refused_by_number() -> None:
    asked = DNSRecord.question("web.default.svc.cluster.local")
    asked.add_ar(EDNS0(udp_len=4096, version=1))
    with pytest.raises(wire.BadQuery) as caught:
        wire.parse(bytes(asked.pack()))
    assert caught.value.reply is not None
    (options,) = DNSRecord.parse(caught.value.reply).ar
    assert (options.edns_rcode, options.edns_ver) == (1, 0)


def test_two_edns_records_are_a_malformed_query() -> None:
    asked = DNSRecord.question("web.default.svc.cluster.local")
    asked.add_ar(EDNS0(udp_len=4096), EDNS0(udp_len=1232))
    with pytest.raises(wire.BadQuery) as caught:
        wire.parse(bytes(asked.pack()))
    assert caught.value.reply is not None
    assert rcode(caught.value.reply) == "FORMERR"


def test_kept_answers_are_forgotten_when_anything_changes() -> None:
    view = Fixed([service("web", clusterIP="10.32.0.20")], [])
    version = 1
    resolver = Resolver(
        Records(view), Forwarder([]), domain="cluster.local", ready=lambda: True, version=lambda: version
    )

    def ask() -> str:
        data = question("web.default.svc.cluster.local")
        reply = resolver.handle(data, tcp=False)
        assert isinstance(reply, Reply)
        assert reply.data[:2] == data[:2]
        return addresses(reply.data)[0]

    assert ask() == "10.32.0.20"
    view._services[0]["spec"] = {"clusterIP": "10.32.0.21", "ports": []}
    assert ask() == "10.32.0.20", "kept: nobody said that anything changed"
    version += 1
    assert ask() == "10.32.0.21"
