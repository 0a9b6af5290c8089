"""Answers of servers that are not ours: no more of them is read than may be kept."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from apiserver.kinds import SCHEME
from apiserver.registry import answers
from apiserver.registry.backends import Backends
from apiserver.registry.webhookclient import CallFailed, WebhookClient
from tests.apiserver.harness import Harness, run
from tests.apiserver.test_admission_webhooks import credentials

CHUNK = b"x" * 1000
HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ntransfer-encoding: chunked\r\n\r\n"


class Chunks(httpx.AsyncByteStream):
    """Counts how many of its chunks were taken, and whether it was closed."""

    def __init__(self, *chunks: bytes) -> None:
        self.left, self.closed = list(chunks), False

    async def __aiter__(self) -> AsyncIterator[bytes]:
        while self.left:
            yield self.left.pop(0)

    async def aclose(self) -> None:
        self.closed = True


def read(stream: Chunks, limit: int, **headers: str) -> Any:
    return asyncio.run(answers.document(httpx.Response(200, headers=headers, stream=stream), limit))


def test_a_document_of_just_the_bound_is_read_and_closed() -> None:
    stream = Chunks(b'{"a":', b"1}")
    assert read(stream, 7) == {"a": 1} and stream.closed


def test_reading_stops_at_the_bound() -> None:
    stream = Chunks(*[CHUNK] * 100)
    with pytest.raises(answers.Unusable, match="larger than 2500 bytes"):
        read(stream, 2500)
    assert len(stream.left) == 97 and stream.closed


@pytest.mark.parametrize(
    ("body", "headers", "why"),
    [
        (b"{", {}, "unexpected end"),
        (b"[]", {}, "no object"),
        (b"\x1f\x8b", {"content-encoding": "gzip"}, "encoded as gzip"),
    ],
)
def test_what_is_no_document(body: bytes, headers: dict[str, str], why: str) -> None:
    with pytest.raises(answers.Unusable, match=why):
        read(Chunks(body), 100, **headers)


def test_a_webhook_that_never_stops_answering_is_left(tmp_path: Path) -> None:
    """It writes for ever; read as a whole, the call would not end before the caller's own deadline."""
    cert, key, bundle = credentials(tmp_path)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(cert, key)
    left = asyncio.Event()

    async def endless(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(HEAD)
        try:
            while True:
                writer.write(b"%x\r\n" % len(CHUNK) + CHUNK + b"\r\n")
                await writer.drain()
        except OSError:
            left.set()
        finally:
            writer.transport.abort()

    async def test(api: Harness) -> None:
        server = await asyncio.start_server(endless, "127.0.0.1", 0, ssl=context)
        async with server, asyncio.timeout(60):
            url = f"https://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
            client = WebhookClient(Backends(api.server.cacher, SCHEME), max_answer=10_000)
            with pytest.raises(CallFailed, match="the answer is larger than 10000 bytes"):
                await client.post({"url": url, "caBundle": bundle}, b"{}", 30)
            await left.wait()

    run(test)
