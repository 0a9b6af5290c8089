"""Health and metrics endpoints: `/healthz /livez /readyz`, each check alone below them, `/metrics`,
`/version`.

Answers are those of Kubernetes' component helpers: "ok", or the list of checks with `?verbose` and on
failure, where the reason itself is only logged. `?exclude=<name>` leaves a check out.
"""

from __future__ import annotations

import asyncio
import inspect
import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, MutableMapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

import orjson

from componentbase import metrics, version

log = logging.getLogger(__name__)

Check = Callable[[], Awaitable[None] | None]
Scope = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[MutableMapping[str, Any]]]
Send = Callable[[MutableMapping[str, Any]], Awaitable[None]]

_TEXT = "text/plain; charset=utf-8"
CHECK_TIMEOUT = 5.0


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    check: Check
    live: bool
    ready: bool


async def respond(send: Send, status: int, body: bytes, content_type: str = _TEXT) -> None:
    """Send one whole response."""
    headers = [
        (b"content-type", content_type.encode("ascii")),
        (b"content-length", str(len(body)).encode("ascii")),
        (b"x-content-type-options", b"nosniff"),
    ]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": body, "more_body": False})


class Health:
    """An ASGI application over named checks. A check fails by raising; it may be a coroutine function."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self.add("ping", lambda: None)

    def add(self, name: str, check: Check, *, live: bool = True, ready: bool = True) -> None:
        """Add a check to `/healthz`, and to `/livez` and `/readyz` as told."""
        self._entries[name] = _Entry(name, check, live, ready)

    def paths(self) -> set[str]:
        """The path of every check."""
        probes = ("healthz", "livez", "readyz")
        return {f"/{probe}/{entry.name}" for probe in probes for entry in self._selected(probe)}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"cannot serve scope type {scope['type']!r}")
        if scope["method"] not in ("GET", "HEAD"):
            await respond(send, 405, b"method not allowed\n")
            return
        status, body, content_type = await self.answer(scope["path"], scope.get("query_string", b""))
        await respond(send, status, b"" if scope["method"] == "HEAD" else body, content_type)

    async def answer(self, path: str, query: bytes = b"") -> tuple[int, bytes, str]:
        """Status, body and content type for a path, so that another application can serve these paths as
        its own.
        """
        if path == "/metrics":
            return 200, metrics.render(), metrics.CONTENT_TYPE
        if path == "/version":
            return 200, orjson.dumps(version.version_info(), option=orjson.OPT_INDENT_2), "application/json"
        probe, _, name = path.strip("/").partition("/")
        if probe not in ("healthz", "livez", "readyz"):
            return 404, b"404 page not found\n", _TEXT
        entries = self._selected(probe)
        if name:
            entry = {each.name: each for each in entries}.get(name)
            if entry is None:
                return 404, b"404 page not found\n", _TEXT
            return await self._answer(probe, [entry], {}, single=True)
        return await self._answer(probe, entries, parse_qs(query.decode("latin-1"), keep_blank_values=True))

    def _selected(self, probe: str) -> list[_Entry]:
        entries = list(self._entries.values())
        if probe == "livez":
            return [entry for entry in entries if entry.live]
        return [entry for entry in entries if entry.ready] if probe == "readyz" else entries

    async def _answer(
        self, probe: str, entries: Iterable[_Entry], query: Mapping[str, list[str]], *, single: bool = False
    ) -> tuple[int, bytes, str]:
        excluded = set(query.get("exclude", ()))
        lines, failed = [], []
        for entry in entries:
            if entry.name in excluded:
                lines.append(f"[+]{entry.name} excluded: ok")
                continue
            if error := await _run_check(entry):
                log.warning("%s check failed", probe, extra={"check": entry.name, "error": error})
                failed.append(entry.name)
                lines.append(f"[-]{entry.name} failed: reason withheld")
            else:
                lines.append(f"[+]{entry.name} ok")
        if failed:
            if single:
                return 500, b"internal server error: reason withheld\n", _TEXT
            return 500, ("\n".join(lines) + f"\n{probe} check failed\n").encode(), _TEXT
        if "verbose" in query:
            return 200, ("\n".join(lines) + f"\n{probe} check passed\n").encode(), _TEXT
        return 200, b"ok", _TEXT


async def _run_check(entry: _Entry) -> str:
    """The reason the check fails, "" when it passes."""
    try:
        outcome = entry.check()
        if inspect.isawaitable(outcome):
            await asyncio.wait_for(_await(outcome), CHECK_TIMEOUT)
    except Exception as error:
        return f"{type(error).__name__}: {error}"
    return ""


async def _await(outcome: Awaitable[None]) -> None:
    await outcome
