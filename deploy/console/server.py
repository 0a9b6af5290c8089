"""The page's server: files, a stream of what changes, and the two requests that break and mend.

Nobody is authenticated by name: who reaches the page may break the cluster. So it listens on loopback only,
and every request must carry the secret that was printed with the address; a page of another site cannot know
it. The Host header is checked too (DNS rebinding).
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import AsyncIterator, Mapping
from http import HTTPStatus
from pathlib import Path
from typing import Any, Protocol

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from deploy.console.faults import Breaker, Refused
from deploy.console.sources import Picture

PAGE = Path(__file__).parent / "page"
FILES = {
    "": ("index.html", "text/html"),
    "app.js": ("app.js", "text/javascript"),
    "style.css": ("style.css", "text/css"),
}
HEADERS = {
    "Content-Security-Policy": "default-src 'self'; img-src 'self' data:; frame-ancestors 'none'",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}
PACE = 0.25
"""Seconds between two messages to one reader: what changes faster is joined."""
HEARTBEAT = 15.0
MAX_BODY = 4096
MAX_SECONDS = 3600.0


class Shown(Protocol):
    """What keeps the picture current."""

    picture: Picture

    async def look_at_faults(self) -> None:
        """Show at once what is broken now."""


class Malformed(Exception):
    """The request's body is not what is expected; the text says how."""


class Console:
    """The application."""

    def __init__(self, sources: Shown, breaker: Breaker, port: int, secret: str | None = None) -> None:
        self.secret = secret or secrets.token_urlsafe(16)
        self._sources, self._breaker = sources, breaker
        self._hosts = {f"127.0.0.1:{port}", f"localhost:{port}"}
        # A browser sends cookies to every port of a name: each console has one of its own.
        self._cookie = f"hardway-console-{port}"
        self.app = Starlette(
            routes=[
                Route("/stream", self._stream),
                Route("/faults", self._inject, methods=["POST"]),
                Route("/faults/{identifier}", self._undo, methods=["DELETE"]),
                Route("/{file:path}", self._file),
            ]
        )

    def _refusal(self, request: Request) -> Response | None:
        if request.headers.get("host", "") not in self._hosts:
            return _problem(HTTPStatus.MISDIRECTED_REQUEST, "open the page by the address that was printed")
        given = request.query_params.get("key") or request.cookies.get(self._cookie) or ""
        if not secrets.compare_digest(given.encode(), self.secret.encode()):
            return _problem(
                HTTPStatus.FORBIDDEN, "open the page by the address that was printed: the key is missing"
            )
        return None

    async def _file(self, request: Request) -> Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        found = FILES.get(request.path_params["file"])
        if found is None:
            return _problem(HTTPStatus.NOT_FOUND, "no such page")
        content = await asyncio.to_thread((PAGE / found[0]).read_bytes)
        response = Response(content, media_type=found[1], headers=HEADERS)
        response.set_cookie(self._cookie, self.secret, httponly=True, samesite="strict")
        return response

    async def _stream(self, request: Request) -> Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        return StreamingResponse(
            changes(self._sources.picture), media_type="text/event-stream", headers=HEADERS
        )

    async def _inject(self, request: Request) -> Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        try:
            fault, target, seconds, settings = _order(await _json(request))
            await asyncio.to_thread(self._breaker.inject, fault, target, seconds, settings)
        except (Malformed, Refused) as error:
            return _problem(HTTPStatus.BAD_REQUEST, str(error))
        await self._sources.look_at_faults()
        return JSONResponse({}, HTTPStatus.ACCEPTED)

    async def _undo(self, request: Request) -> Response:
        if (refused := self._refusal(request)) is not None:
            return refused
        try:
            await asyncio.to_thread(self._breaker.undo, request.path_params["identifier"])
        except Refused as error:
            return _problem(HTTPStatus.NOT_FOUND, str(error))
        await self._sources.look_at_faults()
        return JSONResponse({})


async def changes(picture: Picture) -> AsyncIterator[bytes]:
    """Server-sent events (WHATWG HTML, section 9.2): first everything, then what changed, every `PACE`."""
    version = 0
    while True:
        if picture.version > version:
            content, version = picture.since(version), picture.version
            yield b"data: " + content + b"\n\n"
            await asyncio.sleep(PACE)
        else:
            await picture.wait(version, HEARTBEAT)
            if picture.version == version:
                yield b": still here\n\n"


async def _json(request: Request) -> Mapping[str, Any]:
    if request.headers.get("content-type", "").split(";")[0] != "application/json":
        raise Malformed("send application/json")
    if int(request.headers.get("content-length") or MAX_BODY + 1) > MAX_BODY:
        raise Malformed(f"the body must be at most {MAX_BODY} bytes, with its length given")
    try:
        body = await request.json()
    except ValueError as error:
        raise Malformed(f"not JSON: {error}") from None
    if not isinstance(body, dict):
        raise Malformed("send a JSON object")
    return body


def _order(body: Mapping[str, Any]) -> tuple[str, str, float, dict[str, str]]:
    unknown = sorted(set(body) - {"fault", "target", "seconds", "settings"})
    if unknown:
        raise Malformed(f"unknown field {unknown[0]!r}")
    fault, target, seconds = body.get("fault"), body.get("target"), body.get("seconds", 0)
    settings = body.get("settings") or {}
    if not isinstance(fault, str) or not isinstance(target, str):
        raise Malformed("fault and target must be strings")
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 <= seconds <= MAX_SECONDS:
        raise Malformed(f"seconds must be a number between 0 and {MAX_SECONDS:g}")
    if not isinstance(settings, dict) or not all(isinstance(value, str) for value in settings.values()):
        raise Malformed("settings must be a mapping of strings")
    return fault, target, float(seconds), settings


def _problem(status: HTTPStatus, text: str) -> Response:
    return JSONResponse({"error": text}, status, headers=HEADERS)
