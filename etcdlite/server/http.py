"""/health, /version and /metrics on the metrics URLs. HTTP/1.1 of one request per connection: probes need no
more.
"""

from __future__ import annotations

import asyncio
import json
import logging
import ssl
from collections.abc import Sequence
from contextlib import AsyncExitStack
from urllib.parse import parse_qs, urlsplit

from etcdlite.mvcc.errors import StoreError
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server.context import CLUSTER_VERSION, SERVER_VERSION, Member
from etcdlite.server.watching import WatchService

log = logging.getLogger(__name__)

_REQUEST_SECONDS = 10.0
_HEAD_BYTES = 16 * 1024
_REASONS = {200: "OK", 404: "Not Found", 405: "Method Not Allowed", 503: "Service Unavailable"}
Answer = tuple[int, str, str]


async def serve(member: Member, watch: WatchService, urls: Sequence[str], tls: ssl.SSLContext | None) -> None:
    """Serve until cancelled. Raises OSError when an address cannot be had."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            async with asyncio.timeout(_REQUEST_SECONDS):
                await _serve_one(member, watch, reader, writer)
        except (OSError, TimeoutError, asyncio.IncompleteReadError, asyncio.LimitOverrunError):
            log.debug("probe connection ended early")
        finally:
            writer.close()

    async with AsyncExitStack() as stack:
        for url in urls:
            parts = urlsplit(url)
            context = tls if parts.scheme == "https" else None
            server = await asyncio.start_server(
                connected, parts.hostname, parts.port, ssl=context, limit=_HEAD_BYTES
            )
            await stack.enter_async_context(server)
        await asyncio.Event().wait()


async def _serve_one(
    member: Member, watch: WatchService, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
) -> None:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
    method, _, rest = head.partition(" ")
    target = urlsplit(rest.partition(" ")[0])
    if method not in ("GET", "HEAD"):
        status, kind, body = 405, "text/plain", "method not allowed\n"
    else:
        status, kind, body = await _answer(member, watch, target.path, parse_qs(target.query))
    encoded = body.encode()
    writer.write(
        f"HTTP/1.1 {status} {_REASONS[status]}\r\ncontent-type: {kind}\r\n"
        f"content-length: {len(encoded)}\r\nconnection: close\r\n\r\n".encode()
    )
    if method == "GET":
        writer.write(encoded)
    await writer.drain()


async def _answer(member: Member, watch: WatchService, path: str, query: dict[str, list[str]]) -> Answer:
    match path:
        case "/health" | "/readyz" | "/livez":
            serializable = path == "/livez" or query.get("serializable") == ["true"]
            return await health(member, serializable=serializable, excluded=query.get("exclude", []))
        case "/version":
            versions = {"etcdserver": SERVER_VERSION, "etcdcluster": CLUSTER_VERSION}
            return 200, "application/json", json.dumps(versions, separators=(",", ":"))
        case "/metrics":
            return 200, "text/plain; version=0.0.4", metrics(member, watch)
    return 404, "text/plain", "404 page not found\n"


async def health(member: Member, *, serializable: bool, excluded: Sequence[str]) -> Answer:
    """Healthy means: no alarm (besides the excluded), a leader, and a read goes through."""
    reason = ""
    for _, alarm in sorted(member.machine.alarms):
        name = rpc.AlarmType.Name(alarm)
        if name not in excluded:
            reason = f"ALARM {name}"
    if not reason and not serializable:
        if not member.requests.consensus.status().leader_id:
            reason = "RAFT NO LEADER"
        else:
            try:
                await member.requests.confirm()
            except StoreError as error:
                reason = f"QGET ERROR:{error.text}"
    body = json.dumps({"health": str(not reason).lower(), "reason": reason}, separators=(",", ":"))
    return 503 if reason else 200, "application/json", body


def metrics(member: Member, watch: WatchService) -> str:
    """The state of this member in the Prometheus text format, under etcd's names."""
    status, machine = member.requests.consensus.status(), member.machine
    synced, unsynced = machine.hub.count
    counters: dict[str, float] = {
        "etcd_server_leader_changes_seen_total": machine.leader_changes,
        "etcd_server_proposals_committed_total": status.commit_index,
        "etcd_server_proposals_applied_total": machine.applied_index,
        **{f"etcd_mvcc_{kind}_total": count for kind, count in machine.counts.items()},
    }
    gauges: dict[str, float] = {
        "etcd_server_has_leader": status.leader_id != 0,
        "etcd_server_is_leader": status.is_leader,
        "etcd_server_is_learner": status.is_learner,
        "etcd_server_proposals_pending": member.requests.waiting,
        "etcd_server_quota_backend_bytes": member.settings.quota_backend_bytes,
        "etcd_mvcc_db_total_size_in_bytes": machine.backend.size(),
        "etcd_mvcc_db_total_size_in_use_in_bytes": machine.backend.size_in_use(),
        "etcd_debugging_mvcc_keys_total": len(machine.store.index),
        "etcd_debugging_mvcc_current_revision": machine.store.revision,
        "etcd_debugging_mvcc_compact_revision": machine.store.compacted,
        "etcd_debugging_mvcc_watcher_total": synced + unsynced,
        "etcd_debugging_mvcc_slow_watcher_total": unsynced,
        "etcd_debugging_mvcc_watch_stream_total": watch.streams,
    }
    lines: list[str] = []
    for kind, values in (("counter", counters), ("gauge", gauges)):
        for name, value in values.items():
            lines += (
                f"# TYPE {name} {kind}",
                f"{name} {float(value):g}" if value < 1e6 else f"{name} {value}",
            )
    lines += (
        "# TYPE etcd_server_version gauge",
        f'etcd_server_version{{server_version="{SERVER_VERSION}"}} 1',
    )
    return "\n".join(lines) + "\n"
