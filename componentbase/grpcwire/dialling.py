"""The dialling end of a connection: calls go out, answers come in. Pure."""

from __future__ import annotations

from collections.abc import Callable

from componentbase.grpcwire import frames, messages
from componentbase.grpcwire.connection import Connection, Limits, Receiver, Stream
from componentbase.grpcwire.frames import ErrorCode, H2Error, Setting
from componentbase.grpcwire.hpack import Fields
from componentbase.grpcwire.status import Code, RpcError


class ClientConnection(Connection):
    """The dialling end."""

    def __init__(self, limits: Limits, now: Callable[[], float]) -> None:
        super().__init__(limits, now)
        self._next = 1
        self.out.append(frames.PREFACE)
        self._greet({Setting.ENABLE_PUSH: 0})

    @property
    def usable(self) -> bool:
        """Whether new calls may begin here."""
        return self.failure is None and self.goaway is None and self._next < frames.MAX_WINDOW

    @property
    def full(self) -> bool:
        """Whether the other side allows no further stream for now."""
        return len(self.streams) >= self.peer_streams

    def open(self, fields: Fields, receiver: Receiver) -> Stream:
        """Begin a call. The caller has looked at `usable` and `full`."""
        stream = self.streams[self._next] = Stream(self._next, receiver, self._peer_window, self.limits)
        self._next += 2
        self.send_fields(stream, fields, end=False)
        return stream

    def call(self, fields: Fields, receiver: Receiver, message: bytes) -> Stream:
        """Begin a unary call: headers and the only message, in one piece if the windows allow."""
        stream = self.open(fields, receiver)
        size = len(message) + messages.PREFIX_BYTES
        if size <= self._peer_frame and size <= stream.send_window and size <= self._send_window:
            self._send_window -= size
            head = frames.head(size, frames.DATA, frames.END_STREAM, stream.id)
            self.out.append(head + messages.prefix(len(message)) + message)
            stream.local_closed = True
        else:
            self.send_message(stream, message)
            self.send_end(stream)
        return stream

    def _is_idle(self, id: int) -> bool:
        return id % 2 == 0 or id >= self._next

    def _ours(self, id: int) -> bool:
        return True

    def _on_fields(self, id: int, fields: Fields | None, ended: bool) -> None:
        stream = self.streams.get(id)
        if stream is None:
            if self._is_idle(id):
                raise H2Error(ErrorCode.PROTOCOL_ERROR, f"headers on stream {id}, which was never open")
            return
        if fields is None:
            self._broken(stream, RpcError(Code.INTERNAL, "the answer's headers are too large"))
            return
        stream.receiver.on_headers(fields)
        if ended and stream.id in self.streams:
            self._end_of(stream)

    def _end_of(self, stream: Stream) -> None:
        super()._end_of(stream)
        if not stream.local_closed:
            self.reset(stream, ErrorCode.NO_ERROR)

    def _broken(self, stream: Stream, error: RpcError) -> None:
        self.reset(stream)
        stream.receiver.on_reset(error)
