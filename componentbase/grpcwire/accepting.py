"""The accepting end of a connection: calls come in, answers go out. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from componentbase.grpcwire import frames, messages, rpc
from componentbase.grpcwire.connection import Connection, Limits, Stream
from componentbase.grpcwire.frames import ErrorCode, H2Error, Setting
from componentbase.grpcwire.hpack import Fields
from componentbase.grpcwire.status import Code, RpcError, encode_message

_ANSWER: Final[Fields] = ((":status", "200"), ("content-type", rpc.CONTENT_TYPE))
_OK: Final[Fields] = (("grpc-status", "0"),)


class ServerConnection(Connection):
    """The accepting end. `accept(stream, request)` gives each new call its receiver."""

    def __init__(
        self,
        limits: Limits,
        now: Callable[[], float],
        accept: Callable[[Stream, rpc.Request], None],
    ) -> None:
        super().__init__(limits, now)
        self._accept = accept
        self._preface = frames.PREFACE
        self.draining = False
        self.spoke = False  # since the last PING of the client: headers or data were sent
        self._greet({Setting.MAX_CONCURRENT_STREAMS: limits.max_streams})

    def receive(self, data: bytes) -> None:
        """Take in what arrived."""
        if self._preface:
            part = min(len(data), len(self._preface))
            if data[:part] != self._preface[:part]:
                self.failure = H2Error(ErrorCode.PROTOCOL_ERROR, "this is not HTTP/2")
                return
            data, self._preface = data[part:], self._preface[part:]
            if not data:
                return
        super().receive(data)

    def _is_idle(self, id: int) -> bool:
        return id % 2 == 0 or id > self.last_stream

    def _ours(self, id: int) -> bool:
        return False

    def _on_fields(self, id: int, fields: Fields | None, ended: bool) -> None:
        stream = self.streams.get(id)
        if stream is not None:
            if not ended or stream.remote_closed:
                raise H2Error(ErrorCode.PROTOCOL_ERROR, "a second header list that ends nothing")
            self._end_of(stream)
            return
        if id % 2 == 0:
            raise H2Error(ErrorCode.PROTOCOL_ERROR, f"stream {id} is not a client's")
        if id <= self.last_stream:
            self._spend()  # trailers of a stream that we have ended
            return
        self.last_stream = id
        self._open(id, fields, ended)

    def _open(self, id: int, fields: Fields | None, ended: bool) -> None:
        if self.draining or len(self.streams) >= self.limits.max_streams:
            self.out.append(frames.rst_stream(id, ErrorCode.REFUSED_STREAM))
            self._spend()
            return
        try:
            request = rpc.Request("", http_status="431") if fields is None else rpc.parse_request(fields)
        except rpc.Malformed:
            self.out.append(frames.rst_stream(id, ErrorCode.PROTOCOL_ERROR))
            self._spend()
            return
        stream = self.streams[id] = Stream(id, _NOBODY, self._peer_window, self.limits)
        if request.http_status:
            self.send_fields(stream, ((":status", request.http_status),), end=True)
            self._finish(stream, ended)
        elif request.refusal is not None:
            self.respond_status(stream, *request.refusal)
            self._finish(stream, ended)
        else:
            self._accept(stream, request)
            if ended:
                self._end_of(stream)

    def _finish(self, stream: Stream, ended: bool = False) -> None:
        """We have said all: what the client still sends is not wanted (section 8.1)."""
        if stream.id in self.streams and not stream.remote_closed and not stream.pending:
            if ended:
                self._drop(stream)
            else:
                self.reset(stream, ErrorCode.NO_ERROR)

    def _broken(self, stream: Stream, error: RpcError) -> None:
        stream.receiver.on_reset(error)
        if stream.id in self.streams:
            self.respond_status(stream, error.code, error.text)
            self.reset(stream, ErrorCode.NO_ERROR)

    def respond(self, stream: Stream, message: bytes) -> None:
        """Answer a unary call with OK: headers, message and trailers, in one piece if the windows allow."""
        self.spoke = True
        size = len(message) + messages.PREFIX_BYTES
        if size <= self._peer_frame and size <= stream.send_window and size <= self._send_window:
            self._send_window -= size
            headers, trailers, id = self._encoder.encode(_ANSWER), self._encoder.encode(_OK), stream.id
            self.out += (
                frames.head(len(headers), frames.HEADERS, frames.END_HEADERS, id) + headers,
                frames.head(size, frames.DATA, 0, id) + messages.prefix(len(message)) + message,
                frames.head(len(trailers), frames.HEADERS, frames.END_HEADERS | frames.END_STREAM, id)
                + trailers,
            )
            self._end_local(stream)
        else:
            self.respond_headers(stream)
            self.send_message(stream, message)
            self.send_fields(stream, _OK, end=True)
        self._finish(stream)

    def respond_headers(self, stream: Stream) -> None:
        """Begin an answer of any number of messages."""
        self.spoke = True
        self.send_fields(stream, _ANSWER, end=False)

    def respond_status(self, stream: Stream, code: Code, text: str) -> None:
        """End a call; if nothing was said before, by trailers alone."""
        self.spoke = True
        self.send_fields(stream, _status_fields(code, text, headers_sent=stream.headers_sent), end=True)
        self._finish(stream)

    def drain(self, *, final: bool) -> None:
        """Announce the end (section 6.8): first without a bound, so that calls on their way are not lost."""
        last = self.last_stream if final else frames.MAX_WINDOW
        self.draining = final
        self.out.append(frames.goaway(last, ErrorCode.NO_ERROR))


def _status_fields(code: Code, text: str, *, headers_sent: bool) -> Fields:
    status: Fields = (("grpc-status", str(int(code))),)
    if text:
        status += (("grpc-message", encode_message(text)),)
    return status if headers_sent else _ANSWER + status


class _Nobody:
    """The receiver of a call that was refused as it began."""

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


_NOBODY: Final[Any] = _Nobody()
