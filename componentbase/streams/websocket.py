"""WebSocket over an upgraded connection, and what Kubernetes sends in it.

`v4.channel.k8s.io` and `v5.channel.k8s.io` carry several byte streams in one: the first byte of a message
names the channel. v5 adds a way to close a channel from the client (message 255, then the channel), so
standard input can end while output goes on (KEP-4006). `SPDY/3.1+portforward.k8s.io` is SPDY in binary
messages.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
from collections.abc import Mapping, Sequence

from wsproto.connection import Connection, ConnectionState, ConnectionType
from wsproto.events import BytesMessage, CloseConnection, Ping, Pong, TextMessage
from wsproto.utilities import LocalProtocolError, RemoteProtocolError

from componentbase.streams.session import ByteStream

V5, V4 = "v5.channel.k8s.io", "v4.channel.k8s.io"
TUNNEL = "SPDY/3.1+portforward.k8s.io"
STDIN, STDOUT, STDERR, ERROR, RESIZE, CLOSE = 0, 1, 2, 3, 4, 255
MAX_MESSAGE = 8 << 20
_GUID = "258EAFA5-E914-47DA-95CA-C5AB0DC85B11"


class HandshakeError(Exception):
    """The request is no WebSocket handshake that this server can accept; the text says why."""


def accept_key(key: str) -> str:
    """What a server answers to a client's `Sec-WebSocket-Key` (RFC 6455 section 1.3)."""
    return base64.b64encode(hashlib.sha1((key + _GUID).encode(), usedforsecurity=False).digest()).decode()


def handshake(headers: Mapping[str, str], supported: Sequence[str]) -> tuple[bytes, str]:
    """The head of a 101 answer, and the subprotocol chosen from the client's by its preference.

    `headers` are the request's, names in lower case. Raises `HandshakeError`.
    """
    if headers.get("upgrade", "").lower() != "websocket" or "sec-websocket-key" not in headers:
        raise HandshakeError("not a WebSocket handshake")
    if headers.get("sec-websocket-version") != "13":
        raise HandshakeError("only WebSocket version 13 is supported")
    offered = [name.strip() for name in headers.get("sec-websocket-protocol", "").split(",") if name.strip()]
    chosen = next((name for name in offered if name in supported), None)
    if chosen is None:
        raise HandshakeError(f"unsupported subprotocols {offered}, this server speaks {list(supported)}")
    lines = [
        "HTTP/1.1 101 Switching Protocols",
        "Upgrade: websocket",
        "Connection: Upgrade",
        f"Sec-WebSocket-Accept: {accept_key(headers['sec-websocket-key'])}",
        f"Sec-WebSocket-Protocol: {chosen}",
    ]
    return ("\r\n".join(lines) + "\r\n\r\n").encode(), chosen


def client_headers(protocols: Sequence[str]) -> dict[str, str]:
    """The headers with which a client asks for a WebSocket."""
    return {
        "Upgrade": "websocket",
        "Connection": "Upgrade",
        "Sec-WebSocket-Key": base64.b64encode(os.urandom(16)).decode(),
        "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Protocol": ", ".join(protocols),
    }


class WebSocket:
    """Messages over a byte stream whose handshake is done. Text is read as its UTF-8 bytes."""

    def __init__(self, stream: ByteStream, *, client: bool) -> None:
        self._stream = stream
        self._core = Connection(ConnectionType.CLIENT if client else ConnectionType.SERVER)
        self._writing = asyncio.Lock()
        self._messages: list[bytes] = []
        self._partial = bytearray()
        self._ended = False

    async def receive(self) -> bytes | None:
        """The next message, or None when the peer has closed. Raises ConnectionError on a broken
        connection.
        """
        while not self._messages and not self._ended:
            data = await self._stream.read()
            try:
                self._core.receive_data(data or None)
                for event in self._core.events():
                    await self._handle(event)
            except RemoteProtocolError as error:
                raise ConnectionResetError(f"WebSocket protocol error: {error}") from error
            if not data:
                self._ended = True
        return self._messages.pop(0) if self._messages else None

    async def _handle(self, event: object) -> None:
        if isinstance(event, BytesMessage | TextMessage):
            part = event.data
            self._partial += part.encode() if isinstance(part, str) else part
            if len(self._partial) > MAX_MESSAGE:
                raise ConnectionResetError(f"WebSocket message of more than {MAX_MESSAGE} bytes")
            if event.message_finished:
                self._messages.append(bytes(self._partial))
                self._partial.clear()
        elif isinstance(event, Ping):
            await self._send(event.response())
        elif isinstance(event, CloseConnection):
            self._ended = True
            if self._core.state is ConnectionState.REMOTE_CLOSING:
                # A peer that has hung up right after its goodbye needs no answer.
                with contextlib.suppress(ConnectionError):
                    await self._send(event.response())

    async def _send(self, event: BytesMessage | Pong | CloseConnection) -> None:
        async with self._writing:
            try:
                frame = self._core.send(event)
            except LocalProtocolError as error:
                raise ConnectionResetError("the WebSocket is closed") from error
            await self._stream.write(frame)

    async def send(self, message: bytes) -> None:
        """Send one binary message. Raises ConnectionError."""
        await self._send(BytesMessage(data=message))

    async def close(self, code: int = 1000, reason: str = "") -> None:
        """Say goodbye and close; a connection that is gone already is fine."""
        try:
            if self._core.state in (ConnectionState.OPEN, ConnectionState.REMOTE_CLOSING):
                await self._send(CloseConnection(code=code, reason=reason[:120] or None))
        except ConnectionError:
            pass
        finally:
            self._stream.close()


class Tunnel:
    """Bytes in binary messages: a `ByteStream` over a WebSocket."""

    def __init__(self, socket: WebSocket) -> None:
        self._socket = socket
        self._stream = socket._stream

    async def read(self) -> bytes:
        while (message := await self._socket.receive()) is not None:
            if message:
                return message
        return b""

    async def write(self, data: bytes) -> None:
        await self._socket.send(data)

    def close(self) -> None:
        self._stream.close()


class Channels:
    """Several byte streams in one WebSocket, by the channel protocol v4 or v5."""

    def __init__(self, socket: WebSocket, protocol: str) -> None:
        self.socket = socket
        self.v5 = protocol == V5

    async def receive(self) -> tuple[int, bytes | None] | None:
        """The next piece as (channel, bytes); bytes None: the peer closed that channel (v5). None at the
        end.
        """
        while (message := await self.socket.receive()) is not None:
            if not message:
                continue
            if message[0] == CLOSE and self.v5:
                if len(message) == 2:
                    return message[1], None
                raise ConnectionResetError("malformed close signal")
            return message[0], message[1:]
        return None

    async def send(self, channel: int, payload: bytes) -> None:
        await self.socket.send(bytes([channel]) + payload)

    async def close_channel(self, channel: int) -> None:
        """Half-close one channel (v5; on v4 there is no such message and nothing is sent)."""
        if self.v5:
            await self.socket.send(bytes([CLOSE, channel]))
