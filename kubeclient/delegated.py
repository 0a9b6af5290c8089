"""Authentication and authorization of who calls a daemon, asked of the API server.

What kube-apiserver's library calls delegated authentication and authorization, for every server that is
not the API server itself: the headers of a front proxy whose certificate is known (the aggregation
layer), a client certificate that the TLS layer has verified, or a bearer token (TokenReview); then a
SubjectAccessReview. Answers are remembered for ten seconds, as there.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from apimachinery.errors import StatusError
from componentbase import tlsutil
from componentbase.health import Receive, Scope, Send, respond
from kubeclient.resources import SUBJECTACCESSREVIEWS, TOKENREVIEWS
from kubeclient.rest import ConnectionFailed, RestClient

CACHE = 4096  # answers remembered of each kind
TTL = 10.0  # seconds

OPEN = frozenset({"healthz", "livez", "readyz"})  # paths that anybody may ask
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class User:
    """Who asks. `extra` is by lower-case key."""

    name: str
    groups: tuple[str, ...] = ()
    uid: str = ""
    extra: tuple[tuple[str, tuple[str, ...]], ...] = ()


ANONYMOUS = User("system:anonymous", ("system:unauthenticated",))


@dataclass(frozen=True, slots=True)
class FrontProxy:
    """Whose word about users is taken: certificates signed by `ca_pem`, of these common names (empty: any).

    Header names are lower case, as the flags `--requestheader-*` give them.
    """

    ca_pem: bytes
    allowed_names: frozenset[str] = frozenset()
    username_headers: tuple[str, ...] = ("x-remote-user",)
    group_headers: tuple[str, ...] = ("x-remote-group",)
    extra_prefixes: tuple[str, ...] = ("x-remote-extra-",)


@dataclass
class Remembered:
    """Answers until they are too old, the least recently written going first."""

    monotonic: Callable[[], float]
    held: OrderedDict[object, tuple[float, Any]] = field(default_factory=OrderedDict)

    def get(self, key: object) -> Any:
        until, value = self.held.get(key, (0.0, None))
        return value if until > self.monotonic() else None

    def put(self, key: object, value: Any) -> None:
        self.held[key] = (self.monotonic() + TTL, value)
        self.held.move_to_end(key)
        while len(self.held) > CACHE:
            self.held.popitem(last=False)


class Delegated:
    """Asks the API server who calls and what they may do. Both questions raise StatusError and
    ConnectionFailed when it cannot be asked.
    """

    def __init__(
        self,
        client: RestClient,
        monotonic: Callable[[], float],
        *,
        front_proxy: FrontProxy | None = None,
        client_ca: bytes | None = None,
    ) -> None:
        """`client_ca` says which client certificates name a user; None trusts all that TLS let in."""
        self._client, self._front_proxy, self._client_ca = client, front_proxy, client_ca
        self._users, self._verdicts = Remembered(monotonic), Remembered(monotonic)

    async def authenticate(self, scope: Scope) -> User | None:
        """The caller of an ASGI request; None for credentials nobody knows."""
        headers = header_lists(scope)
        peer: bytes | None = (scope.get("extensions") or {}).get("tls", {}).get("peer_cert_der")
        if peer is not None and self._front_proxy is not None and self._speaks_for_others(peer):
            named = proxied_user(headers, self._front_proxy)
            if named is not None:
                return named
        bearer = headers.get("authorization", [""])[0]
        if bearer.lower().startswith("bearer "):
            return await self._review_token(bearer[len("bearer ") :].strip())
        if peer is not None and (self._client_ca is None or signed_by(peer, self._client_ca)):
            identity = tlsutil.identity(peer)
            return User(identity.common_name, (*identity.organizations, "system:authenticated"))
        return ANONYMOUS

    def _speaks_for_others(self, peer: bytes) -> bool:
        proxy = self._front_proxy
        if proxy is None or not signed_by(peer, proxy.ca_pem):
            return False
        return not proxy.allowed_names or tlsutil.identity(peer).common_name in proxy.allowed_names

    async def _review_token(self, token: str) -> User | None:
        known: User | None = self._users.get(token)
        if known is not None:
            return known
        review = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview", "spec": {"token": token}}
        status = (await self._client.create(TOKENREVIEWS, review)).get("status") or {}
        if not status.get("authenticated"):
            return None
        held = status.get("user") or {}
        extra = tuple((key.lower(), tuple(values)) for key, values in (held.get("extra") or {}).items())
        user = User(held.get("username", ""), tuple(held.get("groups") or ()), held.get("uid", ""), extra)
        self._users.put(token, user)
        return user

    async def allowed(
        self,
        user: User,
        *,
        resource: Mapping[str, str] | None = None,
        path: Mapping[str, str] | None = None,
    ) -> tuple[bool, str]:
        """Whether the user may do this (`resourceAttributes` or `nonResourceAttributes` of the review), and
        why."""
        attributes = resource or path or {}
        key = (user, resource is None, tuple(sorted(attributes.items())))
        known: tuple[bool, str] | None = self._verdicts.get(key)
        if known is not None:
            return known
        spec: dict[str, Any] = {"user": user.name, "groups": list(user.groups), "uid": user.uid}
        spec["extra"] = {name: list(values) for name, values in user.extra}
        spec["resourceAttributes" if resource is not None else "nonResourceAttributes"] = dict(attributes)
        kind = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview"}
        answer = await self._client.create(SUBJECTACCESSREVIEWS, {**kind, "spec": spec})
        status = answer.get("status") or {}
        verdict = bool(status.get("allowed")), str(status.get("reason") or "")
        self._verdicts.put(key, verdict)
        return verdict


@lru_cache(CACHE)
def signed_by(der: bytes, ca_pem: bytes) -> bool:
    """Whether one of the authorities of the bundle signed this certificate itself (their dates and uses
    were the TLS layer's to check)."""
    from cryptography import x509
    from cryptography.exceptions import InvalidSignature

    certificate = x509.load_der_x509_certificate(der)
    for authority in x509.load_pem_x509_certificates(ca_pem):
        try:
            certificate.verify_directly_issued_by(authority)
        except (ValueError, TypeError, InvalidSignature):
            continue
        return True
    return False


def header_lists(scope: Scope) -> dict[str, list[str]]:
    """A request's headers by lower-case name."""
    found: dict[str, list[str]] = {}
    for name, value in scope["headers"]:
        found.setdefault(name.decode("latin-1").lower(), []).append(value.decode("latin-1"))
    return found


def proxied_user(headers: Mapping[str, Collection[str]], proxy: FrontProxy) -> User | None:
    """The user a trusted proxy names in its headers; None if it names none."""
    names = (value for header in proxy.username_headers for value in headers.get(header, ()) if value)
    name = next(iter(names), None)
    if name is None:
        return None
    groups = tuple(value for header in proxy.group_headers for value in headers.get(header, ()))
    extra = tuple(
        (unquote(header[len(prefix) :]), tuple(values))
        for prefix in proxy.extra_prefixes
        for header, values in sorted(headers.items())
        if header.startswith(prefix)
    )
    uid = next(iter(headers.get("x-remote-uid", ())), "")
    return User(name, groups, uid, extra)


@dataclass(frozen=True, slots=True)
class Guarded:
    """An ASGI application of which health is open to everybody, and everything else to who may `get` the path
    (a non-resource URL)."""

    app: App
    delegated: Delegated

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path.strip("/").partition("/")[0] in OPEN:
            await self.app(scope, receive, send)
            return
        try:
            user = await self.delegated.authenticate(scope)
            allowed = user is not None and await self._may_get(user, path)
        except (StatusError, ConnectionFailed) as error:
            await respond(send, 503, f"the API server cannot be asked: {error}\n".encode())
            return
        if user is None:
            await respond(send, 401, b"Unauthorized\n")
        elif not allowed:
            await respond(send, 403, f'forbidden: User "{user.name}" cannot get path "{path}"\n'.encode())
        else:
            await self.app(scope, receive, send)

    async def _may_get(self, user: User, path: str) -> bool:
        allowed, _ = await self.delegated.allowed(user, path={"path": path, "verb": "get"})
        return allowed
