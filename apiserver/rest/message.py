"""A request on its way through the chain, and the three shapes of an answer to it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, MutableMapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import orjson

from apimachinery import errors
from apimachinery.errors import StatusError
from apiserver.auth.user import ANONYMOUS_USER, User
from apiserver.rest.info import RequestInfo

Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]
App = Callable[[Scope, Receive, Send], Awaitable[None]]

MAX_BODY = 3 * 1024 * 1024
JSON = "application/json"
STATE = "hardway.request"
"""Where the ASGI scope holds the Request."""
TEXT = "text/plain; charset=utf-8"


def _allow(_: RequestInfo) -> None:
    return None


@dataclass(slots=True)
class Request:
    """One HTTP request. `user` is who acts, after authentication.

    `authorize` raises 403 unless that user may do this as well; for a request that turns out to be two
    (an apply that creates).
    """

    scope: Scope
    receive: Receive
    info: RequestInfo
    headers: dict[str, str]
    user: User = ANONYMOUS_USER
    warnings: list[str] = field(default_factory=list)
    annotations: dict[str, str] = field(default_factory=dict)  # for the audit log
    authorize: Callable[[RequestInfo], None] = _allow
    place: Any = None  # rest/flow.py's Place, once it is known
    audit_id: str = ""

    @property
    def method(self) -> str:
        return str(self.scope["method"])

    @property
    def extensions(self) -> dict[str, Any]:
        found: dict[str, Any] = self.scope.get("extensions") or {}
        return found

    async def body(self, limit: int = MAX_BODY) -> bytes:
        """The whole body. Raises 413 beyond `limit` bytes."""
        length = self.headers.get("content-length", "")
        if length.isdigit() and int(length) > limit:
            raise errors.too_large(f"limit is {limit}")
        chunks, size = [], 0
        while True:
            message = await self.receive()
            if message["type"] == "http.disconnect":
                raise errors.bad_request("the client closed the connection before the body was complete")
            chunk = message.get("body", b"")
            size += len(chunk)
            if size > limit:
                raise errors.too_large(f"limit is {limit}")
            chunks.append(chunk)
            if not message.get("more_body"):
                return b"".join(chunks)


def make_headers(scope: Scope) -> dict[str, str]:
    """Header names in lower case; of repeated ones the values joined by commas."""
    out: dict[str, str] = {}
    for raw_name, raw_value in scope["headers"]:
        name, value = raw_name.decode("latin-1"), raw_value.decode("latin-1")
        out[name] = f"{out[name]},{value}" if name in out else value
    return out


PIECE = 256 * 1024


class Joined:
    """A list's body, put together while it is sent: `head`, the items with commas between, `tail`.

    Eleven megabytes in one piece cost more in fresh memory than in their encryption, and nobody else is
    served meanwhile.
    """

    def __init__(self, head: bytes, items: Sequence[bytes], tail: bytes) -> None:
        self._head, self._items, self._tail = head, items, tail
        self._size = len(head) + sum(map(len, items)) + max(len(items) - 1, 0) + len(tail)

    def __len__(self) -> int:
        """Bytes in all."""
        return self._size

    def __iter__(self) -> Iterator[bytes]:
        """Pieces of about PIECE bytes."""
        piece, size, comma = [self._head], len(self._head), b""
        for item in self._items:
            piece += (comma, item)
            size += len(item)
            comma = b","
            if size >= PIECE:
                yield b"".join(piece)
                piece, size = [], 0
        yield b"".join((*piece, self._tail))


@dataclass(slots=True)
class Response:
    """A whole answer."""

    status: int
    body: bytes | Joined
    content_type: str = JSON
    headers: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class Stream:
    """An answer in chunks, until the iterator or the client ends it."""

    chunks: AsyncIterator[bytes]
    content_type: str = JSON
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


class Taken:
    """The connection was taken over (an upgrade); there is nothing left to send."""


Answer = Response | Stream | Taken


def ok(obj: Any, status: int = 200) -> Response:
    return Response(status, encode(obj))


def encode(obj: Any, *, pretty: bool = False) -> bytes:
    """JSON as Go's encoder ends it: with a newline, unless it is for people."""
    return orjson.dumps(obj, option=orjson.OPT_INDENT_2 if pretty else orjson.OPT_APPEND_NEWLINE)


PEOPLE = ("curl", "Wget", "Mozilla/5.0")
TRUE = frozenset({"1", "t", "T", "TRUE", "true", "True"})


def wants_pretty(info: RequestInfo, agent: str) -> bool:
    """Whether JSON is to be indented: by `?pretty=`, and for command-line tools and browsers unless that says
    otherwise.
    """
    asked = info.first("pretty")
    return asked in TRUE if asked else agent.startswith(PEOPLE)


def prettified(answer: Response) -> Response:
    """The same document, indented."""
    if answer.content_type == JSON and answer.body:
        whole = answer.body if isinstance(answer.body, bytes) else b"".join(answer.body)
        answer.body = encode(orjson.loads(whole), pretty=True)
    return answer


def failure(error: StatusError) -> Response:
    return Response(error.code, encode(error.status), JSON, dict(error.headers))


def warning_header(text: str) -> bytes:
    """RFC 7234 `Warning: 299 - "text"`, with what would break the header taken out."""
    clean = (
        "".join(char if char.isprintable() else " " for char in text)
        .replace("\\", "\\\\")
        .replace('"', '\\"')
    )
    return f'299 - "{clean}"'.encode("ascii", "replace")


def head_of(answer: Response | Stream, warnings: list[str]) -> list[tuple[bytes, bytes]]:
    """Response headers in ASGI form."""
    out = [(b"content-type", answer.content_type.encode())]
    if "cache-control" not in answer.headers:
        out.append((b"cache-control", b"no-cache, private"))
    if isinstance(answer, Response):
        out.append((b"content-length", str(len(answer.body)).encode()))
    out += [(name.lower().encode(), value.encode("latin-1")) for name, value in answer.headers.items()]
    out += [(b"warning", warning_header(text)) for text in warnings]
    return out
