"""Election and Lock: one holder at a time, in the order of arrival; who goes away leaves the line."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import grpc
import pytest

from etcdlite.pb import rpc_pb2 as rpc
from etcdlite.pb import v3election_pb2 as election
from etcdlite.pb import v3lock_pb2 as locking
from tests.etcdlite.server import members
from tests.etcdlite.server.members import running


class Stub:
    """The services of one member."""

    def __init__(self, url: str) -> None:
        self._channel = grpc.insecure_channel(url.removeprefix("http://"))

    def close(self) -> None:
        self._channel.close()

    def method(self, full: str, request: Any, answer: Any) -> Any:
        return self._channel.unary_unary(
            f"/{full}",
            request_serializer=type(request).SerializeToString,
            response_deserializer=answer.FromString,
        )

    def lease(self, ttl: int = 60) -> int:
        request = rpc.LeaseGrantRequest(TTL=ttl)
        call = self.method("etcdserverpb.Lease/LeaseGrant", request, rpc.LeaseGrantResponse)
        return int(call(request, timeout=10).ID)

    def lock(self, name: bytes, lease: int) -> Any:
        request = locking.LockRequest(name=name, lease=lease)
        return self.method("v3lockpb.Lock/Lock", request, locking.LockResponse).future(request, timeout=20)

    def unlock(self, key: bytes) -> None:
        request = locking.UnlockRequest(key=key)
        self.method("v3lockpb.Lock/Unlock", request, locking.UnlockResponse)(request, timeout=10)

    def campaign(self, name: bytes, lease: int, value: bytes) -> Any:
        request = election.CampaignRequest(name=name, lease=lease, value=value)
        call = self.method("v3electionpb.Election/Campaign", request, election.CampaignResponse)
        return call.future(request, timeout=20)

    def ask(self, method: str, request: Any, answer: Any) -> Any:
        return self.method(f"v3electionpb.Election/{method}", request, answer)(request, timeout=10)

    def observe(self, name: bytes) -> Any:
        call = self._channel.unary_stream(
            "/v3electionpb.Election/Observe",
            request_serializer=election.LeaderRequest.SerializeToString,
            response_deserializer=election.LeaderResponse.FromString,
        )
        return call(election.LeaderRequest(name=name), timeout=30)


@pytest.fixture(scope="module", params=members.KINDS)
def stub(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stub]:
    if not members.installed(request.param):
        pytest.skip("etcd is not installed")
    with running(request.param, tmp_path_factory.mktemp(request.param)) as one:
        made = Stub(one.client_url)
        yield made
        made.close()


def waits(call: Any) -> bool:
    """Whether a call has no answer after a while."""
    time.sleep(0.4)
    return not call.done()


def test_a_lock_has_one_holder_and_passes_in_order(stub: Stub) -> None:
    first = stub.lock(b"l", stub.lease()).result()
    second = stub.lock(b"l", stub.lease())
    assert waits(second)
    third = stub.lock(b"l", stub.lease())
    assert waits(third)
    stub.unlock(first.key)
    key = second.result().key
    assert waits(third)
    stub.unlock(key)
    stub.unlock(third.result().key)


def test_who_goes_away_leaves_the_line(stub: Stub) -> None:
    first = stub.lock(b"g", stub.lease()).result()
    second = stub.lock(b"g", stub.lease())
    assert waits(second)
    third = stub.lock(b"g", stub.lease())
    assert waits(third)
    second.cancel()
    time.sleep(0.5)
    stub.unlock(first.key)
    assert third.result().key.startswith(b"g/")


def test_a_lease_that_ends_gives_the_lock_back(stub: Stub) -> None:
    stub.lock(b"e", stub.lease(2)).result()
    assert stub.lock(b"e", stub.lease()).result().key.startswith(b"e/")


def test_an_unknown_lease_is_refused(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError, match="requested lease not found"):
        stub.lock(b"u", 4711).result()


def test_leaders_follow_each_other_and_are_observed(stub: Stub) -> None:
    with pytest.raises(grpc.RpcError, match="election: no leader"):
        stub.ask("Leader", election.LeaderRequest(name=b"c"), election.LeaderResponse)
    one = stub.campaign(b"c", stub.lease(), b"one").result().leader
    observed = stub.observe(b"c")
    assert next(observed).kv.value == b"one"
    two = stub.campaign(b"c", stub.lease(), b"two")
    assert waits(two)
    stub.ask("Proclaim", election.ProclaimRequest(leader=one, value=b"more"), election.ProclaimResponse)
    assert next(observed).kv.value == b"more"
    assert stub.ask("Leader", election.LeaderRequest(name=b"c"), election.LeaderResponse).kv.value == b"more"
    stub.ask("Resign", election.ResignRequest(leader=one), election.ResignResponse)
    assert two.result().leader.rev > one.rev
    assert next(observed).kv.value == b"two"
    observed.cancel()
    with pytest.raises(grpc.RpcError, match="election: not leader"):
        stub.ask("Proclaim", election.ProclaimRequest(leader=one, value=b"x"), election.ProclaimResponse)
    with pytest.raises(grpc.RpcError, match="field must be provided"):
        stub.ask("Resign", election.ResignRequest(), election.ResignResponse)
