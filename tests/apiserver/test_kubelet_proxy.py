"""log and exec through the apiserver to a kubelet: verified TLS, streams, tunnels of any upgrade protocol."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from componentbase import tlsutil
from componentbase.http.client import dial, read_refusal
from componentbase.http.server import serve
from pki.layout import Inventory, generate
from tests.apiserver.devserver import names
from tests.apiserver.harness import DEFAULT_ACCOUNT, PODS, Harness, harness, pod
from tests.ports import free_port

HEAD = b"HTTP/1.1 101 Switching Protocols\r\nConnection: Upgrade\r\nUpgrade: echo\r\n\r\n"
SEEN: list[tuple[str, bytes]] = []


async def kubelet(scope: dict[str, Any], receive: Any, send: Any) -> None:
    """Answers logs with their query, and echoes on an upgraded connection."""
    assert tlsutil.identity(scope["extensions"]["tls"]["peer_cert_der"]).common_name
    SEEN.append((scope["path"], scope["query_string"]))
    if scope["path"].startswith("/exec/"):
        stream = await scope["extensions"]["hardway.upgrade"](HEAD)
        while data := await stream.read():
            await stream.write(b"<" + data + b">")
        stream.close()
        return
    missing = scope["path"].endswith("/missing")
    await send(
        {
            "type": "http.response.start",
            "status": 404 if missing else 200,
            "headers": [(b"content-type", b"text/plain")],
        }
    )
    await send({"type": "http.response.body", "body": b"no such container" if missing else b"line\n"})


async def with_node(
    directory: Path, test: Callable[[Harness, int], Awaitable[None]], *, authority: str = "ca"
) -> None:
    """Run a kubelet and an apiserver that knows its node, both listening."""
    inventory = generate(directory, names(1, "n1"))
    path = inventory.path
    context = tlsutil.server_context(
        path("n1/kubelet.pem"), path("n1/kubelet-key.pem"), path("ca.pem"), require_client=True
    )
    flags = (
        f"--kubelet-certificate-authority={path(authority + '.pem')}",
        f"--kubelet-client-certificate={path('apiserver-kubelet-client.pem')}",
        f"--kubelet-client-key={path('apiserver-kubelet-client-key.pem')}",
    )
    kubelet_port, api_port = free_port(), free_port()
    async with harness(*flags) as api, asyncio.TaskGroup() as tasks:
        listeners = [
            tasks.create_task(serve(kubelet, port=kubelet_port, ssl_context=context)),
            tasks.create_task(serve(api.server.app, port=api_port)),
        ]
        await _cluster(api, kubelet_port)
        await test(api, api_port)
        for listener in listeners:
            listener.cancel()


STRATEGIC = {"content-type": "application/strategic-merge-patch+json"}


async def _cluster(api: Harness, port: int) -> None:
    await api.ok("POST", "/api/v1/namespaces/default/serviceaccounts", DEFAULT_ACCOUNT)
    node = {"metadata": {"name": "n1"}}
    made = await api.ok("POST", "/api/v1/nodes", node)
    status = {
        "addresses": [{"type": "InternalIP", "address": "127.0.0.1"}],
        "daemonEndpoints": {"kubeletEndpoint": {"Port": port}},
    }
    await api.ok("PUT", "/api/v1/nodes/n1/status", {**made, "status": status})
    await api.ok("POST", PODS, pod("p", node="n1"))
    await api.ok("POST", PODS, pod("free"))


def test_logs_are_relayed_with_their_parameters(tmp_path: Path) -> None:
    async def test(api: Harness, port: int) -> None:
        answer = await api.call("GET", f"{PODS}/p/log?tailLines=5&container=c")
        assert (answer.status_code, answer.text) == (200, "line\n")
        assert SEEN[-1] == ("/containerLogs/default/p/c", b"tailLines=5")
        await api.fails(400, "BadRequest", "GET", f"{PODS}/free/log")
        await api.fails(400, "BadRequest", "GET", f"{PODS}/p/log?container=other")
        await api.fails(403, "Forbidden", "GET", f"{PODS}/p/log", user="x")

    asyncio.run(with_node(tmp_path, test))


def test_logs_without_a_container_are_those_of_the_only_regular_one(tmp_path: Path) -> None:
    async def test(api: Harness, port: int) -> None:
        debugger = {"name": "debugger", "image": "i", "terminationMessagePolicy": "File"}
        change = {"spec": {"ephemeralContainers": [debugger]}}
        await api.ok("PATCH", f"{PODS}/p/ephemeralcontainers", change, headers=STRATEGIC)
        assert (await api.call("GET", f"{PODS}/p/log")).status_code == 200
        assert SEEN[-1][0] == "/containerLogs/default/p/c"
        several = pod("several", node="n1")
        one = several["spec"]["containers"][0]
        several["spec"]["containers"].append({**one, "name": "d"})
        several["spec"]["initContainers"] = [{**one, "name": "first"}]
        await api.ok("POST", PODS, several)
        refused = await api.fails(400, "BadRequest", "GET", f"{PODS}/several/log")
        assert refused["message"].endswith("choose one of: [c d] or one of the init containers: [first]")

    asyncio.run(with_node(tmp_path, test))


def test_exec_is_tunnelled_both_ways(tmp_path: Path) -> None:
    async def test(api: Harness, port: int) -> None:
        url = f"http://127.0.0.1:{port}{PODS}/p/exec?command=sh&command=-c&stdin=true&stdout=true&container=c"
        status, headers, stream = await dial(url, headers={"Upgrade": "echo"}, method="POST")
        assert status == 101 and headers["upgrade"] == "echo"
        assert SEEN[-1] == ("/exec/default/p/c", b"command=sh&command=-c&input=1&output=1")
        await stream.write(b"hello")
        async with asyncio.timeout(5):
            assert await stream.read() == b"<hello>"
        stream.close()
        plain = await api.fails(400, "BadRequest", "POST", f"{PODS}/p/exec?command=sh")
        assert plain["message"] == "Upgrade request required"

    asyncio.run(with_node(tmp_path, test))


def test_a_kubelet_of_another_authority_is_not_spoken_to(tmp_path: Path) -> None:
    async def test(api: Harness, port: int) -> None:
        await api.fails(500, "InternalError", "GET", f"{PODS}/p/log")
        url = f"http://127.0.0.1:{port}{PODS}/p/exec?command=sh&container=c"
        status, headers, stream = await dial(url, headers={"Upgrade": "echo"}, method="POST")
        refused = await read_refusal(status, headers, stream)
        assert refused.status == 500 and b"error dialing backend" in refused.body

    asyncio.run(with_node(tmp_path, test, authority="etcd-ca"))


__all__ = ["Inventory"]
