"""Every error a client can be answered with, and its code on the wire. Texts and codes are etcd's
(api/v3rpc).

What the store itself refuses is in mvcc/errors.py; the rest is here, and `WIRE` covers both.
"""

from __future__ import annotations

from typing import Final

from componentbase.grpcwire.status import Code
from etcdlite.auth import errors as auth
from etcdlite.consensus import errors as consensus
from etcdlite.mvcc import errors as mvcc
from etcdlite.mvcc.errors import StoreError


class EmptyKey(StoreError):
    text = "etcdserver: key is not provided"


class ValueProvided(StoreError):
    text = "etcdserver: value is provided"


class LeaseProvided(StoreError):
    text = "etcdserver: lease is provided"


class InvalidSortOption(StoreError):
    text = "etcdserver: invalid sort option"


class TooManyOps(StoreError):
    text = "etcdserver: too many operations in txn request"


class DuplicateKey(StoreError):
    text = "etcdserver: duplicate key given in txn request"


class RequestTooLarge(StoreError):
    text = "etcdserver: request is too large"


class TooManyRequests(StoreError):
    text = "etcdserver: too many requests"


class NoLeader(StoreError):
    text = "etcdserver: no leader"


class NotLeader(StoreError):
    text = "etcdserver: not leader"


class RequestTimeout(StoreError):
    text = "etcdserver: request timed out"


class Stopped(StoreError):
    text = "etcdserver: server stopped"


class BadLeaderTransferee(StoreError):
    text = "etcdserver: bad leader transferee"


class MemberExists(StoreError):
    text = "etcdserver: member ID already exist"


class PeerURLExists(StoreError):
    text = "etcdserver: Peer URLs already exists"


class MemberBadURLs(StoreError):
    text = "etcdserver: given member URLs are invalid"


class MemberNotFound(StoreError):
    text = "etcdserver: member not found"


class MemberNotLearner(StoreError):
    text = "etcdserver: can only promote a learner member"


class LearnerNotReady(StoreError):
    text = "etcdserver: can only promote a learner member which is in sync with leader"


class TooManyLearners(StoreError):
    text = "etcdserver: too many learner members in cluster"


class Unhealthy(StoreError):
    text = "etcdserver: unhealthy cluster"


class NotEnoughStartedMembers(StoreError):
    text = "etcdserver: re-configuration failed due to not enough started members"


class NotSupportedForLearner(StoreError):
    text = "etcdserver: rpc not supported for learner"


class MissingLeaderKey(StoreError):
    text = '"leader" field must be provided'


class NotElected(StoreError):
    text = "election: not leader"


class NoElectionLeader(StoreError):
    text = "election: no leader"


class SessionExpired(StoreError):
    text = "mutex: session is expired"


class NotSupported(StoreError):
    """A part of the API that this store does not have, by its name."""

    text = "etcdlite: not supported"

    def __init__(self, what: str) -> None:
        super().__init__()
        self.text = f"etcdlite: {what} is not supported"


WIRE: Final[dict[type[StoreError], Code]] = {
    mvcc.Compacted: Code.OUT_OF_RANGE,
    mvcc.FutureRevision: Code.OUT_OF_RANGE,
    mvcc.KeyNotFound: Code.INVALID_ARGUMENT,
    mvcc.LeaseNotFound: Code.NOT_FOUND,
    mvcc.LeaseExists: Code.FAILED_PRECONDITION,
    mvcc.LeaseTTLTooLarge: Code.OUT_OF_RANGE,
    mvcc.NoSpace: Code.RESOURCE_EXHAUSTED,
    mvcc.CorruptionAlarm: Code.DATA_LOSS,
    EmptyKey: Code.INVALID_ARGUMENT,
    ValueProvided: Code.INVALID_ARGUMENT,
    LeaseProvided: Code.INVALID_ARGUMENT,
    InvalidSortOption: Code.INVALID_ARGUMENT,
    TooManyOps: Code.INVALID_ARGUMENT,
    DuplicateKey: Code.INVALID_ARGUMENT,
    RequestTooLarge: Code.INVALID_ARGUMENT,
    TooManyRequests: Code.RESOURCE_EXHAUSTED,
    NoLeader: Code.UNAVAILABLE,
    NotLeader: Code.FAILED_PRECONDITION,
    RequestTimeout: Code.UNAVAILABLE,
    Stopped: Code.UNAVAILABLE,
    BadLeaderTransferee: Code.FAILED_PRECONDITION,
    MemberExists: Code.FAILED_PRECONDITION,
    PeerURLExists: Code.FAILED_PRECONDITION,
    MemberBadURLs: Code.INVALID_ARGUMENT,
    MemberNotFound: Code.NOT_FOUND,
    MemberNotLearner: Code.FAILED_PRECONDITION,
    LearnerNotReady: Code.FAILED_PRECONDITION,
    TooManyLearners: Code.FAILED_PRECONDITION,
    Unhealthy: Code.UNAVAILABLE,
    NotEnoughStartedMembers: Code.FAILED_PRECONDITION,
    NotSupportedForLearner: Code.FAILED_PRECONDITION,
    MissingLeaderKey: Code.UNKNOWN,
    NotElected: Code.UNKNOWN,
    NoElectionLeader: Code.UNKNOWN,
    SessionExpired: Code.UNKNOWN,
    auth.RootUserNotExist: Code.FAILED_PRECONDITION,
    auth.RootRoleNotExist: Code.FAILED_PRECONDITION,
    auth.UserAlreadyExists: Code.FAILED_PRECONDITION,
    auth.UserEmpty: Code.INVALID_ARGUMENT,
    auth.UserNotFound: Code.FAILED_PRECONDITION,
    auth.RoleAlreadyExists: Code.FAILED_PRECONDITION,
    auth.RoleEmpty: Code.INVALID_ARGUMENT,
    auth.RoleNotFound: Code.FAILED_PRECONDITION,
    auth.AuthFailed: Code.INVALID_ARGUMENT,
    auth.NoPasswordUser: Code.UNKNOWN,
    auth.PermissionDenied: Code.PERMISSION_DENIED,
    auth.PermissionNotGiven: Code.INVALID_ARGUMENT,
    auth.RoleNotGranted: Code.FAILED_PRECONDITION,
    auth.PermissionNotGranted: Code.FAILED_PRECONDITION,
    auth.AuthNotEnabled: Code.FAILED_PRECONDITION,
    auth.InvalidAuthToken: Code.UNAUTHENTICATED,
    auth.InvalidAuthManagement: Code.INVALID_ARGUMENT,
    auth.AuthOldRevision: Code.INVALID_ARGUMENT,
    NotSupported: Code.UNIMPLEMENTED,
}

_BAD_CHANGES: Final[dict[str, type[StoreError]]] = {
    "member ID already exist": MemberExists,
    "peerURL exists": PeerURLExists,
    "member not found": MemberNotFound,
    "can only promote a learner member": MemberNotLearner,
    "can only promote a learner member which is in sync with leader": LearnerNotReady,
}


def from_consensus(error: consensus.ConsensusError) -> StoreError:
    """What a client is told when consensus could not do its part."""
    match error:
        case consensus.NoLeader():
            return NoLeader()
        case consensus.TooLarge():
            return RequestTooLarge()
        case consensus.Stopped():
            return Stopped()
        case consensus.BadChange():
            return _BAD_CHANGES.get(str(error), NotEnoughStartedMembers)()
    return RequestTimeout()
