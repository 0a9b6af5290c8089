"""etcd's JSON gateway: every method of the v3 API as `POST /v3/...` over HTTP/1.1.

A request's body is the method's message in protobuf's JSON mapping: bytes in base64, 64-bit numbers as
strings. Answers keep the names of the .proto files and leave out what is zero. A method that answers with a
stream sends one object a line, `{"result": ...}`; one that reads a stream takes objects one after another.

Paths are those of etcd's api/etcdserverpb/rpc.proto (`google.api.http`), statuses those of grpc-gateway. As
in etcd, a client's certificate names nobody here: a token does, in `Authorization`.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from http import HTTPStatus
from typing import Any, Final, TypeVar

from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from google.protobuf.message_factory import GetMessageClass

from componentbase.grpcwire.rpc import Metadata
from componentbase.grpcwire.server import Method, Streaming, Unary
from componentbase.grpcwire.status import Code, RpcError
from etcdlite.pb import rpc_pb2, v3election_pb2, v3lock_pb2

Scope = Mapping[str, Any]
Receive = Callable[[], Awaitable[Mapping[str, Any]]]
Send = Callable[[dict[str, Any]], Awaitable[None]]

T = TypeVar("T")

_HIGH_WATER: Final = 64 << 10  # bytes that wait for a slow client

PATHS: Final[Mapping[str, str]] = {
    "kv/range": "etcdserverpb.KV/Range",
    "kv/put": "etcdserverpb.KV/Put",
    "kv/deleterange": "etcdserverpb.KV/DeleteRange",
    "kv/txn": "etcdserverpb.KV/Txn",
    "kv/compaction": "etcdserverpb.KV/Compact",
    "watch": "etcdserverpb.Watch/Watch",
    "lease/grant": "etcdserverpb.Lease/LeaseGrant",
    "lease/revoke": "etcdserverpb.Lease/LeaseRevoke",
    "kv/lease/revoke": "etcdserverpb.Lease/LeaseRevoke",
    "lease/keepalive": "etcdserverpb.Lease/LeaseKeepAlive",
    "lease/timetolive": "etcdserverpb.Lease/LeaseTimeToLive",
    "kv/lease/timetolive": "etcdserverpb.Lease/LeaseTimeToLive",
    "lease/leases": "etcdserverpb.Lease/LeaseLeases",
    "kv/lease/leases": "etcdserverpb.Lease/LeaseLeases",
    "cluster/member/add": "etcdserverpb.Cluster/MemberAdd",
    "cluster/member/remove": "etcdserverpb.Cluster/MemberRemove",
    "cluster/member/update": "etcdserverpb.Cluster/MemberUpdate",
    "cluster/member/list": "etcdserverpb.Cluster/MemberList",
    "cluster/member/promote": "etcdserverpb.Cluster/MemberPromote",
    "maintenance/alarm": "etcdserverpb.Maintenance/Alarm",
    "maintenance/status": "etcdserverpb.Maintenance/Status",
    "maintenance/defragment": "etcdserverpb.Maintenance/Defragment",
    "maintenance/hash": "etcdserverpb.Maintenance/HashKV",
    "maintenance/snapshot": "etcdserverpb.Maintenance/Snapshot",
    "maintenance/transfer-leadership": "etcdserverpb.Maintenance/MoveLeader",
    "maintenance/downgrade": "etcdserverpb.Maintenance/Downgrade",
    "auth/enable": "etcdserverpb.Auth/AuthEnable",
    "auth/disable": "etcdserverpb.Auth/AuthDisable",
    "auth/status": "etcdserverpb.Auth/AuthStatus",
    "auth/authenticate": "etcdserverpb.Auth/Authenticate",
    "auth/user/add": "etcdserverpb.Auth/UserAdd",
    "auth/user/get": "etcdserverpb.Auth/UserGet",
    "auth/user/list": "etcdserverpb.Auth/UserList",
    "auth/user/delete": "etcdserverpb.Auth/UserDelete",
    "auth/user/changepw": "etcdserverpb.Auth/UserChangePassword",
    "auth/user/grant": "etcdserverpb.Auth/UserGrantRole",
    "auth/user/revoke": "etcdserverpb.Auth/UserRevokeRole",
    "auth/role/add": "etcdserverpb.Auth/RoleAdd",
    "auth/role/get": "etcdserverpb.Auth/RoleGet",
    "auth/role/list": "etcdserverpb.Auth/RoleList",
    "auth/role/delete": "etcdserverpb.Auth/RoleDelete",
    "auth/role/grant": "etcdserverpb.Auth/RoleGrantPermission",
    "auth/role/revoke": "etcdserverpb.Auth/RoleRevokePermission",
    "election/campaign": "v3electionpb.Election/Campaign",
    "election/proclaim": "v3electionpb.Election/Proclaim",
    "election/leader": "v3electionpb.Election/Leader",
    "election/observe": "v3electionpb.Election/Observe",
    "election/resign": "v3electionpb.Election/Resign",
    "lock/lock": "v3lockpb.Lock/Lock",
    "lock/unlock": "v3lockpb.Lock/Unlock",
}

STATUS: Final[Mapping[Code, int]] = {
    Code.OK: 200,
    Code.CANCELLED: 408,
    Code.UNKNOWN: 500,
    Code.INVALID_ARGUMENT: 400,
    Code.DEADLINE_EXCEEDED: 504,
    Code.NOT_FOUND: 404,
    Code.ALREADY_EXISTS: 409,
    Code.PERMISSION_DENIED: 403,
    Code.RESOURCE_EXHAUSTED: 429,
    Code.FAILED_PRECONDITION: 400,
    Code.ABORTED: 409,
    Code.OUT_OF_RANGE: 400,
    Code.UNIMPLEMENTED: 501,
    Code.INTERNAL: 500,
    Code.UNAVAILABLE: 503,
    Code.DATA_LOSS: 500,
    Code.UNAUTHENTICATED: 401,
}

_SERVICES: Final[Mapping[str, Any]] = {
    service.full_name: service
    for module in (rpc_pb2, v3election_pb2, v3lock_pb2)
    for service in module.DESCRIPTOR.services_by_name.values()
}


def _types(method: str) -> tuple[type[Message], type[Message]]:
    """The messages that `service/name` takes and gives."""
    service, _, name = method.partition("/")
    found = _SERVICES[service].methods_by_name[name]
    return GetMessageClass(found.input_type), GetMessageClass(found.output_type)


def encode(message: Message) -> bytes:
    """As JSON."""
    value = json_format.MessageToDict(message, preserving_proto_field_name=True)
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False).encode()


def decode(value: Any, kind: type[Message]) -> bytes:
    """JSON as an encoded message. Raises RpcError."""
    if not isinstance(value, dict):
        raise RpcError(Code.INVALID_ARGUMENT, f"a message is a JSON object, not {type(value).__name__}")
    _check_bytes(value, kind.DESCRIPTOR)
    try:
        return json_format.ParseDict(value, kind(), ignore_unknown_fields=True).SerializeToString()
    except (json_format.ParseError, TypeError, ValueError) as error:
        raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None


_NOT_BASE64 = re.compile("[^A-Za-z0-9+/]")


def _check_bytes(value: Mapping[str, Any], kind: Any) -> None:
    """Refuses what is no base64. The parser drops what it does not know of it, so a value misspelt would be
    stored as another. Raises RpcError. (Its depth is bounded by that of JSON, twice as deep in lists.)
    """
    for field in kind.fields:
        found = value.get(field.name, value.get(field.json_name))
        for each in found if isinstance(found, list) else [found]:
            if field.type == FieldDescriptor.TYPE_BYTES and isinstance(each, str):
                if (at := _bad_base64(each)) is not None:
                    text = f"illegal base64 data at input byte {at}"
                    raise RpcError(Code.INVALID_ARGUMENT, text)
            elif field.message_type is not None and isinstance(each, dict):
                _check_bytes(each, field.message_type)


def _bad_base64(text: str) -> int | None:
    """Where it ceases to be base64 with its padding, as Go counts; None when it does not. Line ends do not
    count.
    """
    bare = text.replace("\r", "").replace("\n", "")
    data = bare.rstrip("=")
    if wrong := _NOT_BASE64.search(data):
        return wrong.start()
    over, padding = len(data) % 4, len(bare) - len(data)
    if padding == (4 - over) % 4 and over != 1:
        return None
    return len(data) - over if not padding else len(data) if over < 2 else len(bare)


class Bodies:
    """The objects in a request's body, as they arrive. `limit` bounds one of them, in bytes."""

    def __init__(self, receive: Receive, limit: int) -> None:
        self._receive, self._limit = receive, limit
        self._text = ""
        self._bytes = bytearray()
        self._ended = self._gone = False

    async def next(self) -> Any:
        """The next object; None when there are no more. Raises RpcError for what is no JSON."""
        while True:
            self._text = self._text.lstrip()
            if self._text:
                try:
                    value, end = json.JSONDecoder().raw_decode(self._text)
                except (ValueError, RecursionError) as error:
                    if self._ended:
                        raise RpcError(Code.INVALID_ARGUMENT, f"invalid JSON: {error}") from None
                else:
                    self._text = self._text[end:]
                    return value
            elif self._ended:
                return None
            await self._more()

    async def whole(self) -> Any:
        """The only object: parsed once, when all of it is here."""
        while not self._ended:
            await self._more()
        return await self.next()

    async def _more(self) -> None:
        event = await self._receive()
        self._gone = event["type"] != "http.request"
        self._ended = self._gone or not event.get("more_body", False)
        self._bytes += event.get("body", b"")
        if len(self._bytes) + len(self._text) > self._limit:
            raise RpcError(Code.RESOURCE_EXHAUSTED, f"a request of more than {self._limit} bytes")
        try:
            self._text += self._bytes.decode()
        except UnicodeDecodeError as error:
            if self._ended or error.reason != "unexpected end of data":
                raise RpcError(Code.INVALID_ARGUMENT, str(error)) from None
        else:
            self._bytes.clear()

    async def leave(self) -> None:
        """Wait until the client has gone."""
        while not self._gone:
            self._gone = (await self._receive())["type"] != "http.request"


class Caller:
    """Who asks. No certificate counts."""

    common_name = ""

    def __init__(self, scope: Scope) -> None:
        self.metadata: Metadata = tuple(_metadata(scope))


def _metadata(scope: Scope) -> list[tuple[str, str]]:
    found = []
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key == "authorization" or key.startswith("grpc-metadata-"):
            found.append((key.removeprefix("grpc-metadata-"), value.decode("latin-1")))
    return found


class Stream(Caller):
    """A `Conversation` with a client of HTTP/1.1. `endless`: that the client has said all does not end it, as
    with a watch, whose client sends one object and then listens.
    """

    def __init__(self, scope: Scope, bodies: Bodies, kind: type[Message], *, endless: bool) -> None:
        super().__init__(scope)
        self.on_room: Callable[[], None] | None = None
        self._bodies, self._kind, self._endless = bodies, kind, endless
        self._in: deque[bytes] = deque()
        self._heard = asyncio.Event()  # something new to read, or the end
        self._taken = asyncio.Event()
        self._said_all = False
        self._failure: RpcError | None = None
        self._out: deque[bytes] = deque()
        self._size = 0
        self._sent = asyncio.Event()  # something to send, or gone
        self._ended = False

    async def listen(self) -> None:
        """Take in what the client says, one object ahead of the handler; returns when it has gone."""
        try:
            while (value := await self._bodies.next()) is not None:
                self._in.append(decode(value, self._kind))
                self._heard.set()
                self._taken.clear()
                await self._taken.wait()
        except RpcError as error:
            self._failure = error
        self._said_all = self._failure is not None or not self._endless
        self._heard.set()
        await self._bodies.leave()

    async def read(self) -> bytes | None:
        """See `Conversation`."""
        while not self._in:
            if self._failure is not None:
                raise self._failure
            if self._said_all:
                return None
            self._heard.clear()
            await self._heard.wait()
        self._taken.set()
        return self._in.popleft()

    def stop_reading(self) -> None:
        """See `Conversation`."""
        self._said_all = True
        self._in.clear()
        self._heard.set()

    @property
    def has_room(self) -> bool:
        """See `Conversation`."""
        return self._size < _HIGH_WATER

    def send(self, message: bytes) -> None:
        """See `Conversation`."""
        self._out.append(message)
        self._size += len(message)
        self._sent.set()

    async def write(self, message: bytes) -> None:
        """See `Conversation`."""
        while not self.has_room:
            self._sent.clear()
            await self._sent.wait()
        self.send(message)

    def end(self) -> None:
        """Nothing more will be sent."""
        self._ended = True
        self._sent.set()

    async def messages(self) -> AsyncIterator[bytes]:
        """What is to be sent, until the end."""
        while self._out or not self._ended:
            while self._out:
                message = self._out.popleft()
                yield message
                self._size -= len(message)
                self._sent.set()
                if self.on_room is not None and self.has_room:
                    self.on_room()
            if not self._ended:
                self._sent.clear()
                await self._sent.wait()


class Gateway:
    """An ASGI application in front of the methods that gRPC is served by."""

    def __init__(self, methods: Mapping[str, Method], max_message: int) -> None:
        self._methods = methods
        self._limit = 2 * max_message  # base64 makes four bytes of three

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request whose path begins with `/v3/`."""
        name = PATHS.get(scope["path"].removeprefix("/v3/").removesuffix("/"))
        if name is None:
            await _plain(send, HTTPStatus.NOT_FOUND)
        elif scope["method"] != "POST":
            await _plain(send, HTTPStatus.METHOD_NOT_ALLOWED)
        else:
            method, bodies = self._methods["/" + name], Bodies(receive, self._limit)
            try:
                if isinstance(method, Unary):
                    await _unary(method, _types(name), scope, bodies, send)
                else:
                    await _stream(method, name, scope, bodies, send)
            except RpcError as error:
                await _answer(send, STATUS[error.code], _error(error))


def _error(error: RpcError) -> bytes:
    told = {"error": error.text, "code": int(error.code), "message": error.text}
    return json.dumps(told, separators=(",", ":")).encode()


async def _plain(send: Send, status: HTTPStatus) -> None:
    await _answer(send, status, f"{status.phrase}\n".encode(), b"text/plain; charset=utf-8")


async def _answer(send: Send, status: int, body: bytes, kind: bytes = b"application/json") -> None:
    headers = [(b"content-type", kind), (b"content-length", b"%d" % len(body))]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def _attempt(work: Awaitable[T]) -> T | RpcError:
    """A refusal as a value: in a group of tasks it would be raised as a group."""
    try:
        return await work
    except RpcError as error:
        return error


async def _unary(
    method: Unary, types: tuple[type[Message], type[Message]], scope: Scope, bodies: Bodies, send: Send
) -> None:
    """A client that leaves takes its request with it: a lock must not be waited for by nobody."""
    body = await bodies.whole()
    request = decode({} if body is None else body, types[0])
    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(_attempt(method.handler(request, Caller(scope))))
        leaving = tasks.create_task(bodies.leave())
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        working.cancel()
        leaving.cancel()
    if not working.cancelled():
        answer = working.result()
        if isinstance(answer, RpcError):
            raise answer
        await _answer(send, 200, encode(types[1].FromString(answer)))


async def _stream(method: Streaming, name: str, scope: Scope, bodies: Bodies, send: Send) -> None:
    """The answer begins with its first message; what fails before that has a status of its own."""
    takes, gives = _types(name)
    stream = Stream(scope, bodies, takes, endless=name == "etcdserverpb.Watch/Watch")
    lines = _Lines(send)

    async def deliver() -> None:
        async for message in stream.messages():
            await lines.write(b'{"result":' + encode(gives.FromString(message)) + b"}\n")

    async with asyncio.TaskGroup() as tasks:
        working = tasks.create_task(_attempt(method.handler(stream)))
        leaving = tasks.create_task(stream.listen())
        delivering = tasks.create_task(deliver())
        await asyncio.wait({working, leaving}, return_when=asyncio.FIRST_COMPLETED)
        if working.done():
            stream.end()
            await asyncio.wait({delivering, leaving}, return_when=asyncio.FIRST_COMPLETED)
        for task in (working, leaving, delivering):
            task.cancel()
    failure = None if working.cancelled() else working.result()
    if failure is not None and not lines.begun:
        raise failure
    if failure is not None:
        await lines.write(_late_error(failure))
    await lines.end()


class _Lines:
    """An answer of unknown length."""

    def __init__(self, send: Send) -> None:
        self._send, self.begun = send, False

    async def write(self, line: bytes, *, last: bool = False) -> None:
        """Send something, after the head if that is not sent yet."""
        if not self.begun:
            self.begun = True
            headers = [(b"content-type", b"application/json")]
            await self._send({"type": "http.response.start", "status": 200, "headers": headers})
        await self._send({"type": "http.response.body", "body": line, "more_body": not last})

    async def end(self) -> None:
        """Nothing more."""
        await self.write(b"", last=True)


def _late_error(error: RpcError) -> bytes:
    status = HTTPStatus(STATUS[error.code])
    found = {
        "grpc_code": int(error.code),
        "http_code": int(status),
        "message": error.text,
        "http_status": status.phrase,
    }
    return json.dumps({"error": found}).encode() + b"\n"
