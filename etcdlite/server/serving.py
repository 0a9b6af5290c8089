"""One serving member: state machine, consensus, API and background work, wired and owned in one place."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import logging
import math
import ssl
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol

from componentbase.grpcwire.connection import Limits
from componentbase.grpcwire.keepalive import Keepalive
from componentbase.grpcwire.server import Server
from componentbase.http.server import Connections
from etcdlite.consensus.statemachine import StateMachine
from etcdlite.consensus.status import ConsensusStatus
from etcdlite.mvcc.errors import StoreError
from etcdlite.pb import internal_pb2, raft_pb2
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server import autocompact, http, requests
from etcdlite.server.context import Member, Settings
from etcdlite.server.corruption import CorruptionCheck
from etcdlite.server.gateway import Gateway
from etcdlite.server.grpcserver import ServerTLS, listen, max_message, methods
from etcdlite.server.machine import Machine
from etcdlite.server.requests import Requests
from etcdlite.server.watching import WatchService

log = logging.getLogger(__name__)

_LEASE_INTERVAL: Final = 0.5  # etcd's leaseRevokeRate allows 1000 a second; so does one round here
_QUOTA_INTERVAL: Final = 1.0
_STOP_GRACE: Final = 0.5
READY: Final = "ready to serve client requests"
Hasher = Callable[[int], Awaitable[raft_pb2.Hash]]


class RunningConsensus(requests.Consensus, Protocol):
    """Consensus as a part that is started here."""

    async def run(self) -> None: ...

    async def wait_leader(self, timeout: float | None = None) -> int: ...

    def on_change(self, listener: Callable[[ConsensusStatus], None]) -> None: ...

    async def peer_hashes(self, revision: int) -> Mapping[int, raft_pb2.Hash]: ...

    @property
    def hasher(self) -> Hasher | None: ...

    @hasher.setter
    def hasher(self, hasher: Hasher | None) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Listen:
    """Where the member serves."""

    client_urls: Sequence[str]
    metrics_urls: Sequence[str] = ()
    tls: ServerTLS | None = field(default=None, repr=False)
    metrics_tls: ssl.SSLContext | None = field(default=None, repr=False)
    max_streams: int = 10_000  # calls open at a time on one connection
    keepalive: Keepalive = field(default_factory=Keepalive)


class EtcdServer:
    """A member of the cluster, from its data directory to its ports."""

    def __init__(
        self,
        data_dir: Path,
        settings: Settings,
        listen: Listen,
        make_consensus: Callable[[StateMachine], RunningConsensus],
        *,
        compaction: autocompact.Policy | None = None,
    ) -> None:
        """Open the database below `data_dir` and load it. Raises DatabaseDamaged, OSError, and what
        `make_consensus` raises.
        """
        folder = data_dir / "member"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._listen, self._compaction = listen, compaction
        timeout = settings.request_timeout
        self.requests = Requests(timeout=timeout, max_request_bytes=settings.max_request_bytes)
        self.machine = Machine(
            folder / "db",
            quota_bytes=settings.quota_backend_bytes,
            minimum_lease_ttl=math.ceil(1.5 * settings.election_timeout),
            on_applied=self.requests.resolve,
        )
        gc.freeze()  # the index is here to stay: a full collection that walks it would hold up every request
        self.consensus = make_consensus(self.machine)
        self.requests.bind(self.consensus)
        self.member = Member(settings, self.machine, self.requests)
        self.requests.caller = self.member.caller
        self.member.identify(self.consensus.status())
        self.watch = WatchService(self.member)
        self._corruption = CorruptionCheck(self.machine, self.requests, self.consensus)
        self.consensus.hasher = self._corruption.answer
        self._led = False
        self._leader = 0
        self.consensus.on_change(self._on_change)

    async def run(self) -> None:
        """Take part and serve until cancelled. The state machine outlives consensus, which applies to it."""
        async with asyncio.TaskGroup() as storage:
            flusher = storage.create_task(self.machine.run(), name="machine")
            try:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self.consensus.run(), name="consensus")
                    tasks.create_task(self.requests.run(), name="reads")
                    tasks.create_task(self.watch.run(), name="watch")
                    tasks.create_task(self._expire_leases(), name="leases")
                    tasks.create_task(self._guard_quota(), name="quota")
                    tasks.create_task(self._compact(), name="auto-compaction")
                    if self.member.settings.corrupt_check_time > 0:
                        interval = self.member.settings.corrupt_check_time
                        tasks.create_task(self._corruption.run(interval), name="corruption check")
                    tasks.create_task(self._serve_clients(), name="clients")
                    tasks.create_task(self._serve_probes(), name="probes")
            finally:
                flusher.cancel()

    async def _serve_clients(self) -> None:
        """Like etcd, a member opens its client port once it knows a leader."""
        await self.consensus.wait_leader()
        if self.member.settings.initial_corrupt_check:
            await self._corruption.initial()
        where, limit = self._listen, max_message(self.member)
        table = methods(self.member, self.watch, where.tls)
        web = Connections(http.Probes(self.member, self.watch, Gateway(table, limit)))
        limits = Limits(max_message=limit, max_streams=where.max_streams)
        server = Server(
            table, limits=limits, keepalive=where.keepalive, grace=_STOP_GRACE, other=web.protocol
        )
        try:
            async with server:
                await listen(server, where.client_urls, where.tls)
                log.info(READY, extra={"urls": ",".join(where.client_urls)})
                await web.run()
        finally:
            await web.end(_STOP_GRACE)

    async def _serve_probes(self) -> None:
        probes = http.Probes(self.member, self.watch)
        await http.serve(probes, self._listen.metrics_urls, self._listen.metrics_tls)

    def _on_change(self, status: ConsensusStatus) -> None:
        self.member.identify(status)
        if status.leader_id and status.leader_id != self._leader:
            self._leader = status.leader_id
            self.machine.leader_changes += 1
        if status.is_leader and not self._led:
            extend = self.member.settings.election_timeout
            self.machine.lessor.promote(self.machine.monotonic(), extend)
        self._led = status.is_leader

    async def _expire_leases(self) -> None:
        """The leader proposes what its clock says; a lost proposal is made again in the next round."""
        while True:
            await asyncio.sleep(_LEASE_INTERVAL)
            if not self._led:
                continue
            due = self.machine.lessor.expired(self.machine.monotonic())
            async with asyncio.TaskGroup() as revocations:
                for lease in due:
                    revocations.create_task(self._revoke(lease, self.machine.lessor.get(lease).renewed))

    async def _revoke(self, lease: int, renewed: int) -> None:
        request = internal_pb2.InternalRaftRequest(
            lease_revoke=rpc.LeaseRevokeRequest(ID=lease), lease_renewed=renewed
        )
        try:
            await self.requests.submit(request, internal=True)
        except StoreError as error:
            log.info("lease not revoked yet", extra={"lease": f"{lease:x}", "reason": error.text})

    async def _compact(self) -> None:
        """Forget history as the flags say. A compaction that somebody else was faster with is no failure."""
        policy = self._compaction
        while policy is not None:
            target = policy.look(self.machine.monotonic(), self.machine.store.revision)
            if target > self.machine.store.compacted and self._led:
                request = rpc.CompactionRequest(revision=target)
                try:
                    await self.requests.submit(
                        internal_pb2.InternalRaftRequest(compaction=request), internal=True
                    )
                    log.info("compacted automatically", extra={"revision": target})
                except StoreError as error:
                    log.warning("no automatic compaction", extra={"reason": error.text})
            await asyncio.sleep(policy.interval)

    async def _guard_quota(self) -> None:
        """Raise NOSPACE for this member when its database has outgrown the quota."""
        while True:
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(_QUOTA_INTERVAL):
                    await self.machine.refused_for_space.wait()
            full = self.machine.refused_for_space.is_set() or not self.machine.has_space(0)
            self.machine.refused_for_space.clear()
            member = self.consensus.status().member_id
            if not full or (member, rpc.NOSPACE) in self.machine.alarms:
                continue
            log.warning("database space exceeded, raising the NOSPACE alarm")
            alarm = rpc.AlarmRequest(action=rpc.AlarmRequest.ACTIVATE, memberID=member, alarm=rpc.NOSPACE)
            try:
                await self.requests.submit(internal_pb2.InternalRaftRequest(alarm=alarm), internal=True)
            except StoreError as error:
                log.warning("alarm not raised yet", extra={"reason": error.text})
