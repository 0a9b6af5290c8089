"""The store's clients write down what they were told, and never more than they know."""

from __future__ import annotations

import asyncio
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from componentbase.grpcwire.status import Code
from deploy.chaos.load import store
from deploy.chaos.load.store import Client, Plan, Recorder
from deploy.judge.model import Get, Put, Response
from etcdlite.client import OutcomeUnknown, RequestFailed, Unavailable

PLAN = Plan({"c0": "https://x"}, Path("/pki"), "/p/", "/pods/", 1, 2, 0.0, 1, Path("/out"))
KV = SimpleNamespace(key=b"/p/k0", value=b"v", create_revision=3, mod_revision=5, version=2, lease=0)


class FakeStore:
    """Answers every request alike: with a revision, or by raising."""

    def __init__(self, outcome: Exception | None = None, *, succeeded: bool = True) -> None:
        self.outcome = outcome
        self.succeeded = succeeded

    async def _answer(self, *args: Any, **options: Any) -> Any:
        if self.outcome is not None:
            raise self.outcome
        found = SimpleNamespace(response_range=SimpleNamespace(kvs=[KV]))
        header = SimpleNamespace(revision=9)
        return SimpleNamespace(header=header, kvs=[KV], succeeded=self.succeeded, responses=[found])

    put = range = txn = _answer


def client(fake: FakeStore) -> Client:
    return Client("c", PLAN, Recorder(), fake)  # type: ignore[arg-type]


def test_answers() -> None:
    one = client(FakeStore())
    asyncio.run(one.put("/p/k0"))
    asyncio.run(one.get("/p/k0"))
    asyncio.run(one.swap("/p/k0"))
    put, get, swap = one.recorder.calls
    assert put.request.success == (Put("/p/k0", "c-1"),)
    assert put.response == Response(9, (None,))
    assert get.response is not None
    assert get.response.answers == ((store._value(KV),),)
    assert swap.request.compares[0].operand == 5  # what the read before had shown
    assert swap.request.failure == (Get("/p/k0"),)
    assert all(call.returned is not None and call.invoked <= call.returned for call in one.recorder.calls)


def test_a_swap_that_lost_says_what_is_there() -> None:
    one = client(FakeStore(succeeded=False))
    asyncio.run(one.swap("/p/k0"))
    [call] = one.recorder.calls
    assert call.response == Response(9, ((store._value(KV),),), succeeded=False)
    assert one.known["/p/k0"] == 5


def test_values_are_never_repeated() -> None:
    one = client(FakeStore())
    assert len({one.fresh() for _ in range(50)}) == 50


@pytest.mark.parametrize(
    ("error", "unknown"),
    [
        (OutcomeUnknown("lost"), True),
        (Unavailable("nobody there"), False),
        (
            RequestFailed(Code.RESOURCE_EXHAUSTED, "etcdserver: mvcc: database space exceeded"),
            False,
        ),
        (RequestFailed(Code.INTERNAL, "disk broke"), True),  # it may have been written before
        (RequestFailed(Code.UNKNOWN, "?"), True),
    ],
)
def test_a_failed_write_is_unknown_unless_it_certainly_was_not_made(error: Exception, unknown: bool) -> None:
    one = client(FakeStore(error))
    assert not asyncio.run(one.put("/p/k0"))
    [call] = one.recorder.calls
    assert call.unknown is unknown
    assert (call.returned is None) is unknown


def test_a_failed_read_changed_nothing() -> None:
    one = client(FakeStore(RequestFailed(Code.INTERNAL, "disk broke")))
    asyncio.run(one.get("/p/k0"))
    assert not one.recorder.calls[0].unknown


def pod_event(node: str | None, *, deleted: bool = False) -> SimpleNamespace:
    value = (
        f'{{"metadata": {{"uid": "u"}}, "spec": {{"nodeName": "{node}"}}}}' if node else '{"metadata": {}}'
    )
    return SimpleNamespace(type=int(deleted), kv=SimpleNamespace(value=value.encode(), mod_revision=7))


def test_bindings() -> None:
    assert store.binding(pod_event("worker-1")) == (7, "u", "worker-1")
    assert store.binding(pod_event(None)) is None
    assert store.binding(pod_event("worker-1", deleted=True)) is None
