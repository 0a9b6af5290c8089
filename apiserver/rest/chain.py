"""The chain every request passes, in one function (`Chain._answer`), as a pure ASGI application.

TLS identity -> request info -> authentication -> flow control -> authorization, then the handler: for
resources mutating admission -> schema -> validating admission -> registry -> storage. Around it: deadline,
errors to Status, audit, metrics.
"""

from __future__ import annotations

import asyncio
import logging
import time
import uuid
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, Protocol

from apimachinery import errors
from apimachinery.errors import StatusError
from apiserver.auth.authenticate import Authenticates
from apiserver.auth.authorize import Decision, Union, attributes_of, refusal
from apiserver.auth.user import User
from apiserver.rest.flow import FlowControl, is_long_running
from apiserver.rest.info import RequestInfo, parse
from apiserver.rest.message import (
    STATE,
    Answer,
    App,
    Joined,
    Receive,
    Request,
    Response,
    Scope,
    Send,
    Stream,
    Taken,
    failure,
    head_of,
    make_headers,
    prettified,
    wants_pretty,
)
from apiserver.rest.meters import Meters
from componentbase import metrics

logger = logging.getLogger("apiserver.chain")

REQUEST_TIMEOUT = 60.0

Handler = Callable[[Request], Awaitable[Answer]]

INFLIGHT = metrics.gauge("apiserver_current_inflight_requests", "Requests being executed.", ("request_kind",))
LONG = metrics.gauge(
    "apiserver_longrunning_requests", "Long-running requests being served.", ("verb", "resource")
)


class Audit(Protocol):
    """Records who did what, after the answer is known."""

    def record(self, request: Request, status: int, seconds: float) -> None: ...


class Backend(Protocol):
    """A server that answers in our place."""

    async def handle(self, request: Request) -> Answer: ...


class Chain:
    """Answers resource requests by `resources` and hands everything else to the `shell`."""

    def __init__(
        self,
        shell: App,
        resources: Handler,
        *,
        authenticator: Authenticates,
        authorizer: Union,
        flow: FlowControl | None = None,
        audit: Audit | None = None,
        impersonate: Callable[[Request], User] | None = None,
        elsewhere: Callable[[RequestInfo], Backend | None] | None = None,
    ) -> None:
        """`elsewhere` knows the other server that a request is for, if it is for another."""
        self._shell = shell
        self._resources = resources
        self._authenticator = authenticator
        self._authorizer = authorizer
        self._flow = flow or FlowControl()
        self._audit = audit
        self._impersonate = impersonate
        self._elsewhere = elsewhere
        self._meters = Meters()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            raise ValueError(f"cannot serve scope type {scope['type']!r}")
        started = time.perf_counter()
        request, answer = await self._guarded(scope, receive, send)
        if request is None:
            return await _send_whole(send, failure(errors.bad_request("malformed request")))
        status = 101 if isinstance(answer, Taken) else 200 if answer is None else answer.status
        self._measure(request, status, time.perf_counter() - started)
        if isinstance(answer, Response):
            if request.method == "HEAD":
                answer.body = b""
            elif wants_pretty(request.info, request.headers.get("user-agent", "")):
                answer = prettified(answer)
            await _send_whole(send, answer, request)
        elif isinstance(answer, Stream):
            with LONG.labels(request.info.verb, request.info.resource).track_inprogress():
                await _send_stream(receive, send, answer, request)
        return None

    async def _guarded(
        self, scope: Scope, receive: Receive, send: Send
    ) -> tuple[Request | None, Answer | None]:
        """Run the chain; whatever goes wrong becomes a Status, and nothing about our insides leaves the
        server.
        """
        request: Request | None = None
        try:
            info = parse(scope["method"], scope["raw_path"].decode("latin-1"), scope["query_string"])
            request = Request(scope, receive, info, make_headers(scope))
            request.audit_id = request.headers.get("audit-id") or str(uuid.uuid4())
            if is_long_running(info):
                return request, await self._answer(request, send)
            async with asyncio.timeout(REQUEST_TIMEOUT):
                return request, await self._answer(request, send)
        except StatusError as error:
            request = request or _placeholder(scope, receive)
            return request, failure(error)
        except TimeoutError:
            return request, failure(errors.timeout(f"request did not complete within {REQUEST_TIMEOUT:g}s"))
        except Exception:
            logger.exception("request failed: %s %s", scope["method"], scope["path"])
            return request, failure(
                errors.internal_error("the server could not handle the request; see its log")
            )

    async def _answer(self, request: Request, send: Send) -> Answer | None:
        info = request.info
        tls = request.extensions.get("tls") or {}
        if tls.get("peer_cert_error") and "authorization" not in request.headers:
            raise errors.unauthorized()  # a certificate that does not verify is not the same as none
        request.user = self._authenticator.authenticate(tls.get("peer_cert_der"), request.headers)
        if self._impersonate is not None:
            request.user = self._impersonate(request)
        place = request.place = self._flow.place(request.user, info)
        if is_long_running(info):
            return await self._authorized(request, send)
        ticket = await self._flow.start(place, request.user, info)
        try:
            return await self._authorized(request, send)
        finally:
            self._flow.finish(place, ticket)

    async def _authorized(self, request: Request, send: Send) -> Answer | None:
        def check(info: RequestInfo) -> None:
            wanted = attributes_of(request.user, info)
            decision, reason = self._authorizer.authorize(wanted)
            if decision is not Decision.ALLOW:
                raise refusal(wanted, reason)

        check(request.info)
        request.authorize = check
        if self._elsewhere is not None and (backend := self._elsewhere(request.info)) is not None:
            return await backend.handle(request)
        if request.info.is_resource:
            return await self._resources(request)
        request.scope[STATE] = request
        await self._shell(request.scope, request.receive, send)
        return None

    def _measure(self, request: Request, status: int, seconds: float) -> None:
        info = request.info
        if info.is_resource:
            self._meters.record(info, status, seconds)
        if self._audit is not None:
            self._audit.record(request, status, seconds)


def _placeholder(scope: Scope, receive: Receive) -> Request:
    """A request whose path could not even be parsed."""
    return Request(scope, receive, RequestInfo(scope.get("path", ""), scope["method"].lower()), {})


def _head(answer: Response | Stream, request: Request | None) -> list[tuple[bytes, bytes]]:
    """The headers: the answer's, the warnings, and which flow schema and level the request belonged to."""
    if request is None:
        return head_of(answer, [])
    head = head_of(answer, request.warnings)
    if request.audit_id:
        head.append((b"audit-id", request.audit_id.encode("latin-1")))
    return head if request.place is None else [*head, *request.place.headers]


async def _send_whole(send: Send, answer: Response, request: Request | None = None) -> None:
    await send({"type": "http.response.start", "status": answer.status, "headers": _head(answer, request)})
    if isinstance(answer.body, Joined):
        for piece in answer.body:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
    last = b"" if isinstance(answer.body, Joined) else answer.body
    await send({"type": "http.response.body", "body": last, "more_body": False})


class _Gone(Exception):
    """The client has closed the connection."""


async def _send_stream(receive: Receive, send: Send, answer: Stream, request: Request) -> None:
    """Send chunks until they end or the client leaves, which cancels the stream at once."""

    async def until_gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass
        raise _Gone

    async def body(listener: asyncio.Task[None]) -> None:
        await send(
            {"type": "http.response.start", "status": answer.status, "headers": _head(answer, request)}
        )
        # An empty chunk sends the head at once: a client waits for it before it calls its watch established.
        await send({"type": "http.response.body", "body": b"", "more_body": True})
        async for chunk in answer.chunks:
            await send({"type": "http.response.body", "body": chunk, "more_body": True})
        listener.cancel()
        await send({"type": "http.response.body", "body": b"", "more_body": False})

    try:
        async with asyncio.TaskGroup() as tasks:
            listener = tasks.create_task(until_gone(), name="watch-disconnect")
            await body(listener)
    except* _Gone:
        pass
    except* (ConnectionError, OSError) as gone:
        logger.debug("stream ended: %s", gone)
    finally:
        aclose = getattr(answer.chunks, "aclose", None)
        if aclose is not None:
            await aclose()


Message = MutableMapping[str, Any]
