"""Who is in the cluster: members, their addresses, and the 64-bit ids derived from them."""

from __future__ import annotations

import enum
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

from etcdlite.consensus.errors import BadChange
from etcdlite.raft.types import ConfState, NodeId


@dataclass(frozen=True, slots=True)
class Member:
    """A member as `MemberList` shows it. `name` and `client_urls` are empty until it has published them."""

    id: int
    name: str = ""
    peer_urls: tuple[str, ...] = ()
    client_urls: tuple[str, ...] = ()
    is_learner: bool = False


class ChangeKind(enum.IntEnum):
    """What a membership change does. One at a time (thesis 4.1), except UPDATE, which moves no quorum."""

    ADD_VOTER = 0
    ADD_LEARNER = 1
    PROMOTE = 2
    REMOVE = 3
    UPDATE = 4


@dataclass(frozen=True, slots=True)
class MemberChange:
    """A change of one member; REMOVE and PROMOTE read only `member.id`."""

    kind: ChangeKind
    member: Member


def _hash64(parts: Iterable[str]) -> int:
    digest = hashlib.sha1("\n".join(parts).encode(), usedforsecurity=False).digest()
    return int.from_bytes(digest[:8], "big") or 1  # 0 means "nobody" throughout Raft


def member_id(peer_urls: Sequence[str], token: str, added_at: int | None = None) -> NodeId:
    """Id of a member. `added_at` (nanoseconds) keeps one that is added again apart from its former self."""
    parts = [*sorted(peer_urls), token]
    return NodeId(_hash64(parts if added_at is None else [*parts, str(added_at)]))


def cluster_id(initial_cluster: Mapping[str, Sequence[str]], token: str) -> int:
    """Id of a cluster: a function of the ids of its first members."""
    return _hash64(
        [token, *(str(i) for i in sorted(member_id(urls, token) for urls in initial_cluster.values()))]
    )


@dataclass(frozen=True, slots=True)
class Membership:
    """The members after some log index. A value: changing it makes a new one."""

    members: Mapping[int, Member]
    removed: frozenset[int] = frozenset()

    @staticmethod
    def initial(initial_cluster: Mapping[str, Sequence[str]], token: str) -> Membership:
        """The members that a new cluster starts with, all voters."""
        found: dict[int, Member] = {}
        for name, urls in initial_cluster.items():
            member = Member(member_id(urls, token), name, tuple(sorted(urls)))
            found[member.id] = member
        return Membership({i: found[i] for i in sorted(found)})

    def conf_state(self) -> ConfState:
        """Voters and learners, which is all that Raft itself knows."""
        members = self.members.values()
        return ConfState(
            voters=frozenset(NodeId(m.id) for m in members if not m.is_learner),
            learners=frozenset(NodeId(m.id) for m in members if m.is_learner),
        )

    def with_change(self, change: MemberChange) -> Membership:
        """The members after `change`, which must have passed `check` before it was proposed."""
        members, old = dict(self.members), self.members.get(change.member.id)
        match change.kind:
            case ChangeKind.REMOVE:
                members.pop(change.member.id, None)
                return Membership(members, self.removed | {change.member.id})
            case ChangeKind.PROMOTE:
                if old is not None:
                    members[old.id] = replace(old, is_learner=False)
            case ChangeKind.UPDATE:
                if old is not None:
                    members[old.id] = replace(change.member, is_learner=old.is_learner)
            case ChangeKind.ADD_VOTER | ChangeKind.ADD_LEARNER:
                members[change.member.id] = replace(
                    change.member, is_learner=change.kind is ChangeKind.ADD_LEARNER
                )
        return Membership(members, self.removed)

    def shows(self, change: MemberChange) -> bool:
        """Whether `change` has been made, whatever else its member has published meanwhile."""
        member = self.members.get(change.member.id)
        match change.kind:
            case ChangeKind.REMOVE:
                return member is None
            case ChangeKind.UPDATE:
                return member is not None and member.peer_urls == change.member.peer_urls
            case ChangeKind.ADD_LEARNER:
                return member is not None
        return member is not None and not member.is_learner

    def check(self, change: MemberChange) -> None:
        """Refuse what makes no sense now, with etcd's wording. Raises BadChange."""
        member, known = change.member, change.member.id in self.members
        if change.kind in (ChangeKind.ADD_VOTER, ChangeKind.ADD_LEARNER):
            if known or member.id in self.removed:
                raise BadChange("member ID already exist")
            self._check_urls(member)
            return
        if not known:
            raise BadChange("member not found")
        old = self.members[member.id]
        if change.kind is ChangeKind.PROMOTE and not old.is_learner:
            raise BadChange("can only promote a learner member")
        if change.kind is ChangeKind.UPDATE:
            self._check_urls(member)
        if change.kind is ChangeKind.REMOVE and self.conf_state().voters == {member.id}:
            raise BadChange("re-configuration failed: the last voter cannot be removed")

    def _check_urls(self, member: Member) -> None:
        for other in self.members.values():
            if other.id != member.id and set(other.peer_urls) & set(member.peer_urls):
                raise BadChange("peerURL exists")
