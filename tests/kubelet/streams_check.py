"""exec and port-forward against a real runtime; run inside its network namespace.

python -m tests.kubelet.streams_check <endpoint> <directory> <cgroup>

A server that does nothing but streams stands between a client of the real protocols and the runtime. Prints
one line for each check that passed; fails by exception.
"""

from __future__ import annotations

import asyncio
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import orjson

from componentbase.http.client import dial
from componentbase.http.server import serve
from componentbase.streams import websocket
from componentbase.streams.session import Session
from componentbase.streams.websocket import Channels, Tunnel, WebSocket, client_headers
from componentbase.tasks import Background
from kubelet.cri.client import CriRuntime
from kubelet.cri.pb import api_pb2 as pb
from kubelet.cri.port import Runtime
from kubelet.embedded.runtime import EmbeddedRuntime, parse_endpoint
from kubelet.server.app import parse_request
from kubelet.server.upgrade import Streams
from tests.kubelet.containerd import IMAGE

SERVER = "mkdir -p /www; echo page > /www/index.html; httpd -f -p 8080 -h /www"


def connect(endpoint: str) -> Runtime:
    """The runtime of an endpoint, as the kubelet finds it."""
    return (
        EmbeddedRuntime(*parse_endpoint(endpoint))
        if endpoint.startswith("embedded:")
        else CriRuntime(endpoint)
    )


@asynccontextmanager
async def running(endpoint: str, directory: Path, cgroup: str) -> AsyncIterator[tuple[Runtime, str, str]]:
    """A sandbox and a container that serves a page."""
    runtime = connect(endpoint)
    config = pb.PodSandboxConfig(
        metadata=pb.PodSandboxMetadata(name="streams", uid="uid-streams", namespace="ns"),
        hostname="streams",
        log_directory=str(directory / "logs"),
        linux=pb.LinuxPodSandboxConfig(cgroup_parent=f"/{cgroup}/kubepods/poduid-streams"),
    )
    sandbox = await runtime.run_sandbox(config)
    try:
        made = pb.ContainerConfig(
            metadata=pb.ContainerMetadata(name="c"),
            image=pb.ImageSpec(image=IMAGE),
            command=["sh", "-c", SERVER],
            log_path="c.log",
        )
        container = await runtime.create_container(sandbox, made, config)
        await runtime.start_container(container)
        yield runtime, sandbox, container
    finally:
        await runtime.remove_sandbox(sandbox)
        await runtime.close()


async def open_websocket(port: int, path: str, query: list[tuple[str, str]], protocol: str) -> WebSocket:
    url = f"http://127.0.0.1:{port}/{path}?{urlencode(query)}"
    status, headers, stream = await dial(url, headers=client_headers([protocol]))
    assert status == 101, (status, headers)
    return WebSocket(stream, client=True)


async def execute(
    port: int, command: list[str], stdin: bytes | None, protocol: str = websocket.V5, tty: bool = False
) -> tuple[bytes, bytes, dict[str, Any]]:
    """Run a command as kubectl does; its output, errors and outcome."""
    query = [("command", word) for word in command] + [("output", "1"), ("tty" if tty else "error", "1")]
    query += [("input", "1")] if stdin is not None else []
    channels = Channels(await open_websocket(port, "exec", query, protocol), protocol)
    got: dict[int, bytes] = {websocket.STDOUT: b"", websocket.STDERR: b"", websocket.ERROR: b""}
    async with asyncio.TaskGroup() as group:

        async def feed() -> None:
            data = stdin or b""
            for at in range(0, len(data), 32_000):
                await channels.send(websocket.STDIN, data[at : at + 32_000])
            await channels.close_channel(websocket.STDIN)

        if stdin is not None:
            group.create_task(feed())
        if tty:
            await channels.send(websocket.RESIZE, b'{"Width":99,"Height":33}')
        while (piece := await channels.receive()) is not None:
            got[piece[0]] += piece[1] or b""
    return got[websocket.STDOUT], got[websocket.STDERR], dict(orjson.loads(got[websocket.ERROR]))


async def check_exec(port: int) -> None:
    out, err, outcome = await execute(port, ["sh", "-c", "echo out; echo err >&2; exit 7"], None)
    assert (out, err) == (b"out\n", b"err\n")
    assert outcome["details"]["causes"] == [{"reason": "ExitCode", "message": "7"}], outcome
    print("exit code")
    data = b"x" * 1_000_000
    out, _, outcome = await execute(port, ["wc", "-c"], data)
    assert (out.strip(), outcome["status"]) == (b"1000000", "Success")
    print("standard input ends")
    out, _, _ = await execute(port, ["sh", "-c", "echo v4"], None, websocket.V4)
    assert out == b"v4\n"
    print("v4")
    wait = "while [ \"$(stty size 2>/dev/null)\" != '33 99' ]; do :; done; stty size"
    out, _, _ = await execute(port, ["sh", "-c", wait], None, tty=True)
    assert out.strip() == b"33 99"
    print("terminal is resized")


async def check_port_forward(port: int) -> None:
    socket = await open_websocket(port, "portForward", [], websocket.TUNNEL)
    session = Session(Tunnel(socket), client=True)
    async with asyncio.TaskGroup() as group:
        group.create_task(session.run())
        for request in ("0", "1"):
            headers = {"port": "8080", "requestid": request}
            error = await session.open({**headers, "streamtype": "error"})
            data = await session.open({**headers, "streamtype": "data"})
            await data.write(b"GET /index.html HTTP/1.0\r\n\r\n")
            answer = b""
            while piece := await data.read():
                answer += piece
            assert answer.endswith(b"page\n"), answer
            assert await error.read() == b""
        print("port-forward")
        headers = {"port": "81", "requestid": "2"}
        error = await session.open({**headers, "streamtype": "error"})
        await session.open({**headers, "streamtype": "data"})
        assert b"error forwarding port 81" in await error.read()
        print("port-forward tells what failed")
        session.close()


async def main(endpoint: str, directory: Path, cgroup: str) -> None:
    async with (
        asyncio.timeout(60),
        running(endpoint, directory, cgroup) as (runtime, sandbox, container),
        Background("check") as tasks,
    ):
        streams = Streams(runtime, tasks)

        async def app(scope: dict[str, Any], receive: Any, send: Any) -> None:
            request = parse_request(scope)
            if request.segments[0] == "exec":
                await streams.execute(scope, request.headers, container, request.query)
            else:
                await streams.port_forward(scope, request.headers, sandbox, request.query)

        listening: asyncio.Future[int] = asyncio.get_running_loop().create_future()
        async with asyncio.TaskGroup() as group:
            server = group.create_task(serve(app, on_listening=listening.set_result, shutdown_grace=0.5))
            port = await listening
            await check_exec(port)
            await check_port_forward(port)
            server.cancel()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], Path(sys.argv[2]), sys.argv[3]))
