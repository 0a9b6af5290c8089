"""The kubelet's servers: HTTPS on :10250 behind authentication and authorization, health on loopback.

Routes are matched by their first segment; every one but `/healthz` on loopback passes the guard.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import orjson

from componentbase import metrics, tlsutil
from componentbase.clock import Clock
from componentbase.health import Health
from componentbase.http.server import serve
from componentbase.tasks import Background
from kubeclient.reload import INTERVAL
from kubelet.agent import Kubelet
from kubelet.certificates import CertificateStore, renew, serving
from kubelet.config import KubeletConfig
from kubelet.cri.port import RuntimeFailure
from kubelet.logs import LogError, LogOptions, parse_time, read_log
from kubelet.pods.observed import CREATED, ContainerView
from kubelet.pods.spec import known_containers
from kubelet.server.auth import Denied, Guard
from kubelet.server.stats import resource_metrics, summary
from kubelet.server.upgrade import Refused, Streams

log = logging.getLogger(__name__)

Send = Callable[[dict[str, Any]], Awaitable[None]]
Receive = Callable[[], Awaitable[dict[str, Any]]]


@dataclass(frozen=True, slots=True)
class Request:
    """One request as handlers see it."""

    scope: dict[str, Any]
    method: str
    segments: list[str]
    query: dict[str, list[str]]
    headers: dict[str, str]

    def one(self, name: str, default: str = "") -> str:
        return self.query.get(name, [default])[0]

    def flag(self, *names: str) -> bool:
        return any(self.one(name) in ("1", "true") for name in names)


def parse_request(scope: dict[str, Any]) -> Request:
    """An ASGI scope as a `Request`; header names in lower case."""
    headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]}
    query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
    return Request(scope, scope["method"], scope["path"].strip("/").split("/"), query, headers)


class Server:
    """The ASGI application of :10250."""

    def __init__(self, kubelet: Kubelet, tasks: Background) -> None:
        self._kubelet = kubelet
        self._guard = Guard(
            kubelet.client, kubelet.settings.config, kubelet.settings.node_name, kubelet.clock
        )
        self._streams = Streams(kubelet.runtime, tasks)

    async def __call__(self, scope: dict[str, Any], receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return
        request = parse_request(scope)
        try:
            token = request.headers.get("authorization", "")
            bearer = token[7:].strip() if token.lower().startswith("bearer ") else ""
            peer = (scope["extensions"].get("tls") or {}).get("peer_cert_der")
            await self._guard.check(request.method, scope["path"], bearer, peer)
            await self._route(request, receive, send)
        except Denied as denied:
            await respond(send, denied.status, str(denied))
        except Refused as refused:
            await respond(send, refused.status, str(refused))
        except LogError as error:
            await respond(send, 500, str(error))
        except RuntimeFailure as error:
            await respond(send, 500, f"container runtime: {error}")

    async def _route(self, request: Request, receive: Receive, send: Send) -> None:
        first = request.segments[0]
        if first == "healthz":
            await respond(send, 200, "ok")
        elif first == "pods":
            items = [self._shown(uid) for uid in sorted(self._kubelet.workers.uids())]
            await respond_json(send, {"kind": "PodList", "apiVersion": "v1", "metadata": {}, "items": items})
        elif first == "metrics" and len(request.segments) == 1:
            await respond(send, 200, metrics.render(), metrics.CONTENT_TYPE)
        elif request.segments == ["metrics", "resource"]:
            await respond(send, 200, await resource_metrics(self._kubelet), metrics.CONTENT_TYPE)
        elif request.segments == ["stats", "summary"]:
            await respond_json(send, await summary(self._kubelet))
        elif first == "containerLogs" and len(request.segments) == 4:
            await self._logs(request, receive, send)
        elif first in ("exec", "attach", "run", "portForward"):
            await self._stream(request, send)
        else:
            await respond(send, 404, "404 page not found")

    def _shown(self, uid: str) -> dict[str, Any]:
        pod = self._kubelet.workers.pod(uid)
        assert pod is not None
        return {**pod, "status": self._kubelet.statuses.latest(pod)}

    def _find_pod(self, namespace: str, name: str, uid: str = "") -> str:
        for known in self._kubelet.workers.uids():
            pod = self._kubelet.workers.pod(known)
            if pod is not None and (pod["metadata"]["namespace"], pod["metadata"]["name"]) == (
                namespace,
                name,
            ):
                if uid and uid != known:
                    continue
                return known
        raise Refused(404, f'pod "{name}" not found')

    def _find_container(self, request: Request) -> ContainerView:
        """The container that a path of namespace, pod, optional uid and container names, started at least
        once.
        """
        parts = request.segments[1:]
        if len(parts) not in (3, 4):
            raise Refused(404, "404 page not found")
        uid = self._find_pod(parts[0], parts[1], parts[2] if len(parts) == 4 else "")
        view = self._kubelet.cache.view(uid).latest(parts[-1])
        if view is None:
            pod = self._kubelet.workers.pod(uid) or {"spec": {}}
            spec = pod["spec"]
            names = {container["name"] for container in known_containers(spec)}
            if parts[-1] not in names:
                raise Refused(404, f"container {parts[-1]} not found in pod {parts[1]}_{parts[0]}")
            where = f'container "{parts[-1]}" in pod "{parts[1]}"'
            raise Refused(400, f"{where} is waiting to start: {self._why(pod, parts[-1])}")
        return view

    def _why(self, pod: Mapping[str, Any], container: str) -> str:
        """Why a container has not started, in the words that logs are refused with."""
        status = self._kubelet.statuses.latest(pod)
        kinds = ("initContainerStatuses", "containerStatuses", "ephemeralContainerStatuses")
        every = [held for kind in kinds for held in status.get(kind) or []]
        waiting = (held["state"].get("waiting") for held in every if held["name"] == container)
        reason = (next(waiting, None) or {}).get("reason", "ContainerCreating")
        if reason in ("ErrImagePull", "ImagePullBackOff"):
            return "trying and failing to pull image"
        return str(reason)

    async def _logs(self, request: Request, receive: Receive, send: Send) -> None:
        view = self._find_container(request)
        _, namespace, name, container = request.segments
        uid = self._find_pod(namespace, name)
        if request.flag("previous"):
            previous = self._kubelet.cache.view(uid).previous(container)
            if previous is None:
                raise Refused(400, f'previous terminated container "{container}" in pod "{name}" not found')
            view = previous
        elif view.state == CREATED:
            raise Refused(
                400, f'container "{container}" in pod "{name}" is waiting to start: ContainerCreating'
            )
        options = log_options(request, self._kubelet.clock.now())

        def running() -> bool:
            now = self._kubelet.cache.view(uid)
            return any(c.id == view.id and c.alive for c in now.containers)

        await send_stream(send, receive, read_log(Path(view.log_path), options, running))

    async def _stream(self, request: Request, send: Send) -> None:
        first = request.segments[0]
        if first == "portForward":
            parts = request.segments[1:]
            if len(parts) not in (2, 3):
                raise Refused(404, "404 page not found")
            uid = self._find_pod(parts[0], parts[1], parts[2] if len(parts) == 3 else "")
            sandbox = self._kubelet.cache.view(uid).sandbox
            if sandbox is None:
                raise Refused(400, f"pod {parts[1]} is not running")
            await self._streams.port_forward(request.scope, request.headers, sandbox.id, request.query)
            return
        view = self._find_container(request)
        if not view.alive:
            raise Refused(400, f"container {view.name} is not running")
        if first == "run":
            command = request.query.get("command") or request.one("cmd").split()
            result = await self._kubelet.runtime.exec_sync(view.id, command, 60.0)
            await respond(send, 200 if result.exit_code == 0 else 500, result.stdout + result.stderr)
        elif first == "exec":
            await self._streams.execute(request.scope, request.headers, view.id, request.query)
        else:
            tty = self._is_tty(request)
            await self._streams.attach(request.scope, request.headers, view.id, request.query, tty)

    def _is_tty(self, request: Request) -> bool:
        """Whether the container itself has a terminal: what attach asks for must agree with it."""
        uid = self._find_pod(request.segments[1], request.segments[2])
        spec = (self._kubelet.workers.pod(uid) or {"spec": {}})["spec"]
        return any(c["name"] == request.segments[-1] and c.get("tty") for c in known_containers(spec))


def log_options(request: Request, now: float) -> LogOptions:
    """PodLogOptions from a query. Raises `Refused`."""
    try:
        since = None
        if request.one("sinceSeconds"):
            since = now - int(request.one("sinceSeconds"))
        elif request.one("sinceTime"):
            since = parse_time(request.one("sinceTime"))
        tail = request.one("tailLines")
        limit = request.one("limitBytes")
        stream = request.one("stream", "All")
        return LogOptions(
            follow=request.flag("follow"),
            tail=int(tail) if tail and tail != "all" else None,
            since=since,
            timestamps=request.flag("timestamps"),
            limit=int(limit) if limit else None,
            streams=("stdout", "stderr") if stream in ("", "All") else (stream.lower(),),
        )
    except ValueError as error:
        raise Refused(400, f"invalid log options: {error}") from error


async def respond(
    send: Send, status: int, body: str | bytes, kind: str = "text/plain; charset=utf-8"
) -> None:
    """A whole answer."""
    data = body.encode() if isinstance(body, str) else body
    headers = [(b"content-type", kind.encode()), (b"content-length", str(len(data)).encode())]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": data})


async def respond_json(send: Send, value: object) -> None:
    await respond(send, 200, orjson.dumps(value), "application/json")


async def send_stream(send: Send, receive: Receive, pieces: Any) -> None:
    """An answer as it comes, until its end or until the client goes."""
    first = await anext(pieces, None)  # a log that cannot be read must be refused before the head is sent
    headers = [(b"content-type", b"text/plain; charset=utf-8")]
    await send({"type": "http.response.start", "status": 200, "headers": headers})

    async def gone() -> None:
        while (await receive())["type"] != "http.disconnect":
            pass

    async def copy() -> None:
        if first is not None:
            await send({"type": "http.response.body", "body": first, "more_body": True})
            async for piece in pieces:
                await send({"type": "http.response.body", "body": piece, "more_body": True})

    async with asyncio.TaskGroup() as group:
        tasks = [group.create_task(copy()), group.create_task(gone())]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        for task in tasks:
            task.cancel()
    await send({"type": "http.response.body", "body": b""})


def _check_relist(kubelet: Kubelet) -> None:
    if not kubelet.cache.healthy:
        raise RuntimeError("PLEG is not healthy")


async def run_servers(kubelet: Kubelet) -> None:
    """Serve until cancelled. Raises OSError when an address is taken or a certificate cannot be used."""
    config = kubelet.settings.config
    health = Health()
    health.add("syncloop", lambda: _check_relist(kubelet))
    async with Background("kubelet-server") as tasks, asyncio.TaskGroup() as group:
        group.create_task(serve(health, host=config.healthz_bind_address, port=config.healthz_port))
        app = Server(kubelet, tasks)
        if config.server_tls_bootstrap:
            group.create_task(_serve_with_asked(kubelet, app), name="serving-certificate")
        elif config.tls_cert_file:
            pair = (config.tls_cert_file, config.tls_private_key_file)
            context = _context(config, *pair)
            group.create_task(serve(app, host=config.address, port=config.port, ssl_context=context))
            group.create_task(follow_pair(context, *pair, kubelet.clock), name="serving-certificate")
        else:
            log.warning("no tlsCertFile in the configuration: the kubelet's server is not started")


def _context(config: KubeletConfig, cert: str, key: str) -> ssl.SSLContext:
    return tlsutil.server_context(cert, key, config.client_ca_file or None)


async def _serve_with_asked(kubelet: Kubelet, app: Server) -> None:
    """serverTLSBootstrap: nothing is served before the cluster has signed; renewed certificates are
    those of new connections.
    """
    settings, config = kubelet.settings, kubelet.settings.config
    store = CertificateStore(settings.certificates, serving(settings.node_name, settings.node_ips))
    if store.certificate(kubelet.clock.now()) is None:
        await renew(kubelet.client, store, settings.node_name, kubelet.clock)
    current = str(store.current)
    context = _context(config, current, current)
    async with asyncio.TaskGroup() as group:
        group.create_task(serve(app, host=config.address, port=config.port, ssl_context=context))
        while True:
            await renew(kubelet.client, store, settings.node_name, kubelet.clock)
            context.load_cert_chain(current)


async def follow_pair(context: ssl.SSLContext, cert: str, key: str, clock: Clock) -> None:
    """A replaced certificate is that of new connections; one that cannot be used is passed over and named in
    the log.
    """
    before = [await asyncio.to_thread(_content, name) for name in (cert, key)]
    while True:
        await clock.sleep(INTERVAL)
        now = [await asyncio.to_thread(_content, name) for name in (cert, key)]
        if now == before:
            continue
        before = now
        try:
            tlsutil.server_context(cert, key)  # a pair that does not fit must not spoil the one in use
            context.load_cert_chain(cert, key)
            log.info("serving certificate replaced", extra={"file": cert})
        except (OSError, ssl.SSLError) as error:
            log.error("the new serving certificate is not used: %s", error)


def _content(name: str) -> bytes:
    try:
        return Path(name).read_bytes()
    except OSError:
        return b""
