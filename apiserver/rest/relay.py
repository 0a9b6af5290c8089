"""Handing a request on to another server: an upgrade as a tunnel of bytes, everything else as a stream.

Both heads of an upgrade are passed on, then bytes in both directions, so WebSocket and SPDY work alike.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator

import httpx

from apimachinery import errors
from apiserver.rest.message import Answer, Request, Response, Taken
from componentbase.http.client import Headers, dial, read_refusal
from componentbase.http.stream import RawStream

HOP_HEADERS = frozenset(
    {
        "host",
        "connection",
        "authorization",
        "content-length",
        "transfer-encoding",
        "accept-encoding",
        "keep-alive",
    }
)


async def tunnel(
    request: Request,
    url: str,
    context: ssl.SSLContext | None,
    headers: Headers,
    *,
    connect_to: tuple[str, int] | None = None,
) -> Answer:
    """Take the client's connection over and join it with one to `url`.

    A refusal by the other side is passed on. Raises 400 without an upgrade, OSError or ValueError when the
    other side cannot be reached.
    """
    take = request.extensions.get("hardway.upgrade")
    if take is None:
        raise errors.bad_request("Upgrade request required")
    status, answer, upstream = await dial(url, context, headers, request.method, connect_to=connect_to)
    if status != 101:
        refused = await read_refusal(status, answer, upstream)
        return Response(refused.status, refused.body, answer.get("content-type", "text/plain"))
    lines = [
        b"HTTP/1.1 101 Switching Protocols",
        *(f"{name}: {value}".encode("latin-1") for name, value in answer.items()),
    ]
    try:
        downstream = await take(b"\r\n".join(lines) + b"\r\n\r\n")
        await _join(downstream, upstream)
    finally:
        upstream.close()
    return Taken()


async def chunks(answer: httpx.Response) -> AsyncIterator[bytes]:
    """The body as it comes, undecoded."""
    try:
        async for chunk in answer.aiter_raw():
            yield chunk
    finally:
        await answer.aclose()


async def _join(left: RawStream, right: RawStream) -> None:
    """Copy in both directions until either side has ended for good."""

    async def copy(source: RawStream, target: RawStream) -> None:
        while data := await source.read():
            await target.write(data)
        target.write_eof()

    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(copy(left, right), name="tunnel-up")
            tasks.create_task(copy(right, left), name="tunnel-down")
    except* (OSError, ConnectionError):
        pass
    finally:
        left.close()
        right.close()
