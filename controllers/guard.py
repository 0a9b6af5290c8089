"""Who may read the secure port: health is open, everything else is asked of the API server.

Delegated as in the real manager: a bearer token is reviewed by TokenReview, a client certificate that the TLS
layer has verified (`--client-ca-file`) speaks for itself, and SubjectAccessReview says whether that user may
`get` the path.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from apimachinery import errors
from componentbase import tlsutil
from componentbase.health import Receive, Scope, Send, respond
from kubeclient.resources import SUBJECTACCESSREVIEWS, TOKENREVIEWS
from kubeclient.rest import ConnectionFailed, RestClient

OPEN = frozenset({"healthz", "livez", "readyz"})
App = Callable[[Scope, Receive, Send], Awaitable[None]]


@dataclass(frozen=True, slots=True)
class User:
    """Who asks."""

    name: str
    groups: list[str] = field(default_factory=list)


ANONYMOUS = User("system:anonymous", ["system:unauthenticated"])


@dataclass(frozen=True, slots=True)
class Guard:
    """An ASGI application before another."""

    app: App
    client: RestClient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path.strip("/").partition("/")[0] in OPEN:
            await self.app(scope, receive, send)
            return
        try:
            user = await self._authenticate(scope)
            allowed = user is not None and await self._authorize(user, path)
        except (errors.StatusError, ConnectionFailed) as error:
            await respond(send, 503, f"the API server cannot be asked: {error}\n".encode())
            return
        if user is None:
            await respond(send, 401, b"Unauthorized\n")
        elif not allowed:
            text = f'forbidden: User "{user.name}" cannot get path "{path}"\n'
            await respond(send, 403, text.encode())
        else:
            await self.app(scope, receive, send)

    async def _authenticate(self, scope: Scope) -> User | None:
        """None for a token the API server does not know."""
        header = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1")
        if header.lower().startswith("bearer "):
            return await self._review_token(header[len("bearer ") :].strip())
        peer = (scope.get("extensions") or {}).get("tls", {}).get("peer_cert_der")
        if peer is None:
            return ANONYMOUS
        identity = tlsutil.identity(peer)
        return User(identity.common_name, [*identity.organizations, "system:authenticated"])

    async def _review_token(self, token: str) -> User | None:
        review = {
            "apiVersion": "authentication.k8s.io/v1",
            "kind": "TokenReview",
            "spec": {"token": token},
        }
        status = (await self.client.create(TOKENREVIEWS, review)).get("status") or {}
        if not status.get("authenticated"):
            return None
        user = status.get("user") or {}
        return User(user.get("username", ""), user.get("groups") or [])

    async def _authorize(self, user: User, path: str) -> bool:
        review = {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": user.name,
                "groups": user.groups,
                "nonResourceAttributes": {"path": path, "verb": "get"},
            },
        }
        answer = await self.client.create(SUBJECTACCESSREVIEWS, review)
        return bool((answer.get("status") or {}).get("allowed"))
