"""The REST client: one method per verb, errors as the server's `Status`, watch as a stream of events.

What is sent again, and when:

    never reached the server                      any request, within the attempts
    429, with the server's Retry-After            any request: the server says that it did nothing
    5xx with Retry-After, or a broken connection  GET only: whether a write happened, its caller must look
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import orjson

from apimachinery import errors
from apimachinery.errors import StatusError
from componentbase import metrics, version
from componentbase.backoff import Backoff
from componentbase.clock import Clock, RealClock
from kubeclient import transport as transports
from kubeclient.http1.message import Answer, ConnectionFailed, NotSent, Request, Stream, Transport
from kubeclient.ratelimit import TokenBucket
from kubeclient.resources import GVR
from kubeclient.transport import NotInCluster, Target

__all__ = [
    "APPLY",
    "JSON_PATCH",
    "MERGE",
    "STRATEGIC",
    "ConnectionFailed",
    "NotInCluster",
    "Response",
    "RestClient",
    "StatusError",
    "WatchEvent",
]

log = logging.getLogger(__name__)

MERGE = "application/merge-patch+json"
STRATEGIC = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
APPLY = "application/apply-patch+yaml"

Params = Mapping[str, Any]

REQUEST_TIMEOUT = 34.0
"""Seconds without a byte of an answer. Above 30, the time the apiserver itself gives to requests of
clients.
"""
WATCH_IDLE = 150.0
"""Seconds without an event or bookmark after which a watch is given up; servers send a bookmark every
minute.
"""
_WATCH_MINIMUM = 300
_ATTEMPTS = 4
_THROTTLED_ATTEMPTS = 10

_requests = metrics.counter(
    "rest_client_requests_total", "Number of HTTP requests, by status code and method.", ["code", "method"]
)
_duration = metrics.histogram(
    "rest_client_request_duration_seconds", "Request latency in seconds by verb.", ["verb"]
)


class WatchEvent(NamedTuple):
    """ADDED, MODIFIED, DELETED or BOOKMARK, with the object (of a bookmark only its resourceVersion
    counts).
    """

    type: str
    object: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer as it came."""

    status: int
    headers: Mapping[str, str]
    content: bytes

    def json(self) -> Any:
        return orjson.loads(self.content)


class RestClient:
    """A client of one apiserver (or of the load balancer before several). Use as an async context manager.

    `qps` > 0 limits requests to that rate with `burst` at once, as client-go does; 0 means no limit.
    Everything but `raw` raises StatusError for an answer that is a failure and ConnectionFailed when there
    was none.
    """

    def __init__(
        self,
        target: Target,
        *,
        user_agent: str = "hardway",
        qps: float = 0,
        burst: int = 0,
        timeout: float = REQUEST_TIMEOUT,
        transport: Transport | None = None,
        clock: Clock | None = None,
        rng: Callable[[], float] = random.random,
    ) -> None:
        self._target = target
        self._transport = transport
        self._clock = clock or RealClock()
        self._rng = rng
        base = urlsplit(target.server.rstrip("/"))
        self._prefix = base.path.encode("ascii")
        self._bucket = TokenBucket(qps, max(burst, 1), self._clock.monotonic()) if qps > 0 else None
        self._timeout = timeout
        agent = f"{user_agent}/{version.GIT_VERSION}".encode("ascii")
        self._headers = [
            (b"Host", base.netloc.encode("ascii")),
            (b"User-Agent", agent),
            (b"Accept", b"application/json"),
        ]

    @classmethod
    def from_kubeconfig(
        cls, path: str | Path, *, user_agent: str = "hardway", qps: float = 0, burst: int = 0
    ) -> Self:
        """A client for the current context. Raises pki.kubeconfig.KubeconfigError, OSError, ssl.SSLError."""
        return cls(transports.from_kubeconfig(path), user_agent=user_agent, qps=qps, burst=burst)

    @classmethod
    def in_cluster(cls, *, user_agent: str = "hardway", qps: float = 0, burst: int = 0) -> Self:
        """A client with the pod's service account. Raises NotInCluster."""
        return cls(transports.in_cluster(time.monotonic), user_agent=user_agent, qps=qps, burst=burst)

    async def __aenter__(self) -> Self:
        if self._transport is None:
            self._transport = transports.open_transport(self._target)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._transport is not None:
            await self._transport.aclose()
            self._transport = None

    # -- verbs -----------------------------------------------------------------------------------------------

    async def get(
        self,
        gvr: GVR,
        name: str,
        namespace: str | None = None,
        *,
        subresource: str | None = None,
        params: Params | None = None,
    ) -> dict[str, Any]:
        return await self._call("GET", gvr.path(namespace, name, subresource), params)

    async def list(
        self,
        gvr: GVR,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        resource_version: str | None = None,
        limit: int = 0,
        continue_: str | None = None,
    ) -> dict[str, Any]:
        """One page: the raw List object. `metadata.continue` fetches the next."""
        params = _selection(label_selector, field_selector)
        params |= {"resourceVersion": resource_version, "limit": limit or None, "continue": continue_}
        return await self._call("GET", gvr.path(namespace), params)

    async def create(
        self,
        gvr: GVR,
        obj: dict[str, Any],
        namespace: str | None = None,
        *,
        name: str | None = None,
        subresource: str | None = None,
        params: Params | None = None,
    ) -> dict[str, Any]:
        """POST `obj`. With `name` and `subresource` to a subresource (`binding`, `eviction`, `token`)."""
        namespace = namespace or obj.get("metadata", {}).get("namespace")
        if gvr.namespaced and not namespace:
            raise ValueError(f"creating {gvr.qualified} needs a namespace")
        return await self._call("POST", gvr.path(namespace, name, subresource), params, obj)

    async def update(
        self, gvr: GVR, obj: dict[str, Any], *, subresource: str | None = None, params: Params | None = None
    ) -> dict[str, Any]:
        """PUT `obj` in place of the stored one; its resourceVersion, if it has one, must still be current."""
        metadata = obj["metadata"]
        path = gvr.path(metadata.get("namespace"), metadata["name"], subresource)
        return await self._call("PUT", path, params, obj)

    async def patch(
        self,
        gvr: GVR,
        name: str,
        patch: Any,
        namespace: str | None = None,
        *,
        content_type: str = MERGE,
        subresource: str | None = None,
        params: Params | None = None,
    ) -> dict[str, Any]:
        path = gvr.path(namespace, name, subresource)
        return await self._call("PATCH", path, params, patch, content_type)

    async def delete(
        self, gvr: GVR, name: str, namespace: str | None = None, *, options: dict[str, Any] | None = None
    ) -> dict[str, Any]:
        """Delete by name; `options` is a DeleteOptions. Returns the object, or a Status once it is gone."""
        return await self._call("DELETE", gvr.path(namespace, name), None, _delete_options(options))

    async def delete_collection(
        self,
        gvr: GVR,
        namespace: str | None = None,
        *,
        label_selector: str | None = None,
        field_selector: str | None = None,
        options: dict[str, Any] | None = None,
    ) -> dict[str, Any]:
        params = _selection(label_selector, field_selector)
        return await self._call("DELETE", gvr.path(namespace), params, _delete_options(options))

    async def watch(
        self,
        gvr: GVR,
        namespace: str | None = None,
        *,
        resource_version: str,
        label_selector: str | None = None,
        field_selector: str | None = None,
        timeout_seconds: int | None = None,
        bookmarks: bool = True,
    ) -> AsyncGenerator[WatchEvent, None]:
        """Changes after `resource_version`, until the server ends the watch (5 to 10 minutes unless told).

        Raises StatusError for an ERROR event (410 when the version is compacted), ConnectionFailed when the
        connection breaks or is silent for WATCH_IDLE seconds. Close the generator when leaving it early.
        """
        seconds = timeout_seconds or int(_WATCH_MINIMUM * (1 + self._rng()))
        params = _selection(label_selector, field_selector)
        params |= {"watch": "1", "resourceVersion": resource_version, "timeoutSeconds": seconds}
        if bookmarks:
            params["allowWatchBookmarks"] = "true"
        request = self._request("GET", gvr.path(namespace), params)
        request.timeout = min(WATCH_IDLE, seconds + REQUEST_TIMEOUT)
        request.stream = True
        answer = await self._send(request)
        if answer.status != 200 or answer.stream is None:
            raise _failure(answer.status, answer.headers, await answer.read())
        try:
            async for line in _lines(answer.stream):
                event = orjson.loads(line)
                if event["type"] == "ERROR":
                    raise StatusError(event["object"])
                yield WatchEvent(event["type"], event["object"])
        except (ConnectionFailed, orjson.JSONDecodeError) as error:
            raise ConnectionFailed(f"watch {gvr.qualified}: {error}") from error
        finally:
            await answer.stream.aclose()

    async def raw(
        self,
        method: str,
        path: str,
        *,
        params: Params | None = None,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Response:
        """Any request; any answer is returned as it came. Raises ConnectionFailed."""
        request = self._request(method, path, params, body, None, headers)
        answer = await self._send(request)
        return Response(answer.status, answer.headers, answer.content)

    # -- one request -----------------------------------------------------------------------------------------

    async def _call(
        self,
        method: str,
        path: str,
        params: Params | None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> dict[str, Any]:
        content = orjson.dumps(body) if body is not None else None
        backoff = Backoff(0.05, 2.0, rng=self._rng)
        attempt = 0
        while True:
            attempt += 1
            if self._bucket is not None:
                await self._clock.sleep(self._bucket.reserve(self._clock.monotonic()))
            try:
                status, headers, answer = await self._exchange(method, path, params, content, content_type)
            except ConnectionFailed as error:
                may_repeat = method == "GET" or isinstance(error, NotSent)
                if not may_repeat or attempt >= _ATTEMPTS:
                    raise
                await self._clock.sleep(backoff.next())
                continue
            if status < 400:
                result: dict[str, Any] = orjson.loads(answer)
                return result
            delay = _retry_delay(method, status, headers, attempt)
            if delay is None:
                raise _failure(status, headers, answer)
            await self._clock.sleep(delay * (1 + 0.1 * self._rng()))

    async def _exchange(
        self, method: str, path: str, params: Params | None, content: bytes | None, content_type: str
    ) -> tuple[int, Mapping[str, str], bytes]:
        started = self._clock.monotonic()
        code = "<error>"
        try:
            answer = await self._send(self._request(method, path, params, content, content_type))
            code = str(answer.status)
            return answer.status, answer.headers, answer.content
        finally:
            _requests.labels(code, method).inc()
            _duration.labels(method).observe(self._clock.monotonic() - started)

    def _request(
        self,
        method: str,
        path: str,
        params: Params | None = None,
        content: bytes | None = None,
        content_type: str | None = None,
        extra: Mapping[str, str] | None = None,
    ) -> Request:
        headers = self._headers.copy()
        if self._target.token is not None:
            headers.append((b"Authorization", b"Bearer " + self._target.token().encode("ascii")))
        if content is not None and content_type:
            headers.append((b"Content-Type", content_type.encode("ascii")))
        if extra:
            names = {name.lower().encode("latin-1") for name in extra}
            headers = [pair for pair in headers if pair[0].lower() not in names]
            headers += [(name.encode("latin-1"), value.encode("latin-1")) for name, value in extra.items()]
        query = _encode(params)
        target = self._prefix + path.encode("ascii") + (b"?" + query if query else b"")
        return Request(method, target, headers, content, self._timeout)

    async def _send(self, request: Request) -> Answer:
        if self._transport is None:
            raise RuntimeError("the client is not open: use it as an async context manager")
        try:
            return await self._transport.send(request)
        except ConnectionFailed as error:
            what = f"{request.method} {self._target.server}{request.path}: {error}"
            raise (NotSent if isinstance(error, NotSent) else ConnectionFailed)(what) from error


async def _lines(stream: Stream) -> AsyncIterator[bytes]:
    """The complete lines of a streamed answer; an incomplete last one (its sender died) is dropped."""
    rest = b""
    async for chunk in stream:
        *lines, rest = (rest + chunk).split(b"\n") if rest else chunk.split(b"\n")
        for line in lines:
            if line:
                yield line


def _selection(label_selector: str | None, field_selector: str | None) -> dict[str, Any]:
    return {"labelSelector": label_selector or None, "fieldSelector": field_selector or None}


def _delete_options(options: dict[str, Any] | None) -> dict[str, Any] | None:
    return None if options is None else {"kind": "DeleteOptions", "apiVersion": "v1", **options}


def _encode(params: Params | None) -> bytes:
    """The query. None leaves a parameter out, a list repeats it, booleans are lower case."""
    if not params:
        return b""
    pairs: list[tuple[str, str]] = []
    for name, value in params.items():
        if value is None:
            continue
        values: Iterable[Any] = value if isinstance(value, (list, tuple)) else (value,)
        pairs += [(name, str(each).lower() if isinstance(each, bool) else str(each)) for each in values]
    return urlencode(pairs).encode("ascii")


def _retry_delay(method: str, status: int, headers: Mapping[str, str], attempt: int) -> float | None:
    """Seconds until the request may be sent again; None when it may not."""
    wait = headers.get("retry-after", "")
    if not wait.isdigit():
        return None
    if status == 429 and attempt < _THROTTLED_ATTEMPTS:
        return max(float(wait), 0.1)
    if method == "GET" and status >= 500 and attempt < _ATTEMPTS:
        return max(float(wait), 0.1)
    return None


_REASONS: dict[int, Callable[[str], StatusError]] = {
    400: errors.bad_request,
    401: errors.unauthorized,
    406: errors.not_acceptable,
    410: errors.gone,
    413: errors.too_large,
    415: errors.unsupported_media_type,
    429: errors.too_many_requests,
    503: errors.service_unavailable,
    504: errors.timeout,
}
_PLAIN_REASONS = {403: "Forbidden", 404: "NotFound", 405: "MethodNotAllowed", 409: "Conflict", 422: "Invalid"}


def _failure(status: int, headers: Mapping[str, str], answer: bytes) -> StatusError:
    """The server's Status, or one made up as client-go does for an answer that is none (a proxy's, say)."""
    try:
        body = orjson.loads(answer)
    except orjson.JSONDecodeError:
        body = None
    if isinstance(body, dict) and body.get("kind") == "Status":
        body.setdefault("code", status)
        return StatusError(body, dict(headers))
    text = answer[:2048].decode("utf-8", "replace").strip() or f"the server answered {status}"
    made = _REASONS.get(status, errors.internal_error)(text)
    if reason := _PLAIN_REASONS.get(status):
        made.status.update(reason=reason, message=text)
    made.status["code"] = status
    made.headers.update(headers)
    return made


async def retry_on_conflict(attempt: Callable[[], Any], *, attempts: int = 5) -> Any:
    """Run `attempt` (which reads, changes and writes) again while the write meets a conflict."""
    backoff = Backoff(0.01, 1.0)
    for remaining in range(attempts - 1, -1, -1):
        try:
            return await attempt()
        except StatusError as error:
            if not errors.is_conflict(error) or not remaining:
                raise
            await asyncio.sleep(backoff.next())
    raise AssertionError("unreachable")
