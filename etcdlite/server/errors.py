"""Every error a client can be answered with, and its code on the wire. Texts and codes are etcd's
(api/v3rpc).

What the store itself refuses is in mvcc/errors.py; the rest is here, and `WIRE` covers both.
"""

from __future__ import annotations

from typing import Final

import grpc

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


_Code = grpc.StatusCode

WIRE: Final[dict[type[StoreError], grpc.StatusCode]] = {
    mvcc.Compacted: _Code.OUT_OF_RANGE,
    mvcc.FutureRevision: _Code.OUT_OF_RANGE,
    mvcc.KeyNotFound: _Code.INVALID_ARGUMENT,
    mvcc.LeaseNotFound: _Code.NOT_FOUND,
    mvcc.LeaseExists: _Code.FAILED_PRECONDITION,
    mvcc.LeaseTTLTooLarge: _Code.OUT_OF_RANGE,
    mvcc.NoSpace: _Code.RESOURCE_EXHAUSTED,
    mvcc.CorruptionAlarm: _Code.DATA_LOSS,
    EmptyKey: _Code.INVALID_ARGUMENT,
    ValueProvided: _Code.INVALID_ARGUMENT,
    LeaseProvided: _Code.INVALID_ARGUMENT,
    InvalidSortOption: _Code.INVALID_ARGUMENT,
    TooManyOps: _Code.INVALID_ARGUMENT,
    DuplicateKey: _Code.INVALID_ARGUMENT,
    RequestTooLarge: _Code.INVALID_ARGUMENT,
    TooManyRequests: _Code.RESOURCE_EXHAUSTED,
    NoLeader: _Code.UNAVAILABLE,
    NotLeader: _Code.FAILED_PRECONDITION,
    RequestTimeout: _Code.UNAVAILABLE,
    Stopped: _Code.UNAVAILABLE,
    BadLeaderTransferee: _Code.FAILED_PRECONDITION,
    MemberExists: _Code.FAILED_PRECONDITION,
    PeerURLExists: _Code.FAILED_PRECONDITION,
    MemberBadURLs: _Code.INVALID_ARGUMENT,
    MemberNotFound: _Code.NOT_FOUND,
    MemberNotLearner: _Code.FAILED_PRECONDITION,
    LearnerNotReady: _Code.FAILED_PRECONDITION,
    TooManyLearners: _Code.FAILED_PRECONDITION,
    Unhealthy: _Code.UNAVAILABLE,
    NotEnoughStartedMembers: _Code.FAILED_PRECONDITION,
    NotSupportedForLearner: _Code.FAILED_PRECONDITION,
    MissingLeaderKey: _Code.UNKNOWN,
    NotElected: _Code.UNKNOWN,
    NoElectionLeader: _Code.UNKNOWN,
    SessionExpired: _Code.UNKNOWN,
    auth.RootUserNotExist: _Code.FAILED_PRECONDITION,
    auth.RootRoleNotExist: _Code.FAILED_PRECONDITION,
    auth.UserAlreadyExists: _Code.FAILED_PRECONDITION,
    auth.UserEmpty: _Code.INVALID_ARGUMENT,
    auth.UserNotFound: _Code.FAILED_PRECONDITION,
    auth.RoleAlreadyExists: _Code.FAILED_PRECONDITION,
    auth.RoleEmpty: _Code.INVALID_ARGUMENT,
    auth.RoleNotFound: _Code.FAILED_PRECONDITION,
    auth.AuthFailed: _Code.INVALID_ARGUMENT,
    auth.NoPasswordUser: _Code.UNKNOWN,
    auth.PermissionDenied: _Code.PERMISSION_DENIED,
    auth.PermissionNotGiven: _Code.INVALID_ARGUMENT,
    auth.RoleNotGranted: _Code.FAILED_PRECONDITION,
    auth.PermissionNotGranted: _Code.FAILED_PRECONDITION,
    auth.AuthNotEnabled: _Code.FAILED_PRECONDITION,
    auth.InvalidAuthToken: _Code.UNAUTHENTICATED,
    auth.InvalidAuthManagement: _Code.INVALID_ARGUMENT,
    auth.AuthOldRevision: _Code.INVALID_ARGUMENT,
    NotSupported: _Code.UNIMPLEMENTED,
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
