"""What every service of a member shares: settings, state machine, requests, and the header of answers."""

from __future__ import annotations

from contextvars import ContextVar
from dataclasses import dataclass, field

from etcdlite.auth.errors import InvalidAuthToken
from etcdlite.auth.store import NOBODY, Caller
from etcdlite.consensus.status import ConsensusStatus
from etcdlite.mvcc import wire
from etcdlite.mvcc.errors import NoSpace
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server.machine import Machine
from etcdlite.server.requests import Requests

# What clients infer from 3.5.x holds here: kube-apiserver sends progress requests from 3.5.8 on, and those
# are answered in order with the events.
SERVER_VERSION = "3.5.21"
CLUSTER_VERSION = "3.5.0"

_HEADER = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Limits of the API; names as etcd's flags. Times in seconds, sizes in bytes."""

    max_request_bytes: int = 1_572_864
    max_txn_ops: int = 128
    request_timeout: float = 7.0  # etcd: 5 s and two election timeouts
    election_timeout: float = 1.0
    progress_notify_interval: float = 600.0
    quota_backend_bytes: int = 2 << 30
    strict_reconfig_check: bool = True
    max_learners: int = 1
    cluster_token: str = field(default="etcd-cluster")
    corrupt_check_time: float = 0.0  # between two comparisons of data with the other members; 0: none
    initial_corrupt_check: bool = False  # compare before serving


@dataclass(frozen=True, slots=True)
class Credentials:
    """What a call brings along to say who asks: a token, or the common name of its client certificate."""

    token: str = field(default="", repr=False)
    common_name: str = ""


credentials: ContextVar[Credentials] = ContextVar("credentials")


@dataclass(slots=True)
class Member:
    """One member, as its services see it."""

    settings: Settings
    machine: Machine
    requests: Requests
    is_learner: bool = False
    _identity: bytes = b""
    _header: tuple[int, bytes] = (-1, b"")  # the last one made: answers and events come in runs of a revision

    def identify(self, status: ConsensusStatus) -> None:
        """Take over what headers say of cluster, member and term; called whenever one of them changes."""
        self.is_learner = status.is_learner
        self._identity = (
            wire.number(1, status.cluster_id) + wire.number(2, status.member_id) + wire.number(4, status.term)
        )
        self._header = (-1, b"")

    def caller(self) -> Caller:
        """Who makes the present call; nobody while authentication is off. Raises InvalidAuthToken."""
        auth = self.machine.auth
        if not auth.enabled:
            return NOBODY
        given = credentials.get(Credentials())
        name: str | None = given.common_name
        if given.token:
            name = auth.tokens.user(given.token, self.machine.monotonic())
            if name is None:
                raise InvalidAuthToken
        return Caller(name, auth.revision) if name else NOBODY

    def check_space(self, cost: int) -> None:
        """Refuse what would outgrow the quota of this member, and have the alarm raised. Raises NoSpace."""
        if not self.machine.has_space(cost):
            self.machine.refused_for_space.set()
            raise NoSpace

    def check_admin(self) -> None:
        """Refuse who may not manage the cluster. Raises UserEmpty, PermissionDenied, InvalidAuthToken."""
        self.machine.auth.check_admin(self.caller())

    def header(self, revision: int | None = None) -> bytes:
        """The encoded header field of an answer; `revision` None is the store's present one."""
        revision = self.machine.store.revision if revision is None else revision
        if revision != self._header[0]:
            self._header = revision, wire.chunk(_HEADER, self._identity + wire.number(3, revision))
        return self._header[1]

    def response_header(self) -> rpc.ResponseHeader:
        """The same as a message, for the answers that are not hot."""
        status = self.requests.consensus.status()
        return rpc.ResponseHeader(
            cluster_id=status.cluster_id,
            member_id=status.member_id,
            revision=self.machine.store.revision,
            raft_term=status.term,
        )
