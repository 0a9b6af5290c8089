"""What every service of a member shares: settings, state machine, requests, and the header of answers."""

from __future__ import annotations

from dataclasses import dataclass, field

from etcdlite.consensus.node import ConsensusStatus
from etcdlite.mvcc import wire
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
    cluster_token: str = field(default="etcd-cluster")


@dataclass(slots=True)
class Member:
    """One member, as its services see it."""

    settings: Settings
    machine: Machine
    requests: Requests
    _identity: bytes = b""

    def identify(self, status: ConsensusStatus) -> None:
        """Take over what headers say of cluster, member and term; called whenever one of them changes."""
        self._identity = (
            wire.number(1, status.cluster_id) + wire.number(2, status.member_id) + wire.number(4, status.term)
        )

    def header(self, revision: int | None = None) -> bytes:
        """The encoded header field of an answer; `revision` None is the store's present one."""
        revision = self.machine.store.revision if revision is None else revision
        return wire.chunk(_HEADER, self._identity + wire.number(3, revision))

    def response_header(self) -> rpc.ResponseHeader:
        """The same as a message, for the answers that are not hot."""
        status = self.requests.consensus.status()
        return rpc.ResponseHeader(
            cluster_id=status.cluster_id,
            member_id=status.member_id,
            revision=self.machine.store.revision,
            raft_term=status.term,
        )
