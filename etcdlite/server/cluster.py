"""Services Cluster and Maintenance."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import closing
from typing import Any
from urllib.parse import urlsplit

from etcdlite.consensus import membership
from etcdlite.consensus.errors import ConsensusError
from etcdlite.consensus.membership import ChangeKind, MemberChange
from etcdlite.pb import internal_pb2
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server import errors
from etcdlite.server.context import SERVER_VERSION, Member
from etcdlite.server.corruption import hash_data


class Cluster:
    """etcdserverpb.Cluster."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._requests = member.requests

    async def member_list(self, request: rpc.MemberListRequest) -> bytes:
        """All members."""
        if request.linearizable:
            await self._requests.confirm()
        members = _members(self._requests.consensus.status().members)
        header = self._member.response_header()
        return rpc.MemberListResponse(header=header, members=members).SerializeToString()

    async def add(self, request: rpc.MemberAddRequest) -> bytes:
        """Add a voter or a learner."""
        self._member.check_admin()
        urls = _checked(request.peerURLs)
        id = membership.member_id(urls, self._member.settings.cluster_token, time.time_ns())
        kind = ChangeKind.ADD_LEARNER if request.isLearner else ChangeKind.ADD_VOTER
        self._may_add(is_learner=request.isLearner)
        added = membership.Member(id, "", urls, (), request.isLearner)
        members = await self._change(MemberChange(kind, added))
        header = self._member.response_header()
        return rpc.MemberAddResponse(
            header=header, member=_member(added), members=members
        ).SerializeToString()

    async def remove(self, request: rpc.MemberRemoveRequest) -> bytes:
        """Remove a member."""
        self._member.check_admin()
        self._may_remove(request.ID)
        members = await self._change(MemberChange(ChangeKind.REMOVE, membership.Member(request.ID)))
        header = self._member.response_header()
        return rpc.MemberRemoveResponse(header=header, members=members).SerializeToString()

    async def update(self, request: rpc.MemberUpdateRequest) -> bytes:
        """Change a member's peer URLs."""
        self._member.check_admin()
        known = self._requests.consensus.status().members.get(request.ID)
        if known is None:
            raise errors.MemberNotFound
        changed = membership.Member(
            known.id, known.name, _checked(request.peerURLs), known.client_urls, known.is_learner
        )
        members = await self._change(MemberChange(ChangeKind.UPDATE, changed))
        header = self._member.response_header()
        return rpc.MemberUpdateResponse(header=header, members=members).SerializeToString()

    async def promote(self, request: rpc.MemberPromoteRequest) -> bytes:
        """Make a learner a voter."""
        self._member.check_admin()
        members = await self._change(MemberChange(ChangeKind.PROMOTE, membership.Member(request.ID)))
        header = self._member.response_header()
        return rpc.MemberPromoteResponse(header=header, members=members).SerializeToString()

    def _may_add(self, *, is_learner: bool) -> None:
        """Refuse an addition that would cost the cluster its majority. Raises TooManyLearners,
        NotEnoughStartedMembers, Unhealthy.
        """
        settings, consensus = self._member.settings, self._requests.consensus
        members = consensus.status().members.values()
        if is_learner and sum(each.is_learner for each in members) >= settings.max_learners:
            raise errors.TooManyLearners
        if not settings.strict_reconfig_check:
            return
        voters = [each for each in members if not each.is_learner]
        started, after = sum(bool(each.name) for each in voters), len(voters) + 1
        # One member may become two, although the second cannot have started yet.
        if not is_learner and started < after // 2 + 1 and (started, after) != (1, 2):
            raise errors.NotEnoughStartedMembers
        if not {each.id for each in voters} <= consensus.reachable():
            raise errors.Unhealthy

    def _may_remove(self, id: int) -> None:
        """The same for a removal. Raises NotEnoughStartedMembers, Unhealthy."""
        consensus = self._requests.consensus
        members = consensus.status().members
        gone = members.get(id)
        if gone is None or gone.is_learner or not self._member.settings.strict_reconfig_check:
            return
        rest = [each for each in members.values() if not each.is_learner and each.id != id]
        if not rest or sum(bool(each.name) for each in rest) < len(rest) // 2 + 1:
            raise errors.NotEnoughStartedMembers
        reachable = consensus.reachable()
        if id in reachable and sum(each.id in reachable for each in rest) < len(rest) // 2 + 1:
            raise errors.Unhealthy  # a member that is down already is no loss

    async def _change(self, change: MemberChange) -> list[rpc.Member]:
        try:
            timeout = self._member.settings.request_timeout
            return _members(await self._requests.consensus.propose_conf_change(change, timeout=timeout))
        except ConsensusError as error:
            raise errors.from_consensus(error) from error


def _checked(urls: Any) -> tuple[str, ...]:
    for url in urls:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname or parts.path not in ("", "/"):
            raise errors.MemberBadURLs
    if not urls:
        raise errors.MemberBadURLs
    return tuple(sorted(urls))


def _member(member: membership.Member) -> rpc.Member:
    return rpc.Member(
        ID=member.id,
        name=member.name,
        peerURLs=member.peer_urls,
        clientURLs=member.client_urls,
        isLearner=member.is_learner,
    )


def _members(members: Mapping[int, membership.Member]) -> list[rpc.Member]:
    return [_member(members[id]) for id in sorted(members)]


class Maintenance:
    """etcdserverpb.Maintenance."""

    def __init__(self, member: Member) -> None:
        self._member = member
        self._machine = member.machine
        self._requests = member.requests

    async def alarm(self, request: rpc.AlarmRequest) -> bytes:
        """Show, raise or clear alarms."""
        if request.action == rpc.AlarmRequest.GET:
            raised = sorted(self._machine.alarms)
            alarms = [rpc.AlarmMember(memberID=m, alarm=rpc.AlarmType.Name(a)) for m, a in raised]
            answer = rpc.AlarmResponse(alarms=alarms)
        else:
            applied = await self._requests.submit(internal_pb2.InternalRaftRequest(alarm=request))
            answer = rpc.AlarmResponse.FromString(applied.body)
        answer.header.CopyFrom(self._member.response_header())
        return answer.SerializeToString()

    async def status(self, request: rpc.StatusRequest) -> bytes:
        """This member's own view; answered without asking anyone."""
        status = self._requests.consensus.status()
        problems = [] if status.leader_id else [errors.NoLeader.text]
        problems += [
            f"memberID:{member} alarm:{rpc.AlarmType.Name(alarm)} "
            for member, alarm in sorted(self._machine.alarms)
        ]
        return rpc.StatusResponse(
            header=self._member.response_header(),
            version=SERVER_VERSION,
            dbSize=self._machine.backend.size(),
            dbSizeInUse=self._machine.backend.size_in_use(),
            dbSizeQuota=self._member.settings.quota_backend_bytes,
            leader=status.leader_id,
            raftIndex=status.commit_index,
            raftTerm=status.term,
            raftAppliedIndex=status.applied_index,
            errors=problems,
            isLearner=status.is_learner,
        ).SerializeToString()

    async def defragment(self, request: rpc.DefragmentRequest) -> bytes:
        """Give free pages of the database file back."""
        self._member.check_admin()
        await self._machine.defragment()
        return rpc.DefragmentResponse(header=self._member.response_header()).SerializeToString()

    async def hash(self, request: rpc.HashRequest) -> bytes:
        """The hash of the whole key space at the present revision."""
        self._member.check_admin()
        found = await hash_data(self._machine, 0)
        return rpc.HashResponse(header=self._member.response_header(), hash=found.digest).SerializeToString()

    async def hash_kv(self, request: rpc.HashKVRequest) -> bytes:
        """The hash of every change between the compacted revision and `revision` (0: the present one). Equal
        on all members that have applied so far and are compacted alike.
        """
        self._member.check_admin()
        found = await hash_data(self._machine, request.revision)
        return rpc.HashKVResponse(
            header=self._member.response_header(),
            hash=found.digest,
            compact_revision=found.compacted or -1,  # etcd's word for "never"
            hash_revision=found.revision,
        ).SerializeToString()

    async def snapshot(self, request: rpc.SnapshotRequest) -> AsyncIterator[bytes]:
        """The whole database as of now, then its SHA-256."""
        self._member.check_admin()
        await self._machine.flush()
        backend, loop = self._machine.backend, asyncio.get_running_loop()
        remaining = await loop.run_in_executor(None, backend.snapshot_bytes)
        _, chunks = backend.snapshot()
        with closing(chunks):  # type: ignore[type-var]
            while (blob := await loop.run_in_executor(None, next, chunks, b"")) != b"":
                remaining = max(0, remaining - len(blob))
                yield rpc.SnapshotResponse(
                    header=self._member.response_header(),
                    remaining_bytes=remaining,
                    blob=blob,
                    version=SERVER_VERSION,
                ).SerializeToString()

    async def move_leader(self, request: rpc.MoveLeaderRequest) -> bytes:
        """Hand leadership over; only the leader can be asked."""
        self._member.check_admin()
        consensus = self._requests.consensus
        status = consensus.status()
        if not status.is_leader:
            raise errors.NotLeader
        target = status.members.get(request.targetID)
        if target is None or target.is_learner:
            raise errors.BadLeaderTransferee
        try:
            await consensus.transfer_leadership(
                request.targetID, timeout=self._member.settings.request_timeout
            )
        except ConsensusError as error:
            raise errors.from_consensus(error) from error
        return rpc.MoveLeaderResponse(header=self._member.response_header()).SerializeToString()
