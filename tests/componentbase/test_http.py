"""The HTTP server and the upgrading client against each other, over real sockets, with and without TLS."""

from __future__ import annotations

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import orjson
import pytest
import uvloop

from componentbase import tlsutil
from componentbase.http import client, server
from componentbase.http.stream import READ_LIMIT, RawStream
from tests.componentbase.conftest import Certificates

SWITCH = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
UPGRADE = {"Upgrade": "echo"}


def on_loop(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(30):
            await test()

    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(bounded())


@contextlib.asynccontextmanager
async def serving(app: Any, context: ssl.SSLContext | None = None, **options: Any) -> AsyncIterator[int]:
    port: asyncio.Future[int] = asyncio.get_running_loop().create_future()
    async with asyncio.TaskGroup() as group:
        task = group.create_task(
            server.serve(app, ssl_context=context, on_listening=port.set_result, **options)
        )
        try:
            yield await port
        finally:
            task.cancel()


async def answer(send: Any, status: int, body: bytes) -> None:
    headers = [(b"content-length", str(len(body)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body})


async def read_body(receive: Any) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        body += message.get("body", b"")
        more = message.get("more_body", False)
    return body


async def app(scope: Any, receive: Any, send: Any) -> None:
    """`/echo` upgrades to an echo, `/flood` to a source; all else says how it was asked."""
    take = scope["extensions"].get("hardway.upgrade")
    if scope["path"] == "/echo" and take:
        stream = await take(SWITCH)
        while data := await stream.read():
            await stream.write(data)
        stream.close()
        return
    if scope["path"] == "/flood" and take:
        stream = await take(SWITCH)
        for _ in range(256):
            await stream.write(b"x" * 65536)
        stream.close()
        return
    der = scope["extensions"]["tls"]["peer_cert_der"]
    said = {
        "method": scope["method"],
        "path": scope["path"],
        "body": (await read_body(receive)).decode(),
        "user": tlsutil.identity(der).common_name if der else None,
        "upgrade": take is not None,
        "error": scope["extensions"]["tls"].get("peer_cert_error"),
    }
    await answer(send, 200, orjson.dumps(said))


async def read_all(stream: RawStream) -> bytes:
    data = b""
    while more := await stream.read():
        data += more
    return data


async def read_until(stream: RawStream, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = await stream.read()
        assert more, "the stream ended early"
        data += more
    return data


async def wait_closed(writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(ConnectionError):
        await writer.wait_closed()


def contexts(certificates: Certificates) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    listening = tlsutil.server_context(
        certificates.server.cert, certificates.server.key, client_ca=certificates.ca
    )
    dialling = tlsutil.client_context(
        certificates.ca.read_bytes(),
        certificates.client.cert.read_bytes(),
        certificates.client.key.read_bytes(),
    )
    return listening, dialling


@pytest.mark.parametrize("method", ["GET", "POST"])
@pytest.mark.parametrize("secure", [False, True])
def test_upgraded_connection_carries_bytes_both_ways(
    certificates: Certificates, method: str, secure: bool
) -> None:
    listening, dialling = contexts(certificates) if secure else (None, None)
    scheme = "https" if secure else "http"

    async def test() -> None:
        async with serving(app, listening) as port:
            url = f"{scheme}://127.0.0.1:{port}/echo"
            status, headers, stream = await client.dial(url, dialling, UPGRADE, method)
            assert status == 101
            assert headers["upgrade"] == "echo"
            payload = bytes(range(256)) * 4096
            async with asyncio.TaskGroup() as group:
                group.create_task(stream.write(payload))
                assert await read_until(stream, len(payload)) == payload
            stream.close()
            await stream.wait_closed()

    on_loop(test)


def test_bytes_sent_together_with_the_request_belong_to_the_tunnel() -> None:
    async def test() -> None:
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(
                b"GET /echo HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\nearly"
            )
            assert await reader.readexactly(len(SWITCH)) == SWITCH
            assert await reader.readexactly(5) == b"early"
            writer.write_eof()
            assert await reader.read() == b""
            writer.close()
            await wait_closed(writer)

    on_loop(test)


def test_a_declined_upgrade_is_an_ordinary_response_and_the_connection_goes_on() -> None:
    async def test() -> None:
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            first = b"GET /plain HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"
            second = b"POST /next HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"
            writer.write(first + second)
            text = await reader.read()
            assert text.count(b"HTTP/1.1 200 OK") == 2
            assert b'"path":"/plain"' in text
            assert b'"upgrade":true' in text
            assert b'"path":"/next","body":"hi"' in text
            writer.close()
            await wait_closed(writer)

    on_loop(test)


def test_a_fast_sender_is_made_to_wait_for_a_slow_reader() -> None:
    async def test() -> None:
        async with serving(app) as port:
            _, _, stream = await client.dial(f"http://127.0.0.1:{port}/flood", None, UPGRADE)
            await asyncio.sleep(0.2)
            assert stream.buffered <= READ_LIMIT + 256 * 1024
            assert len(await read_all(stream)) == 256 * 65536
            stream.close()
            await stream.wait_closed()

    on_loop(test)


@pytest.mark.parametrize(("pair", "user"), [("client", "admin"), (None, None)])
def test_the_client_certificate_is_in_the_scope(
    certificates: Certificates, pair: str | None, user: str | None
) -> None:
    listening, dialling = contexts(certificates)
    if pair is None:
        dialling = tlsutil.client_context(certificates.ca)

    async def test() -> None:
        async with serving(app, listening) as port:
            for _ in range(2):
                status, headers, stream = await client.dial(
                    f"https://localhost:{port}/who", dialling, UPGRADE
                )
                assert status == 200
                body = await read_until(stream, int(headers["content-length"]))
                assert orjson.loads(body)["user"] == user
                stream.close()
                await stream.wait_closed()
            await stream.wait_closed()

    on_loop(test)


def test_a_certificate_of_another_authority_ends_the_handshake(certificates: Certificates) -> None:
    listening, _ = contexts(certificates)
    stranger = tlsutil.client_context(certificates.ca, certificates.stranger.cert, certificates.stranger.key)

    async def test() -> None:
        async with serving(app, listening) as port:
            with pytest.raises((ssl.SSLError, ConnectionError)):
                await client.dial(f"https://127.0.0.1:{port}/", stranger, UPGRADE)

    on_loop(test)


@pytest.mark.parametrize(
    ("pair", "user", "error"),
    [
        ("client", "admin", None),
        ("stranger", None, "unable to get local issuer certificate"),
        ("expired", None, "certificate has expired"),
        (None, None, None),
    ],
)
def test_a_certificate_that_does_not_verify_can_be_reported(
    certificates: Certificates, pair: str | None, user: str | None, error: str | None
) -> None:
    listening = tlsutil.server_context(
        certificates.server.cert, certificates.server.key, certificates.ca, report_unverified=True
    )
    files = getattr(certificates, pair) if pair else None
    dialling = tlsutil.client_context(
        certificates.ca, files.cert if files else None, files.key if files else None
    )
    good = tlsutil.client_context(certificates.ca, certificates.client.cert, certificates.client.key)

    async def ask(port: int, context: ssl.SSLContext) -> Any:
        _, headers, stream = await client.dial(f"https://localhost:{port}/who", context, UPGRADE)
        body = await read_until(stream, int(headers["content-length"]))
        stream.close()
        await stream.wait_closed()
        return orjson.loads(body)

    async def test() -> None:
        async with serving(app, listening) as port:
            for _ in range(3):
                said = await ask(port, dialling)
                assert (said["user"], said["error"]) == (user, error)
                # Who came before must not rub off on who comes next.
                assert (await ask(port, good))["user"] == "admin"

    on_loop(test)


def test_reporting_needs_an_authority(certificates: Certificates) -> None:
    with pytest.raises(ValueError, match="without a CA"):
        tlsutil.server_context(certificates.server.cert, certificates.server.key, report_unverified=True)


def test_cancelling_the_server_ends_requests_and_tunnels() -> None:
    ended: list[str] = []

    async def hanging(scope: Any, receive: Any, send: Any) -> None:
        if take := scope["extensions"].get("hardway.upgrade"):
            stream = await take(SWITCH)
            assert await stream.read() == b""
            ended.append("tunnel")
            return
        try:
            await asyncio.Event().wait()
        finally:
            ended.append("request")

    async def test() -> None:
        async with serving(hanging, shutdown_grace=0.05) as port:
            _, _, stream = await client.dial(f"http://127.0.0.1:{port}/", None, UPGRADE)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            await asyncio.sleep(0.05)
        assert await stream.read() == b""
        assert await reader.read() == b""
        stream.close()
        await stream.wait_closed()
        writer.close()
        await wait_closed(writer)
        assert sorted(ended) == ["request", "tunnel"]

    on_loop(test)


def test_a_head_without_end_is_refused() -> None:
    async def test() -> None:
        async with serving(app) as port:
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"GET / HTTP/1.1\r\n")
            with contextlib.suppress(ConnectionError):
                for number in range(100):
                    writer.write(b"X-%d: " % number + b"y" * 20_000 + b"\r\n")
                    await writer.drain()
                assert (await reader.read()).startswith(b"HTTP/1.1 400")
            writer.close()
            await wait_closed(writer)

    on_loop(test)


def test_refusal_carries_the_body() -> None:
    async def refusing(scope: Any, receive: Any, send: Any) -> None:
        await answer(send, 403, b"no")

    async def test() -> None:
        async with serving(refusing) as port:
            answered = await client.dial(f"http://127.0.0.1:{port}/", None, UPGRADE)
            refusal = await client.read_refusal(*answered)
            assert (refusal.status, refusal.body) == (403, b"no")

    on_loop(test)


def test_line_breaks_cannot_be_smuggled_into_a_request() -> None:
    async def test() -> None:
        async with serving(app) as port:
            with pytest.raises(ValueError, match="line break"):
                await client.dial(f"http://127.0.0.1:{port}/", None, {"Upgrade": "a\r\nX: y"})

    on_loop(test)
