"""The same requests to etcdlite and to the real etcd must get the same answers.

Requests are drawn by hypothesis from a small key space, so that they meet. Answers are compared whole, but
for what cannot be equal: ids and terms in headers. Revisions are compared relative to where each store began.
"""

from __future__ import annotations

import itertools
from typing import Any

import grpc
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from etcdlite.pb import rpc_pb2 as rpc

KEYS = [b"a", b"aa", b"ab", b"b", b"c", b"c\0", b"\xff"]
_run = itertools.count()

keys = st.sampled_from(KEYS)
ends = st.sampled_from([b"", b"", b"\0", b"b", b"c", b"\xff\xff"])
values = st.sampled_from([b"", b"1", b"2", b"3"])
small = st.integers(0, 3)

ranges = st.builds(
    rpc.RangeRequest,
    key=keys,
    range_end=ends,
    limit=st.sampled_from([0, 0, 1, 2]),
    sort_order=st.sampled_from([0, 1, 2]),
    sort_target=st.sampled_from([0, 1, 2, 3]),
    keys_only=st.booleans(),
    count_only=st.sampled_from([False, False, True]),
)
puts = st.builds(rpc.PutRequest, key=keys, value=values, prev_kv=st.booleans())
keeping = st.builds(rpc.PutRequest, key=keys, ignore_value=st.booleans(), prev_kv=st.booleans())
deletes = st.builds(rpc.DeleteRangeRequest, key=keys, range_end=ends, prev_kv=st.booleans())
compares = st.one_of(
    st.builds(
        rpc.Compare,
        key=keys,
        range_end=ends,
        result=small,
        target=st.just(rpc.Compare.VERSION),
        version=small,
    ),
    st.builds(
        rpc.Compare, key=keys, range_end=ends, result=small, target=st.just(rpc.Compare.VALUE), value=values
    ),
    st.builds(rpc.Compare, key=keys, result=small, target=st.just(rpc.Compare.MOD), mod_revision=small),
    st.builds(rpc.Compare, key=keys, result=small, target=st.just(rpc.Compare.CREATE), create_revision=small),
    st.builds(rpc.Compare, key=keys, result=small, target=st.just(rpc.Compare.LEASE), lease=small),
)
plain_ops = st.one_of(
    st.builds(rpc.RequestOp, request_range=ranges),
    st.builds(rpc.RequestOp, request_put=puts),
    st.builds(rpc.RequestOp, request_delete_range=deletes),
)


def _txns(ops: st.SearchStrategy[rpc.RequestOp]) -> st.SearchStrategy[rpc.TxnRequest]:
    some = st.lists(ops, max_size=3)
    return st.builds(rpc.TxnRequest, compare=st.lists(compares, max_size=2), success=some, failure=some)


ops = st.one_of(plain_ops, plain_ops, st.builds(rpc.RequestOp, request_txn=_txns(plain_ops)))
requests = st.one_of(ranges, puts, puts, keeping, deletes, _txns(ops))

METHODS: dict[Any, tuple[str, Any]] = {
    rpc.RangeRequest: ("KV/Range", rpc.RangeResponse),
    rpc.PutRequest: ("KV/Put", rpc.PutResponse),
    rpc.DeleteRangeRequest: ("KV/DeleteRange", rpc.DeleteRangeResponse),
    rpc.TxnRequest: ("KV/Txn", rpc.TxnResponse),
    rpc.CompactionRequest: ("KV/Compact", rpc.CompactionResponse),
}


class Store:
    """A member, spoken to directly; its revisions are told relative to where it was emptied."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url.removeprefix("http://"))
        self._base = 0

    def __enter__(self) -> Store:
        self.ask(rpc.DeleteRangeRequest(key=b"\0", range_end=b"\0"))
        self._base = self.ask(rpc.PutRequest(key=b"marker")).header.revision
        return self

    def __exit__(self, *_: object) -> None:
        self._channel.close()

    def ask(self, request: Any) -> Any:
        method, response = METHODS[type(request)]
        call = self._channel.unary_unary(
            f"/etcdserverpb.{method}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=response.FromString,
        )
        return call(request, timeout=10)

    def answer(self, request: Any) -> Any:
        """What can be compared: an error's code and text, or the answer with relative revisions."""
        try:
            response = self.ask(request)
        except grpc.RpcError as error:
            assert isinstance(error, grpc.Call)
            return error.code(), error.details()
        self._relate(response)
        return response

    def _relate(self, message: Any) -> None:
        for descriptor, value in message.ListFields():
            if descriptor.name in ("cluster_id", "member_id", "raft_term"):
                message.ClearField(descriptor.name)
            elif descriptor.name in ("revision", "mod_revision", "create_revision"):
                setattr(message, descriptor.name, value - self._base)
            elif descriptor.message_type is not None:
                for each in value if descriptor.is_repeated else [value]:
                    self._relate(each)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(requests, min_size=1, max_size=12))
def test_same_answers(both: tuple[str, str], sequence: list[Any]) -> None:
    with Store(both[0]) as ours, Store(both[1]) as real:
        for request in sequence:
            assert ours.answer(request) == real.answer(request), request
        everything = rpc.RangeRequest(key=b"\0", range_end=b"\0")
        assert ours.answer(everything) == real.answer(everything)


def test_same_refusals(both: tuple[str, str]) -> None:
    """Bad requests, one of each kind etcd knows, are refused with its code and text."""
    op = rpc.RequestOp
    put_a = op(request_put=rpc.PutRequest(key=b"a"))
    bad = [
        rpc.RangeRequest(),
        rpc.PutRequest(),
        rpc.DeleteRangeRequest(),
        rpc.PutRequest(key=b"a", value=b"1", ignore_value=True),
        rpc.PutRequest(key=b"a", lease=1, ignore_lease=True),
        rpc.PutRequest(key=b"nothing here", ignore_value=True),
        rpc.PutRequest(key=b"nothing here", ignore_lease=True),
        rpc.PutRequest(key=b"a", lease=77),
        rpc.RangeRequest(key=b"a", revision=1 << 40),
        rpc.TxnRequest(success=[put_a, put_a]),
        rpc.TxnRequest(success=[put_a, op(request_delete_range=rpc.DeleteRangeRequest(key=b"a"))]),
        rpc.TxnRequest(success=[put_a, op(request_txn=rpc.TxnRequest(failure=[put_a]))]),
        rpc.TxnRequest(success=[op()]),
        rpc.TxnRequest(compare=[rpc.Compare()]),
        rpc.TxnRequest(success=[op(request_range=rpc.RangeRequest(key=b"a"))] * 129),
        rpc.TxnRequest(success=[op(request_range=rpc.RangeRequest(key=b"a", revision=1 << 40)), put_a]),
        rpc.TxnRequest(success=[op(request_put=rpc.PutRequest(key=b"a", lease=77))]),
        rpc.CompactionRequest(revision=1 << 40),
        rpc.CompactionRequest(revision=-1),
        rpc.PutRequest(key=b"a", value=bytes(1_600_000)),
    ]
    with Store(both[0]) as ours, Store(both[1]) as real:
        for request in bad:
            wanted = real.answer(request)
            assert isinstance(wanted, tuple), f"etcd accepts {request}"
            assert ours.answer(request) == wanted, str(request)[:200]
        everything = rpc.RangeRequest(key=b"\0", range_end=b"\0")
        assert ours.answer(everything) == real.answer(everything), "a refused request changed something"


def test_same_history_after_compaction(both: tuple[str, str]) -> None:
    """Every revision reads alike before, at and after a compaction, with deletes and rebirths in it."""
    with Store(both[0]) as ours, Store(both[1]) as real:
        for store in (ours, real):
            for number in range(3):
                store.ask(rpc.PutRequest(key=b"a", value=b"%d" % number))
                store.ask(rpc.DeleteRangeRequest(key=b"a"))
            store.ask(rpc.PutRequest(key=b"b", value=b"x"))
            store.ask(rpc.CompactionRequest(revision=store._base + 4, physical=True))
        for back in range(8):
            asked = [
                rpc.RangeRequest(key=b"\0", range_end=b"\0", revision=s._base + back) for s in (ours, real)
            ]
            assert ours.answer(asked[0]) == real.answer(asked[1]), back
