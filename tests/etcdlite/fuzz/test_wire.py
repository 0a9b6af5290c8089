"""Nonsense from the network: a named error, and the member goes on."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Callable
from pathlib import Path

import grpc
import grpc.aio
from google.protobuf.message import DecodeError

from etcdlite.client import EtcdClient
from etcdlite.consensus import wire
from etcdlite.consensus.frames import FrameReader, FrameTooLarge, frame
from etcdlite.pb import raft_pb2 as pb
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.raft import messages as m
from etcdlite.raft.log import LogInvariant
from etcdlite.raft.types import ConfState, Entry, EntryKind, Index, NodeId, SnapshotMeta, Term
from tests.etcdlite.fuzz.damage import damaged
from tests.etcdlite.raft.dialogue import node
from tests.etcdlite.server.members import MemberProcess, running

EDGES = (0, 1, 2, 3, 5, 10, 2**31, 2**63 - 1, 2**64 - 1)


def message(chance: random.Random) -> m.Message:
    """Any message, with any numbers."""
    senders = (1, 2, 3, 9)
    head = (NodeId(chance.choice(senders)), NodeId(1), Term(chance.choice((0, 1, 2, 3, 1 << 40))))

    def index() -> Index:
        return Index(chance.choice(EDGES))

    def term() -> Term:
        return Term(chance.choice(EDGES))

    def append() -> m.Message:
        previous = index()
        count = chance.randrange(3)
        entries = [Entry(term(), Index(previous + 1 + n), EntryKind.NORMAL, b"x") for n in range(count)]
        return m.AppendRequest(*head, previous, term(), index(), entries)

    conf = ConfState(frozenset({NodeId(1), NodeId(2)}), frozenset())
    kinds: tuple[Callable[[], m.Message], ...] = (
        append,
        lambda: m.PreVoteRequest(*head, index(), term()),
        lambda: m.PreVoteReply(*head, chance.random() < 0.5),
        lambda: m.VoteRequest(*head, index(), term(), chance.random() < 0.5),
        lambda: m.VoteReply(*head, chance.random() < 0.5),
        lambda: m.AppendReply(*head, index(), chance.random() < 0.5, index(), term()),
        lambda: m.HeartbeatRequest(*head, index(), chance.choice(EDGES)),
        lambda: m.HeartbeatReply(*head, chance.choice(EDGES)),
        lambda: m.InstallSnapshot(*head, SnapshotMeta(index(), term(), conf, b"")),
        lambda: m.TimeoutNow(*head),
        lambda: m.Proposal(*head, EntryKind.NORMAL, [b"p"]),
        lambda: m.ReadIndexRequest(*head, chance.choice(EDGES)),
        lambda: m.ReadIndexReply(*head, chance.choice(EDGES), index()),
        lambda: m.TransferRequest(*head, NodeId(chance.choice(EDGES))),
    )
    return chance.choice(kinds)()


def test_a_damaged_message_is_a_message_or_refused() -> None:
    refused = 0
    for seed in range(3000):
        chance = random.Random(seed)
        try:
            encoded = wire.encode_message(message(chance))
        except ValueError:
            continue  # an index that does not fit
        try:
            wire.decode_message(damaged(encoded, chance) if encoded else b"\xff")
        except (DecodeError, ValueError):
            refused += 1
    assert refused > 300


def test_damaged_frames_are_frames_or_refused() -> None:
    for seed in range(2000):
        chance = random.Random(seed)
        stream = b"".join(frame(chance.randbytes(chance.randrange(30))) for _ in range(5))
        reader = FrameReader()
        try:
            for piece in (damaged(stream, chance)[at : at + 7] for at in range(0, len(stream), 7)):
                reader.feed(piece)
        except FrameTooLarge:
            continue


def test_no_message_breaks_the_core_but_for_a_named_invariant() -> None:
    """A peer with a certificate may say anything; what cannot be true stops the member by name."""
    for seed in range(1500):
        chance = random.Random(seed)
        conf = ConfState(frozenset(NodeId(n) for n in (1, 2, 3)), frozenset())
        log = [Entry(Term(1), Index(n), EntryKind.NORMAL, b"") for n in range(1, chance.randrange(2, 6))]
        member = node(1, conf, log, term=1)
        try:
            for _ in range(chance.randrange(1, 25)):
                if chance.random() < 0.2:
                    member.tick()
                elif chance.random() < 0.1:
                    member.campaign()
                else:
                    member.step(message(chance))
                ready = member.ready()
                if ready.write is not None:
                    member.persisted(ready.write)
                if ready.committed:
                    member.applied(ready.committed[-1].index)
        except LogInvariant as reason:
            assert str(reason)


# -- a running member ----------------------------------------------------------------------------------------

KV = {
    "KV/Range": rpc.RangeRequest(key=b"a", range_end=b"z", limit=3, revision=2, sort_order=1, sort_target=3),
    "KV/Put": rpc.PutRequest(key=b"a", value=b"value", lease=7, prev_kv=True),
    "KV/DeleteRange": rpc.DeleteRangeRequest(key=b"a", range_end=b"b", prev_kv=True),
    "KV/Txn": rpc.TxnRequest(
        compare=[rpc.Compare(key=b"a", target=2, result=0, mod_revision=4, range_end=b"b")],
        success=[rpc.RequestOp(request_put=rpc.PutRequest(key=b"a", value=b"1"))],
        failure=[rpc.RequestOp(request_txn=rpc.TxnRequest())],
    ),
    "Lease/LeaseGrant": rpc.LeaseGrantRequest(TTL=60, ID=9),
    "Lease/LeaseTimeToLive": rpc.LeaseTimeToLiveRequest(ID=9, keys=True),
    "Cluster/MemberList": rpc.MemberListRequest(linearizable=True),
    "Maintenance/Status": rpc.StatusRequest(),
    "Maintenance/HashKV": rpc.HashKVRequest(revision=3),
}
STREAMS = {
    "Watch/Watch": rpc.WatchRequest(
        create_request=rpc.WatchCreateRequest(key=b"a", range_end=b"b", watch_id=3)
    ),
    "Lease/LeaseKeepAlive": rpc.LeaseKeepAliveRequest(ID=9),
}
NEVER_PARSED = ("Cluster/MemberAdd", "Cluster/MemberRemove", "Maintenance/Alarm", "Auth/AuthEnable")


def test_nonsense_requests_are_answered_and_the_member_goes_on(tmp_path: Path) -> None:
    with running("etcdlite", tmp_path) as member:
        asyncio.run(_bombard(member))
        assert member.process is not None and member.process.poll() is None
        assert "Traceback" not in member.log.read_text()


async def _bombard(member: MemberProcess) -> None:
    chance = random.Random(7)
    address = member.client_url.removeprefix("http://")
    async with grpc.aio.insecure_channel(address) as channel:
        for method, good in KV.items():
            call = channel.unary_unary(f"/etcdserverpb.{method}")
            for _ in range(60):
                await _unary(call, damaged(good.SerializeToString() or b"\0", chance))
        for method in NEVER_PARSED:
            await _unary(channel.unary_unary(f"/etcdserverpb.{method}"), b"\xff" + chance.randbytes(20))
        for method, request in STREAMS.items():
            for _ in range(40):
                stream = channel.stream_stream(f"/etcdserverpb.{method}")(timeout=5)
                try:
                    await stream.write(damaged(request.SerializeToString(), chance))
                    await stream.done_writing()
                    await stream.read()
                except grpc.aio.AioRpcError as error:
                    _named(error)
                finally:
                    stream.cancel()
    async with EtcdClient([member.client_url], timeout=20) as client:
        await client.put(b"after", b"all")
        assert (await client.range(b"after")).kvs[0].value == b"all"


async def _unary(call: grpc.aio.UnaryUnaryMultiCallable[bytes, bytes], request: bytes) -> None:
    try:
        await call(request, timeout=20)
    except grpc.aio.AioRpcError as error:
        _named(error)


def _named(error: grpc.aio.AioRpcError) -> None:
    """Not Python's word for a bug in the handler."""
    assert "Unexpected" not in (error.details() or ""), error
    assert error.code() is not grpc.StatusCode.DEADLINE_EXCEEDED, error


def test_nonsense_on_the_peer_port_is_dropped(tmp_path: Path) -> None:
    with running("etcdlite", tmp_path) as member:
        asyncio.run(_pester(member))
        assert member.process is not None and member.process.poll() is None
        assert "Traceback" not in member.log.read_text()


async def _pester(member: MemberProcess) -> None:
    chance = random.Random(7)
    host, _, port = member.peer_url.removeprefix("http://").partition(":")
    hello = pb.Hello(version=1, cluster_id=1, sender=2, to=3).SerializeToString()
    questions = (pb.Hello(version=1, ask_members=True), pb.Hello(version=1, ask_ready=5, ask_hash=3))
    for number in range(150):
        reader, writer = await asyncio.open_connection(host, int(port))
        good = chance.choice([frame(hello), *(frame(one.SerializeToString()) for one in questions)])
        writer.write(damaged(good, chance) if number % 3 else chance.randbytes(200))
        writer.write_eof()
        async with asyncio.timeout(60):
            await reader.read()
        writer.close()
    async with EtcdClient([member.client_url], timeout=20) as client:
        await client.put(b"after", b"all")
