"""The secure port: health for everybody; metrics and `/debug/why/<namespace>/<pod>` for who may `get` the
path.

Delegated as in kube-scheduler: a bearer token is shown to the API server (TokenReview), a client certificate
that the TLS layer has verified names its user, and a SubjectAccessReview decides.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from apimachinery import errors
from componentbase import tlsutil
from componentbase.health import Receive, Scope, Send, respond
from kubeclient.resources import SUBJECTACCESSREVIEWS, TOKENREVIEWS
from kubeclient.rest import ConnectionFailed, RestClient
from scheduler.explain import render

PUBLIC = ("healthz", "livez", "readyz")
WHY = "/debug/why/"
App = Callable[[Scope, Receive, Send], Awaitable[None]]
Why = Callable[[str], dict[str, Any] | None]


@dataclass(frozen=True, slots=True)
class Debug:
    """Answers `/debug/why/<namespace>/<pod>` (text, or JSON with `?format=json`) and passes everything else
    on.
    """

    app: App
    why: Why

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if not path.startswith(WHY):
            await self.app(scope, receive, send)
            return
        key = path[len(WHY) :].strip("/")
        document = self.why(key)
        if document is None:
            text = f"no decision about pod {key} is remembered here (only the leader decides)\n"
            await respond(send, 404, text.encode())
        elif parse_qs(scope.get("query_string", b"").decode("latin-1")).get("format") == ["json"]:
            await respond(send, 200, orjson.dumps(document), "application/json")
        else:
            await respond(send, 200, render(document).encode())


@dataclass(frozen=True, slots=True)
class Protected:
    """An ASGI application behind authentication and authorisation."""

    app: App
    client: RestClient

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = str(scope["path"])
        if path.split("/")[1] in PUBLIC:
            await self.app(scope, receive, send)
            return
        try:
            user = await self._who(scope)
            if user is None:
                await respond(send, 401, b"Unauthorized\n")
            elif await self._may(user, path):
                await self.app(scope, receive, send)
            else:
                text = f'forbidden: User "{user["user"]}" cannot get path "{path}"\n'
                await respond(send, 403, text.encode())
        except (errors.StatusError, ConnectionFailed) as error:
            await respond(send, 503, f"the API server cannot be asked: {error}\n".encode())

    async def _who(self, scope: Scope) -> dict[str, Any] | None:
        """User and groups as a SubjectAccessReview takes them; None for a token that is not known."""
        scheme, _, token = dict(scope["headers"]).get(b"authorization", b"").decode("latin-1").partition(" ")
        if scheme.lower() == "bearer":
            body = {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenReview"}
            review = await self.client.create(TOKENREVIEWS, body | {"spec": {"token": token.strip()}})
            status = review.get("status") or {}
            user = status.get("user") or {}
            found = {"user": user.get("username", ""), "groups": user.get("groups") or []}
            return found if status.get("authenticated") else None
        peer = (scope.get("extensions") or {}).get("tls", {}).get("peer_cert_der")
        if peer is None:
            return {"user": "system:anonymous", "groups": ["system:unauthenticated"]}
        identity = tlsutil.identity(peer)
        groups = [*identity.organizations, "system:authenticated"]
        return {"user": identity.common_name, "groups": groups}

    async def _may(self, user: dict[str, Any], path: str) -> bool:
        spec = user | {"nonResourceAttributes": {"path": path, "verb": "get"}}
        body = {"apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview", "spec": spec}
        answer = await self.client.create(SUBJECTACCESSREVIEWS, body)
        return bool((answer.get("status") or {}).get("allowed"))
