"""One extension API server: requests go to it with the caller's identity in `X-Remote-*` headers, which it
believes because of this server's front-proxy certificate.
"""

from __future__ import annotations

import base64
import random
import ssl
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx

from apiserver.auth.user import LOOPBACK, User
from apiserver.registry import answers
from apiserver.registry.backends import Address, Backends, NoBackend, authority
from apiserver.rest import relay
from apiserver.rest.message import TEXT, Answer, Request, Response, Stream
from componentbase import tlsutil

Object = dict[str, Any]

CONNECT_SECONDS, CHECK_SECONDS = 10.0, 5.0
MAX_DOCUMENT = 16 << 20  # bytes
_OWN = ("x-remote-user", "x-remote-group", "x-remote-uid")
_OWN_EXTRA = "x-remote-extra-"
_ANSWER_HOP = frozenset({"connection", "keep-alive", "transfer-encoding", "content-type", "date", "server"})


class Failed(Exception):
    """An extension server gave no usable answer."""


@dataclass(frozen=True, slots=True)
class ProxyIdentity:
    """`--proxy-client-cert-file` and `--proxy-client-key-file`; empty for none."""

    cert: str = ""
    key: str = ""


class Remote:
    """The way to the Service of one APIService. Make a new one when its spec changes; close the old one."""

    def __init__(self, spec: Object, backends: Backends, identity: ProxyIdentity) -> None:
        """Raises ValueError or ssl.SSLError for a CA bundle that is none."""
        self.group_version = (spec.get("group", ""), spec["version"])
        reference = spec["service"]
        self._service = (reference["namespace"], reference["name"], reference.get("port", 443))
        self.host = f"{reference['name']}.{reference['namespace']}.svc"
        self._backends = backends
        self._context = _context(spec, identity)
        self._client = httpx.AsyncClient(
            verify=self._context,
            timeout=httpx.Timeout(CONNECT_SECONDS, read=None),
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=32),
            trust_env=False,
        )
        self.available = False

    async def close(self) -> None:
        await self._client.aclose()

    def addresses(self) -> list[Address]:
        """Where it is now, in random order. Raises NoBackend."""
        found = self._backends.addresses(*self._service)
        return random.sample(found, len(found))

    async def handle(self, request: Request) -> Answer:
        """Pass a request on. 503 in kube-aggregator's words when there is nobody to pass it on to."""
        if not self.available:
            return _unavailable("service unavailable")
        try:
            addresses = self.addresses()
        except NoBackend:
            return _unavailable("service unavailable")
        target = request.scope["raw_path"].decode("latin-1").partition("?")[0]
        if query := request.scope["query_string"].decode("latin-1"):
            target += f"?{query}"
        headers = list(forwarded(request))
        try:
            if "hardway.upgrade" in request.extensions:
                return await self._tunnel(request, target, headers, addresses)
            body = b"" if request.method in ("GET", "HEAD") else await request.body()
            answer = await self._send(request.method, target, headers, body, addresses)
        except (httpx.HTTPError, OSError, ValueError) as error:
            return _unavailable(f"error trying to reach service: {error}")
        passed = {name: value for name, value in answer.headers.items() if name not in _ANSWER_HOP}
        media = answer.headers.get("content-type", "application/octet-stream")
        return Stream(relay.chunks(answer), media, answer.status_code, passed)

    async def _tunnel(
        self, request: Request, target: str, headers: list[tuple[str, str]], addresses: Sequence[Address]
    ) -> Answer:
        headers += [("upgrade", request.headers.get("upgrade", "")), ("connection", "Upgrade")]
        url = f"https://{self.host}{target}"
        return await relay.tunnel(request, url, self._context, headers, connect_to=addresses[0])

    async def _send(
        self,
        method: str,
        target: str,
        headers: list[tuple[str, str]],
        body: bytes,
        addresses: Sequence[Address],
    ) -> httpx.Response:
        """The answer, unread. An endpoint that does not even accept the connection has seen nothing of the
        request, so the next one is tried.
        """
        last: Exception = Failed("no addresses")
        for address in addresses:
            built = self._client.build_request(
                method,
                f"https://{authority(address)}{target}",
                headers=headers,
                content=body or None,
                extensions={"sni_hostname": self.host},
            )
            try:
                return await self._client.send(built, stream=True)
            except httpx.ConnectError as error:
                last = error
        raise last

    async def fetch(self, path: str, accept: str = "application/json") -> Object:
        """A document of the extension server, asked for in this server's own name. Raises Failed and
        NoBackend.
        """
        headers = [("accept", accept), *answers.UNCOMPRESSED.items(), *identity_headers(LOOPBACK)]
        try:
            answer = await self._send("GET", path, headers, b"", self.addresses())
            if answer.status_code != 200:
                await answer.aclose()
                raise Failed(f"bad status from https://{self.host}{path}: {answer.status_code}")
            return await answers.document(answer, MAX_DOCUMENT)
        except answers.Unusable as error:
            raise Failed(f"https://{self.host}{path}: {error}") from error
        except (httpx.HTTPError, OSError) as error:
            raise Failed(str(error) or type(error).__name__) from error


def forwarded(request: Request) -> Iterator[tuple[str, str]]:
    """The headers of a request as they are passed on: no credentials, and no identity but the one that was
    established here.
    """
    hop = relay.HOP_HEADERS - {"accept-encoding"} | {"upgrade"}
    for name, value in request.headers.items():
        if name not in hop and name not in _OWN and not name.startswith(_OWN_EXTRA):
            yield name, value
    if "accept-encoding" not in request.headers:
        yield "accept-encoding", "identity"
    client = request.scope.get("client")
    if client and "x-forwarded-for" not in request.headers:
        yield "x-forwarded-for", str(client[0])
    yield from identity_headers(request.user)


def identity_headers(user: User) -> Iterator[tuple[str, str]]:
    """client-go's transport.SetAuthProxyHeaders; keys of extra attributes are percent-encoded."""
    yield "x-remote-user", user.name
    if user.uid:
        yield "x-remote-uid", user.uid
    for group in user.groups:
        yield "x-remote-group", group
    for key, values in user.extra.items():
        for value in values:
            yield f"{_OWN_EXTRA}{quote(key.lower(), safe='')}", value


def _context(spec: Object, identity: ProxyIdentity) -> ssl.SSLContext:
    bundle = base64.b64decode(spec.get("caBundle") or "") or None
    return tlsutil.client_context(
        bundle,
        identity.cert or None,
        identity.key or None,
        insecure=bool(spec.get("insecureSkipTLSVerify")),
    )


def _unavailable(text: str) -> Response:
    headers = {"x-content-type-options": "nosniff"}
    return Response(503, f"{text}\n".encode(), TEXT, headers)
