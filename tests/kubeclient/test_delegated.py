"""Who calls a daemon and what they may do, asked of the API server."""

from __future__ import annotations

import asyncio
from typing import Any

import orjson
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec

from componentbase.health import Health
from kubeclient.delegated import ANONYMOUS, Delegated, FrontProxy, Guarded, User
from kubeclient.http1.message import Answer, Request
from kubeclient.rest import RestClient
from kubeclient.transport import Target
from pki.ca import Authority
from pki.certs import Profile


class Reviews:
    """Knows one bearer, alice of "team", whom it lets do everything but delete; keeps the questions."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    async def aclose(self) -> None:
        """Part of a transport."""

    async def send(self, request: Request) -> Answer:
        review = orjson.loads(request.body or b"")
        self.asked.append(review["spec"])
        if review["kind"] == "TokenReview":
            user = {"username": "alice", "uid": "7", "groups": ["team"], "extra": {"Scopes": ["a", "b"]}}
            known = review["spec"] == {"token": "good"}
            status: dict[str, Any] = {"authenticated": known, **({"user": user} if known else {})}
        else:
            wanted = review["spec"].get("resourceAttributes") or review["spec"]["nonResourceAttributes"]
            allowed = review["spec"]["user"] == "alice" and wanted["verb"] != "delete"
            status = {"allowed": allowed, "reason": "" if allowed else "no rule"}
        return Answer(201, content=orjson.dumps({**review, "status": status}))


def authority(name: str) -> Authority:
    return Authority.create(name, ec.generate_private_key(ec.SECP256R1()))


def certificate(by: Authority, name: str, *groups: str) -> bytes:
    key = ec.generate_private_key(ec.SECP256R1())
    made = by.issue(Profile(common_name=name, organizations=groups), key)
    return made.public_bytes(serialization.Encoding.DER)


def scope(path: str = "/x", *, der: bytes | None = None, **headers: str) -> dict[str, Any]:
    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    tls = {"extensions": {"tls": {"peer_cert_der": der}}}
    return {"type": "http", "method": "GET", "path": path, "headers": lines, **tls}


def client(reviews: Reviews) -> RestClient:
    return RestClient(Target("http://api"), transport=reviews)


def test_a_token_is_reviewed_once_in_ten_seconds() -> None:
    async def scenario() -> None:
        reviews, now = Reviews(), [100.0]
        async with client(reviews) as rest:
            delegated = Delegated(rest, lambda: now[0])
            alice = await delegated.authenticate(scope(authorization="Bearer good"))
            assert alice == User("alice", ("team",), "7", (("scopes", ("a", "b")),))
            assert await delegated.authenticate(scope(authorization="Bearer good")) == alice
            assert await delegated.authenticate(scope(authorization="Bearer bad")) is None
            assert await delegated.authenticate(scope()) == ANONYMOUS
            assert len(reviews.asked) == 2
            now[0] += 11
            await delegated.authenticate(scope(authorization="Bearer good"))
            assert len(reviews.asked) == 3

    asyncio.run(scenario())


def test_a_verdict_names_who_does_what_and_is_remembered() -> None:
    async def scenario() -> None:
        reviews = Reviews()
        alice = User("alice", ("team",), "7", (("scopes", ("a",)),))
        async with client(reviews) as rest:
            delegated = Delegated(rest, lambda: 0.0)
            read = {"verb": "get", "group": "metrics.k8s.io", "resource": "pods", "namespace": "d"}
            assert await delegated.allowed(alice, resource=read) == (True, "")
            assert await delegated.allowed(alice, resource=dict(reversed(read.items()))) == (True, "")
            assert reviews.asked == [
                {
                    "user": "alice",
                    "groups": ["team"],
                    "uid": "7",
                    "extra": {"scopes": ["a"]},
                    "resourceAttributes": read,
                }
            ]
            assert await delegated.allowed(alice, resource={**read, "verb": "delete"}) == (False, "no rule")

    asyncio.run(scenario())


def test_only_the_front_proxy_names_users_in_headers() -> None:
    async def scenario() -> None:
        ours, others = authority("front"), authority("cluster")
        proxy = FrontProxy(ours.pem, frozenset({"front-proxy-client"}))
        named = {"x_remote_user": "bob", "x_remote_group": "dev", "x_remote_extra_a%2fb": "1"}
        async with client(Reviews()) as rest:
            delegated = Delegated(rest, lambda: 0.0, front_proxy=proxy, client_ca=others.pem)

            async def caller(der: bytes | None, **headers: str) -> User | None:
                return await delegated.authenticate(scope(der=der, **headers))

            bob = User("bob", ("dev",), "", (("a/b", ("1",)),))
            assert await caller(certificate(ours, "front-proxy-client"), **named) == bob
            assert await caller(certificate(ours, "somebody"), **named) == ANONYMOUS
            eve = await caller(certificate(others, "front-proxy-client", "evil"), **named)
            assert eve == User("front-proxy-client", ("evil", "system:authenticated"))
            assert await caller(None, **named) == ANONYMOUS

    asyncio.run(scenario())


def test_health_is_open_and_the_rest_is_asked_about() -> None:
    async def scenario() -> None:
        async with client(Reviews()) as rest:
            guarded = Guarded(Health(), Delegated(rest, lambda: 0.0))

            async def status(path: str, **headers: str) -> int:
                sent: list[Any] = []

                async def receive() -> dict[str, Any]:
                    return {"type": "http.request"}

                async def send(message: Any) -> None:
                    sent.append(message)

                await guarded(scope(path, **headers), receive, send)
                return int(sent[0]["status"])

            assert await status("/healthz") == 200
            assert await status("/metrics") == 403
            assert await status("/metrics", authorization="Bearer bad") == 401
            assert await status("/metrics", authorization="Bearer good") == 200

    asyncio.run(scenario())
