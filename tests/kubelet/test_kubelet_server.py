"""The :10250 server: who may ask, and what is answered."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import ssl
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import orjson
import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from componentbase import tlsutil
from componentbase.clock import FakeClock
from kubeclient.rest import ConnectionFailed
from kubelet.config import KubeletConfig
from kubelet.server import app
from kubelet.server.auth import Denied, Guard, User
from kubelet.server.upgrade import Refused, wanted_pipes
from pki.ca import Authority, certificate_pem, key_pem
from pki.certs import Profile, Usage
from tests.kubelet.world import World


@dataclass
class Answer:
    """What `RestClient.raw` gives."""

    status: int
    body: dict[str, Any]

    def json(self) -> dict[str, Any]:
        return self.body


@dataclass
class Reviewer:
    """An apiserver that only reviews."""

    users: dict[str, dict[str, Any]] = field(default_factory=dict)
    allowed: set[tuple[str, str]] = field(default_factory=set)
    down: bool = False
    asked: list[dict[str, Any]] = field(default_factory=list)

    async def raw(self, method: str, path: str, *, body: bytes, headers: dict[str, str]) -> Answer:
        if self.down:
            raise ConnectionFailed("refused")
        review = orjson.loads(body)
        self.asked.append(review)
        if path.endswith("tokenreviews"):
            user = self.users.get(review["spec"]["token"])
            return Answer(201, {"status": {"authenticated": user is not None, "user": user}})
        spec = review["spec"]
        key = (spec["user"], spec["resourceAttributes"]["subresource"])
        return Answer(201, {"status": {"allowed": key in self.allowed}})


def guard(reviewer: Reviewer, clock: FakeClock | None = None, **config: Any) -> Guard:
    return Guard(reviewer, KubeletConfig(**config), "worker-0", clock or FakeClock())  # type: ignore[arg-type]


def check(made: Guard, path: str = "/exec/ns/p/c", token: str = "", method: str = "POST") -> User:
    return asyncio.run(made.check(method, path, token, None))


def test_without_credentials_nobody_is_let_in() -> None:
    reviewer = Reviewer()
    with pytest.raises(Denied) as caught:
        check(guard(reviewer))
    assert caught.value.status == 401
    assert reviewer.asked == []


def test_a_token_is_reviewed_and_its_user_authorized() -> None:
    reviewer = Reviewer({"t": {"username": "ann", "groups": ["g"]}}, {("ann", "proxy")})
    assert check(guard(reviewer), token="t") == User("ann", "", ("g",))
    attributes = reviewer.asked[1]["spec"]["resourceAttributes"]
    assert attributes == {
        "verb": "create",
        "version": "v1",
        "resource": "nodes",
        "subresource": "proxy",
        "name": "worker-0",
    }


@pytest.mark.parametrize(
    ("path", "subresource"),
    [
        ("/stats/summary", "stats"),
        ("/metrics", "metrics"),
        ("/containerLogs/n/p/c", "proxy"),
        ("/pods", "pods"),
    ],
)
def test_paths_ask_for_their_subresource(path: str, subresource: str) -> None:
    reviewer = Reviewer({"t": {"username": "ann"}}, {("ann", subresource)})
    check(guard(reviewer), path, "t", "GET")
    with pytest.raises(Denied) as caught:
        check(guard(Reviewer({"t": {"username": "ann"}})), path, "t", "GET")
    assert caught.value.status == 403


def test_verdicts_are_remembered_for_their_time_and_refusals_shorter() -> None:
    clock, reviewer = FakeClock(), Reviewer({"t": {"username": "ann"}}, {("ann", "proxy")})
    made = guard(reviewer, clock)
    for _ in range(3):
        check(made, token="t")
    assert len(reviewer.asked) == 2
    reviewer.allowed.clear()
    clock.advance(299)
    check(made, token="t")
    clock.advance(2)
    with pytest.raises(Denied):
        check(made, token="t")
    reviewer.allowed.add(("ann", "proxy"))
    clock.advance(31)
    check(made, token="t")


def test_an_apiserver_that_cannot_be_asked_means_no() -> None:
    with pytest.raises(Denied) as caught:
        check(guard(Reviewer(down=True)), token="t")
    assert caught.value.status == 500


def test_a_client_certificate_names_user_and_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    from componentbase import tlsutil

    identity = tlsutil.Identity("kube-apiserver", ("system:masters",), b"der")
    monkeypatch.setattr(tlsutil, "identity", lambda der: identity)
    made = guard(Reviewer(), client_ca_file="/ca", authorization_mode="AlwaysAllow")
    user = asyncio.run(made.check("GET", "/pods", "", b"der"))
    assert user == User("kube-apiserver", groups=("system:masters", "system:authenticated"))


def test_what_a_stream_must_name() -> None:
    assert wanted_pipes({"output": ["1"], "error": ["1"]}).names() == ["error", "stdout", "stderr"]
    terminal = wanted_pipes({"input": ["1"], "output": ["1"], "error": ["1"], "tty": ["1"]})
    assert terminal.names() == ["error", "stdin", "stdout", "resize"]
    with pytest.raises(Refused, match="at least 1 of stdin, stdout, stderr"):
        wanted_pipes({})


async def ask(world: World, path: str, query: str = "", upgrade: Any = None) -> tuple[int, bytes]:
    """One request to the server of the world's kubelet, past its guard."""
    assert world.kubelet is not None
    server = app.Server(world.kubelet, world.kubelet._tasks)
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http",
        "method": "GET",
        "path": path,
        "query_string": query.encode(),
        "headers": [],
        "extensions": {"tls": {"peer_cert_der": None}},
    }

    async def receive() -> dict[str, Any]:
        await asyncio.Event().wait()
        return {}

    async def send(message: dict[str, Any]) -> None:
        sent.append(message)

    async def anyone(*_: object) -> User:
        return User("test")

    server._guard.check = anyone  # type: ignore[method-assign, assignment]
    await server(scope, receive, send)
    return sent[0]["status"], b"".join(message.get("body", b"") for message in sent[1:])


def test_routes_of_a_running_pod(play: Callable[[Callable[[World], Awaitable[None]]], None]) -> None:
    async def scenario(world: World) -> None:
        made = await world.pod("p")
        await world.until_ready("p")
        status, body = await ask(world, "/pods")
        shown = orjson.loads(body)["items"][0]
        assert (status, shown["metadata"]["uid"]) == (200, made["metadata"]["uid"])
        assert shown["status"]["phase"] == "Running"
        log = Path(world.root, "logs", f"default_p_{made['metadata']['uid']}", "c", "0.log")
        await asyncio.to_thread(log.parent.mkdir, parents=True)
        await asyncio.to_thread(log.write_bytes, b"2026-01-01T00:00:00Z stdout F hello\n")
        assert await ask(world, "/containerLogs/default/p/c") == (200, b"hello\n")
        assert (await ask(world, "/containerLogs/default/p/c", "tailLines=x"))[0] == 400
        assert (await ask(world, "/containerLogs/default/p/c", "previous=true"))[0] == 400
        assert (await ask(world, "/containerLogs/default/p/nope"))[0] == 404
        assert (await ask(world, "/containerLogs/default/none/c"))[0] == 404
        assert await ask(world, "/run/default/p/c", "cmd=echo+hi") == (200, b"hi\n")
        assert (await ask(world, "/exec/default/p/c", "output=1"))[0] == 400
        assert (await ask(world, "/portForward/default/none"))[0] == 404
        assert (await ask(world, "/healthz"))[0] == 200
        assert (await ask(world, "/nonsense"))[0] == 404

    play(scenario)


def test_logs_of_a_container_that_cannot_start_say_why(
    play: Callable[[Callable[[World], Awaitable[None]]], None],
) -> None:
    async def scenario(world: World) -> None:
        await world.pod("p", containers=[{"name": "c", "image": "absent:1"}])
        await world.api.until(lambda: world.container("p")["state"].get("waiting", {}).get("message"))
        status, body = await ask(world, "/containerLogs/default/p/c")
        assert status == 400
        assert body == b'container "c" in pod "p" is waiting to start: trying and failing to pull image'

    play(scenario)


class Script:
    """A clock whose n-th sleep does the n-th thing."""

    def __init__(self, *things: Callable[[], object]) -> None:
        self._things = list(things)

    async def sleep(self, seconds: float) -> None:
        if not self._things:
            raise asyncio.CancelledError
        self._things.pop(0)()


def test_a_replaced_serving_certificate_is_that_of_new_connections(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    cert, key = tmp_path / "kubelet.pem", tmp_path / "kubelet-key.pem"
    ca = Authority.create("ca", ec.generate_private_key(ec.SECP256R1()))

    def put(name: str, fits: bool = True) -> None:
        mine = ec.generate_private_key(ec.SECP256R1())
        theirs = mine if fits else ec.generate_private_key(ec.SECP256R1())
        profile = Profile(common_name=name, dns=(name,), usages=frozenset({Usage.SERVER}))
        cert.write_bytes(certificate_pem(ca.issue(profile, mine)))
        key.write_bytes(key_pem(theirs))

    put("before")
    served: list[str] = []
    context = tlsutil.server_context(cert, key)

    def look() -> None:
        served.append(served_name(context))

    clock: Any = Script(
        look, lambda: put("spoilt", fits=False), look, lambda: put("after"), look, lambda: None, look
    )
    with caplog.at_level(logging.ERROR), pytest.raises(asyncio.CancelledError):
        asyncio.run(app.follow_pair(context, str(cert), str(key), clock))
    assert served == ["before", "before", "after", "after"]
    assert len([each for each in caplog.records if "not used" in each.message]) == 1


def served_name(context: ssl.SSLContext) -> str:
    """The name in the certificate that a new connection is shown; no socket is needed."""
    client = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client.check_hostname, client.verify_mode = False, ssl.CERT_NONE
    inbound, outbound = ssl.MemoryBIO(), ssl.MemoryBIO()
    one = context.wrap_bio(inbound, outbound, server_side=True)
    other = client.wrap_bio(outbound, inbound)
    for side in (other, one, other, one):
        with contextlib.suppress(ssl.SSLWantReadError):
            side.do_handshake()
    der = other.getpeercert(binary_form=True)
    assert der is not None
    return tlsutil.identity(der).common_name
