"""What a request does to the store: ranges, puts, deletes and transactions, as functions of a view. Pure.

Answers are encoded messages without their header, which the server puts in front (protobuf joins by
concatenation). The rules and their order are those of etcd's server/etcdserver/txn.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Protocol

from etcdlite.mvcc import wire
from etcdlite.mvcc.errors import KeyNotFound, LeaseNotFound
from etcdlite.mvcc.index import Found
from etcdlite.mvcc.revision import main_of
from etcdlite.mvcc.store import View, Write
from etcdlite.pb import kv_pb2
from etcdlite.pb import rpc_pb2 as rpc

# Field numbers of the messages encoded here.
_HEADER, _HEADER_REVISION = 1, 3
_RANGE_KVS, _RANGE_MORE, _RANGE_COUNT = 2, 3, 4
_PUT_PREV_KV = 2
_DELETE_DELETED, _DELETE_PREV_KVS = 2, 3
_TXN_SUCCEEDED, _TXN_RESPONSES = 2, 3
_OP_RANGE, _OP_PUT, _OP_DELETE, _OP_TXN = 1, 2, 3, 4


class Leases(Protocol):
    """Which leases exist."""

    def exists(self, lease: int) -> bool:
        """Whether keys may be attached to this lease."""


# -- range


def evaluate_range(view: View, request: rpc.RangeRequest) -> bytes:
    """RangeResponse without header. Raises Compacted, FutureRevision."""
    view = view.at(request.revision)
    if request.count_only:
        return wire.number(_RANGE_COUNT, view.count(request.key, request.range_end))
    found = view.scan(request.key, request.range_end)
    filtered = _has_filters(request)
    fetch = 0 if filtered or request.sort_order != rpc.RangeRequest.NONE else request.limit
    kept = list(islice(found, fetch + 1)) if fetch else list(found)
    count = view.count(request.key, request.range_end) if fetch else len(kept)
    if filtered:
        kept = [each for each in kept if _passes(each, request)]
    kept = _sorted(view, kept, request)
    more = 0 < request.limit < len(kept)
    if more:
        kept = kept[: request.limit]
    kvs = view.values(kept)
    if request.keys_only:
        kvs = [_without_value(encoded) for encoded in kvs]
    return b"".join(
        (wire.chunks(_RANGE_KVS, kvs), wire.number(_RANGE_MORE, more), wire.number(_RANGE_COUNT, count))
    )


def _has_filters(request: rpc.RangeRequest) -> bool:
    return bool(
        request.min_mod_revision
        or request.max_mod_revision
        or request.min_create_revision
        or request.max_create_revision
    )


def _passes(found: Found, request: rpc.RangeRequest) -> bool:
    modified = main_of(found.modified)
    return (
        modified >= request.min_mod_revision
        and (not request.max_mod_revision or modified <= request.max_mod_revision)
        and found.created >= request.min_create_revision
        and (not request.max_create_revision or found.created <= request.max_create_revision)
    )


def _sorted(view: View, found: list[Found], request: rpc.RangeRequest) -> list[Found]:
    """Keys arrive in ascending order. No order but a target other than the key means ascending."""
    target, order = request.sort_target, request.sort_order
    descending = order == rpc.RangeRequest.DESCEND
    if target == rpc.RangeRequest.KEY:
        return found[::-1] if descending else found
    if target == rpc.RangeRequest.VALUE:
        values = dict(zip((each.key for each in found), _plain_values(view, found), strict=True))
        return sorted(found, key=lambda each: values[each.key], reverse=descending)
    by: dict[int, Callable[[Found], int]] = {
        rpc.RangeRequest.VERSION: lambda each: each.version,
        rpc.RangeRequest.CREATE: lambda each: each.created,
        rpc.RangeRequest.MOD: lambda each: each.modified,
    }
    return sorted(found, key=by[target], reverse=descending)


def _plain_values(view: View, found: Sequence[Found]) -> Iterable[bytes]:
    return (kv_pb2.KeyValue.FromString(encoded).value for encoded in view.values(found))


def _without_value(encoded: bytes) -> bytes:
    kv = kv_pb2.KeyValue.FromString(encoded)
    kv.ClearField("value")
    return kv.SerializeToString()


# -- put and delete


def check_put(view: View, leases: Leases, request: rpc.PutRequest) -> None:
    """Refuse a put before anything is changed. Raises KeyNotFound, LeaseNotFound."""
    if (request.ignore_value or request.ignore_lease) and view.find(request.key) is None:
        raise KeyNotFound
    if request.lease and not leases.exists(request.lease):
        raise LeaseNotFound


def apply_put(write: Write, request: rpc.PutRequest) -> bytes:
    """PutResponse without header."""
    value, lease, body = request.value, request.lease, b""
    if request.prev_kv or request.ignore_value or request.ignore_lease:
        found = write.find(request.key)
        if found is not None:
            encoded = write.value(found)
            if request.prev_kv:
                body = wire.chunk(_PUT_PREV_KV, encoded)
            before = kv_pb2.KeyValue.FromString(encoded)
            value = before.value if request.ignore_value else value
            lease = before.lease if request.ignore_lease else lease
    write.put(request.key, value, lease)
    return body


def apply_delete(write: Write, request: rpc.DeleteRangeRequest) -> bytes:
    """DeleteRangeResponse without header."""
    found = list(write.scan(request.key, request.range_end))
    previous = write.values(found) if request.prev_kv else []
    for each in found:
        write.delete(each)
    return wire.number(_DELETE_DELETED, len(found)) + wire.chunks(_DELETE_PREV_KVS, previous)


# -- transactions


@dataclass(frozen=True, slots=True)
class Branch:
    """The outcome of a transaction's comparisons: which list of operations is taken, and those of nested
    ones.
    """

    succeeded: bool
    operations: Sequence[rpc.RequestOp]
    nested: Sequence[Branch]


def decide(view: View, request: rpc.TxnRequest) -> Branch:
    """Evaluate all comparisons, nested ones too, on the state before the transaction."""
    succeeded = all(holds(view, compare) for compare in request.compare)
    operations = request.success if succeeded else request.failure
    nested = [decide(view, op.request_txn) for op in operations if op.WhichOneof("request") == "request_txn"]
    return Branch(succeeded, operations, nested)


def may_put(request: rpc.TxnRequest) -> bool:
    """Whether any operation of either branch puts something, that is, could need space (as etcd judges)."""
    for op in (*request.success, *request.failure):
        match op.WhichOneof("request"):
            case "request_put":
                return True
            case "request_txn" if may_put(op.request_txn):
                return True
    return False


def is_read_only(request: rpc.TxnRequest) -> bool:
    """Whether no operation of either branch can change anything, so that the log need not hold it."""
    for op in (*request.success, *request.failure):
        match op.WhichOneof("request"):
            case "request_range":
                continue
            case "request_txn" if is_read_only(op.request_txn):
                continue
        return False
    return True


def check_branch(view: View, leases: Leases, branch: Branch) -> None:
    """Refuse, before anything is changed, what an operation of the taken branches would be refused for."""
    for op in branch.operations:
        match op.WhichOneof("request"):
            case "request_put":
                check_put(view, leases, op.request_put)
            case "request_range":
                view.check(op.request_range.revision)
    for nested in branch.nested:
        check_branch(view, leases, nested)


def apply_branch(write: Write, branch: Branch) -> bytes:
    """TxnResponse without header; later operations see earlier ones."""
    responses: list[bytes] = []
    nested = iter(branch.nested)
    for op in branch.operations:
        match op.WhichOneof("request"):
            case "request_range":
                responses.append(_response(write, _OP_RANGE, evaluate_range(write, op.request_range)))
            case "request_put":
                responses.append(_response(write, _OP_PUT, apply_put(write, op.request_put)))
            case "request_delete_range":
                responses.append(_response(write, _OP_DELETE, apply_delete(write, op.request_delete_range)))
            case "request_txn":
                responses.append(_response(write, _OP_TXN, apply_branch(write, next(nested))))
    return wire.number(_TXN_SUCCEEDED, branch.succeeded) + wire.chunks(_TXN_RESPONSES, responses)


def _response(write: Write, field: int, body: bytes) -> bytes:
    """A ResponseOp. As in etcd, its header has only the revision, that of a nested transaction nothing."""
    revision = 0 if field == _OP_TXN else write.visible_revision
    header = wire.chunk(_HEADER, wire.number(_HEADER_REVISION, revision))
    return wire.chunk(field, header + body)


# -- comparisons

_COMPARISONS: dict[int, Callable[[Any, Any], bool]] = {
    rpc.Compare.EQUAL: operator.eq,
    rpc.Compare.NOT_EQUAL: operator.ne,
    rpc.Compare.GREATER: operator.gt,
    rpc.Compare.LESS: operator.lt,
}


def holds(view: View, compare: rpc.Compare) -> bool:
    """Whether a comparison is true for every key of its range. A key that does not exist compares as version,
    revisions and lease 0; its value compares false to everything.
    """
    found = list(view.scan(compare.key, compare.range_end))
    if not found:
        return compare.target != rpc.Compare.VALUE and _holds_for(compare, 0)
    match compare.target:
        case rpc.Compare.VERSION:
            return all(_holds_for(compare, each.version) for each in found)
        case rpc.Compare.CREATE:
            return all(_holds_for(compare, each.created) for each in found)
        case rpc.Compare.MOD:
            return all(_holds_for(compare, main_of(each.modified)) for each in found)
    kvs = (kv_pb2.KeyValue.FromString(encoded) for encoded in view.values(found))
    if compare.target == rpc.Compare.VALUE:
        return all(_holds_for(compare, kv.value) for kv in kvs)
    return all(_holds_for(compare, kv.lease) for kv in kvs)


def _holds_for(compare: rpc.Compare, actual: int | bytes) -> bool:
    wanted = {
        rpc.Compare.VERSION: compare.version,
        rpc.Compare.CREATE: compare.create_revision,
        rpc.Compare.MOD: compare.mod_revision,
        rpc.Compare.VALUE: compare.value,
        rpc.Compare.LEASE: compare.lease,
    }[compare.target]
    return _COMPARISONS[compare.result](actual, wanted)
