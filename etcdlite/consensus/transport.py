"""Links between members: frames of protobuf over TCP, with mutual TLS for https URLs.

A connection carries messages one way, from who dialled. Its first frame is a `Hello`; the answer, a
`Welcome`, refuses what belongs to another cluster or another member. Messages are datagrams to Raft, which
sends again what matters: with no connection they are dropped, and a slow connection drops its oldest. A
snapshot has a connection of its own, so that it delays no heartbeat.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from abc import ABC, abstractmethod
from collections import deque
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, cast
from urllib.parse import urlsplit

from componentbase.backoff import Backoff
from etcdlite.consensus import wire
from etcdlite.consensus.errors import ConfigurationError
from etcdlite.consensus.frames import FrameReader, FrameTooLarge, frame
from etcdlite.pb import raft_pb2 as pb
from etcdlite.raft import messages as m
from etcdlite.raft.types import NodeId

VERSION = 1
REMOVED = "the member has been permanently removed from the cluster"
HANDSHAKE_SECONDS = 5.0
SNAPSHOT_IDLE_SECONDS = 30.0
_QUEUE_FRAMES = 4096
_SNAPSHOT_FRAME = 1 << 20
_MAX_BACKOFF = 1.0

log = logging.getLogger(__name__)


class Receiver(Protocol):
    """Where a transport delivers. Called on the loop."""

    def on_message(self, message: m.Message) -> None:
        """A peer says something."""

    def on_disconnect(self, node: NodeId) -> None:
        """The connection that `node` spoke on has ended."""

    def on_removed(self) -> None:
        """A peer says that this member has been removed from the cluster."""

    async def on_snapshot(self, head: m.InstallSnapshot, chunks: AsyncIterator[bytes]) -> None:
        """A snapshot arrives; returns when it is durable. Raises what goes wrong."""

    def on_question(self, hello: pb.Hello) -> pb.Welcome:
        """A peer, or one that wants to become one, asks something (`ask_members`, `ask_ready`)."""

    async def on_hash_question(self, hello: pb.Hello) -> pb.Welcome:
        """A peer asks for the hash of the data (`ask_hash`); that takes a while."""


class Transport(Protocol):
    """What the member needs of the network. `identity` may be set until `run` is called."""

    identity: Identity

    async def run(self, receiver: Receiver) -> None:
        """Listen and keep links until cancelled."""

    def set_peers(self, peers: Mapping[NodeId, Sequence[str]], removed: Collection[int] = ()) -> None:
        """Link to exactly these members; tell those in `removed` that they are."""

    def send(self, messages: Iterable[m.Message]) -> list[NodeId]:
        """Send without waiting; returns the members whose messages were dropped."""

    def connected(self) -> frozenset[NodeId]:
        """Members that messages can be sent to now."""

    async def send_snapshot(self, head: m.InstallSnapshot, chunks: Iterator[bytes]) -> None:
        """Stream a snapshot; returns when the peer has it on disk. Raises OSError, TimeoutError."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who this member is to its peers."""

    cluster_id: int
    member_id: NodeId


class _Frames(asyncio.Protocol, ABC):
    """Frames both ways on one connection."""

    def __init__(self) -> None:
        self._reader = FrameReader()
        self.transport: asyncio.Transport | None = None
        self.closed = asyncio.get_running_loop().create_future()
        self.writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)

    def connection_lost(self, error: Exception | None) -> None:
        self.transport = None
        if not self.closed.done():
            self.closed.set_result(error)

    def pause_writing(self) -> None:
        self.writable = False

    def resume_writing(self) -> None:
        self.writable = True

    def data_received(self, data: bytes) -> None:
        try:
            for payload in self._reader.feed(data):
                self.on_frame(payload)
        except (FrameTooLarge, wire.DecodeError, ValueError) as reason:
            log.warning("closing a connection that sent nonsense: %s", reason)
            self.close()

    @abstractmethod
    def on_frame(self, payload: bytes) -> None:
        """One whole frame has arrived."""

    def write(self, data: bytes) -> None:
        """Send bytes, if still connected."""
        if self.transport is not None:
            self.transport.write(data)

    def close(self) -> None:
        """Drop the connection."""
        if self.transport is not None:
            self.transport.abort()


class _Dialled(_Frames):
    """Our end of a connection that we opened: one answer to the Hello, then one per snapshot."""

    def __init__(self) -> None:
        super().__init__()
        self.answers: asyncio.Queue[bytes] = asyncio.Queue(4)
        self._drained = asyncio.Event()
        self._drained.set()
        self.on_writable: deque[bytes] = deque(maxlen=_QUEUE_FRAMES)

    def on_frame(self, payload: bytes) -> None:
        if self.answers.full():
            raise ValueError("unexpected frames")
        self.answers.put_nowait(payload)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._drained.set()

    def pause_writing(self) -> None:
        super().pause_writing()
        self._drained.clear()

    def resume_writing(self) -> None:
        super().resume_writing()
        self._drained.set()
        if self.on_writable:
            self.write(b"".join(self.on_writable))
            self.on_writable.clear()

    async def drain(self) -> None:
        """Wait until the connection takes more. Raises ConnectionError when it has ended."""
        await self._drained.wait()
        if self.transport is None:
            raise ConnectionResetError("the connection has ended")

    async def answer(self) -> bytes:
        """The next frame from the other side. Raises ConnectionError when it hangs up."""
        getter = asyncio.ensure_future(self.answers.get())  # noqa: TID251 -- awaited or cancelled right here
        try:
            await asyncio.wait({getter, self.closed}, return_when=asyncio.FIRST_COMPLETED)
            if not getter.done():
                raise ConnectionResetError("the peer hung up")
            return getter.result()
        finally:
            getter.cancel()


class _Accepted(_Frames):
    """Our end of a connection that a peer opened."""

    def __init__(self, owner: TcpTransport) -> None:
        super().__init__()
        self._owner = owner
        self._hello: pb.Hello | None = None
        self._snapshot: asyncio.Queue[bytes | None] | None = None  # None in it: the connection has ended
        self._timer = asyncio.get_running_loop().call_later(HANDSHAKE_SECONDS, self.close)

    @property
    def sender(self) -> int:
        """Who speaks here; 0 before it has said so."""
        return self._hello.sender if self._hello is not None else 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        self._owner.accepted.add(self)

    def connection_lost(self, error: Exception | None) -> None:
        super().connection_lost(error)
        self._timer.cancel()
        self._owner.accepted.discard(self)
        if self._snapshot is not None:
            self._snapshot.put_nowait(None)
        if self._snapshot is None and self._hello is not None:
            self._owner.lost(NodeId(self._hello.sender))

    def on_frame(self, payload: bytes) -> None:
        if self._hello is None:
            self._greet(pb.Hello.FromString(payload))
        elif self._snapshot is not None:
            self._take_snapshot_frame(payload)
        else:
            message = wire.decode_message(payload)
            if message.sender != self._hello.sender or message.to != self._owner.identity.member_id:
                raise ValueError("message with a wrong address")
            self._owner.deliver(message)

    def _greet(self, hello: pb.Hello) -> None:
        self._timer.cancel()
        if hello.ask_hash:
            self._owner.spawn_answer(self, hello)
            return
        if hello.ask_members or hello.ask_ready:
            self.write(frame(self._owner.answer(hello).SerializeToString()))
            if self.transport is not None:
                self.transport.close()
            return
        refused = self._owner.refusal(hello)
        self.write(frame(pb.Welcome(refused=refused).SerializeToString()))
        if refused:
            log.warning("refused a peer: %s", refused)
            if self.transport is not None:
                self.transport.close()
            return
        self._hello = hello
        if hello.snapshot:
            self._snapshot = asyncio.Queue()
            self._owner.spawn_snapshot(self, hello.sender)

    def _take_snapshot_frame(self, payload: bytes) -> None:
        assert self._snapshot is not None
        self._snapshot.put_nowait(payload)
        if self._snapshot.qsize() >= 4 and self.transport is not None:
            self.transport.pause_reading()

    async def snapshot_frame(self) -> bytes:
        """The next frame of the snapshot. Raises TimeoutError, ConnectionError."""
        assert self._snapshot is not None
        if self._snapshot.empty() and self.transport is not None:
            self.transport.resume_reading()
        async with asyncio.timeout(SNAPSHOT_IDLE_SECONDS):
            payload = await self._snapshot.get()
        if payload is None:
            raise ConnectionResetError("the sender hung up")
        return payload

    async def snapshot_chunks(self) -> AsyncIterator[bytes]:
        """Frames up to the empty one."""
        while chunk := await self.snapshot_frame():
            yield chunk


class _Link:
    """One peer that we send to: dials, greets, dials again."""

    def __init__(self, owner: TcpTransport, node: NodeId, urls: Sequence[str]) -> None:
        self.node, self.urls, self._owner = node, tuple(urls), owner
        self.connection: _Dialled | None = None
        self.task: asyncio.Task[None] | None = None

    def send(self, data: bytes) -> bool:
        """Send, or queue behind a slow connection. Returns False if there is none."""
        connection = self.connection
        if connection is None:
            return False
        if connection.writable:
            connection.write(data)
        else:
            connection.on_writable.append(data)  # at its bound this drops the oldest
        return True

    async def run(self) -> None:
        """Keep a connection for as long as the peer is a member."""
        backoff, number, said = Backoff(0.05, _MAX_BACKOFF), 0, ""
        while True:
            url = self.urls[number % len(self.urls)]
            number += 1
            try:
                connection = await self._owner.dial(url, self.node, snapshot=False)
            except (OSError, TimeoutError, ssl.SSLError, ConnectionError) as reason:
                if str(reason) == REMOVED:
                    self._owner.removed()
                if str(reason) != said:
                    said = str(reason)
                    log.warning(
                        "cannot reach member %x at %s: %s", self.node, url, reason or type(reason).__name__
                    )
                await asyncio.sleep(backoff.next())
                continue
            said, self.connection = "", connection
            backoff.reset()
            log.info("connected to member %x at %s", self.node, url)
            try:
                await asyncio.shield(connection.closed)
            finally:
                self.connection = None
                connection.close()
            await asyncio.sleep(backoff.next())


class TcpTransport:
    """`Transport` over TCP and TLS."""

    def __init__(
        self,
        identity: Identity,
        listen_urls: Sequence[str],
        *,
        server_tls: ssl.SSLContext | None = None,
        client_tls: ssl.SSLContext | None = None,
    ) -> None:
        self.identity = identity
        self._listen_urls, self._server_tls, self._client_tls = listen_urls, server_tls, client_tls
        self._links: dict[NodeId, _Link] = {}
        self._tasks: asyncio.TaskGroup | None = None
        self._receiver: Receiver | None = None
        self._removed: Collection[int] = ()
        self.accepted: set[_Accepted] = set()

    # -- Transport -------------------------------------------------------------------------------------------

    async def run(self, receiver: Receiver) -> None:
        """Listen and keep links until cancelled."""
        self._receiver = receiver
        servers = [await self._listen(url) for url in self._listen_urls]
        try:
            async with asyncio.TaskGroup() as tasks:
                self._tasks = tasks
                for link in self._links.values():
                    link.task = tasks.create_task(link.run(), name=f"link to {link.node:x}")
                await asyncio.get_running_loop().create_future()
        finally:
            self._tasks = None
            for server in servers:
                server.close()
            for connection in list(self.accepted):
                connection.close()

    def set_peers(self, peers: Mapping[NodeId, Sequence[str]], removed: Collection[int] = ()) -> None:
        """Link to exactly these members; tell those in `removed` that they are."""
        self._removed = removed
        for connection in list(self.accepted):
            if connection.sender in removed:
                connection.close()  # it dials again, and is told
        for node, link in list(self._links.items()):
            if tuple(peers.get(node, ())) != link.urls:
                del self._links[node]
                if link.task is not None:
                    link.task.cancel()
        for node, urls in peers.items():
            if node not in self._links and node != self.identity.member_id and urls:
                link = self._links[node] = _Link(self, node, urls)
                if self._tasks is not None:
                    link.task = self._tasks.create_task(link.run(), name=f"link to {node:x}")

    def send(self, messages: Iterable[m.Message]) -> list[NodeId]:
        """Encode and send; messages for one member go out in one write."""
        by_node: dict[NodeId, list[bytes]] = {}
        for message in messages:
            by_node.setdefault(message.to, []).append(frame(wire.encode_message(message)))
        dropped: list[NodeId] = []
        for node, frames in by_node.items():
            link = self._links.get(node)
            if link is None or not link.send(b"".join(frames) if len(frames) > 1 else frames[0]):
                dropped.append(node)
        return dropped

    def connected(self) -> frozenset[NodeId]:
        """Members with a connection."""
        return frozenset(node for node, link in self._links.items() if link.connection is not None)

    async def send_snapshot(self, head: m.InstallSnapshot, chunks: Iterator[bytes]) -> None:
        """Stream over a connection of its own."""
        link = self._links.get(head.to)
        if link is None:
            raise ConnectionError(f"member {head.to:x} is not a peer")
        connection = await self.dial(link.urls[0], head.to, snapshot=True)
        try:
            connection.write(frame(wire.encode_message(head)))
            while chunk := await asyncio.to_thread(next, chunks, b""):
                for start in range(0, len(chunk), _SNAPSHOT_FRAME):
                    connection.write(frame(chunk[start : start + _SNAPSHOT_FRAME]))
                    async with asyncio.timeout(SNAPSHOT_IDLE_SECONDS):
                        await connection.drain()
            connection.write(frame(b""))
            async with asyncio.timeout(SNAPSHOT_IDLE_SECONDS * 10):
                answer = pb.Welcome.FromString(await connection.answer())
            if answer.refused:
                raise ConnectionError(f"the peer could not take the snapshot: {answer.refused}")
        finally:
            connection.close()

    # -- for the connections ---------------------------------------------------------------------------------

    async def dial(self, url: str, to: NodeId, *, snapshot: bool) -> _Dialled:
        """Open a connection and greet. Raises OSError, TimeoutError, ConnectionRefusedError when refused."""
        hello = pb.Hello(
            version=VERSION,
            cluster_id=self.identity.cluster_id,
            sender=self.identity.member_id,
            to=to,
            snapshot=snapshot,
        )
        connection, _ = await _greet(url, hello, self._client_tls)
        return connection

    def answer(self, hello: pb.Hello) -> pb.Welcome:
        """The answer to a question. What it tells is no secret to who holds a peer certificate."""
        if hello.version != VERSION:
            return pb.Welcome(refused=f"peer protocol {hello.version} is not supported (this is {VERSION})")
        if self._receiver is None:
            return pb.Welcome(refused="the member is not running")
        return self._receiver.on_question(hello)

    def refusal(self, hello: pb.Hello) -> str:
        """Why the peer must not speak here; empty if it may."""
        mine = self.identity
        if hello.version != VERSION:
            return f"peer protocol {hello.version} is not supported (this is {VERSION})"
        if hello.cluster_id != mine.cluster_id:
            return f"cluster ID mismatch: peer {hello.cluster_id:x}, here {mine.cluster_id:x}"
        if hello.to != mine.member_id:
            return f"member ID mismatch: meant for {hello.to:x}, this is {mine.member_id:x}"
        if hello.sender in self._removed:
            return REMOVED
        if hello.sender not in self._links:
            return f"member {hello.sender:x} is not in this cluster"
        return ""

    def deliver(self, message: m.Message) -> None:
        """A message has arrived."""
        if self._receiver is not None:
            self._receiver.on_message(message)

    def removed(self) -> None:
        """A peer refuses us for good."""
        if self._receiver is not None:
            self._receiver.on_removed()

    def lost(self, node: NodeId) -> None:
        """A peer's connection has ended."""
        if self._receiver is not None and self._tasks is not None:
            self._receiver.on_disconnect(node)

    def spawn_snapshot(self, connection: _Accepted, sender: int) -> None:
        """Receive a snapshot beside everything else."""
        if self._tasks is None:
            connection.close()
        else:
            self._tasks.create_task(self._receive_snapshot(connection), name=f"snapshot from {sender:x}")

    def spawn_answer(self, connection: _Accepted, hello: pb.Hello) -> None:
        """Answer a question that takes a while beside everything else."""
        if self._tasks is None:
            connection.close()
        else:
            self._tasks.create_task(self._answer_hash(connection, hello), name="hash for a peer")

    # -- inside ----------------------------------------------------------------------------------------------

    async def _receive_snapshot(self, connection: _Accepted) -> None:
        refused = ""
        try:
            head = wire.decode_message(await connection.snapshot_frame())
            if not isinstance(head, m.InstallSnapshot) or self._receiver is None:
                raise ValueError("a snapshot begins with its head")
            await self._receiver.on_snapshot(head, connection.snapshot_chunks())
        except (OSError, TimeoutError, ValueError, wire.DecodeError) as reason:
            refused = str(reason) or type(reason).__name__
            log.warning("snapshot not received: %s", refused)
        connection.write(frame(pb.Welcome(refused=refused).SerializeToString()))
        if connection.transport is not None:
            connection.transport.close()

    async def _answer_hash(self, connection: _Accepted, hello: pb.Hello) -> None:
        welcome = pb.Welcome(refused=self.refusal(hello) or "the member is not running")
        if self._receiver is not None and not self.refusal(hello):
            welcome = await self._receiver.on_hash_question(hello)
        connection.write(frame(welcome.SerializeToString()))
        connection.close()

    async def _listen(self, url: str) -> asyncio.Server:
        host, port, tls = _address(url)
        if tls and self._server_tls is None:
            raise ConfigurationError(f"{url} needs a peer certificate (--peer-cert-file, --peer-key-file)")
        loop = asyncio.get_running_loop()
        context = self._server_tls if tls else None
        return await loop.create_server(lambda: _Accepted(self), host, port, ssl=context, reuse_address=True)


async def _greet(
    url: str, hello: pb.Hello, tls: ssl.SSLContext | None, *, timeout: float = HANDSHAKE_SECONDS
) -> tuple[_Dialled, pb.Welcome]:
    host, port, secure = _address(url)
    if secure and tls is None:
        raise ConfigurationError(f"{url} needs a peer certificate (--peer-cert-file, --peer-key-file)")
    async with asyncio.timeout(timeout):
        _, connection = await asyncio.get_running_loop().create_connection(
            _Dialled, host, port, ssl=tls if secure else None, server_hostname=host if secure else None
        )
        try:
            connection.write(frame(hello.SerializeToString()))
            welcome = pb.Welcome.FromString(await connection.answer())
            if welcome.refused:
                raise ConnectionRefusedError(welcome.refused)
        except BaseException:
            connection.close()
            raise
    return connection, welcome


async def ask(
    url: str, question: pb.Hello, tls: ssl.SSLContext | None, *, timeout: float = HANDSHAKE_SECONDS
) -> pb.Welcome:
    """Ask the member at a peer URL. Raises OSError, TimeoutError; ConnectionRefusedError is its own "no"."""
    question.version = VERSION
    connection, welcome = await _greet(url, question, tls, timeout=timeout)
    connection.close()
    return welcome


def _address(url: str) -> tuple[str, int, bool]:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname or not parts.port:
        raise ConfigurationError(f"peer URL {url!r} must be http(s)://host:port")
    return parts.hostname, parts.port, parts.scheme == "https"
