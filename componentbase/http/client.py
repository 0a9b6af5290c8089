"""Open a connection that leaves HTTP behind: one Upgrade request, then raw bytes."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import Iterable, Mapping
from urllib.parse import urlsplit

from componentbase.http.stream import RawStream
from componentbase.tasks import deadline

Headers = Mapping[str, str] | Iterable[tuple[str, str]]  # pairs may give a name several times

MAX_HEAD = 64 * 1024
DIAL_TIMEOUT = 30.0


class UpgradeRefused(Exception):
    """The server answered, but not with 101. `body` is what came of the answer's body, at most 64 KiB."""

    def __init__(self, status: int, headers: dict[str, str], body: bytes) -> None:
        super().__init__(f"server answered {status} to an upgrade request: {body[:200]!r}")
        self.status = status
        self.headers = headers
        self.body = body


async def dial(
    url: str,
    ssl_context: ssl.SSLContext | None = None,
    headers: Headers | None = None,
    method: str = "GET",
    *,
    timeout: float = DIAL_TIMEOUT,
    connect_to: tuple[str, int] | None = None,
) -> tuple[int, dict[str, str], RawStream]:
    """Connect to `url`, send one request with `headers` (the caller's `Upgrade` among them), and return the
    answer's status, its headers (names in lower case) and the stream behind its head.

    Any status is returned, also one that refuses: its body is then what the stream yields (see
    `read_refusal`). `connect_to` dials another address than the URL's; the certificate is still checked
    against the URL's host. Raises OSError, ssl.SSLError, TimeoutError, or ValueError for an answer that is
    not HTTP.
    """
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"cannot dial {url!r}: need an http or https URL")
    secure = parts.scheme == "https"
    host, port = connect_to or (parts.hostname, parts.port or (443 if secure else 80))
    context = (ssl_context or ssl.create_default_context()) if secure else None
    async with deadline(timeout, f"dial {host}:{port}"):
        _, stream = await asyncio.get_running_loop().create_connection(
            RawStream, host, port, ssl=context, server_hostname=parts.hostname if secure else None
        )
        try:
            await stream.write(_request_head(method, parts.netloc, _target(url), headers or {}))
            status, answer, rest = await _read_head(stream)
        except BaseException:
            stream.abort()
            raise
    stream.unread(rest)
    return status, answer, stream


async def read_refusal(status: int, headers: dict[str, str], stream: RawStream) -> UpgradeRefused:
    """Read the body of an answer other than 101 and close the stream."""
    body = bytearray()
    length = int(headers.get("content-length", MAX_HEAD))
    try:
        async with deadline(DIAL_TIMEOUT, "read the refusal"):
            while len(body) < min(length, MAX_HEAD) and (data := await stream.read()):
                body += data
                if "content-length" not in headers and body.endswith(b"0\r\n\r\n"):
                    break
    except (OSError, TimeoutError):
        pass
    finally:
        stream.close()
    return UpgradeRefused(status, headers, bytes(body[:MAX_HEAD]))


def _target(url: str) -> str:
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _request_head(method: str, authority: str, target: str, headers: Headers) -> bytes:
    lines = [f"{method} {target} HTTP/1.1", f"Host: {authority.rpartition('@')[2]}"]
    pairs = list(headers.items() if isinstance(headers, Mapping) else headers)
    lowered = {name.lower() for name, _ in pairs}
    if "connection" not in lowered:
        lines.append("Connection: Upgrade")
    if method != "GET" and "content-length" not in lowered:
        lines.append("Content-Length: 0")
    lines += [f"{name}: {value}" for name, value in pairs]
    if any("\r" in line or "\n" in line for line in lines):
        raise ValueError("a request line or header contains a line break")
    return ("\r\n".join(lines) + "\r\n\r\n").encode("latin-1")


async def _read_head(stream: RawStream) -> tuple[int, dict[str, str], bytes]:
    received = b""
    while b"\r\n\r\n" not in received:
        data = await stream.read()
        if not data:
            raise ConnectionResetError("connection closed before the answer's head was complete")
        received += data
        if received.find(b"\r\n\r\n", 0, MAX_HEAD) < 0 and len(received) > MAX_HEAD:
            raise ValueError("the answer's head is too large")
    head, _, rest = received.partition(b"\r\n\r\n")
    first, *lines = head.decode("latin-1").split("\r\n")
    version, _, status = first.partition(" ")
    if not version.startswith("HTTP/1.") or not status[:3].isdigit():
        raise ValueError(f"not an HTTP/1.1 answer: {first[:80]!r}")
    pairs = (line.partition(":") for line in lines)
    return int(status[:3]), {name.strip().lower(): value.strip() for name, _, value in pairs}, rest
