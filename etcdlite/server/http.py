"""What a member says over HTTP/1.1: /health, /version and /metrics, and on client URLs the JSON gateway."""

from __future__ import annotations

import asyncio
import json
import ssl
from collections.abc import Mapping, Sequence
from typing import Final
from urllib.parse import parse_qs, urlsplit

from componentbase.http import server
from etcdlite.mvcc.errors import StoreError
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server.context import CLUSTER_VERSION, SERVER_VERSION, Member
from etcdlite.server.gateway import Gateway, Receive, Scope, Send
from etcdlite.server.watching import WatchService

_GRACE: Final = 0.5
Answer = tuple[int, str, str]


class Probes:
    """An ASGI application: what probes and Prometheus ask, and `/v3/` if there is a gateway."""

    def __init__(self, member: Member, watch: WatchService, gateway: Gateway | None = None) -> None:
        self._member, self._watch, self._gateway = member, watch, gateway

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request."""
        if self._gateway is not None and scope["path"].startswith("/v3/"):
            await self._gateway(scope, receive, send)
            return
        if scope["method"] not in ("GET", "HEAD"):
            status, kind, body = 405, "text/plain", "Method Not Allowed\n"
        else:
            query = parse_qs(scope["query_string"].decode("latin-1"), keep_blank_values=True)
            status, kind, body = await _answer(self._member, self._watch, scope["path"], query)
        encoded = body.encode()
        headers = [(b"content-type", kind.encode()), (b"content-length", b"%d" % len(encoded))]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": b"" if scope["method"] == "HEAD" else encoded})


async def serve(probes: Probes, urls: Sequence[str], tls: ssl.SSLContext | None) -> None:
    """Serve the metrics URLs until cancelled. Raises OSError when an address cannot be had."""
    async with asyncio.TaskGroup() as tasks:
        for url in urls:
            parts = urlsplit(url)
            context = tls if parts.scheme == "https" else None
            host, port = parts.hostname or "", parts.port or 0
            serving = server.serve(probes, host=host, port=port, ssl_context=context, shutdown_grace=_GRACE)
            tasks.create_task(serving, name=url)


async def _answer(member: Member, watch: WatchService, path: str, query: dict[str, list[str]]) -> Answer:
    match path.removeprefix("/").split("/"):
        case ["livez" | "readyz" as probe, *names] if len(names) <= 1:
            return await probed(member, probe, names, query)
    match path:
        case "/health":
            serializable = query.get("serializable") == ["true"]
            return await health(member, serializable=serializable, excluded=query.get("exclude", []))
        case "/version":
            versions = {"etcdserver": SERVER_VERSION, "etcdcluster": CLUSTER_VERSION}
            return 200, "application/json", json.dumps(versions, separators=(",", ":"))
        case "/metrics":
            return 200, "text/plain; version=0.0.4", metrics(member, watch)
    return 404, "text/plain", "404 page not found\n"


CHECKS: Final[Mapping[str, tuple[str, ...]]] = {
    "livez": ("serializable_read",),
    "readyz": ("data_corruption", "serializable_read", "linearizable_read"),
}


async def probed(
    member: Member, probe: str, names: Sequence[str], query: Mapping[str, Sequence[str]]
) -> Answer:
    """`/livez` and `/readyz` (etcd 3.5.11), and each of their checks by its name below them."""
    if not {*names} <= {*CHECKS[probe]}:
        return 404, "text/plain", "404 page not found\n"
    lines, failed = [], False
    for name in names or [name for name in CHECKS[probe] if name not in query.get("exclude", ())]:
        error = await _check(member, name)
        failed = failed or bool(error)
        lines.append(f"[-]{name} failed: {error}\n" if error else f"[+]{name} ok\n")
    if failed:
        return 503, "text/plain; charset=utf-8", "".join(lines) + "\n"
    return 200, "text/plain; charset=utf-8", "".join(lines) * ("verbose" in query) + "ok\n"


async def _check(member: Member, name: str) -> str:
    """What is wrong ("" when nothing is). A serializable read needs this member alone, and it is here."""
    if name == "data_corruption":
        found = any(alarm == rpc.CORRUPT for _, alarm in member.machine.alarms)
        return "alarm activated: CORRUPT" if found else ""
    if name == "linearizable_read":
        if not member.requests.consensus.status().leader_id:
            return "etcdserver: no leader"
        try:
            await member.requests.confirm()
        except StoreError as error:
            return error.text
    return ""


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
