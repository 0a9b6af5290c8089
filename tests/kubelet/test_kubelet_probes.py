"""Probes: the count of answers, and what asks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from kubelet.cri.fake import FakeRuntime
from kubelet.hooks import Outcome, act, port_number
from kubelet.images import auth_for, pull_policy
from kubelet.probes import Tally, tally_for
from tests.kubelet.builders import container


def verdicts(tally: Tally, answers: str) -> str:
    """Feed + and -; the verdict after each, ? while there is none."""
    out = ""
    for answer in answers:
        tally.record(answer == "+")
        out += {None: "?", True: "+", False: "-"}[tally.verdict]
    return out


@pytest.mark.parametrize(
    ("probe", "answers", "expected"),
    [
        ({}, "+---+", "+++-+"),
        ({"failureThreshold": 1}, "-+-", "-+-"),
        ({"successThreshold": 2}, "++-+---++", "?+++++--+"),
        ({}, "--+--+---", "??++++++-"),
    ],
)
def test_a_verdict_needs_its_threshold_in_a_row(probe: dict[str, Any], answers: str, expected: str) -> None:
    assert verdicts(tally_for(probe), answers) == expected


def test_record_says_when_the_verdict_changed() -> None:
    tally = tally_for({"failureThreshold": 2})
    assert [tally.record(ok) for ok in (True, True, False, False, False)] == [True, False, False, True, False]


def test_ports_by_number_and_name() -> None:
    made = container(ports=[{"name": "http", "containerPort": 8080}])
    assert [port_number(made, port) for port in (80, "81", "http")] == [80, 81, 8080]
    for bad in ("absent", 0, 70000):
        with pytest.raises(ValueError, match="couldn't find port"):
            port_number(made, bad)


Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def http_outcome(answer: bytes, action: dict[str, Any] | None = None) -> tuple[Outcome, bytes]:
    """Probe a server that gives one answer; what came of it, and what the server was asked."""

    async def scenario() -> tuple[Outcome, bytes]:
        asked: list[bytes] = []

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            asked.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            writer.close()

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            wanted = {"httpGet": {"port": port, "path": "/ok", **(action or {})}}
            outcome = await act(FakeRuntime(lambda: 0.0), container(), "", "127.0.0.1", wanted, 2.0)
        return outcome, asked[0]

    return asyncio.run(scenario())


@pytest.mark.parametrize(("code", "ok"), [(200, True), (302, True), (399, True), (400, False), (500, False)])
def test_http_probe_by_status(code: int, ok: bool) -> None:
    outcome, asked = http_outcome(f"HTTP/1.1 {code} X\r\nContent-Length: 0\r\n\r\n".encode())
    assert outcome.ok is ok
    assert asked.startswith(b"GET /ok HTTP/1.1\r\n")
    assert b"User-Agent: kube-probe/" in asked


def test_http_probe_sends_the_headers_it_was_given() -> None:
    _, asked = http_outcome(b"HTTP/1.1 200 OK\r\n\r\n", {"httpHeaders": [{"name": "Host", "value": "me"}]})
    assert b"Host: me\r\n" in asked
    assert asked.count(b"Host:") == 1


def test_http_probe_survives_nonsense() -> None:
    assert http_outcome(b"\r\n")[0] == Outcome(False, "malformed HTTP response")


def test_tcp_probe_of_a_closed_port_and_of_an_unknown_handler() -> None:
    async def probe(action: dict[str, Any]) -> Outcome:
        return await act(FakeRuntime(lambda: 0.0), container(), "", "127.0.0.1", action, 2.0)

    assert asyncio.run(probe({"tcpSocket": {"port": 1}})).ok is False
    assert asyncio.run(probe({"dance": {}})) == Outcome(False, "handler ['dance'] is not supported")


def test_a_container_that_cannot_be_asked_gives_no_verdict() -> None:
    outcome = asyncio.run(
        act(FakeRuntime(lambda: 0.0), container(), "gone", "", {"exec": {"command": ["true"]}}, 1.0)
    )
    assert outcome.ok is None


@pytest.mark.parametrize(
    ("image", "policy"),
    [("a", "Always"), ("a:latest", "Always"), ("a:1", "IfNotPresent"), ("h:5000/a:1", "IfNotPresent")],
)
def test_default_pull_policy(image: str, policy: str) -> None:
    assert pull_policy({"image": image}) == policy


def test_pull_secret_of_the_right_registry() -> None:
    import base64

    document = b'{"auths":{"https://other.io":{"auth":"x"},"reg.io":{"username":"u","password":"p"}}}'
    secret = {"data": {".dockerconfigjson": base64.b64encode(document).decode()}}
    found = auth_for("reg.io/a/b:1", [secret])
    assert found is not None
    # No server: containerd takes one for a URL, and credentials for another server are not used.
    assert (found.username, found.password, found.server_address) == ("u", "p", "")
    assert auth_for("docker.io/a:1", [secret]) is None
