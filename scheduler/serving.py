"""`/debug/why/<namespace>/<pod>` on the secure port, for who may `get` the path (kubeclient.delegated)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from componentbase.health import Receive, Scope, Send, respond
from kubeclient.delegated import App
from scheduler.explain import render

WHY = "/debug/why/"
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
