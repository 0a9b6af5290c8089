"""What is asked and answered, how it fails, and what a transport is: the seam between RestClient and the
wire, where tests put an API in memory and controllers a fence.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

IDEMPOTENT = frozenset({"GET", "HEAD", "OPTIONS"})
"""Methods that may be sent twice (RFC 9110, 9.2.2, less those that write: a repeated PUT or DELETE would meet
its own effect as a conflict or a 404).
"""


class ConnectionFailed(Exception):
    """No answer came: the server was not reached, or the connection broke. A write may have happened."""


class NotSent(ConnectionFailed):
    """Not a byte of the request left this process."""


@dataclass(slots=True)
class Request:
    """One request. `target` is the path and query as they go onto the wire.

    `timeout` is in seconds: without a byte of the answer, and for a place in the pool. `before_write` is
    called when nothing stands between the request and the socket any more; what it raises ends the request
    unsent. With `stream` the answer is handed over when its head is there.
    """

    method: str
    target: bytes
    headers: Sequence[tuple[bytes, bytes]] = ()
    body: bytes | None = None
    timeout: float = 30.0
    stream: bool = False
    before_write: Callable[[], None] | None = None

    @property
    def path(self) -> str:
        return self.target.partition(b"?")[0].decode("ascii")

    def header(self, name: str) -> str:
        """The value of a header, by its lower-case name; "" when it is not there."""
        wanted = name.encode("latin-1")
        return next((value.decode("latin-1") for key, value in self.headers if key.lower() == wanted), "")

    def encode(self) -> bytes:
        """The bytes of the request. Raises ValueError for what would become another request on the wire."""
        if len(self.target.split()) != 1:
            raise ValueError(f"not a request target: {self.target!r}")
        lines = [b"%b %b HTTP/1.1" % (self.method.encode("ascii"), self.target)]
        lines += [b"%b: %b" % header for header in self.headers]
        if self.body is not None or self.method not in IDEMPOTENT:
            lines.append(b"Content-Length: %d" % len(self.body or b""))
        head = b"\r\n".join(lines)
        if len(head.splitlines()) != len(lines):
            raise ValueError("a line break in a request's headers")
        return b"".join((head, b"\r\n\r\n", self.body or b""))


class Stream(Protocol):
    """The body of a streamed answer. Iterating raises ConnectionFailed when it breaks off."""

    def __aiter__(self) -> AsyncIterator[bytes]: ...

    async def aclose(self) -> None: ...


@dataclass(slots=True)
class Answer:
    """Status, headers (names in lower case) and the body: whole in `content`, or as it comes in `stream`."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    content: bytes = b""
    stream: Stream | None = None

    async def read(self) -> bytes:
        """The whole body. Raises ConnectionFailed."""
        if self.stream is not None:
            try:
                self.content = b"".join([chunk async for chunk in self.stream])
            finally:
                await self.stream.aclose()
                self.stream = None
        return self.content


class Transport(Protocol):
    """Carries requests to one server."""

    async def send(self, request: Request) -> Answer:
        """Raises NotSent, or ConnectionFailed when the outcome is unknown; ValueError for a request that
        cannot be written down.
        """

    async def aclose(self) -> None:
        """Close every connection; requests under way fail."""
