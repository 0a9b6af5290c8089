"""What is refused before it is proposed, so that every request in the log can be carried out. Pure.

Rules and their order follow etcd's api/v3rpc/key.go.
"""

from __future__ import annotations

from collections.abc import Sequence

from etcdlite.mvcc.errors import KeyNotFound
from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.server import errors

_SORT_ORDERS = frozenset(rpc.RangeRequest.SortOrder.values())
_SORT_TARGETS = frozenset(rpc.RangeRequest.SortTarget.values())


def check_range(request: rpc.RangeRequest) -> None:
    """Raises EmptyKey, InvalidSortOption."""
    if not request.key:
        raise errors.EmptyKey
    if request.sort_order not in _SORT_ORDERS or request.sort_target not in _SORT_TARGETS:
        raise errors.InvalidSortOption


def check_put(request: rpc.PutRequest) -> None:
    """Raises EmptyKey, ValueProvided, LeaseProvided."""
    if not request.key:
        raise errors.EmptyKey
    if request.ignore_value and request.value:
        raise errors.ValueProvided
    if request.ignore_lease and request.lease:
        raise errors.LeaseProvided


def check_delete(request: rpc.DeleteRangeRequest) -> None:
    """Raises EmptyKey."""
    if not request.key:
        raise errors.EmptyKey


def check_txn(request: rpc.TxnRequest, max_ops: int) -> None:
    """Raises what its operations are refused for, and TooManyOps, DuplicateKey."""
    _check_shape(request, max_ops)
    _written(request.success)
    _written(request.failure)


def _check_shape(request: rpc.TxnRequest, max_ops: int) -> None:
    count = max(len(request.compare), len(request.success), len(request.failure))
    if count > max_ops:
        raise errors.TooManyOps
    for compare in request.compare:
        if not compare.key:
            raise errors.EmptyKey
    for op in (*request.success, *request.failure):
        _check_op(op, max_ops - count)


def _check_op(op: rpc.RequestOp, max_ops: int) -> None:
    match op.WhichOneof("request"):
        case "request_range":
            check_range(op.request_range)
        case "request_put":
            check_put(op.request_put)
        case "request_delete_range":
            check_delete(op.request_delete_range)
        case "request_txn":
            _check_shape(op.request_txn, max_ops)
        case _:
            raise KeyNotFound


Interval = tuple[bytes, bytes]


def _written(operations: Sequence[rpc.RequestOp]) -> tuple[set[bytes], list[Interval]]:
    """The keys a list of operations puts and the ranges it deletes. Raises DuplicateKey when a key would be
    changed twice. The two branches of a nested transaction may change the same key, since only one of them is
    taken.
    """
    deleted = [
        (op.request_delete_range.key, op.request_delete_range.range_end)
        for op in operations
        if op.WhichOneof("request") == "request_delete_range"
    ]
    put: set[bytes] = set()
    for op in operations:
        if op.WhichOneof("request") != "request_txn":
            continue
        then_put, then_deleted = _written(op.request_txn.success)
        else_put, else_deleted = _written(op.request_txn.failure)
        _refuse_overlap(then_put | else_put, put, deleted)
        put |= then_put | else_put
        deleted = [*deleted, *then_deleted, *else_deleted]
    for op in operations:
        if op.WhichOneof("request") == "request_put":
            _refuse_overlap({op.request_put.key}, put, deleted)
            put.add(op.request_put.key)
    return put, deleted


def _refuse_overlap(keys: set[bytes], put: set[bytes], deleted: Sequence[Interval]) -> None:
    for key in keys:
        if key in put or any(_covers(start, end, key) for start, end in deleted):
            raise errors.DuplicateKey


def _covers(start: bytes, end: bytes, key: bytes) -> bool:
    """etcd takes the end literally here, so "from key" (one zero byte) covers nothing, and a put of a key
    that such a delete touches is accepted. Clients may rely on that; the later operation wins.
    """
    return key == start if not end else start <= key < end
