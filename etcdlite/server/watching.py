"""Service Watch: streams of many watches each, fed by mvcc.watch.

A stream's task reads requests. What is in its outbox is sent by a callback, in its order: all streams that
have something to send are served in one turn of the loop, so what goes to one client leaves in one piece.
Control answers (created, canceled, progress) go through the same outbox, so a progress answer can never
overtake an event it vouches for.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator
from functools import partial
from typing import Final

from google.protobuf.message import DecodeError

from componentbase.grpcwire.server import Conversation
from componentbase.grpcwire.status import Code, RpcError
from etcdlite.mvcc import errors as mvcc
from etcdlite.mvcc import wire
from etcdlite.mvcc.watch import Delivery, Outbox, Watcher
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server import errors
from etcdlite.server.context import Member

_WATCH_ID, _CREATED, _CANCELED, _COMPACT_REVISION, _CANCEL_REASON, _FRAGMENT, _EVENTS = 2, 3, 4, 5, 6, 7, 11
_NO_WATCH: Final = -1
_JOIN_BYTES: Final = 512 * 1024  # deliveries to one watch are joined up to here
_FRAGMENT_BYTES: Final = 1_572_864  # a fragmenting watch gets no message much larger than this
_MAX_WATCHES: Final = 10_000  # of one stream
_LEADER_CHECK: Final = 0.5


class WatchService:
    """All streams of a member, and the background work for them."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._machine = member.machine
        self._streams: set[_Stream] = set()
        self._ready: list[_Stream] = []  # have something to send

    @property
    def streams(self) -> int:
        """Open streams."""
        return len(self._streams)

    async def watch(self, call: Conversation, *, require_leader: bool) -> None:
        """Serve one stream until the client ends it. Raises NoLeader if it asked to be told."""
        stream = _Stream(self._member, call, self._wake, require_leader=require_leader)
        self._streams.add(stream)
        try:
            await stream.run()
        finally:
            self._streams.discard(stream)
            stream.forget()

    async def run(self) -> None:
        """Serve unsynced watchers, progress intervals and the loss of the leader, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._catch_up(), name="watch-catch-up")
            tasks.create_task(self._progress(), name="watch-progress")
            tasks.create_task(self._lost_leader(), name="watch-leader")

    def _wake(self, stream: _Stream) -> None:
        """The stream has something to send: serve it with all others of this turn."""
        if not self._ready:
            asyncio.get_running_loop().call_soon(self._serve_ready)
        self._ready.append(stream)

    def _serve_ready(self) -> None:
        ready, self._ready = self._ready, []
        for stream in ready:
            stream.flush()

    async def _catch_up(self) -> None:
        hub, store, unsynced = self._machine.hub, self._machine.store, self._machine.unsynced
        while True:
            await unsynced.wait()
            unsynced.clear()
            while hub.catch_up(store):
                self._answer_progress()
                await asyncio.sleep(0)
            self._answer_progress()

    def _answer_progress(self) -> None:
        for stream in self._streams:
            stream.maybe_answer_progress()

    async def _progress(self) -> None:
        while True:
            await asyncio.sleep(self._member.settings.progress_notify_interval)
            self._machine.hub.notify_progress(self._machine.store.revision)

    async def _lost_leader(self) -> None:
        """Three election timeouts without a leader end the streams that want one (etcd's interceptor.go)."""
        loop = asyncio.get_running_loop()
        since = loop.time()
        while True:
            await asyncio.sleep(_LEADER_CHECK)
            if self._member.requests.consensus.status().leader_id:
                since = loop.time()
            elif loop.time() - since > 3 * self._member.settings.election_timeout:
                for stream in self._streams:
                    stream.leader_lost()


class _Stream:
    def __init__(
        self, member: Member, call: Conversation, wake: Callable[[_Stream], None], *, require_leader: bool
    ) -> None:
        self._member = member
        self._machine = member.machine
        self._call = call
        self._require_leader = require_leader
        self._wake = partial(wake, self)
        self._outbox = Outbox(self._wake)
        self._watchers: dict[int, Watcher] = {}
        self._next_id = 0
        self._progress_wanted = False
        self._failure: mvcc.StoreError | None = None
        call.on_room = self._on_room

    async def run(self) -> None:
        await self._read()
        if self._failure is not None:
            raise self._failure

    def forget(self) -> None:
        """Drop all watches."""
        for watcher in self._watchers.values():
            self._machine.hub.remove(watcher)
        self._watchers.clear()

    def leader_lost(self) -> None:
        """End the stream, if it asked for that."""
        if self._require_leader:
            self._failure = errors.NoLeader()
            self._call.stop_reading()

    # -- requests

    async def _read(self) -> None:
        while (message := await self._call.read()) is not None:
            try:
                request = rpc.WatchRequest.FromString(message)
            except DecodeError as error:
                raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from None
            match request.WhichOneof("request_union"):
                case "create_request":
                    self._create(request.create_request)
                case "cancel_request":
                    self._cancel(request.cancel_request.watch_id)
                case "progress_request":
                    self._progress_wanted = True
                    self.maybe_answer_progress()

    def _create(self, request: rpc.WatchCreateRequest) -> None:
        id = request.watch_id or self._unused_id()
        refusal = self._refusal(request, id) or self._forbidden(request)
        if refusal:
            self._control(_NO_WATCH, wire.number(_CREATED, 1) + _canceled(refusal))
            return
        store = self._machine.store
        start = max(1, request.start_revision) if request.start_revision else store.revision + 1
        watcher = self._watchers[id] = Watcher(
            id=id,
            key=request.key or b"\0",
            range_end=request.range_end,
            next=start,
            outbox=self._outbox,
            prev_kv=request.prev_kv,
            no_put=rpc.WatchCreateRequest.NOPUT in request.filters,
            no_delete=rpc.WatchCreateRequest.NODELETE in request.filters,
            fragment=request.fragment,
            progress_notify=request.progress_notify,
        )
        self._control(id, wire.number(_CREATED, 1))
        self._machine.hub.add(watcher, store.revision)
        if not watcher.synced:
            self._machine.unsynced.set()

    def _unused_id(self) -> int:
        while self._next_id in self._watchers:
            self._next_id += 1
        self._next_id += 1
        return self._next_id - 1

    def _refusal(self, request: rpc.WatchCreateRequest, id: int) -> str:
        if id in self._watchers:
            return "mvcc: duplicate watch ID provided on the WatchStream"
        if len(self._watchers) >= _MAX_WATCHES:
            return "etcdlite: too many watches on one stream"
        if request.range_end not in (b"", b"\0") and request.range_end <= request.key:
            return "mvcc: watcher range is empty"
        return ""

    def _forbidden(self, request: rpc.WatchCreateRequest) -> str:
        """Why the caller may not watch that; etcd puts the code into the text here."""
        try:
            self._machine.auth.check_read(self._member.caller(), request.key or b"\0", request.range_end)
        except mvcc.StoreError as error:
            code = errors.WIRE[type(error)].name.title().replace("_", "")
            return f"rpc error: code = {code} desc = {error.text}"
        return ""

    def _cancel(self, id: int) -> None:
        watcher = self._watchers.pop(id, None)
        if watcher is not None:
            self._machine.hub.remove(watcher)
            self._control(id, wire.number(_CANCELED, 1))

    def maybe_answer_progress(self) -> None:
        """Answer a progress request once every watch of the stream has been handed everything."""
        if self._progress_wanted and all(watcher.synced for watcher in self._watchers.values()):
            self._progress_wanted = False
            self._control(_NO_WATCH, b"")

    def _control(self, id: int, body: bytes) -> None:
        self._outbox.add(self._member.header() + wire.number(_WATCH_ID, id) + body)

    # -- answers

    def flush(self) -> None:
        """Send what waits, as far as the client has room for it; the rest when it has."""
        deliveries, call = self._outbox.deliveries, self._call
        while deliveries and call.has_room:
            for response in self._take():
                call.send(response)
        if deliveries:
            return
        if self._progress_wanted:
            self.maybe_answer_progress()
        if not all(watcher.synced for watcher in self._watchers.values()):
            self._machine.unsynced.set()

    def _on_room(self) -> None:
        if self._outbox.deliveries:
            self._wake()

    def _take(self) -> Iterator[bytes]:
        """The next response, or its fragments: what waits for the same watch is joined."""
        first = self._outbox.deliveries.popleft()
        if isinstance(first, bytes):
            yield first
        elif first.compacted:
            self._watchers.pop(first.watch_id, None)
            yield self._encode(
                first, wire.number(_COMPACT_REVISION, first.compacted) + _canceled(mvcc.Compacted.text)
            )
        elif first.fragment:
            yield from self._fragments(first)
        else:
            yield self._encode(*self._join(first))

    def _join(self, first: Delivery) -> tuple[Delivery, bytes]:
        body, last, deliveries = wire.chunks(_EVENTS, first.events), first, self._outbox.deliveries
        if not deliveries:
            return last, body
        parts, size = [body], len(body)
        while deliveries and size < _JOIN_BYTES:
            following = deliveries[0]
            if isinstance(following, bytes) or following.watch_id != first.watch_id or following.compacted:
                break
            last = following
            deliveries.popleft()
            parts.append(wire.chunks(_EVENTS, following.events))
            size += len(parts[-1])
        return last, b"".join(parts)

    def _fragments(self, delivery: Delivery) -> Iterator[bytes]:
        parts: list[bytes] = []
        size = 0
        for event in delivery.events:
            if parts and size + len(event) > _FRAGMENT_BYTES:
                yield self._encode(delivery, wire.number(_FRAGMENT, 1) + wire.chunks(_EVENTS, parts))
                parts, size = [], 0
            parts.append(event)
            size += len(event)
        yield self._encode(delivery, wire.chunks(_EVENTS, parts))

    def _encode(self, delivery: Delivery, body: bytes) -> bytes:
        return self._member.header(delivery.revision) + wire.number(_WATCH_ID, delivery.watch_id) + body


def _canceled(reason: str) -> bytes:
    return wire.number(_CANCELED, 1) + wire.chunk(_CANCEL_REASON, reason.encode())
