"""Which checks a request needs. The same functions guard reads where they are asked and writes where they are
applied, so a request is judged by the users and roles of its place in the log (etcd's apply_auth.go). Pure.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from etcdlite.auth.store import AuthStore, Caller
from etcdlite.pb import internal_pb2
from etcdlite.pb import rpc_pb2 as rpc

KeysOf = Callable[[int], Iterable[bytes]]  # keys that hang on a lease


def check_range(auth: AuthStore, caller: Caller, request: rpc.RangeRequest) -> None:
    """Raises UserEmpty, PermissionDenied, AuthOldRevision; so do all functions here."""
    auth.check_read(caller, request.key, request.range_end)


def check_put(auth: AuthStore, caller: Caller, request: rpc.PutRequest, keys_of: KeysOf) -> None:
    """Attaching a key to a lease lets its end delete that lease's other keys: those must be writable too."""
    auth.check_write(caller, request.key)
    if request.lease:
        check_lease(auth, caller, keys_of(request.lease))
    if request.prev_kv:
        auth.check_read(caller, request.key)


def check_delete(auth: AuthStore, caller: Caller, request: rpc.DeleteRangeRequest) -> None:
    """Seeing what was deleted is a read."""
    auth.check_write(caller, request.key, request.range_end)
    if request.prev_kv:
        auth.check_read(caller, request.key, request.range_end)


def check_txn(auth: AuthStore, caller: Caller, request: rpc.TxnRequest, keys_of: KeysOf) -> None:
    """Comparisons are reads; both branches must be allowed."""
    for compare in request.compare:
        auth.check_read(caller, compare.key, compare.range_end)
    for op in (*request.success, *request.failure):
        match op.WhichOneof("request"):
            case "request_range":
                check_range(auth, caller, op.request_range)
            case "request_put":
                check_put(auth, caller, op.request_put, keys_of)
            case "request_delete_range":
                check_delete(auth, caller, op.request_delete_range)
            case "request_txn":
                check_txn(auth, caller, op.request_txn, keys_of)


def check_lease(auth: AuthStore, caller: Caller, keys: Iterable[bytes]) -> None:
    """Ending a lease deletes its keys."""
    for key in keys:
        auth.check_write(caller, key)


def check_applied(
    auth: AuthStore, kind: str | None, request: internal_pb2.InternalRaftRequest, keys_of: KeysOf
) -> None:
    """Whether the user who asked for an entry of the log may have it."""
    if not auth.enabled or request.internal:
        return
    caller = Caller(request.username, request.auth_revision)
    match kind:
        case "put":
            check_put(auth, caller, request.put, keys_of)
        case "txn":
            check_txn(auth, caller, request.txn, keys_of)
        case "delete_range":
            check_delete(auth, caller, request.delete_range)
        case "lease_revoke":
            check_lease(auth, caller, keys_of(request.lease_revoke.ID))
        case str() if kind.startswith("auth_"):
            auth.check_admin(caller)
