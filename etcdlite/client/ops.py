"""Short forms for the parts of a transaction, and the arithmetic of key ranges."""

from __future__ import annotations

from etcdlite.pb import rpc_pb2 as rpc


def prefix_end(prefix: bytes) -> bytes:
    """The exclusive end of the range of all keys that begin with `prefix` (one zero byte: no end)."""
    kept = prefix.rstrip(b"\xff")
    return kept[:-1] + bytes([kept[-1] + 1]) if kept else b"\0"


def compare_mod(key: bytes, revision: int) -> rpc.Compare:
    """True if `key` was last changed at `revision`; 0 means that it does not exist."""
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.MOD, key=key, mod_revision=revision)


def compare_create(key: bytes, revision: int) -> rpc.Compare:
    """True if `key` was created at `revision`."""
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.CREATE, key=key, create_revision=revision)


def compare_version(key: bytes, version: int) -> rpc.Compare:
    """True if `key` was put `version` times since its creation."""
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VERSION, key=key, version=version)


def compare_value(key: bytes, value: bytes) -> rpc.Compare:
    """True if `key` exists and holds `value`."""
    return rpc.Compare(result=rpc.Compare.EQUAL, target=rpc.Compare.VALUE, key=key, value=value)


def op_put(key: bytes, value: bytes, *, lease: int = 0, prev_kv: bool = False) -> rpc.RequestOp:
    """A put inside a transaction."""
    return rpc.RequestOp(request_put=rpc.PutRequest(key=key, value=value, lease=lease, prev_kv=prev_kv))


def op_get(key: bytes, range_end: bytes = b"", *, limit: int = 0, revision: int = 0) -> rpc.RequestOp:
    """A range inside a transaction."""
    return rpc.RequestOp(
        request_range=rpc.RangeRequest(key=key, range_end=range_end, limit=limit, revision=revision)
    )


def op_delete(key: bytes, range_end: bytes = b"", *, prev_kv: bool = False) -> rpc.RequestOp:
    """A delete inside a transaction."""
    return rpc.RequestOp(
        request_delete_range=rpc.DeleteRangeRequest(key=key, range_end=range_end, prev_kv=prev_kv)
    )


def op_txn(txn: rpc.TxnRequest) -> rpc.RequestOp:
    """A transaction inside a transaction."""
    return rpc.RequestOp(request_txn=txn)
