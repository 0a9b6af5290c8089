"""Who may speak to whom."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from etcdlite.consensus.errors import ConfigurationError
from etcdlite.consensus.transport import REMOVED, Identity, TcpTransport, ask
from etcdlite.pb import raft_pb2 as pb
from etcdlite.raft import messages as m
from etcdlite.raft.types import Index, NodeId, SnapshotMeta, Term
from tests.etcdlite.consensus.harness import run, running
from tests.etcdlite.consensus.tls import contexts
from tests.ports import free_port


class Inbox:
    """A Receiver that keeps what it gets."""

    def __init__(self) -> None:
        self.messages: list[m.Message] = []
        self.lost: list[int] = []
        self.removed = False
        self.snapshot = b""

    def on_message(self, message: m.Message) -> None:
        self.messages.append(message)

    def on_question(self, hello: pb.Hello) -> pb.Welcome:
        return pb.Welcome(cluster_id=7)

    async def on_hash_question(self, hello: pb.Hello) -> pb.Welcome:
        return pb.Welcome(hash=pb.Hash(digest=9, revision=hello.ask_hash))

    def on_disconnect(self, node: NodeId) -> None:
        self.lost.append(node)

    def on_removed(self) -> None:
        self.removed = True

    async def on_snapshot(self, head: m.InstallSnapshot, chunks: AsyncIterator[bytes]) -> None:
        async for chunk in chunks:
            self.snapshot += chunk
        if self.snapshot.startswith(b"refuse"):
            raise ValueError("not this one")


class Pair:
    """Two transports; 1 dials 2."""

    def __init__(self, one: Identity, other: Identity, scheme: str = "http", **tls: ssl.SSLContext) -> None:
        self.urls = {NodeId(n): [f"{scheme}://127.0.0.1:{free_port()}"] for n in (1, 2)}
        self.one = TcpTransport(one, self.urls[NodeId(1)], **tls)
        self.other = TcpTransport(other, self.urls[NodeId(2)], **tls)
        self.inbox, self.other_inbox = Inbox(), Inbox()
        self.one.set_peers(self.urls)
        self.other.set_peers(self.urls)

    async def connected(self) -> bool:
        """Whether 1 reaches 2 within a moment."""
        message = m.TimeoutNow(NodeId(1), NodeId(2), Term(1))
        for _ in range(40):
            if not self.one.send([message]):
                await asyncio.sleep(0.05)
                return bool(self.other_inbox.messages)
            await asyncio.sleep(0.01)
        return False


@contextlib.asynccontextmanager
async def up(pair: Pair) -> AsyncIterator[Pair]:
    async with asyncio.TaskGroup() as tasks:
        runs = [
            tasks.create_task(pair.one.run(pair.inbox)),
            tasks.create_task(pair.other.run(pair.other_inbox)),
        ]
        try:
            yield pair
        finally:
            for item in runs:
                item.cancel()


ME, YOU = Identity(5, NodeId(1)), Identity(5, NodeId(2))


def test_messages_arrive() -> None:
    async def test() -> None:
        async with up(Pair(ME, YOU)) as pair:
            assert await pair.connected()

    run(test)


@pytest.mark.parametrize(
    "other", [Identity(6, NodeId(2)), Identity(5, NodeId(3))], ids=["another cluster", "another member"]
)
def test_strangers_are_refused(other: Identity) -> None:
    async def test() -> None:
        async with up(Pair(ME, other)) as pair:
            assert not await pair.connected()

    run(test)


def test_the_hash_of_the_data_is_for_members_only() -> None:
    async def test() -> None:
        pair = Pair(ME, YOU)
        async with up(pair):
            assert await pair.connected()
            url = pair.urls[NodeId(2)][0]
            member = pb.Hello(cluster_id=5, sender=1, to=2, ask_hash=77)
            assert (await ask(url, member, None)).hash == pb.Hash(digest=9, revision=77)
            stranger = pb.Hello(cluster_id=6, sender=1, to=2, ask_hash=77)
            with pytest.raises(ConnectionRefusedError, match="cluster ID mismatch"):
                await ask(url, stranger, None)

    run(test)


def test_one_who_was_removed_is_told() -> None:
    async def test() -> None:
        pair = Pair(ME, YOU)
        async with up(pair):
            assert await pair.connected()
            pair.other.set_peers({}, frozenset({1}))
            async with asyncio.timeout(5):
                while not pair.inbox.removed:  # noqa: ASYNC110
                    await asyncio.sleep(0.01)
            assert REMOVED

    run(test)


def test_nonsense_ends_the_connection() -> None:
    async def test() -> None:
        pair = Pair(ME, YOU)
        async with up(pair):
            host, port = "127.0.0.1", int(pair.urls[NodeId(2)][0].rpartition(":")[2])
            assert await pair.connected()
            reader, writer = await asyncio.open_connection(host, port)
            writer.write(b"GET / HTTP/1.1\r\n\r\n")
            with contextlib.suppress(ConnectionError):
                assert await reader.read() == b""
            writer.close()
            assert await pair.connected()

    run(test)


def test_messages_for_the_unreachable_are_reported() -> None:
    async def test() -> None:
        pair = Pair(ME, YOU)
        assert pair.one.send([m.TimeoutNow(NodeId(1), NodeId(2), Term(1))]) == [2]

    run(test)


@pytest.mark.parametrize("data", [b"", b"x" * 3_000_000, b"refuse"], ids=["empty", "large", "refused"])
def test_snapshots_stream_on_their_own_connection(data: bytes) -> None:
    async def test() -> None:
        async with up(Pair(ME, YOU)) as pair:
            assert await pair.connected()
            head = m.InstallSnapshot(NodeId(1), NodeId(2), Term(1), SnapshotMeta(Index(3), Term(1)))
            send = pair.one.send_snapshot(head, iter([data]) if data else iter(()))
            if data == b"refuse":
                with pytest.raises(ConnectionError, match="not this one"):
                    await send
            else:
                await send
                assert pair.other_inbox.snapshot == data

    run(test)


def test_mutual_tls_carries_a_cluster(tmp_path: Path) -> None:
    async def test() -> None:
        server, client = contexts(tmp_path)
        async with running(tmp_path, 3, peer_server_tls=server, peer_client_tls=client) as cluster:
            for name in cluster.members:
                await cluster.put(name, name.encode())

    run(test)


@pytest.mark.parametrize("wrong", ["another CA", "no certificate"])
def test_a_peer_without_our_certificate_does_not_get_in(tmp_path: Path, wrong: str) -> None:
    async def test() -> None:
        server, client = contexts(tmp_path)
        pair = Pair(ME, YOU, "https", server_tls=server, client_tls=client)
        if wrong == "another CA":
            _, bad = contexts(tmp_path / "other")
        else:
            bad = ssl.create_default_context(cafile=str(tmp_path / "ca.pem"))
        pair.one = TcpTransport(ME, pair.urls[NodeId(1)], server_tls=server, client_tls=bad)
        pair.one.set_peers(pair.urls)
        async with up(pair):
            assert not await pair.connected()

    run(test)


def test_https_without_certificates_is_refused_by_name() -> None:
    async def test() -> None:
        with pytest.raises(ConfigurationError, match="--peer-cert-file"):
            await TcpTransport(ME, [f"https://127.0.0.1:{free_port()}"]).run(Inbox())

    run(test)
